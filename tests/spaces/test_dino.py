"""DINOv2 from published files: names, folding, positions; and how images come to it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from imtok.errors import InputError
from imtok.pretrained import fetch_weights
from imtok.spaces.dino import DINOv2, resize

WIDTH, HEADS, TRAINED = 16, 2, 5  # five positions along each side in the file, two in the net
SMALL = {"width": WIDTH, "depth": 2, "heads": HEADS, "side": 28}


def published(registers: int) -> dict[str, torch.Tensor]:
    """Random weights under the names and in the shapes of the official files."""
    shapes = {
        "cls_token": (1, 1, WIDTH),
        "pos_embed": (1, 1 + TRAINED**2, WIDTH),
        "mask_token": (1, WIDTH),
        "patch_embed.proj.weight": (WIDTH, 3, 14, 14),
        "patch_embed.proj.bias": (WIDTH,),
        "norm.weight": (WIDTH,),
        "norm.bias": (WIDTH,),
    }
    if registers:
        shapes["register_tokens"] = (1, registers, WIDTH)
    for block in ("blocks.0", "blocks.1"):
        for norm in ("norm1", "norm2"):
            shapes |= {f"{block}.{norm}.weight": (WIDTH,), f"{block}.{norm}.bias": (WIDTH,)}
        for name, out, into in (
            ("attn.qkv", 48, 16),
            ("attn.proj", 16, 16),
            ("mlp.fc1", 64, 16),
            ("mlp.fc2", 16, 64),
        ):
            shapes |= {f"{block}.{name}.weight": (out, into), f"{block}.{name}.bias": (out,)}
        shapes |= {f"{block}.ls1.gamma": (WIDTH,), f"{block}.ls2.gamma": (WIDTH,)}
    return {name: torch.randn(shape) * 0.3 for name, shape in shapes.items()}


def reference(weights: dict[str, torch.Tensor], pixels: torch.Tensor, registers: int) -> torch.Tensor:
    """The official forward pass, written out."""
    tokens = F.conv2d(pixels, weights["patch_embed.proj.weight"], weights["patch_embed.proj.bias"], stride=14)
    tokens = tokens.flatten(2).mT
    table = weights["pos_embed"][:, 1:].reshape(1, TRAINED, TRAINED, WIDTH).permute(0, 3, 1, 2)
    if registers:
        table = F.interpolate(table, size=(2, 2), mode="bicubic", antialias=True)
    else:
        table = F.interpolate(table, scale_factor=(2.1 / TRAINED, 2.1 / TRAINED), mode="bicubic")
    first = weights["cls_token"] + weights["pos_embed"][:, :1]
    rows = [first.expand(len(tokens), -1, -1), tokens + table.flatten(2).mT]
    if registers:
        rows.insert(1, weights["register_tokens"].expand(len(tokens), -1, -1))
    tokens = torch.cat(rows, 1)
    for block in ("blocks.0.", "blocks.1."):
        own = {name.removeprefix(block): value for name, value in weights.items() if name.startswith(block)}
        normed = F.layer_norm(tokens, (WIDTH,), own["norm1.weight"], own["norm1.bias"], 1e-6)
        attention = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        attention.in_proj_weight.data, attention.in_proj_bias.data = own["attn.qkv.weight"], own["attn.qkv.bias"]
        attention.out_proj.weight.data, attention.out_proj.bias.data = own["attn.proj.weight"], own["attn.proj.bias"]
        tokens = tokens + own["ls1.gamma"] * attention(normed, normed, normed)[0]
        normed = F.layer_norm(tokens, (WIDTH,), own["norm2.weight"], own["norm2.bias"], 1e-6)
        hidden = F.gelu(F.linear(normed, own["mlp.fc1.weight"], own["mlp.fc1.bias"]))
        tokens = tokens + own["ls2.gamma"] * F.linear(hidden, own["mlp.fc2.weight"], own["mlp.fc2.bias"])
    tokens = F.layer_norm(tokens, (WIDTH,), weights["norm.weight"], weights["norm.bias"], 1e-6)
    return torch.cat([tokens[:, :1], tokens[:, 1 + registers :]], 1)


def read(weights: dict[str, torch.Tensor], path, registers: int) -> DINOv2:
    torch.save(weights, path)
    space = DINOv2(str(path), registers=registers, **SMALL)
    fetch_weights(space)
    return space.eval()


@pytest.mark.parametrize("registers", [0, 4])
def test_features_are_those_of_the_published_net(registers, tmp_path):
    weights = published(registers)
    space = read(weights, tmp_path / "dinov2.pth", registers)
    image = torch.rand(2, 3, 28, 28) * 2 - 1
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    pixels = ((image + 1) / 2 - mean[:, None, None]) / std[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(space.tokens(image), reference(weights, pixels, registers), rtol=1e-4, atol=1e-4)
        assert torch.equal(space.encode(image).flatten(2).mT, space.tokens(image)[:, 1:])


def test_the_copy_of_timm_gives_the_same_features(tmp_path):
    """It has the class token's position added already, and another name for registers."""
    weights = published(4)
    official = read(weights, tmp_path / "official.pth", 4)
    weights["cls_token"] = weights["cls_token"] + weights["pos_embed"][:, :1]
    weights["pos_embed"] = weights["pos_embed"][:, 1:]
    weights["reg_token"] = weights.pop("register_tokens")
    image = torch.rand(1, 3, 28, 28)
    assert torch.equal(read(weights, tmp_path / "timm.pth", 4).tokens(image), official.tokens(image))


