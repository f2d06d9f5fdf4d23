"""Encoders whose latents hold meaning and pixels side by side: which net, and which depth, makes which channels."""

import pytest
import torch
from encoders.presets import preset, unchecked
from torch import nn

from imtok.construct import construct
from imtok.decoders.beside import PixelDecoder
from imtok.decoders.vit import ViTDecoder
from imtok.encoders.beside import SemanticPixelEncoder
from imtok.encoders.cnn import CNNEncoder
from imtok.encoders.pretrained_vit import PretrainedViTEncoder
from imtok.encoders.two_depths import TwoDepthEncoder
from imtok.nn.initialization import start_weights
from imtok.tokenizer import Tokenizer

CNN = {"channels": 16, "multipliers": (1, 1, 2), "blocks": 1}
VIT = {"width": 16, "heads": 2, "patch_size": 4, "factor": 4, "depth": 1}


def beside(out_dim=6, image_size=16, pixel_share=0.3, **semantic):
    torch.manual_seed(3)
    config = {
        "_target_": "imtok.encoders.beside.SemanticPixelEncoder",
        "semantic": {"_target_": "imtok.encoders.pretrained_vit.PretrainedViTEncoder"} | VIT | semantic,
        "pixels": {"_target_": "imtok.encoders.cnn.CNNEncoder"} | CNN,
        "pixel_share": pixel_share,
    }
    return construct(config, provided={"out_dim": out_dim, "image_size": image_size}).double()


def two_depths(out_dim=6, checkpoint=False, layers=(1, 2, 5), features=48, **arguments):
    torch.manual_seed(3)
    shape = {"patch_size": 4, "factor": 4, "width": 16, "depth": 6, "heads": 2, "class_tokens": 0}
    net = PretrainedViTEncoder(features, 16, **shape, layers=layers, checkpoint=checkpoint)
    start_weights(net, "xavier")  # the published start is small for nets as narrow as this
    return TwoDepthEncoder(out_dim, net, **arguments).double()


@pytest.fixture
def image():
    return torch.rand(2, 3, 16, 16, dtype=torch.float64) * 2 - 1


def reached(output, module):
    """Blocks that have a part in an output, by number, and other sub-modules outside the transformer, by name."""
    names, parameters = zip(*module.named_parameters(), strict=True)
    slopes = torch.autograd.grad(output.square().sum(), parameters, allow_unused=True)
    touched = [name for name, slope in zip(names, slopes, strict=True) if slope is not None and slope.any()]
    blocks = {int(name.split(".")[4]) for name in touched if name.startswith("net.net.trunk.blocks.")}
    return blocks, {name.split(".")[0] for name in touched} - {"net"}


def test_the_transformer_makes_the_first_channels_and_the_cnn_the_last(image):
    net = beside()
    latents = net(image).values
    semantic, pixels = PretrainedViTEncoder(None, 16, **VIT).double(), CNNEncoder(2, **CNN).double()
    semantic.load_state_dict(net.semantic.state_dict())
    pixels.load_state_dict(net.pixels.state_dict())
    first, _, last = net.project
    features = torch.tanh(semantic(image).values @ first.weight.T + first.bias)
    torch.testing.assert_close(latents[..., :4], features @ last.weight.T + last.bias)
    torch.testing.assert_close(latents[..., 4:], pixels(image).values)
    assert net.num_latents((16, 16)) == latents.shape[1] == 16


def test_two_nets_with_other_grids_or_no_channels_are_refused():
    with pytest.raises(ValueError, match="semantic and pixels must make as many latents of an image, got 4 and 16"):
        beside(patch_size=8, factor=8).num_latents((16, 16))
    for share in (0.0, 1.0):
        with pytest.raises(ValueError, match=rf"pixel_share must be in \(0, 1\), got {share}"):
            beside(pixel_share=share)
        with pytest.raises(ValueError, match=rf"pixel_share must be in \(0, 1\), got {share}"):
            SemanticPixelEncoder(6, PretrainedViTEncoder(None, 16, **VIT), CNNEncoder(2, **CNN), share)
    with pytest.raises(ValueError, match="must be at least 2 to hold meaning and pixels, got 1"):
        beside(out_dim=1)
    with pytest.raises(ValueError, match=r"semantic\.out_dim must be null: its features are mapped here"):
        SemanticPixelEncoder(6, PretrainedViTEncoder(4, 16, **VIT), CNNEncoder(2, **CNN))


