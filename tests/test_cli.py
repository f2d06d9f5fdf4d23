"""The commands as a user types them: what they leave behind, and one clear line when something is wrong."""

import csv
import hashlib
import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training.launch import run_command

from imtok.cli import main
from imtok.pixels import to_float, to_uint8
from imtok.tokenizer import Tokenizer

ROOT = Path(__file__).parents[1]
TINY = ("trainer.max_steps=3", "trainer.batch_size=4", "image_size=32", "encoder.width=16", "decoder.width=16")


def call(*arguments, folder, check=True, columns=200):
    """Run a command in ``folder`` and return what it printed."""
    result = run_command(*map(str, arguments), folder=folder, columns=columns)
    if check:
        assert result.returncode == 0, result.stdout + result.stderr
    return result


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Two classes of small pictures in three formats."""
    folder = tmp_path_factory.mktemp("images")
    numbers = np.random.default_rng(0)
    for index in range(10):
        path = folder / ("cats" if index < 6 else "dogs") / f"{index}.{('png', 'jpg', 'webp')[index % 3]}"
        path.parent.mkdir(exist_ok=True)
        coarse = Image.fromarray(numbers.integers(0, 256, (5, 6, 3), dtype=np.uint8))
        coarse.resize((60, 50), Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, images):
    """A run on a folder of images, started as the README says."""
    folder = tmp_path_factory.mktemp("work")
    source = ("data=folder", f"data.path={images}")
    printed = call(ROOT / "train.py", "size=tiny", *source, *TINY, "out=run", folder=folder)
    assert "PSNR (dB)" in printed.stdout
    assert "run/tokenizer" in printed.stdout
    (folder / "printed").write_text(printed.stdout)
    (folder / "said").write_text(printed.stderr)
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run, images):
    """The tokens of these images."""
    arguments = (f"tokenizer={run}", "data=folder", f"data.path={images}", "out=tokens", "shard_size=4", "batch_size=3")
    call("export", *arguments, folder=run.parent)
    return run.parent / "tokens"


def test_a_run_leaves_its_whole_folder(run):
    names = {path.name for path in run.iterdir()}
    assert names >= {"config.yaml", "metrics.csv", "checkpoints", "tokenizer", "summary.json", "evaluation", "run.json"}
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 3
    assert summary["psnr"] > 5
    assert 0 < summary["usage"] <= 1
    assert -1 <= summary["ssim"] <= 1
    assert {path.name for path in (run / "tokenizer").iterdir()} == {"config.json", "model.safetensors"}
    assert (run / "evaluation/grid.png").stat().st_size > 1000


def test_a_tiny_run_says_what_it_is_for_before_its_first_step_and_below_its_numbers(run):
    note = "size=tiny is for seeing a run, not for quality; the next size is size=small"
    said = [line for line in (run.parent / "said").read_text().splitlines() if line.startswith("imtok: ")]
    assert f"imtok: note        {note}" in said
    printed = (run.parent / "printed").read_text().splitlines()
    assert printed[printed.index(note) - 1].startswith("└")
    assert sum(note in line for line in [*said, *printed]) == 2


def test_eval_reports_on_a_folder(run, images):
    call(ROOT / "eval.py", f"tokenizer={run}", "data=folder", f"data.path={images}", "out=report", folder=run.parent)
    report = json.loads((run.parent / "report/report.json").read_text())
    assert report["images"] == 10
    assert report["metrics"]["psnr"] > 5


def pasted(printed, name, folder, monkeypatch, capsys):
    """Run the command that was printed after ``name:``, in ``folder``; returns what it prints."""
    (line,) = [line for line in printed.splitlines() if line.startswith(f"{name}:")]
    monkeypatch.chdir(folder)
    monkeypatch.setattr("sys.argv", shlex.split(line.partition(":")[2]))
    capsys.readouterr()
    main()
    return capsys.readouterr().out


def test_what_a_run_prints_at_its_end_is_there_and_can_be_pasted(run, images, monkeypatch, capsys):
    folder, printed = run.parent, (run.parent / "printed").read_text()
    listed = re.findall(r"^  (run/\S+) ", printed, flags=re.MULTILINE)
    assert {"run/tokenizer", "run/evaluation/report.html"} <= set(listed)
    assert all((folder / path).exists() for path in listed)
    assert "data of the run: data=folder" in pasted(printed, "evaluate", folder, monkeypatch, capsys)
    (report,) = (folder / "runs/eval").glob("*/report.json")
    assert json.loads(report.read_text())["images"] == json.loads((run / "summary.json").read_text())["images"]
    assert str(images) in pasted(printed, "export", folder, monkeypatch, capsys)
    assert json.loads((run / "tokens/manifest.json").read_text())["images"] == 10 - 1


_DISTANCES = ("protocol=offline", "metrics=[psnr,codes,rfid,pfid]", "pfid.alphas=[0,0.5]", "pfid.deltas=[1,8]")


def test_the_help_shows_brackets_and_a_command_per_line(tmp_path):
    printed = call("--help", folder=tmp_path, columns=40).stdout.splitlines()
    assert any(line.endswith("RUN [data=folder data.path=DIR] [metrics=[psnr,rfid]] [out=DIR]") for line in printed)
    assert sum(line.startswith("  imtok ") for line in printed) == 20


def test_tokenizers_are_evaluated_side_by_side_and_compared(run, images):
    shutil.copytree(run, run.parent / "other")
    data, folder = ("data=folder", f"data.path={images}", "n=6"), run.parent
    printed = call("eval", "tokenizer=[run,other]", *data, *_DISTANCES, "out=both", folder=folder)
    assert "over 6 measured images is far too large" in printed.stderr
    first, second = (json.loads((folder / f"both/{name}/report.json").read_text()) for name in ("run", "other"))
    assert first["metrics"] == second["metrics"]
    assert first["images"] == 6
    assert first["stand_ins"] == ["fd_efflite0_224", "pfd_efflite0_224"]
    points = {(point["alpha"], point["delta"]): point["value"] for point in first["tables"]["pfid"]["grid"]}
    assert points[0.0, 8] == points[0.5, 1] == first["metrics"]["fd_efflite0_224"]
    assert "fd_efflite0_224" in (folder / "both/comparison.md").read_text()
    call("eval", "tokenizer=run", *data, "weights=raw", "out=raw", folder=folder)
    sides = ("both/run", "both/other", "out=compared")
    narrow, wide = (call("compare", *sides, folder=folder, columns=columns) for columns in (40, 400))
    assert "PSNR" in wide.stdout
    assert "  compared/comparison.html " in wide.stdout
    assert (folder / "compared/comparison.html").read_text() == (folder / "both/comparison.html").read_text()
    assert narrow.stdout == wide.stdout  # no number is cut
    refused("compare", "both/run", "raw", folder=folder, naming="with averaged weights; raw with raw weights")


def test_generated_images_are_scored(run, images):
    printed = call(
        "score", f"images={images}/cats", f"reference={images}", "protocol=offline", "out=s", folder=run.parent
    )
    found = json.loads((run.parent / "s/score.json").read_text())
    assert found["images"] == 6
    assert found["metrics"]["gfd_efflite0_224"] > 0
    assert "gfd_efflite0_224" in printed.stdout


def test_a_run_measures_itself_and_keeps_the_best(tmp_path, images):
    often = ("trainer.evaluate_every=1", "trainer.evaluate_images=4", "trainer.best=psnr")
    call(ROOT / "train.py", "data=folder", f"data.path={images}", *TINY, *often, "out=run", folder=tmp_path)
    rows = list(csv.DictReader((tmp_path / "run/evaluation.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["1", "2", "3"]
    best = json.loads((tmp_path / "run/best/best.json").read_text())
    assert best["value"] == max(float(row["psnr"]) for row in rows)
    assert rows[best["step"] - 1]["psnr"] == str(best["value"])
    assert Tokenizer.load(tmp_path / "run/best").image_size == 32


def test_evaluations_that_cannot_be_are_refused(tmp_path):
    wrong = {
        "metrics=[psnr,rfdi]": "did you mean rfid?",
        "n=0": "n must be at least 1 image",
        "weights=best": "ema or raw",
    }
    wrong |= {
        "metrics=[probe]": "did you mean linear_probe?",
        "protocol=adn": "no such option",
        "protocol.rounding=up": "rounding",
    }
    for override, naming in wrong.items():
        refused("eval", "tokenizer=run", override, folder=tmp_path, naming=naming)


def test_info_tells_vocabulary_tokens_and_bits(run):
    printed = call("info", run, folder=run.parent).stdout
    for fact in ("PatchEncoder", "VQ", "512", "tokens per image", "16", "9.000", "144.0"):
        assert fact in printed


def test_every_exported_file_has_its_hash(exported):
    manifest = json.loads((exported / "manifest.json").read_text())
    files = {str(path.relative_to(exported)) for path in exported.rglob("*") if path.is_file()} - {"manifest.json"}
    assert set(manifest["files"]) == files
    for name, about in manifest["files"].items():
        assert hashlib.sha256((exported / name).read_bytes()).hexdigest() == about["sha256"]


def test_exported_ids_are_those_of_the_tokenizer(exported, run, images):
    shards = [np.load(path, allow_pickle=False) for path in sorted(exported.glob("ids-*.npy"))]
    ids = np.concatenate(shards)
    assert [len(shard) for shard in shards] == [4, 4, 2]
    assert ids.dtype == np.uint16
    assert ids.shape == (10, 16, 1)
    assert ids.max() < 512


def test_decoded_pictures_are_the_reconstructions_bit_for_bit(exported, run):
    call("decode", f"tokenizer={run}", f"ids={exported}", "out=pictures", "batch_size=3", folder=run.parent)
    ids = np.concatenate([np.load(path, allow_pickle=False) for path in sorted(exported.glob("ids-*.npy"))])
    pictures = sorted((run.parent / "pictures").glob("*.png"))
    assert len(pictures) == 10
    tokenizer = Tokenizer.load(run)
    latents = tokenizer.quantizer.decode(torch.from_numpy(ids.astype(np.int64)))
    with torch.no_grad():
        expected = to_uint8(tokenizer.decoder(latents, (32, 32)).clamp(-1, 1))
    for picture, image in zip(pictures, expected, strict=True):
        shown = torch.from_numpy(np.asarray(Image.open(picture)).copy()).permute(2, 0, 1)
        assert torch.equal(shown, image)
        assert to_float(shown).abs().max() <= 1


def test_a_generators_file_of_ids_decodes(run):
    np.save(run.parent / "generated.npy", np.random.default_rng(0).integers(0, 512, (3, 16)))
    call("decode", f"tokenizer={run}", "ids=generated.npy", "out=generated", folder=run.parent)
    assert len(list((run.parent / "generated").glob("*.png"))) == 3


@pytest.fixture(scope="module")
def continuous(tmp_path_factory, images):
    """A continuous autoencoder, four channels wide."""
    folder = tmp_path_factory.mktemp("continuous")
    plain = ("decoder.shortcut=false", "decoder.deblock=0.0", "decoder.up_channels=[]")
    net = (*TINY, *plain, "quantizer=continuous", "quantizer.dim=4")
    arguments = ("data=folder", f"data.path={images}", *net, "out=run")
    (folder / "printed").write_text(call(ROOT / "train.py", *arguments, folder=folder).stdout)
    return folder / "run"


def test_a_continuous_tokenizer_is_given_ids_after_its_training(continuous, images):
    folder, data = continuous.parent, ("data=folder", f"data.path={images}")
    arguments = (f"tokenizer={continuous}", *data, "quantizer.dim=4", "images=7", "out=bridged", "split=all")
    printed = call("quantize", *arguments, folder=folder).stdout
    report = json.loads((folder / "bridged/quantize.json").read_text())
    assert f"{report['psnr']['continuous']:.2f}" in printed
    assert "10 images of 32x32 pixels, 24 bits per token, fitted to the latents of 7" in printed
    assert abs(report["psnr"]["quantized, fitted"] - report["psnr"]["continuous"]) < 0.1
    # latents of three steps of training are not spread as the preset assumes
    assert report["psnr"]["quantized, fitted"] >= report["psnr"]["quantized, as given"]

    before, after = Tokenizer.load(continuous), Tokenizer.load(folder / "bridged")
    for part in ("encoder", "decoder"):
        for name, value in getattr(before, part).state_dict().items():
            assert torch.equal(getattr(after, part).state_dict()[name], value), f"{part}.{name}"
    pixels = np.array(Image.open(images / "cats/0.png").resize((32, 32)))
    shown = to_float(torch.from_numpy(pixels).permute(2, 0, 1))
    with torch.no_grad():
        latents, codes = before.quantize(shown[None]).latents, after.quantize(shown[None]).latents
    assert (codes - latents).square().mean() < 0.002 * latents.var()  # 6 bits: 5/3 x 2^-5 of the deviation at most

    call("export", "tokenizer=bridged", *data, "out=tokens", folder=folder)
    ids = np.load(folder / "tokens/ids-00000.npy", allow_pickle=False)
    assert ids.shape == (10, 16, 4)
    assert 32 < ids.max() < 64


def test_a_continuous_run_prints_how_to_give_it_ids_and_no_export(continuous, monkeypatch, capsys):
    printed = (continuous.parent / "printed").read_text()
    assert "export:" not in printed
    following = pasted(printed, "give ids", continuous.parent, monkeypatch, capsys)
    assert "data of the run: data=folder" in following
    pasted(following, "export", continuous.parent, monkeypatch, capsys)
    assert (continuous / "quantized/tokens/manifest.json").is_file()


def test_a_tokenizer_that_has_ids_is_not_quantized(tmp_path, run, images):
    arguments = (f"tokenizer={run}", "data=folder", f"data.path={images}", "out=bridged")
    refused("quantize", *arguments, folder=tmp_path, naming="tokenizer must be continuous")


def test_a_sweep_gives_each_job_its_folder(run, images):
    arguments = ("data=folder", f"data.path={images}", *TINY, "trainer.max_steps=1", "out=sweep", "-m", "seed=0,1")
    call(ROOT / "train.py", *arguments, folder=run.parent)
    weights = [(run.parent / f"sweep/{job}/tokenizer/model.safetensors").read_bytes() for job in (0, 1)]
    assert weights[0] != weights[1]


def refused(*arguments, folder, naming):
    """A refusal: exit code 2, one message, no traceback, nothing written."""
    before = sorted(str(path) for path in folder.rglob("*"))
    result = call(*arguments, folder=folder, check=False)
    assert result.returncode == 2, result.stdout + result.stderr
    assert result.stderr.startswith("imtok: ")
    assert "Traceback" not in result.stderr
    assert naming in result.stderr
    assert sorted(str(path) for path in folder.rglob("*")) == before


def test_wrong_configs_are_refused_all_at_once(tmp_path):
    arguments = ("train", "quantizer=fsqq", "trainer.max_stepz=3", "optimizer.lr=fast")
    refused(*arguments, folder=tmp_path, naming="did you mean fsq?")


def test_unusable_data_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    train = ("train", *TINY, "data=folder")
    refused(*train, "data.path=missing", "out=run", folder=tmp_path, naming="missing")
    refused(*train, "data.path=empty", "out=run", folder=tmp_path, naming="empty")


def test_a_folder_that_holds_something_else_is_refused(tmp_path, run, images):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.txt").write_text("years of work")
    refused("train", *TINY, "out=thesis", folder=tmp_path, naming="already holds something else")
    data = ("data=folder", f"data.path={images}")
    refused("eval", f"tokenizer={run}", *data, "out=thesis", folder=tmp_path, naming="already holds something else")
    refused("export", f"tokenizer={run}", *data, "out=thesis", folder=tmp_path, naming="already holds something else")
    for command, *rest in (["eval", "tokenizer=none"], ["score", "images=none", "reference=none"]):  # before any work
        refused(command, *rest, "out=thesis", folder=tmp_path, naming="already holds something else")


def test_ids_that_cannot_be_are_refused(tmp_path, run):
    np.save(tmp_path / "ids.npy", np.full((2, 16), 512))
    decode = ("decode", f"tokenizer={run}", "out=pictures")
    refused(*decode, "ids=ids.npy", folder=tmp_path, naming="512")
    refused(*decode, "ids=missing.npy", folder=tmp_path, naming="missing.npy")


def test_an_unknown_command_is_refused(tmp_path):
    refused("trian", folder=tmp_path, naming="there is no command trian")


def test_a_tokenizer_that_is_not_there_is_refused(tmp_path):
    refused("info", "missing", folder=tmp_path, naming="does not exist")
