"""An evaluation is over every image once, whatever the batches, and its report is whole or absent."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from imtok.errors import InputError
from imtok.measures.evaluate import evaluate
from imtok.measures.psnr import PSNR
from imtok.measures.report.writing import Pictures, table, write_report
from imtok.pixels import to_float, to_uint8
from imtok.tokenizer import Tokenizer
from imtok.types import Batch


@pytest.fixture
def tokenizer():
    config = {
        "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 16, "depth": 1},
        "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32},
        "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 16, "depth": 1},
    }
    return Tokenizer.from_config(config)


def batches(*sizes, bad=()):
    """Batches of the same seven images, split as asked."""
    images = torch.randint(0, 256, (7, 3, 24, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    at = 0
    for size in sizes:
        rows = slice(at, at + size)
        at += size
        index = torch.arange(7)[rows]
        yield Batch(images[rows], torch.zeros_like(index), index, [f"image {i}" for i in index.tolist()], list(bad))


def test_numbers_do_not_depend_on_the_batches(tokenizer):
    whole, split = evaluate(tokenizer, batches(7)), evaluate(tokenizer, batches(3, 0, 1, 3))
    assert whole.images == split.images == 7
    for name, value in whole.metrics.items():
        assert split.metrics[name] == pytest.approx(value, rel=1e-6), name


def test_the_psnr_is_that_of_the_rounded_reconstructions(tokenizer):
    report, (batch,) = evaluate(tokenizer, batches(7)), batches(7)
    metric = PSNR()
    with torch.no_grad():
        metric.update(to_uint8(tokenizer.eval()(to_float(batch.image)).image), batch.image)
    assert report.metrics["psnr"] == pytest.approx(metric.compute().item(), rel=1e-9)
    assert report.metrics["tokens_per_image"] == 6
    assert report.metrics["bits_per_pixel"] == pytest.approx(6 * 5 / (24 * 16))


def test_training_mode_comes_back(tokenizer):
    tokenizer.train()
    tokenizer.decoder.eval()
    evaluate(tokenizer, batches(7))
    assert tokenizer.training
    assert tokenizer.encoder.training
    assert not tokenizer.decoder.training


def test_bad_samples_are_listed_and_left_out(tokenizer):
    report = evaluate(tokenizer, batches(7, bad=["b.png: is empty"]))
    assert report.images == 7
    assert report.bad == ["b.png: is empty"]


def test_an_empty_data_set_is_refused(tokenizer):
    with pytest.raises(InputError, match="must hold at least one readable image, but it is empty"):
        evaluate(tokenizer, [])
    with pytest.raises(InputError, match=r"all 1 are unreadable, the first one b\.png: is empty"):
        evaluate(tokenizer, batches(0, bad=["b.png: is empty"]))


def test_a_reconstruction_that_is_not_finite_names_its_image(tokenizer):
    def spoil(_module, _args, output):
        output[1] = float("nan")
        return output

    tokenizer.decoder.register_forward_hook(spoil)
    with pytest.raises(InputError, match="image 1: its reconstruction must be finite"):
        evaluate(tokenizer, batches(7))


def test_the_report_is_written_whole(tokenizer, tmp_path):
    report = evaluate(tokenizer, batches(4, 3), pictures=4)
    write_report(report, tmp_path / "report")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        "report.html", "report.json", "report.md", "grid.png", "codes.npz", "pictures.npz"
    }  # fmt: skip
    stored = json.loads((tmp_path / "report/report.json").read_text())
    assert stored["metrics"] == report.metrics
    assert stored["schema"] == 3
    assert set(stored["conventions"]) >= {"psnr", "ssim", "usage"}
    assert f"{report.metrics['psnr']:#.4g}" in (tmp_path / "report/report.md").read_text()
    write_report(report, tmp_path / "report")  # an earlier report is replaced
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(table(report))
    assert f"{report.metrics['psnr']:#.4g}" in console.export_text()


def test_the_pictures_are_spread_over_the_data_set():
    for count, most in ((1000, 8), (5, 8), (8, 8), (16, 8), (17, 8), (3, 0)):
        pictures, image = Pictures(most), torch.zeros(1, 3, 2, 2, dtype=torch.uint8)
        for index in range(count):
            pictures.add([str(index)], image, image)
        chosen = [int(key) for key in pictures.finish().keys]
        assert len(chosen) == len(pictures.originals) == len(pictures.reconstructions) == min(count, most)
        assert all(0 < gap <= 3 * count / most for gap in np.diff([*chosen, count]))


def test_a_foreign_folder_is_not_touched(tokenizer, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="already holds something else"):
        write_report(evaluate(tokenizer, batches(7)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