@pytest.mark.parametrize(("width", "share", "pixels"), [(40, 0.2, 8), (4, 0.2, 1), (2, 0.01, 1), (4, 0.99, 3)])
def test_a_share_is_whole_channels_and_neither_net_is_without(width, share, pixels):
    net = beside(out_dim=width, pixel_share=share)
    assert net.pixels.project.out_channels == pixels
    assert net.project[-1].out_features == width - pixels


def test_meaning_is_read_after_the_last_block_and_pixels_after_the_second(image):
    net = two_depths()
    assert reached(net(image).values[..., 3:], net) == ({0, 1, 2}, {"norm_pixels", "project_pixels"})
    assert reached(net(image).values[..., :3], net) == ({0, 1, 2, 3, 4, 5}, {"norm_semantic", "project_semantic"})


def test_what_pixels_are_read_from_is_the_sum_of_two_depths(image):
    net = two_depths(shortcut=0.6)
    seen = {}
    hooks = [
        block.register_forward_hook(lambda _m, _i, out, number=number: seen.update({number: out}))
        for number, block in enumerate(net.net.net.trunk.blocks)
    ]
    latents = net(image).values
    for hook in hooks:
        hook.remove()
    expected = [
        nn.functional.layer_norm(read, (16,), norm.weight, norm.bias, 1e-6) @ project.weight.T + project.bias
        for read, norm, project in (
            (seen[5], net.norm_semantic, net.project_semantic),
            (seen[2] + 0.6 * seen[1], net.norm_pixels, net.project_pixels),
        )
    ]
    torch.testing.assert_close(latents, torch.cat(expected, -1))


def test_attention_maps_three_depths_each_on_its_own_and_the_two_early_ones_are_added(image):
    net = two_depths(maps="attention", shortcut=0.6)
    assert not hasattr(net, "norm_semantic")
    early, middle, late = net.net(image).values.chunk(3, -1)
    first, second, third = net.maps
    expected = torch.cat([third(late), second(middle) + 0.6 * first(early)], -1)
    torch.testing.assert_close(net(image).values, expected)
    with unchecked(), pytest.raises(ValueError, match="maps must be one of linear, attention, got 'mlp'"):
        two_depths(maps="mlp")


def test_images_are_resized_to_the_side_that_the_net_reads():
    net, image = two_depths(side=16), torch.rand(1, 3, 20, 20, dtype=torch.float64) * 2 - 1
    small = nn.functional.interpolate(image, (16, 16), mode="bicubic", antialias=True).clamp(-1, 1)
    torch.testing.assert_close(net(image).values, net(small).values)
    assert net.num_latents((20, 20)) == 16
    with pytest.raises(ValueError, match="image size must be that of a square for this encoder, got 20 x 24"):
        net.num_latents((20, 24))


def test_recomputed_stages_give_the_same_gradients(image):
    found = []
    for checkpoint in (False, True):
        net = two_depths(checkpoint=checkpoint).train()
        net(image).values.square().sum().backward()
        found.append([parameter.grad for parameter in net.parameters()])
    assert all(map(torch.equal, *found))


def test_an_odd_width_and_another_number_of_blocks_are_refused():
    with pytest.raises(ValueError, match="must be even to hold meaning and pixels, got 5"):
        two_depths(out_dim=5)
    with pytest.raises(ValueError, match=r"net.layers must be three blocks, got \[1, 2\]"):
        two_depths(layers=(1, 2), features=32)
    with pytest.raises(ValueError, match=r"net\.out_dim must be null: its features are read as they are"):
        two_depths(features=6)


@pytest.mark.parametrize(
    "older",
    [
        {"_target_": "imtok.encoders.two_depths.TwoDepthEncoder", "stages": [1, 1, 2]},
        {"_target_": "imtok.encoders.beside.SemanticPixelEncoder", "channels": 16},
    ],
)
def test_a_tokenizer_of_before_is_refused_in_a_line_that_says_what_reads_it(older):
    with pytest.raises(ValueError, match=r"has no argument .*; the version of imtok that stored this reads it"):
        construct(older, provided={"out_dim": 6, "image_size": 16})


