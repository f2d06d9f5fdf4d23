"""Tokens against JPEG bytes and edges, on a tokenizer that needs a token for each row that is not grey."""

import io

import numpy as np
import pytest
import torch
from measures.by_rows import ROWS, RowEncoder, rows_tokenizer
from PIL import Image

from imtok.measures.allocation import edges, jpeg_bytes, spearman
from imtok.measures.codecs import compress, header_bytes
from imtok.measures.evaluate import evaluate
from imtok.measures.length import search_length
from imtok.measures.psnr import PSNR
from imtok.measures.settings import Settings
from imtok.measures.spending import Spending
from imtok.pixels import to_float, to_uint8
from imtok.types import Batch, Latents

GREY = 136  # the level of the codebook's code next to what the decoder paints without a token


def batches(number=24):
    """The first rows of an image have levels at random, the others are grey: as many tokens are needed."""
    image = torch.full((number, 3, ROWS, 16), GREY, dtype=torch.uint8)
    levels = torch.randint(0, 256, (number, 1, ROWS, 1), generator=torch.Generator().manual_seed(2), dtype=torch.uint8)
    taken = torch.arange(ROWS) < (torch.arange(number) % (ROWS + 1))[:, None]
    image = torch.where(taken[:, None, :, None], levels, image)
    keys, label, index = [f"{row:02d}.png" for row in range(number)], torch.full((number,), -1), torch.arange(number)
    parts = (slice(0, 9), slice(9, number))
    return [Batch(image[part], label[part], index[part], keys[part]) for part in parts]


def test_rows_that_stand_out_take_tokens_bytes_and_edges():
    report = evaluate(rows_tokenizer(), batches(), settings=Settings(("allocation",)))
    tokens = report.arrays["allocation_tokens"]
    assert len(np.unique(tokens)) > 2
    assert len(tokens) == 24
    for name in ("allocation_jpeg", "allocation_jpeg_50", "allocation_edges"):
        assert report.metrics[name] == spearman(tokens.astype(float), report.arrays[name])
        assert report.metrics[name] > 0.5, name
        assert report.higher_is_better[name]
    assert sum(row["images"] for row in report.tables["allocation"]) == 24
    few, many = (Image.open(io.BytesIO(png)) for png in report.drawings.values())
    assert few.size == many.size
    assert [title.split(",")[0] for title in report.drawings] == [
        "Images with the fewest tokens",
        "Images with the most tokens",
    ]
    assert few.convert("L").tobytes() != many.convert("L").tobytes()


def test_it_counts_the_tokens_that_the_evaluation_gives():
    settings = Settings(("allocation", "codes"), spending=Spending.of(target=12))
    report = evaluate(rows_tokenizer(), batches(), settings=settings)
    assert report.metrics["tokens_per_image"] == pytest.approx(report.arrays["allocation_tokens"].mean())
    same = evaluate(
        rows_tokenizer(),
        batches(),
        settings=Settings(("allocation",), spending=Spending.of(length=3), skip_missing=True),
    )
    assert same.absent["allocation_jpeg"] == "every image has 3 tokens"
    assert (
        report.ids["allocation_jpeg"]["id"]
        != evaluate(rows_tokenizer(), batches(), settings=Settings(("allocation",))).ids["allocation_jpeg"]["id"]
    )


def test_spearman_is_that_of_scipy():
    scipy = pytest.importorskip("scipy.stats")
    random = np.random.default_rng(3)
    one, other = random.integers(0, 9, 200).astype(float), random.normal(size=200)
    other += one / 4
    assert spearman(one, other) == pytest.approx(scipy.spearmanr(one, other).statistic, abs=1e-12)
    assert spearman(one, np.ones(200)) == 0


