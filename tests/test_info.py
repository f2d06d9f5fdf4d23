"""What ``imtok info`` says of the tokens of every kind of quantizer."""

import re

import pytest

from imtok.cli import main
from imtok.tokenizer import Tokenizer

_Q = "imtok.quantizers"
_GRID = {"_target_": f"{_Q}.fsq.FSQ", "levels": [8, 5, 5, 5]}
_TABLE = {"_target_": f"{_Q}.vq.VQ", "dim": 4, "codebook_size": 512, "normalize": False}
# what imtok info says of an image of 32x32 pixels in 4x4 latents: vocabulary, slots, bits per token, tokens, bits
TOLD = {
    "vq": (_TABLE, "512", 1, "9.000", 16, "144.0"),
    "fsq": (_GRID, "1,000", 1, "9.966", 16, "159.5"),
    "lfq": ({"_target_": f"{_Q}.lfq.LFQ", "slot_bits": [6, 12]}, "64 + 4,096", 2, "18.000", 16, "288.0"),
    "residual": (
        {"_target_": f"{_Q}.residual.Residual", "stages": [_TABLE], "depth": 3},
        "512 + 512 + 512",
        3,
        "27.000",
        16,
        "432.0",
    ),
    "product": (
        {"_target_": f"{_Q}.product.Product", "parts": [_TABLE, _GRID]},
        "512 + 1,000",
        2,
        "18.966",
        16,
        "303.5",
    ),
    "multi-scale": (
        {"_target_": f"{_Q}.multiscale.MultiScale", "quantizer": _TABLE, "sizes": [1, 2, 4], "convolutions": 3},
        "512",
        1,
        "9.000",
        21,
        "189.0",
    ),
    "segments": (
        {"_target_": f"{_Q}.segments.Segments", "parts": [_TABLE, _GRID], "lengths": [4, 12]},
        "1,512",
        1,
        "9.724",  # the mean of 4 tokens of 9 bits and 12 of log2 1000
        16,
        "155.6",
    ),
}


@pytest.mark.parametrize("name", TOLD)
def test_info_tells_them_of_every_kind_of_quantizer(name, tmp_path, monkeypatch, capsys):
    quantizer, vocabulary, slots, bits, tokens, image_bits = TOLD[name]
    patch = {"patch_size": 8, "width": 8, "depth": 1}
    config = {
        part: {"_target_": f"imtok.{part}s.patch.Patch{part.title()}", **patch} for part in ("encoder", "decoder")
    }
    Tokenizer.from_config({**config, "quantizer": quantizer, "image_size": 32}).save(tmp_path / "tokenizer")
    monkeypatch.setattr("sys.argv", ["imtok", "info", str(tmp_path)])
    main()
    rows = dict(re.findall(r"^│ (.*?) +│ (.*?) +│$", capsys.readouterr().out, flags=re.MULTILINE))
    assert rows["vocabulary"] == vocabulary
    assert rows["slots per token"] == str(slots)
    assert rows["bits per token"] == bits
    assert rows["tokens per image"] == str(tokens)
    assert rows["bits per image"].startswith(f"{image_bits} (")
