"""Critics score images, one by one, and write nothing down while they look."""

import pytest
import torch
import torch.nn.functional as F

from imtok.construct import construct
from imtok.critics.dino import DinoCritic
from imtok.critics.maskbit import MaskBitCritic
from imtok.critics.maskgit import MaskGITCritic
from imtok.critics.patchgan import PatchGAN
from imtok.critics.stylegan import StyleGANCritic
from imtok.errors import InputError
from imtok.losses.adversarial import Adversary
from imtok.nn.timm_net import timm_net
from imtok.options import option

UNITOK = {"embedded": False, "norm": "group", "spectral": False}
CRITICS = {
    "patchgan": lambda: PatchGAN(8, 2),
    "patchgan without norm": lambda: PatchGAN(8, 2, norm="none"),
    "maskbit": lambda: MaskBitCritic(8, 2, grid=4),
    "maskgit": lambda: MaskGITCritic(32, 8),
    "stylegan": lambda: StyleGANCritic(32, 8),
    "dino": lambda: DinoCritic("test_vit", "random", (0, 2), side=32),
    "dino of unitok": lambda: DinoCritic("test_vit", "random", (0, 2), side=32, **UNITOK),
}


@pytest.fixture(params=CRITICS)
def critic(request):
    return CRITICS[request.param]().double()


def pictures(number=4):
    return torch.rand(number, 3, 32, 32, dtype=torch.float64) * 2 - 1


def test_every_parameter_learns_and_the_image_too(critic):
    image = pictures().requires_grad_()
    scores = critic(image)
    assert scores.shape[0] == 4
    (scores * torch.randn_like(scores)).sum().backward()
    for name, parameter in critic.named_parameters():
        assert parameter.grad.abs().sum() > 0, name
    assert (image.grad.abs().flatten(1).sum(1) > 0).all()


def test_looking_changes_nothing(critic):
    """Power iterations, running means or spectral vectors that move in forward would depend on micro-batches."""
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    first = critic.train()(pictures(2) * 0)
    second = critic(pictures(2) * 0)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    for name, value in critic.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)


def test_r1_can_differentiate_it_twice(critic):
    terms = Adversary(critic, r1_weight=1.0).losses(pictures(2), pictures(2), 0).terms
    terms["r1"].value.backward()
    assert sum(p.grad.abs().sum() for p in critic.parameters() if p.grad is not None) > 0


@pytest.mark.parametrize("name", ["patchgan", "patchgan without norm", "maskbit", "maskgit", "dino of unitok"])
def test_images_are_scored_one_by_one(name):
    """Batch norm would tie photographs, reconstructions and ranks to each other."""
    critic, image = CRITICS[name]().double(), pictures()
    torch.testing.assert_close(critic(image), torch.cat([critic(one) for one in image.split(1)]), rtol=1e-9, atol=1e-12)


def test_the_patchgan_is_as_large_as_published():
    """70 x 70 pixels per score, 30 x 30 scores at 256 pixels; 2.77 million weights, its norms' among them."""
    critic = PatchGAN()
    assert sum(parameter.numel() for parameter in critic.parameters()) == 2_765_633
    assert critic(torch.zeros(1, 3, 256, 256)).shape == (1, 900)
    image = torch.zeros(1, 3, 256, 256, requires_grad=True)
    bare = PatchGAN(norm="none")  # group norm lets a score see the whole image
    bare(image)[0, 15 * 30 + 15].backward()
    rows, columns = image.grad.abs().sum((0, 1)).nonzero().T
    assert rows.max() - rows.min() + 1 == columns.max() - columns.min() + 1 == 70


def test_the_stylegan_critic_is_as_wide_as_the_one_that_bsq_trains_against():
    """32768 / side channels, at most 512: 128 at 256 pixels, 256 at 128, 512 below; 28.86 million weights."""
    critic = StyleGANCritic(256)
    assert [block.main[0].in_channels for block in critic.blocks] == [128, 256, 512, 512, 512, 512]
    assert sum(parameter.numel() for parameter in critic.parameters()) == 28_864_129


def test_the_maskgit_critic_is_as_wide_as_published():
    """16384 / side channels, at most 512: 64 at 256 pixels, 128 at 128, 256 at 64, 512 below; 24.00 million weights."""
    critic = MaskGITCritic(256)
    assert [block.main[0].in_channels for block in critic.blocks] == [64, 128, 256, 512, 512, 512]
    assert sum(parameter.numel() for parameter in critic.parameters()) == 23_998_017


def test_a_block_of_the_maskgit_critic_is_its_formula():
    block, features = MaskGITCritic(8, 4).double().blocks[0], torch.randn(1, 4, 8, 8, dtype=torch.float64)
    weights = dict(block.named_parameters())
    binomial = torch.tensor([1.0, 3.0, 3.0, 1.0], dtype=torch.float64) / 8

    def halved(maps):
        """Every second place of a blur over places -1 to 2 beside it, zeros around the map."""
        padded = F.pad(maps, (1, 1, 1, 1)).unfold(2, 4, 2).unfold(3, 4, 2)
        return torch.einsum("b c h w y x, y, x -> b c h w", padded, binomial, binomial)

    def activated(name, maps):
        return F.leaky_relu(F.conv2d(maps, weights[f"{name}.weight"], weights[f"{name}.bias"], padding=1), 0.2)

    expected = activated("main.3", halved(activated("main.0", features)))
    expected = (expected + F.conv2d(halved(features), weights["skip.1.weight"])) / 2**0.5
    torch.testing.assert_close(block(features), expected, rtol=1e-12, atol=1e-12)


