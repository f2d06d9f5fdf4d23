"""A folded tokenizer has a plain table, and nobody who decodes can tell."""

import copy

import pytest
import torch

from imtok.errors import InputError
from imtok.export.fold import fold
from imtok.quantizers.reparametrized import ReparametrizedVQ
from imtok.quantizers.vq import VQ
from imtok.tokenizer import Tokenizer

_Q = "imtok.quantizers"
FVQ = {"_target_": f"{_Q}.fvq.FVQ", "dim": 4, "codebook_size": 64, "patch_size": 2, "width": 16, "heads": 2}
SIMVQ = {"_target_": f"{_Q}.simvq.SimVQ", "dim": 4, "codebook_size": 64}
GRID = {"_target_": f"{_Q}.fsq.FSQ", "levels": [5, 5, 3, 3]}
SECTIONS = {
    "fvq": FVQ | {"commit_weight": 0.5, "estimator": "rotation"},
    "simvq": SIMVQ | {"estimator": {"name": "softmax", "temperature": 0.5}},
    "product": {"_target_": f"{_Q}.product.Product", "parts": [FVQ, GRID]},
    "residual": {"_target_": f"{_Q}.residual.Residual", "stages": [FVQ], "depth": 3},
    "multi_scale": {
        "_target_": f"{_Q}.multiscale.MultiScale",
        "sizes": [1, 2, 4],
        "convolutions": 2,
        "quantizer": SIMVQ,
    },
    "nested": {
        "_target_": f"{_Q}.product.Product",
        "parts": [{"_target_": f"{_Q}.residual.Residual", "stages": [FVQ, SIMVQ]}, GRID],
    },
}


def tokenizer_of(quantizer):
    parts = {
        name: {"_target_": f"imtok.{name}s.patch.Patch{name.title()}", "patch_size": 4, "width": 8, "depth": 1}
        for name in ("encoder", "decoder")
    }
    tokenizer = Tokenizer.from_config({**parts, "quantizer": quantizer, "image_size": 16})
    with torch.no_grad():
        for parameter in tokenizer.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return tokenizer.eval()


@pytest.mark.parametrize("name", SECTIONS)
def test_ids_codes_and_images_are_the_same_bit_for_bit(name, tmp_path):
    tokenizer = tokenizer_of(SECTIONS[name])
    tokenizer.metadata["origin"] = "a test"
    fold(tokenizer).save(tmp_path / "folded")
    folded = Tokenizer.load(tmp_path / "folded")
    image = torch.rand(3, 3, 16, 16) * 2 - 1
    tokens = tokenizer.encode(image)
    assert len(tokens.ids.unique()) > 2
    assert torch.equal(folded.encode(image).ids, tokens.ids)
    assert torch.equal(folded.quantizer.decode(tokens.ids), tokenizer.quantizer.decode(tokens.ids))
    assert torch.equal(folded.decode(tokens), tokenizer.decode(tokens))
    for mine, theirs in zip(folded.quantizer.codebook(), tokenizer.quantizer.codebook(), strict=True):
        assert torch.equal(mine, theirs)
    assert not any(isinstance(part, ReparametrizedVQ) for part in folded.modules())
    assert folded.metadata == {"origin": "a test"}


def test_losses_and_estimator_stay_as_they_were():
    tokenizer = tokenizer_of(SECTIONS["fvq"])
    folded = fold(tokenizer)
    assert isinstance(folded.quantizer, VQ)
    latents = [torch.randn(2, 5, 4).requires_grad_() for _ in range(2)]
    latents[1] = latents[0].detach().clone().requires_grad_()
    direction = torch.randn(2, 5, 4)
    found = []
    for one, given in zip((tokenizer, folded), latents, strict=True):
        quantized = one.quantizer.train()(given)
        found.append({name: (loss.value.item(), loss.weight) for name, loss in quantized.losses.items()})
        (quantized.latents * direction).sum().backward()
    assert found[0] == found[1]
    assert torch.equal(latents[0].grad, latents[1].grad)


def test_the_copy_shares_nothing_but_the_values():
    tokenizer = tokenizer_of(FVQ)
    before = copy.deepcopy(tokenizer.state_dict())
    with torch.no_grad():
        for parameter in fold(tokenizer).parameters():
            parameter += 1
    torch.testing.assert_close(tokenizer.state_dict(), before, rtol=0, atol=0)


def test_what_has_no_map_is_refused():
    with pytest.raises(InputError, match="must be a stored one with quantizer=fvq or simvq to be folded, got FSQ"):
        fold(tokenizer_of(GRID))
    tokenizer = tokenizer_of(FVQ)
    tokenizer.config = None
    with pytest.raises(InputError, match="got one that was built by hand"):
        fold(tokenizer)
