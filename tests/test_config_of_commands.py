"""Mistakes in the configs of commands that take a finished tokenizer are explained."""

import pytest

from imtok.config import check_command
from imtok.errors import InputError


@pytest.mark.parametrize("command", ["eval", "export", "quantize", "decode"])
def test_a_missing_tokenizer_is_named(command):
    with pytest.raises(InputError, match="tokenizer: required and not set; give tokenizer=VALUE"):
        check_command(command, [])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("metrics=[psnr,rfdi]", "metrics: there is no rfdi; did you mean rfid?"),
        ("metrics=[probe]", "metrics: there is no probe; did you mean linear_probe?"),
        ("metrics=psnr,ssim", "measure: several options make a sweep, which takes -m"),
        ("length_target=30", "measure.length.target: no such key"),
        ("tokenizer=a,b", "tokenizer: a list takes brackets; write tokenizer=[a,b]"),
        ("seed.more=3", "seed.more: "),
    ],
)
def test_a_mistake_in_an_evaluation_is_explained(override, message):
    with pytest.raises(InputError) as error:
        check_command("eval", [override])
    assert message in str(error.value)
    assert "did you mean tokenizer" not in str(error.value)