@pytest.mark.parametrize("change", ["missing", "shape", "registers"])
def test_a_file_of_another_net_is_refused(change, tmp_path):
    weights = published(4)
    if change == "missing":
        del weights["blocks.1.mlp.fc2.bias"]
    elif change == "shape":
        weights["norm.weight"] = torch.ones(8)
    told = {
        "missing": "1 missing: blocks.1.mlp.fc2.bias",
        "shape": r"1 of another shape: norm.weight is for shape \[8\] and not \[16\]",
        "registers": "1 unknown: register_tokens",
    }[change]
    with pytest.raises(
        InputError, match=rf"dinov2.pth .* is of another net than the config says: {told}; give its own"
    ):
        read(weights, tmp_path / "dinov2.pth", 0 if change == "registers" else 4)


def test_the_copy_of_transformers_gives_the_same_features(tmp_path):
    from transformers import Dinov2WithRegistersConfig, Dinov2WithRegistersModel

    shape = {
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": HEADS,
        "image_size": 28,
        "patch_size": 14,
    }
    net = Dinov2WithRegistersModel(Dinov2WithRegistersConfig(**shape)).eval()
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    net.save_pretrained(tmp_path)
    space, image = DINOv2(str(tmp_path / "model.safetensors"), registers=4, **SMALL).eval(), torch.rand(1, 3, 28, 28)
    fetch_weights(space)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = net(((image + 1) / 2 - mean[:, None, None]) / std[:, None, None]).last_hidden_state
        found = space.tokens(image)
    torch.testing.assert_close(found, torch.cat([expected[:, :1], expected[:, 5:]], 1), rtol=0, atol=1e-4)


def test_it_stays_in_evaluation_and_has_no_way_back():
    space = DINOv2(**SMALL).train()
    assert not space.trunk.training
    with pytest.raises(ValueError, match="must be an autoencoder, got DINOv2"):
        space.decode(torch.zeros(1, WIDTH, 2, 2))


def test_a_side_that_no_patch_divides_is_refused():
    with pytest.raises(ValueError, match="side must be a positive multiple of 14, got 30"):
        DINOv2(side=30)


def test_growing_keeps_the_corners_and_shrinking_the_mean():
    image = torch.rand(1, 3, 10, 12)
    larger = resize(image, 20)
    torch.testing.assert_close(larger[..., [0, -1], [0, -1]], image[..., [0, -1], [0, -1]])
    torch.testing.assert_close(resize(torch.full((1, 3, 40, 44), 0.3), 20), torch.full((1, 3, 20, 20), 0.3))


def test_shrinking_blurs_first():
    """Stripes of one pixel: without a blur every third sample of them would stay as strong as they were."""
    stripes = (torch.arange(60) % 2 * 2.0 - 1).expand(1, 3, 60, 60)
    plain = F.interpolate(stripes, size=(20, 20), mode="bicubic", align_corners=True)
    assert resize(stripes, 20).std() < 0.7 * plain.std()
