"""Evaluation tells the tokenizer what its condition reads, in every measure, and never leaves it out in silence."""

from dataclasses import replace

import pytest
import torch
from measures.conditioned import CAPTIONS, CONFIG, noted

from imtok.conditions.given import ConditionConfig, give
from imtok.conditions.label import Label
from imtok.conditions.quality import Quality
from imtok.conditions.words import Words
from imtok.errors import InputError
from imtok.measures.evaluate import evaluate
from imtok.measures.named import names, sections
from imtok.measures.protocol import Protocol
from imtok.measures.settings import Settings
from imtok.tokenizer import Tokenizer
from imtok.types import Batch


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    return Tokenizer.from_config(CONFIG).eval()


@pytest.fixture
def batches():
    image = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return [Batch(image, torch.tensor([0, 1, 0, 1]), torch.arange(4), list("abcd"), caption=CAPTIONS)]


def test_every_measure_tells_encoder_and_decoder_the_captions(tokenizer, batches):
    told = [noted(tokenizer.encoder), noted(tokenizer.decoder)]
    offline = [name for name in names() if name not in ("lpips", "lpips_vgg", "fdd")]  # what needs no more weights
    settings = Settings(
        sections(offline, pfid={"alphas": [0.5], "deltas": [4]}), Protocol("offline"), skip_missing=True
    )
    report = evaluate(tokenizer, batches, settings=settings)
    assert {"rate", "length", "swaps", "pfid"} <= report.tables.keys()
    assert all(condition is not None for conditions in told for condition in conditions)
    of_images = [condition for conditions in told for condition in conditions if condition.mask.any()]
    assert all(condition.mask.any(1).all() for condition in of_images)
    assert len(of_images) > 12


def test_other_captions_give_other_numbers(tokenizer, batches):
    settings = Settings(["psnr"])
    first = evaluate(tokenizer, batches, settings=settings).metrics["psnr"]
    others = evaluate(tokenizer, [replace(batches[0], caption=CAPTIONS[::-1])], settings=settings).metrics["psnr"]
    assert first != others


def test_an_image_without_a_caption_is_refused_by_name_or_counted_if_that_is_allowed(tokenizer, batches):
    some = [replace(batches[0], caption=["a fox", "", "a red house", " "])]
    with pytest.raises(
        InputError, match=r"^b has no caption, which the condition of the tokenizer \(Words\) reads; give"
    ):
        evaluate(tokenizer, some, settings=Settings(["psnr"]))
    with pytest.raises(InputError, match=r"^a has no caption"):
        evaluate(tokenizer, [replace(batches[0], caption=[])], settings=Settings(["psnr"]))
    report = evaluate(tokenizer, some, settings=Settings(["psnr"], untold=True))
    assert "2 of 4 images have no caption: the tokenizer was told that there is none" in report.warnings


def test_what_a_command_tells_of_all_images_is_part_of_every_protocol_id(tokenizer, batches):
    plain, told = (
        evaluate(tokenizer, batches, settings=Settings(["psnr"], condition=facts)) for facts in ({}, {"quality": 0.1})
    )
    assert "condition" not in plain.ids["psnr"]
    assert told.ids["psnr"]["condition"] == {"quality": 0.1}
    assert plain.ids["psnr"]["id"] != told.ids["psnr"]["id"]


def test_a_quality_or_a_label_for_all_images_goes_to_what_reads_it():
    assert give(None, (), ConditionConfig()) is None
    made = give(None, ("quality",), ConditionConfig(quality=0.1))
    assert made.make([""], torch.tensor([-1])).quality.tolist() == [pytest.approx(0.1)]
    assert give(Quality(0.2), (), ConditionConfig(quality=0.1)).every_quality == 0.1
    assert give(Label(5), (), ConditionConfig(label=3)).make(["", ""], torch.tensor([-1, 0])).label.tolist() == [3, 3]


@pytest.mark.parametrize(
    ("condition", "given", "message"),
    [
        (None, {"quality": 0.1}, "condition.quality=0.1: no part of this tokenizer reads a wanted quality"),
        (Words(), {"quality": 0.1}, "condition.quality=0.1: no part of this tokenizer reads a wanted quality"),
        (Words(), {"label": 3}, "condition.label=3: no part of this tokenizer reads a label"),
        (Label(3), {"label": 3}, "condition.label must be below 3, got 3"),
        (Words(), {"weights": "x"}, "condition.weights=x: this tokenizer names no frozen net"),
    ],
)
def test_what_nothing_reads_is_refused_in_one_line(condition, given, message):
    with pytest.raises(InputError) as refused:
        give(condition, (), ConditionConfig(**given))
    assert str(refused.value) == message


def test_numbers_out_of_range_are_named():
    assert ConditionConfig().check() == []
    assert ConditionConfig(quality=0.0, label=-2).check() == [
        "condition.quality must be a positive number, got 0.0",
        "condition.label must not be negative, got -2",
    ]