def test_edges_of_a_ramp_are_its_slope():
    ramp = (torch.arange(32) * 4).byte().expand(1, 3, 32, 32)
    assert edges(ramp).item() == pytest.approx(4 * 31 / 32)  # half of it at either border
    assert edges(torch.full((2, 3, 8, 8), 77, dtype=torch.uint8)).tolist() == [0, 0]
    assert edges(ramp.mT).item() == pytest.approx(edges(ramp).item())


def test_the_least_jpeg_that_is_as_good_is_found():
    random = torch.Generator().manual_seed(1)
    image = torch.nn.functional.interpolate(torch.rand(1, 3, 8, 8, generator=random) * 255, (64, 64), mode="bicubic")
    image = image.clamp(0, 255).byte()[0]
    for psnr in (24.0, 30.0, 36.0):
        reach = [
            (size - header_bytes("jpeg", quality), quality)
            for quality in range(1, 96)
            for decoded, size in [compress(image, "jpeg", quality)]
            if PSNR().per_image(decoded[None], image[None]).item() >= psnr
        ]
        assert jpeg_bytes(image, psnr) == pytest.approx(min(reach)[0], rel=0.03)
    assert jpeg_bytes(image, 0.0) == compress(image, "jpeg", 1)[1] - header_bytes("jpeg", 1)
    assert jpeg_bytes(image, 100.0) == compress(image, "jpeg", 95)[1] - header_bytes("jpeg", 95)


def test_what_is_shown_and_said_of_an_image_is_its_own(monkeypatch):
    """Sheets hold originals above what their tokens decode to, bytes lack headers, and a row has means of its own."""
    sheets, given, made = [], batches(), rows_tokenizer()
    monkeypatch.setattr("imtok.measures.allocation.draw_sheet", lambda rows: sheets.append(rows) or b"png")
    report = evaluate(made, given, settings=Settings(("allocation",)))
    image, tokens = torch.cat([batch.image for batch in given]), report.arrays["allocation_tokens"]
    found = search_length(made, to_float(image), 25.0, lengths=[1, 2, 4, 8])
    order = sorted(range(len(image)), key=lambda row: (int(found.lengths[row]), row))
    assert tokens.tolist() == found.lengths[order].tolist()
    for rows, shown in zip(sheets, (order[:8], order[::-1][:8]), strict=True):
        for row, original, below in zip(shown, rows[0][1], rows[1][1], strict=True):
            own = made.decode(made.encode(to_float(image[row : row + 1]), int(found.lengths[row])), (ROWS, 16))
            assert np.array_equal(original, image[row].permute(1, 2, 0).numpy())
            assert np.array_equal(below, to_uint8(own)[0].permute(1, 2, 0).numpy())
    bytes_50 = [compress(image[row], "jpeg", 50)[1] - header_bytes("jpeg", 50) for row in order]
    assert report.arrays["allocation_jpeg_50"].tolist() == bytes_50
    for row in report.tables["allocation"]:
        own = found.values[found.lengths == int(row["tokens"])]
        assert (row["images"], row["psnr"]) == (len(own), pytest.approx(own.mean().item()))


def test_an_encoder_that_leaves_out_tokens_itself_is_taken_at_its_word(monkeypatch):
    made, given = rows_tokenizer(), batches()
    numbers = torch.arange(24) % ROWS + 1

    def some(self, image, length=None, condition=None):
        values = image.mean((1, 3))[..., None]
        rows = numbers[:9] if len(image) == 9 else numbers[9 : 9 + len(image)]
        return Latents(values, torch.arange(ROWS) < rows[:, None])

    monkeypatch.setattr(RowEncoder, "forward", some)
    report = evaluate(made, given, settings=Settings(("allocation",)))
    assert report.arrays["allocation_tokens"].tolist() == sorted(numbers.tolist())


@pytest.mark.parametrize(("channel", "weight"), [(0, 0.299), (1, 0.587), (2, 0.114)])
def test_edges_are_those_of_the_luma(channel, weight):
    image = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    image[:, channel] = (torch.arange(32) * 4).byte()
    assert edges(image).item() == pytest.approx(weight * 4 * 31 / 32)