def test_stylegans_spread_tells_a_batch_of_copies():
    torch.manual_seed(0)
    critic, one = StyleGANCritic(16, 8).double(), torch.rand(1, 3, 16, 16, dtype=torch.float64)
    copies = critic(one.repeat(4, 1, 1, 1))
    among_others = critic(torch.cat([one, torch.rand(3, 3, 16, 16, dtype=torch.float64)]))
    assert not torch.allclose(copies[0], among_others[0])
    torch.testing.assert_close(copies[0], critic(one)[0])  # the spread of copies is that of one image


def test_dinos_net_stays_as_it_is_and_out_of_sight():
    critic = DinoCritic("test_vit", "random", (0, 2), side=32).train()
    assert not critic.frozen.net.training
    assert all(name.startswith("heads.") for name in critic.state_dict())
    assert not any(p.requires_grad for p in critic.frozen.net.parameters())
    again = DinoCritic("test_vit", "random", (0, 2), side=32)
    for left, right in zip(critic.frozen.net.parameters(), again.frozen.net.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_dinos_heads_are_spectrally_normalised_after_a_few_updates():
    critic = DinoCritic("test_vit", "random", (0,), side=32)
    for _ in range(200):
        critic.update()
    for head in critic.heads:
        layer = head.first[0]
        left, right = layer._vectors()
        matrix = layer.weight.flatten(1)
        torch.testing.assert_close(left @ matrix @ right, torch.linalg.matrix_norm(matrix, 2), rtol=1e-3, atol=0)


def test_unitoks_critic_is_as_large_as_published():
    """Five heads of 384 channels on DINOv2-S: 7.39 million weights, which score 18 x 18 patches of 14 pixels each."""
    critic = construct(option("objective", "unitok")["adversary"]["critic"] | {"weights": "random"})
    assert sum(parameter.numel() for parameter in critic.parameters()) == 7_386_245
    assert critic(torch.zeros(1, 3, 256, 256)).shape == (1, 5 * 18 * 18)


def test_a_head_of_unitoks_critic_is_its_formula():
    critic = DinoCritic("test_vit", "random", (1,), side=32, **UNITOK).double()
    for parameter in critic.parameters():  # biases and norms, which start at 0 and 1
        torch.nn.init.normal_(parameter)
    (features,) = critic._features(pictures(2))
    weights = dict(critic.heads[0].named_parameters())

    def layer(name, maps):
        """A convolution around the ring of patches, and groups of four channels over the patches of an image."""
        kernel = weights[f"{name}.0.weight"]
        ring = F.pad(maps, (kernel.shape[-1] // 2,) * 2, mode="circular") if kernel.shape[-1] > 1 else maps
        maps = F.conv1d(ring, kernel, weights[f"{name}.0.bias"]).unflatten(1, (16, 4))
        variance, mean = torch.var_mean(maps, (2, 3), correction=0, keepdim=True)
        maps = ((maps - mean) / (variance + 1e-6).sqrt()).flatten(1, 2)
        return F.leaky_relu(maps * weights[f"{name}.1.weight"][:, None] + weights[f"{name}.1.bias"][:, None], 0.2)

    hidden = layer("first", features)
    hidden = (layer("second", hidden) + hidden) / 2**0.5
    expected = torch.einsum("b c n, c -> b n", hidden, weights["score.weight"][0, :, 0]) + weights["score.bias"]
    torch.testing.assert_close(critic.heads[0](features), expected, rtol=1e-10, atol=1e-12)


def test_dinos_positions_are_resized_as_its_own_code_does_it():
    table = timm_net("test_vit", "random").pos_embed
    square = table[:, 1:].unflatten(1, (10, 10)).movedim(-1, 1)
    expected = F.interpolate(square, scale_factor=(3.1 / 10, 3.1 / 10), mode="bicubic").movedim(1, -1).flatten(1, 2)
    found = DinoCritic("test_vit", "random", (0,), side=48).frozen.net.pos_embed
    torch.testing.assert_close(found, torch.cat([table[:, :1], expected], 1), rtol=0, atol=0)


def test_dino_looks_at_crops_and_at_the_whole_of_larger_images():
    critic = DinoCritic("test_vit", "random", (0,), side=32).double()
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    seen = [critic._fit(image) for _ in range(20)]
    whole = torch.nn.functional.avg_pool2d(image, 2)
    resized = [torch.allclose(one, whole) for one in seen]
    assert 0 < sum(resized) < 20
    cut = next(one for one, is_whole in zip(seen, resized, strict=True) if not is_whole)
    assert any(torch.equal(image[..., t : t + 32, u : u + 32], cut) for t in range(33) for u in range(33))


def test_missing_weights_are_said_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"weights=nowhere is not a file; give the path .* weights=random"):
        DinoCritic(weights="nowhere")
    damaged = tmp_path / "dino.pth"
    damaged.write_bytes(b"nothing")
    with pytest.raises(InputError, match="does not hold the weights of test_vit"):
        DinoCritic("test_vit", damaged, (0,), side=32)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PatchGAN(0), "channels and halvings"),
        (lambda: MaskBitCritic(grid=0), "channels, halvings and grid"),
        (lambda: StyleGANCritic(48), "power of two"),
        (lambda: MaskGITCritic(48), "power of two"),
        (lambda: MaskGITCritic(16, 8)(torch.zeros(1, 3, 32, 32)), "images must be of 16 pixels"),
        (lambda: DinoCritic("test_vit", "random", (99,), side=32), r"layers must lie in \[0, "),
        (lambda: DinoCritic("test_vit", "random", (0,), side=40), "side must be a positive multiple of 16"),
        (lambda: DinoCritic("no_such_net", "random"), "must be a name that timm knows"),
        (lambda: StyleGANCritic(16)(torch.zeros(1, 3, 32, 32)), "images must be of 16 pixels"),
        (lambda: PatchGAN(8)(torch.zeros(1, 3, 16, 16)), "at least 24 pixels"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
