"""The nets of UniTok: the encoder against timm's ViTamin, blocks of the decoder against their formulas."""

import pytest
import torch
from timm.layers import HybridEmbed
from timm.models.vision_transformer import VisionTransformer
from timm.models.vitamin import GeGluMlp, MbConvStages, VitCfg
from torch.nn import functional as F

from imtok.decoders.vitamin import ViTaminDecoder
from imtok.encoders.vitamin import ViTaminEncoder
from imtok.nn.inverted_bottleneck import BottleneckLevels, InvertedBottleneck

SIZES = {"channels": 8, "multipliers": (1, 2), "convolutions": (2, 3), "width": 32, "depth": 2, "heads": 2}
NAMES = {
    "patch_embed.backbone.stem.conv1": "stem.0",
    "patch_embed.backbone.stem.norm1": "stem.1",
    "patch_embed.backbone.stem.conv2": "stem.3",
    "patch_embed.backbone.stages": "levels.levels",
    "patch_embed.backbone.pool.norm": "embed.0",
    "patch_embed.backbone.pool.proj": "embed.1",
    "shortcut.expand": "shortcut.1",
    "pre_norm": "norm",
    "conv1_1x1": "widen",
    "conv2_kxk": "each",
    "conv3_1x1": "project",
    "blocks": "trunk.blocks",
    "attn.qkv": "attention.query_key_value",
    "attn.proj": "attention.project",
    "mlp.norm": "mlp.0",
    "mlp.w0": "mlp.1.gate",
    "mlp.w1": "mlp.1.value",
    "mlp.w2": "mlp.1.out",
}


def scattered(module):
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.double().eval()


def timm_net(side):
    """ViTamin of timm without positions, with the MLP as UniTok has it."""
    stages = MbConvStages(VitCfg(embed_dim=(8, 16, 32), depths=(2, 3, 1), stem_width=8))
    return VisionTransformer(
        img_size=side, patch_size=1, embed_dim=32, depth=2, num_heads=2, mlp_ratio=2.0, num_classes=0,
        global_pool="", class_token=False, pos_embed="none", mlp_layer=GeGluMlp, act_layer="gelu_tanh",
        embed_layer=lambda **sizes: HybridEmbed(stages, proj=False, **sizes),
    )  # fmt: skip


def our_name(name):
    for old, new in NAMES.items():
        name = name.replace(old, new)
    return name.replace("norm.", "norm_out.", 1) if name.startswith("norm.") else name


def test_convolutions_and_blocks_of_the_encoder_are_those_of_timm():
    theirs, ours = scattered(timm_net(64)), ViTaminEncoder(8, **SIZES).double().eval()
    weights = {our_name(name): value for name, value in theirs.state_dict().items()}
    lacking = ours.load_state_dict(weights, strict=False)
    assert not lacking.unexpected_keys
    assert all(name.startswith("project.") for name in lacking.missing_keys)
    image = torch.rand(2, 3, 64, 64, dtype=torch.float64) * 2 - 1
    expected = theirs(image)
    torch.testing.assert_close(ours(image).values, ours.project(expected), rtol=1e-12, atol=1e-12)


def test_a_block_that_doubles_repeats_positions_inside_and_in_its_shortcut():
    block = scattered(InvertedBottleneck(4, 6, "double"))
    features = torch.randn(2, 4, 3, 5, dtype=torch.float64)

    def larger(values, part):
        return part.conv(values.repeat_interleave(2, 2).repeat_interleave(2, 3))

    normed = F.layer_norm(features.permute(0, 2, 3, 1), (4,), block.norm.weight, block.norm.bias, 1e-6)
    hidden = larger(F.gelu(block.widen(normed.permute(0, 3, 1, 2))), block.upsample)
    expected = larger(features, block.shortcut) + block.project(F.gelu(block.each(hidden)))
    torch.testing.assert_close(block(features), expected)
    assert block.each.groups == block.each.out_channels == 24


def test_the_shortcut_of_a_block_that_halves_is_the_mean_of_the_positions_that_are_there():
    block, features = InvertedBottleneck(4, 4, "halve"), torch.rand(1, 4, 4, 4)
    torch.nn.init.zeros_(block.project.weight)
    torch.nn.init.zeros_(block.project.bias)
    assert torch.allclose(block(features)[..., 0, 0], features[..., :2, :2].mean((2, 3)))
    assert torch.allclose(block(features)[..., 1, 1], features[..., 1:, 1:].mean((2, 3)))


def test_blocks_of_the_transformer_are_passed_by_in_training_alone():
    torch.manual_seed(0)
    encoder, image = ViTaminEncoder(8, **SIZES, drop_path=0.9), torch.rand(8, 3, 64, 64)
    assert not torch.equal(encoder(image).values, encoder(image).values)
    assert torch.equal(encoder.eval()(image).values, encoder(image).values)


@pytest.mark.parametrize("part", [ViTaminEncoder, ViTaminDecoder])
def test_what_is_computed_again_has_the_same_gradients(part):
    gradients = []
    for checkpoint in (False, True):
        torch.manual_seed(0)
        net = part(8, **SIZES, drop_path=0.5, checkpoint=checkpoint)
        torch.manual_seed(1)
        given = torch.rand(4, 3, 32, 32) if part is ViTaminEncoder else torch.rand(4, 4, 8)
        made = net(given).values if part is ViTaminEncoder else net(given, (32, 32))
        made.square().sum().backward()
        gradients.append([parameter.grad for parameter in net.parameters()])
    assert all(torch.equal(one, other) for one, other in zip(*gradients, strict=True))


def test_convolutions_start_as_published():
    torch.manual_seed(0)
    encoder, decoder = ViTaminEncoder(8, channels=64, width=64, depth=1, heads=2), ViTaminDecoder(8, channels=64)
    first, second = encoder.levels.levels[0][1], decoder.levels.levels[1][1]
    deviations = {
        first.widen: (2 / 256) ** 0.5,
        first.each: (2 / 9) ** 0.5,
        second.widen: 0.5 * (2 / (64 + 256)) ** 0.5,
        second.each: 0.5 * (2 / (9 + 9 * 256)) ** 0.5,
    }
    for convolution, deviation in deviations.items():
        assert convolution.weight.std().item() == pytest.approx(deviation, rel=0.1)
        assert not convolution.bias.any()


@pytest.mark.parametrize("part", [ViTaminEncoder, ViTaminDecoder])
def test_levels_without_a_number_of_blocks_are_refused(part):
    with pytest.raises(ValueError, match=r"one for each of the 2 multipliers, got \[1, 1, 1\]"):
        part(8, **SIZES | {"convolutions": (1, 1, 1)})
    with pytest.raises(ValueError, match=r"convolutions must be numbers of at least 1"):
        BottleneckLevels([8, 8], [0], "halve")
