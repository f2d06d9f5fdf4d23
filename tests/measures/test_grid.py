"""The grid shows every pixel of every pair, and the report says what is missing."""

import io

import numpy as np
import pytest
import torch
from rich.console import Console

from imtok.grid import draw_grid
from imtok.measures.report.writing import Pictures, Report, show, write_report
from imtok.text import markdown


def crop(picture, image):
    """Where in a picture an image stands: its upper left corner."""
    pixels, tile = np.asarray(picture), np.moveaxis(image.numpy(), 0, -1)
    height, width = tile.shape[:2]
    for top, left in np.argwhere((pixels[: 1 - height, : 1 - width] == tile[0, 0]).all(-1)):
        if (pixels[top : top + height, left : left + width] == tile).all():
            return int(top), int(left)
    return None


def test_every_reconstruction_stands_below_its_original():
    originals, reconstructions = torch.randint(0, 256, (2, 5, 3, 140, 160), dtype=torch.uint8)
    picture = draw_grid(list(originals), list(reconstructions), columns=3)
    places = [(crop(picture, a), crop(picture, b)) for a, b in zip(originals, reconstructions, strict=True)]
    for above, below in places:
        assert above is not None
        assert below is not None
        assert above[1] == below[1]
        assert below[0] >= above[0] + 140
    assert [above[0] for above, _ in places[:3]] == [places[0][0][0]] * 3
    assert places[3][0][0] > places[0][1][0] + 140


def test_small_images_are_enlarged_without_smoothing():
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    picture = draw_grid([image], [image])
    assert crop(picture, image.repeat_interleave(4, 1).repeat_interleave(4, 2)) is not None


def test_an_image_without_its_counterpart_is_refused():
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with pytest.raises(ValueError, match="got 1 and 0"):
        draw_grid([image], [])
    with pytest.raises(ValueError, match="got 0 and 0"):
        draw_grid([], [])


@pytest.fixture
def report():
    return Report(
        images=2,
        image_size=(8, 16),
        vocab_sizes=(4, 9),
        bits_per_token=5.17,
        metrics={"psnr": 24.5, "usage": 0.5},
        slots=[{"usage": 0.25}, {"usage": 0.75}],
        conventions={"psnr": "as it is", "usage": "mean over slots"},
        absent={"ssim": "too small"},
        bad=["a|b`[bold].png: is empty"],
        pictures=Pictures(0),
    )


def test_the_report_tells_what_is_absent_and_unreadable(report, tmp_path):
    write_report(report, tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    for line in (
        "| PSNR (dB) | 24.50 | as it is |",
        "| SSIM | not measured |  |",
        "- not measured: SSIM: too small",
        "| 1 | 9 | 0.7500 |",
    ):
        assert line in text
    assert f"- {markdown('a|b`[bold].png: is empty')}\n" in text
    assert not (tmp_path / "report/grid.png").exists()  # there were no pictures
    console = Console(record=True, width=100, file=io.StringIO())
    show(report, console)
    shown = console.export_text()
    for words in ("24.50", "not measured: SSIM: too small", "unreadable samples"):
        assert words in shown


def test_a_report_that_cannot_be_written_leaves_the_earlier_one(report, tmp_path):
    write_report(report, tmp_path / "report")
    before = {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()}
    report.slots[0]["usage"] = float("nan")  # which JSON does not have
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_report(report, tmp_path / "report")
    assert {path.name: path.read_bytes() for path in (tmp_path / "report").iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