def test_a_decoder_that_reads_the_last_half_draws_the_pixels_and_not_the_meaning():
    decoder = ViTDecoder(6, 16, 4, 16, 1, 2, 32, reads="last_half", start="xavier").double()
    latents = torch.randn(2, 16, 6, dtype=torch.float64)
    image = decoder(latents, (16, 16))
    meant, drawn = latents.clone(), latents.clone()
    meant[..., :3] += 1
    drawn[..., 3:] += 1
    assert torch.equal(decoder(meant, (16, 16)), image)
    assert (decoder(drawn, (16, 16)) - image).abs().max() > 1e-3
    whole = ViTDecoder(6, 16, 4, 16, 1, 2, 32, start="xavier").double()
    state = decoder.state_dict()
    whole.load_state_dict(state | {"embed.weight": torch.cat([torch.zeros(16, 3), state["embed.weight"]], 1)})
    torch.testing.assert_close(whole(latents, (16, 16)), image)
    with unchecked(), pytest.raises(ValueError, match="reads must be one of all, last_half, got 'half'"):
        ViTDecoder(6, 16, reads="half")


@pytest.mark.parametrize(("width", "share"), [(10, 0.2), (4, 0.5), (2, 0.01)])
def test_a_decoder_of_pixels_is_given_the_channels_that_the_encoder_makes_of_pixels(width, share):
    net = {"_target_": "imtok.decoders.cnn.CNNDecoder"} | CNN
    config = {"_target_": "imtok.decoders.beside.PixelDecoder", "net": net, "pixel_share": share}
    decoder = construct(config, provided={"in_dim": width, "image_size": 16})
    number = beside(out_dim=width, pixel_share=share).pixels.project.out_channels
    latents = torch.randn(2, 16, width)
    torch.testing.assert_close(decoder(latents, (16, 16)), decoder.net(latents[..., width - number :], (16, 16)))
    assert decoder.last_layer is decoder.net.last_layer
    with pytest.raises(ValueError, match=r"pixel_share must be in \(0, 1\), got 1.0"):
        PixelDecoder(10, decoder.net, 1.0)


def test_the_image_of_a_dualtoken_tokenizer_does_not_depend_on_its_semantic_codes():
    vq = {"_target_": "imtok.quantizers.vq.VQ", "dim": 3, "codebook_size": 32}
    tokenizer = Tokenizer.from_config(
        {
            "encoder": {
                "_target_": "imtok.encoders.two_depths.TwoDepthEncoder",
                "net": {
                    "_target_": "imtok.encoders.pretrained_vit.PretrainedViTEncoder", "patch_size": 4, "factor": 4,
                    "width": 16, "depth": 3, "heads": 2, "layers": [0, 1, 2],
                },
            },
            "quantizer": {"_target_": "imtok.quantizers.product.Product", "parts": [vq, vq]},
            "decoder": {
                "_target_": "imtok.decoders.vit.ViTDecoder",
                "patch_size": 4, "width": 16, "depth": 1, "heads": 2, "reads": "last_half", "start": "xavier",
            },
            "image_size": 16,
        }
    ).eval()  # fmt: skip
    tokens = tokenizer.encode(torch.rand(1, 3, 16, 16) * 2 - 1)
    image = tokenizer.decode(tokens, (16, 16))
    for slot in range(2):
        ids = tokens.ids.clone()
        ids[..., slot] = (ids[..., slot] + 1) % 32
        assert torch.equal(tokenizer.decode(type(tokens)(ids), (16, 16)), image) == (slot == 0)


def test_published_presets_have_the_shapes_of_the_nets_that_they_are_named_after():
    with torch.device("meta"):
        siglip = construct(preset("encoder", "dualtoken"), provided={"out_dim": 64, "image_size": 378})
        flow = construct(preset("encoder", "tokenflow"), provided={"out_dim": 40, "image_size": 224})
    attention, mlp, norms = 4 * (1152**2 + 1152), 2 * 1152 * 4304 + 4304 + 1152, 4 * 1152
    blocks = 26 * (attention + mlp + norms)
    assert blocks == 26 * 15_239_504  # of SigLIP2-so400m's encoder
    # to the codes: three norms and that of the gated MLP, a linear map, attention of 36 heads, the MLP
    norms, linear, seen = 4 * 1152 + 4 * 32, 1152 * 32 + 32, 3 * 1152**2 + 2 * 1152 + 32 * 32 + 32
    to_codes = norms + linear + seen + 2 * (32 * 64 + 64) + 64 * 32 + 32
    ends = 3 * 14**2 * 1152 + 1152 + 27**2 * 1152 + 3 * to_codes
    assert count(siglip) == blocks + ends
    assert count(flow.pixels) == 29_300_232  # LlamaGen's at width 8
    assert count(flow.semantic) == 85_799_424  # CLIP-B/16's image encoder without its projection
    assert count(flow.project) == 768 * 768 + 768 + 768 * 32 + 32


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())
