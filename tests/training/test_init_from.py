"""Weights of another tokenizer: all of them, with what differs in one line, or none."""

import pytest
import torch
from training.runs import tiny_run

from imtok.errors import InputError
from imtok.training.init_from import take_weights
from imtok.training.run import train

FSQ = ("quantizer=fsq", "quantizer.levels=[8,5]")


@pytest.fixture
def source(tmp_path):
    tiny_run(tmp_path / "unused").tokenizer.save(tmp_path / "source")
    return str(tmp_path / "source")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (
            ["quantizer.codebook_size=64"],
            [r"quantizer \(quantizer.codebook_size 32 there, 64 here, quantizer\.\w+ is \["],
        ),
        (list(FSQ), [r"encoder \(", r"quantizer \(quantizer VQ there, FSQ here, quantizer\.\w+ is .* absent here"]),
        (["encoder.depth=2"], [r"encoder \(encoder.depth 1 there, 2 here, encoder\.\S+ is absent there and \["]),
        (["image_size=16", "decoder.width=32"], [r"decoder \(decoder.width 16 there, 32 here, decoder\."]),
    ],
)
def test_other_parts_are_one_line_with_their_settings_and_first_weights(tmp_path, source, overrides, parts):
    run = tiny_run(tmp_path / "run", *overrides, f"init_from={source}")
    before = {name: value.clone() for name, value in run.tokenizer.state_dict().items()}
    with pytest.raises(InputError, match=f"init_from={source} has other parts than this config") as caught:
        train(run)
    for part in parts:
        caught.match(part)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    for name, value in run.tokenizer.state_dict().items():
        assert torch.equal(value, before[name])  # nothing of it was taken


def test_settings_that_differ_while_the_weights_fit_are_said(tmp_path, source, caplog):
    run = tiny_run(tmp_path / "run", "quantizer.usage_decay=0.9")
    take_weights(run.tokenizer, source)
    assert "fits, but differs in quantizer.usage_decay (0.5 there, 0.9 here)" in caplog.text


def test_the_same_parts_are_taken_without_a_word(tmp_path, source, caplog):
    run = tiny_run(tmp_path / "run", "seed=5")
    take_weights(run.tokenizer, source)
    wanted = tiny_run(tmp_path / "unused").tokenizer.state_dict()
    for name, value in run.tokenizer.state_dict().items():
        assert torch.equal(value, wanted[name])
    assert not caplog.text
