"""ImageFolder and MSBR by hand: what published tensors make of an image, written from facts about the layout alone."""

import pytest
import torch
from torch.nn import functional as F
from zoo.containers import fabricate, imported

SIZES = (1, 1, 2, 3, 3, 4, 5, 6, 8, 11)
CONVOLUTIONS = (0, 0, 1, 1, 1, 2, 2, 3, 3, 3)  # of four, that which a scale passes


def norm(tensors, name, tokens):
    return F.layer_norm(tokens, tokens.shape[-1:], tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-6)


def linear(tensors, name, tokens):
    return F.linear(tokens, tensors[f"{name}.weight"].flatten(1), tensors[f"{name}.bias"])


def vit(tensors, name, tokens):
    """Two blocks of one head, and the norm."""
    for block in (f"{name}.blocks.0", f"{name}.blocks.1"):
        query, key, value = linear(tensors, f"{block}.attn.qkv", norm(tensors, f"{block}.norm1", tokens)).chunk(3, -1)
        seen = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value
        tokens = tokens + tensors[f"{block}.ls1.gamma"] * linear(tensors, f"{block}.attn.proj", seen)
        hidden = F.gelu(linear(tensors, f"{block}.mlp.fc1", norm(tensors, f"{block}.norm2", tokens)))
        tokens = tokens + tensors[f"{block}.ls2.gamma"] * linear(tensors, f"{block}.mlp.fc2", hidden)
    return norm(tensors, f"{name}.norm", tokens)


def places(table):
    """Positions of the class token, of 4 x 4 patches, and of 11 x 11 latents."""
    maps = table[:, 1:].mT.reshape(1, -1, 4, 4).float()
    small = F.interpolate(maps, (11, 11), mode="bicubic", antialias=True, align_corners=False)
    return table[:, :1], table[:, 1:], small.flatten(2).mT.to(table)


def quantized(tensors, branch, rest):
    """Codes of all scales, and their sum: cosine decides, and codes keep their length; or signs do, of unit latents."""
    table, total, ids = tensors.get(f"quantizes.{branch}.embedding.weight"), torch.zeros_like(rest), []
    rest = rest if table is not None else F.normalize(rest, dim=1)
    for size, which in zip(SIZES, CONVOLUTIONS, strict=True):
        small = F.interpolate(rest, (size, size), mode="area").flatten(2).mT
        if table is None:
            bits = small > 0
            ids.append((bits * 2 ** torch.arange(5)).sum(-1))
            chosen = torch.where(bits, 5**-0.5, -(5**-0.5)).to(rest)
        else:
            ids.append((F.normalize(small, dim=-1) @ F.normalize(table, dim=-1).T).argmax(-1))
            chosen = table[ids[-1]]
        codes = chosen.mT.unflatten(2, (size, size))
        codes = F.interpolate(codes, (11, 11), mode="bicubic") if size < 11 else codes
        kernel = f"quantizes.{branch}.quant_resi.qresi_ls.{which}"
        codes = codes / 2 + F.conv2d(codes, tensors[f"{kernel}.weight"], tensors[f"{kernel}.bias"], padding=1) / 2
        total, rest = total + codes, rest - codes
    return torch.cat(ids, 1), total


def imagefolder(tensors, image):
    """Ids of both branches, and the image of them."""
    patch, latents, level = (
        "encoder.model.patch_embed.proj",
        tensors["encoder.latent_tokens"],
        tensors["encoder.lvl_embed.weight"],
    )
    first, grid, own = places(tensors["encoder.model.pos_embed"])
    patches = F.conv2d(image, tensors[f"{patch}.weight"], tensors[f"{patch}.bias"], stride=4).flatten(2).mT
    sequence = [tensors["encoder.model.cls_token"] + first + level[0], patches + grid + level[0]]
    sequence += [latents[:, 121 * k : 121 * (k + 1)] + own + level[1 + k] for k in range(2)]
    read = linear(tensors, "quant_conv", vit(tensors, "encoder.model", torch.cat(sequence, 1))[:, -242:])
    parts = [quantized(tensors, k, read[:, 121 * k : 121 * (k + 1)].mT.unflatten(2, (11, 11))) for k in range(2)]
    codes = linear(tensors, "post_quant_conv", torch.cat([total for _, total in parts], 1).flatten(2).mT)
    level, (first, grid, own) = tensors["decoder.lvl_embed.weight"], places(tensors["decoder.model.pos_embed"])
    start = tensors["decoder.model.cls_token"] + first
    sequence = [
        start + level[0],
        tensors["decoder.mask_token"] + grid + level[0],
        start + level[1],
        codes + own + level[1],
    ]
    pixels = linear(tensors, "decoder.to_pixel.model", vit(tensors, "decoder.model", torch.cat(sequence, 1))[:, 1:17])
    rows = pixels.unflatten(2, (4, 4, 3)).unflatten(1, (4, 4)).permute(0, 5, 1, 3, 2, 4).reshape(1, 3, 16, 16)
    return torch.stack([ids for ids, _ in parts], -1), rows


@pytest.mark.parametrize("name", ["xqgan with scales", "xqgan with binary codes"])
def test_an_imported_tokenizer_of_scales_is_what_its_tensors_say(name, tmp_path):
    _, tensors, path = fabricate(name, tmp_path)
    tokenizer = imported(name, path).tokenizer.double()
    image = torch.rand(1, 3, 16, 16, dtype=torch.float64) * 2 - 1
    with torch.no_grad():
        ids, expected = imagefolder({name: value.double() for name, value in tensors.items()}, image)
        found = tokenizer(image)
    assert torch.equal(found.quantized.ids, ids)
    torch.testing.assert_close(found.image, expected, rtol=0, atol=1e-5)
