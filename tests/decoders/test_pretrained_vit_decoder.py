"""A decoder of the blocks of DINOv2: what stands in its sequence, and that a file of the net fills it."""

import pytest
import torch
from nn.vits import timm_net
from torch.nn import functional as F

from imtok.decoders.pretrained_vit import PretrainedViTDecoder
from imtok.encoders.pretrained_vit import PretrainedViTEncoder
from imtok.nn.transformer import BlockStyle
from imtok.tokenizer import Tokenizer

STYLE = BlockStyle(eps=1e-6, layer_scale=1e-5)
SHAPE = {"width": 32, "depth": 3, "heads": 2, "patch_size": 8, "style": STYLE}


@pytest.fixture
def net():
    """DINOv2 of timm, for a grid of 4 x 4 patches."""
    return timm_net("dinov2_b14", 56)


def decoder_of(net, path, **settings):
    """A decoder with its weights, whose first and last maps change nothing that matters here."""
    torch.save(net.state_dict(), path)
    settings = {"in_dim": 32, "image_size": 32, "num_latents": 16} | SHAPE | settings
    decoder = PretrainedViTDecoder(**settings).eval().requires_grad_(False)
    decoder.read_weights(path)
    decoder.embed = torch.nn.Identity()
    return decoder


def image_of(decoder, read):
    """Patches of pixels, row by row: rows and columns in a patch, then colours."""
    return decoder.pixels(read).view(-1, 4, 4, 8, 8, 3).permute(0, 5, 1, 3, 2, 4).reshape(-1, 3, 32, 32)


def test_latents_take_the_place_of_patches(net, tmp_path):
    decoder, latents = decoder_of(net, tmp_path / "net.pth"), torch.randn(2, 16, 32)
    tokens = torch.cat([net.cls_token.expand(2, -1, -1), latents], 1) + net.pos_embed
    read = net.norm(net.blocks(tokens))[:, 1:]
    torch.testing.assert_close(decoder(latents, (32, 32)), image_of(decoder, read), rtol=0, atol=1e-5)


def test_mask_tokens_become_the_image_and_latents_stand_behind_a_second_class_token(net, tmp_path):
    decoder = decoder_of(net, tmp_path / "net.pth", num_latents=9, writes="mask_tokens")
    latents = torch.randn(2, 9, 32)
    grid = net.pos_embed[:, 1:].view(1, 4, 4, 32).permute(0, 3, 1, 2)
    own = F.interpolate(grid, (3, 3), mode="bicubic", antialias=True).flatten(2).mT
    first = net.cls_token + net.pos_embed[:, :1]
    masks = decoder.mask_token + net.pos_embed[:, 1:]
    whole = torch.cat([first, masks], 1) + decoder.levels[0]
    half = torch.cat([first.expand(2, -1, -1), latents + own], 1) + decoder.levels[1]
    read = net.norm(net.blocks(torch.cat([whole.expand(2, -1, -1), half], 1)))[:, 1:17]
    torch.testing.assert_close(decoder(latents, (32, 32)), image_of(decoder, read), rtol=0, atol=1e-5)
    assert decoder(latents, (16, 48)).shape == (2, 3, 16, 48)


def test_a_tokenizer_of_both_is_saved_and_loaded_without_their_files(net, tmp_path):
    parts = {"encoder": PretrainedViTEncoder, "decoder": PretrainedViTDecoder}
    shape = {"width": 32, "depth": 3, "heads": 2, "weights": str(tmp_path / "net.pth")}
    shape["style"] = {"_target_": "imtok.nn.transformer.BlockStyle", "eps": 1e-6, "layer_scale": 1e-5}
    config = {name: {"_target_": f"{kind.__module__}.{kind.__qualname__}", **shape} for name, kind in parts.items()}
    config |= {"quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [4, 4]}, "image_size": 64}
    tokenizer = Tokenizer.from_config(config)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    for part in (tokenizer.encoder, tokenizer.decoder):
        part.read_weights(part.find_weights())
    tokenizer.save(tmp_path / "saved")
    (tmp_path / "net.pth").unlink()
    loaded, image = Tokenizer.load(tmp_path / "saved"), torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded.encode(image).ids, tokenizer.eval().encode(image).ids)
    assert "net.pth" not in (tmp_path / "saved/config.json").read_text()
    assert loaded.config["decoder"]["weights"] is None


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"rotary": "dinov3"}, "table must be learned and rotary none for mask tokens, got learned and dinov3"),
        ({"table": "none"}, "table must be learned and rotary none for mask tokens, got none and none"),
    ],
)
def test_what_mask_tokens_cannot_do_is_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        PretrainedViTDecoder(
            **{"in_dim": 6, "image_size": 64, "num_latents": 16, **SHAPE, "writes": "mask_tokens", **settings}
        )
