"""A number on top stands beside what it can be measured against, and says where it needs more images."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from measures.tiny import batches, tokenizer

from imtok.measures.evaluate import evaluate
from imtok.measures.flat import colours as evenly
from imtok.measures.limits import cautions, ceiling, even_use
from imtok.measures.psnr import PSNR
from imtok.measures.report.known import PSNR as KNOWN
from imtok.measures.report.known import near
from imtok.measures.report.verdict import figures, lead
from imtok.measures.settings import Settings


@pytest.fixture(scope="module")
def report():
    return evaluate(tokenizer(), batches(range(12)))


def figure(report, name):
    (found,) = [one for one in figures(report) if one.name == name]
    return found


def with_use(report, counts, value):
    """The report of another codebook: counts of its codes, and its usage."""
    arrays = {"counts_0": np.array(counts)}
    return replace(report, arrays=arrays, vocab_sizes=(len(counts),), metrics={**report.metrics, "usage": value})


def test_the_lead_says_what_an_image_becomes(report):
    assert lead(replace(report, name="mine", image_size=(64, 64), bits_per_token=9.0)).startswith(
        "mine turns an image of 64x64 pixels into 16 tokens of 9 bits: 18 bytes in place of 12,288, 683 times fewer."
    )
    assert lead(replace(report, vocab_sizes=())).endswith("into 16 continuous latents.")
    assert lead(replace(report, metrics={})).endswith("into tokens of 5 bits.")


@pytest.mark.parametrize(
    ("tokens", "bits", "words"),
    [
        (1.0, 8.0, "into 1 token of 8 bits: 1 byte in place of 3,072, 3,072 times fewer."),
        (37.53, 12.0, "into 37.53 tokens of 12 bits on average: 56.30 bytes in place of 3,072, 55 times fewer."),
        (1024.0, 40.0, "into 1,024 tokens of 40 bits: 5,120 bytes in place of 3,072, which saves nothing."),
        (1024.0, 16.0, "into 1,024 tokens of 16 bits: 2,048 bytes in place of 3,072, 1.5 times fewer."),
        (16.0, 1.0, "into 16 tokens of 1 bit: 2 bytes in place of 3,072, 1,536 times fewer."),
        (0.0, 8.0, "into 0.000 tokens of 8 bits."),
    ],
)
def test_the_lead_is_true_of_any_rate(report, tokens, bits, words):
    other = replace(report, bits_per_token=bits, metrics={"tokens_per_image": tokens})
    assert lead(other).endswith(words)


def test_a_few_codes_of_a_very_large_codebook_are_no_0_percent(report):
    found = figure(with_use(report, [1] * 16 + [0] * (2**18 - 16), 16 / 2**18), "Codebook usage")
    assert found.value == "0.0061 %"
    assert "The ceiling is 0.0061 %: 12 images with 16 tokens in all cannot show more" in found.good[0]


def test_a_psnr_as_high_as_that_of_flat_colours_is_neither_above_nor_below(report):
    flat = {"one_colour": 100.0, "mean_of_each_image": 100.0}
    exact = replace(report, metrics={"psnr": 100.0}, tables={"flat": flat})
    assert figure(exact, "PSNR").good[0] == (
        "This is level with painting all images in one colour (100.00 dB) and level with painting each in its own mean "
        "colour (100.00 dB)."
    )


def test_usage_is_given_with_its_ceiling(report):
    few = with_use(report, [1] * 192 + [0] * (1024 - 192), 192 / 1024)
    found = figure(few, "Codebook usage")
    assert found.value == "19 %"
    assert found.good[0] == (
        "192 of 1,024 codes were seen. The ceiling is 19 %: 12 images with 192 tokens in all cannot show more, and "
        "codes drawn evenly at random would show about 17 %."
    )
    assert found.cautions == ["It needs more images: of a codebook of even use about 295 images would show 99 %."]
    many = with_use(report, [100, 100, 0, 0], 0.5)
    found = figure(many, "Codebook usage")
    assert found.good[0].endswith(
        "The ceiling is 100 %: 12 images with 200 tokens in all are enough to show every code."
    )
    assert not found.cautions


def test_usage_of_several_slots_has_the_mean_of_their_ceilings():
    found = figure(evaluate(tokenizer("product"), batches(range(1))), "Codebook usage")
    assert found.good[0].startswith(
        "This is the mean over 2 slots. The ceiling is 45 %: 1 image with 16 tokens in a slot"
    )
    assert (ceiling(16, 32) + ceiling(16, 40)) / 2 == pytest.approx(0.45)


def test_the_share_of_even_use_is_that_of_draws():
    drawn = torch.randint(50, (2000, 80), generator=torch.Generator().manual_seed(0))
    mean = torch.stack([row.unique().numel() * torch.ones(()) for row in drawn]).mean().item() / 50
    assert even_use(80, 50) == pytest.approx(mean, rel=0.01)
    assert even_use(10, 1) == 1.0


def test_a_psnr_stands_beside_that_of_flat_colours(report):
    images = torch.cat([batch.image for batch in batches(range(12))])
    own = images.double().mean((2, 3), keepdim=True).round().to(torch.uint8).expand_as(images)
    colours = [colour.to(torch.uint8)[None, :, None, None].expand_as(images) for colour in evenly(3)]
    best = max(PSNR().per_image(colour, images).mean().item() for colour in colours)
    assert len(colours) == 512
    assert report.tables["flat"]["one_colour"] == pytest.approx(best, abs=1e-8)
    mean = PSNR().per_image(own, images).mean().item()
    assert report.tables["flat"]["mean_of_each_image"] == pytest.approx(mean, abs=1e-8)
    between = replace(report, metrics={"psnr": 15.0}, tables={"flat": {"one_colour": 12.9, "mean_of_each_image": 20.0}})
    assert figure(between, "PSNR").good[0] == (
        "This is 2.1 dB above painting all images in one colour (12.90 dB) and 5.0 dB below painting each in its own "
        "mean colour (20.00 dB)."
    )


def test_images_of_one_colour_have_the_largest_psnr():
    flat = batches(range(2))
    for batch in flat:
        batch.image.fill_(48)
    assert evaluate(tokenizer(), flat).tables["flat"] == {"one_colour": 100.0, "mean_of_each_image": 100.0}


def test_a_psnr_stands_beside_others_of_its_rate_and_is_called_neither_good_nor_bad(report):
    here = " ".join(figure(replace(report, metrics={"psnr": 25.0, "bits_per_pixel": 0.14}), "PSNR").good)
    there = " ".join(figure(replace(report, metrics={"psnr": 25.0, "bits_per_pixel": 1.0}), "PSNR").good)
    assert "JPEG 20.8 dB at 0.13" in here
    assert "JPEG 31.0 dB at 0.95" in there
    assert "no published PSNR near 9.0 bits" in " ".join(
        figure(replace(report, metrics={"psnr": 25.0, "bits_per_pixel": 9.0}), "PSNR").good
    )
    for one in figures(report):
        for sentence in (*one.good, *one.cautions):
            assert not {"poor", "bad", "excellent", "great"} & set(sentence.lower().replace(".", "").split())
            assert sentence.endswith(".")
    assert near(KNOWN, 0.0) == []


def test_codecs_that_were_measured_on_the_same_images_take_the_place_of_others(report):
    rows = [
        {"kind": "tokens", "tokens": 16, "bytes": 100.0, "bits_per_pixel": 0.2, "psnr": 20.0},
        {"kind": "jpeg", "quality": 1, "bytes": 90.0, "bits_per_pixel": 0.18, "psnr": 19.0},
        {"kind": "jpeg", "quality": 50, "bytes": 900.0, "bits_per_pixel": 1.8, "psnr": 30.0},
    ]
    good = " ".join(figure(replace(report, tables={"rate": rows}), "PSNR").good)
    assert "On the same images, at the setting of the nearest size: JPEG 19.0 dB at 0.18 bits per pixel." in good
    assert "64 crops" not in good


def test_distances_say_how_many_images_they_need(report):
    measured = {
        **report.metrics,
        "rfid_inception_tf": 2.5,
        "fd_efflite0_224": 40.0,
        "rfid_inception_tf_unverified": 9.0,
    }
    few = replace(report, metrics=measured, images=148)
    (caution,) = figure(few, "rFID").cautions
    assert "over 148: too large" in caution
    assert "Below 2,048 images" in caution
    (caution,) = figure(replace(few, images=50_000), "rFID").cautions
    assert "This one" not in caution
    at_rate = replace(few, images=50_000, metrics={**measured, "bits_per_pixel": 0.05})
    assert figure(at_rate, "rFID").good[-1].startswith("Only a value over the same images, by the same protocol")
    for name in ("fd_efflite0_224", "rfid_inception_tf_unverified"):
        assert figure(few, name).cautions[0].startswith("No published rFID can be compared with it")


def test_entropies_say_when_tokens_are_few(report):
    assert cautions(report) == [
        line for line in cautions(report) if line.startswith("Entropy and perplexity need more images: there are 6")
    ]
    enough = {**report.metrics, "entropy_bits": 4.0, "entropy_bits_corrected": 4.014}
    assert not cautions(replace(with_use(report, [48] * 16 + [0] * 240, 0.0625), metrics=enough))  # only a few codes
    positions = evaluate(tokenizer(), batches(range(8)), settings=Settings(("positions",)))
    assert cautions(positions) == [
        "The entropy at a position needs more images: it is estimated from 8 tokens for 32 codes. Without the "
        "correction it cannot exceed 3.00 bits."
    ]


def test_entropies_of_one_image_are_called_too_low_by_at_least_the_correction():
    one = evaluate(tokenizer(), batches(range(1)), settings=Settings(("codes", "positions", "language")))
    entropy, position, language = cautions(one)
    assert "comes out too low, by at least about 0.27 bits. The corrected entropy adds these." in entropy
    assert "is estimated from 1 token for 32 codes" in position
    assert language.endswith("1 image is few for 32 codes.")
