"""A metric that cannot be had is refused before the first image, or left out where the user says so."""

from dataclasses import replace

import pytest
import torch
from measures.tiny import SIDE, Tiny, batches, tokenizer
from torch.nn.functional import interpolate

from imtok.commands.eval import Keys, require_metrics
from imtok.errors import InputError
from imtok.measures.choose import missing
from imtok.measures.evaluate import evaluate
from imtok.measures.frechet import FeatureGaussian
from imtok.measures.named import sections
from imtok.measures.protocol import Protocol
from imtok.measures.report.page import page
from imtok.measures.report.writing import markdown
from imtok.measures.settings import Settings
from imtok.quantizers.continuous import Continuous

INCEPTION = "pt_inception-2015-12-05-6726825d.pth"


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))


def never():
    """A data set of which nothing may be read."""
    raise AssertionError("an image was read")
    yield


@pytest.mark.parametrize("names", [("rfid",), ("psnr", "kid", "is"), ("pfid",), ("lpips",), ("lpips_vgg", "fdd")])
def test_nothing_is_read_before_weights_that_are_missing_are_named(names):
    with pytest.raises(InputError, match=r"^metrics.*skip_missing=true") as caught:
        evaluate(tokenizer(), never(), settings=Settings(names))
    for name in set(names) - {"psnr"}:
        assert name in str(caught.value)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("rfid", "protocol.extractor.weights=PATH"),
        ("lpips", "measure.lpips.backbone=PATH"),
        ("fdd", "measure.fdd.extractor.weights=PATH"),
    ],
)
def test_the_key_that_takes_the_file_is_named(name, key):
    (line,) = missing(Settings((name,)), tokenizer())
    if "pip install" not in line:
        assert f" {key}" in line
    assert "heads=" not in line


def test_an_extractor_or_a_reference_that_no_metric_reads_is_refused():
    own = Protocol("adm", extractor={"_target_": "imtok.extractors.efflite0.EffLite0"}, key="extractor")
    with pytest.raises(InputError, match=r"^extractor: none of psnr, ssim looks at features; add .* leave it out$"):
        evaluate(tokenizer(), never(), settings=Settings(("psnr", "ssim"), protocol=own))
    reference = FeatureGaussian(5, torch.zeros(2).double(), torch.eye(2).double())
    with pytest.raises(InputError, match=r"^extractor and reference: none of codes looks"):
        missing(Settings(("codes",), protocol=own, reference=reference), tokenizer())


def test_metrics_of_one_reason_share_a_line_and_others_have_their_own():
    asked = Settings(("rfid", "is", "lpips", "length", "psnr"))
    found = missing(asked, tokenizer(), (SIDE, SIDE))
    assert [line.split(":")[0] for line in found] == ["rfid, is", "lpips", "length"]
    assert INCEPTION in found[0]
    assert found[2] == "length: the tokenizer always takes 16 tokens"
    with pytest.raises(InputError, match=r"^metrics that cannot be had; .*:\n  rfid, is: .*\n  lpips: ") as caught:
        evaluate(tokenizer(), never(), settings=asked)
    assert str(caught.value).count(INCEPTION) == 2  # its name and its address


def test_what_the_size_of_images_forbids_is_refused_before_anything_is_computed():
    made = tokenizer()
    small = [replace(batch, image=interpolate(batch.image, (8, 8))) for batch in batches(range(4))]
    made.forward = never
    with pytest.raises(
        InputError, match=r"^metrics: ssim: its window needs images of at least 11 pixels a side; leave"
    ):
        evaluate(made, small, settings=Settings(("psnr", "ssim")))
    assert missing(Settings(("ssim",)), made) == []  # of no size in particular
    assert missing(Settings(("ssim", "msssim")), made, (64, 64)) == [
        "msssim: its window needs images of at least 176 pixels a side"
    ]


def test_continuous_latents_have_codes_as_far_as_they_can_and_no_language():
    made = tokenizer()
    made.quantizer = Continuous(4)
    assert missing(Settings(("psnr", "codes")), made, (SIDE, SIDE)) == []
    (line,) = missing(Settings(("language", "rate", "looks")), made, (SIDE, SIDE))
    assert line == "language, rate, looks: latents are continuous: there are no ids"


def test_what_is_left_out_has_a_row_and_its_reason_once():
    report = evaluate(tokenizer(), batches(range(4)), settings=Settings(("psnr", "rfid", "kid"), skip_missing=True))
    text = markdown(report)
    assert page(report).count(">not measured<") == 2
    assert all(str(torch.hub.get_dir()) not in reason for reason in report.absent.values())
    assert "| rfid | not measured |  |\n| kid | not measured |  |\n" in text
    assert text.count("not measured: rfid, kid: ") == 1
    assert text.count("download https") == 1


def test_a_net_that_is_there_misses_nothing(monkeypatch):
    monkeypatch.setattr(Protocol, "build", lambda self: Tiny())
    assert (
        missing(
            Settings(sections(("rfid", "kid", "is", "pfid", "psnr"), pfid={"deltas": [4]})), tokenizer(), (SIDE, SIDE)
        )
        == []
    )
    assert Keys().skip_missing is False


def test_every_tokenizer_is_asked_before_the_first_is_measured():
    config = Keys(measure=sections(["psnr", "length"]))
    with pytest.raises(InputError, match=r"^metrics: length: the tokenizer always takes 16 tokens; leave it out"):
        require_metrics(config, Protocol("adm"), tokenizer(), SIDE)
    config.skip_missing = True
    require_metrics(config, Protocol("adm"), tokenizer(), SIDE)
