"""The commands from export to a generator's files, as a user gives them."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from export.readers import llamagen
from export.stores import content, tokenizer_of
from omegaconf import OmegaConf
from training.runs import run_tiny, write_images

from imtok.errors import InputError
from imtok.export.store import TokenStore
from imtok.files import sealed, write_json
from imtok.image_commands import find_device


@pytest.fixture
def run(tmp_path, monkeypatch, command):
    """Run a command in a folder that holds a tokenizer and images."""
    tokenizer_of("one slot").save(tmp_path / "tokenizer")
    write_images(tmp_path / "images", 7)
    monkeypatch.chdir(tmp_path)
    return command


EXPORT = ("export", "tokenizer=tokenizer", "data=folder", "data.path=images", "shard_size=3", "threads=1", "device=cpu")


def test_export_verify_convert_and_publish(run, tmp_path):
    assert "7 images of 4 tokens" in run(*EXPORT, "out=tokens", "augment=flip", "batch_size=4")
    manifest = TokenStore(tmp_path / "tokens").manifest
    assert (manifest["shards"], manifest["batch_size"], manifest["classes"]) == (3, 2, ["a", "b"])
    assert "2 (flip)" in run("verify", "tokens", "tokenizer=tokenizer", "out=sample")
    assert len(list((tmp_path / "sample").glob("*.png"))) == 14
    assert "--vocab-size 32, 4 tokens per image" in run("convert", "store=tokens", "format=llamagen", "out=codes_flip")
    assert [int(llamagen(tmp_path / "codes_flip", 16, number, 1)[1]) for number in range(7)] == [0, 0, 0, 0, 1, 1, 1]
    assert "LlamaGen" in run("verify", "codes_flip")
    assert "config.json" in run("publish", "tokenizer=tokenizer", "out=hub", "programs=false")
    assert json.loads((tmp_path / "hub/config.json").read_text())["image_size"] == 16


def test_the_numbers_of_a_language_model_become_pictures_again(run, tmp_path):
    run(*EXPORT, "out=tokens")
    place = ("format=nanogpt", "format.offset=100", "format.begin=98", "format.end=99", "format.val_fraction=0.0")
    run("convert", "store=tokens", *place, "digits=2", "format.slots=shared", "out=numbers")
    assert "tokens from 100 to 105, begin 98, end 99" in run("verify", "numbers")
    stream = np.fromfile(tmp_path / "numbers/train.bin", np.uint16).reshape(7, 11)  # begin, class, 4 x 2 digits, end
    assert stream[:, 0].tolist() == [98] * 7
    np.save(tmp_path / "sampled.npy", stream)
    decode = ("decode", "tokenizer=tokenizer", "threads=1", "device=cpu", "batch_size=7")
    run(*decode, "ids=sampled.npy", "layout=numbers", "out=a")
    run(*decode, "ids=tokens", "out=b")
    pictures = {name: data for name, data in content(tmp_path / "a").items() if name.endswith(".png")}
    assert len(pictures) == 7
    assert pictures.items() <= content(tmp_path / "b").items()
    assert "sampled.npy must end in 4 tokens" in run(*decode, "ids=sampled.npy", "out=c", code=2)


def test_an_export_says_what_it_is_of_and_what_could_not_be_read(run, tmp_path, caplog):
    for number in range(12):
        (tmp_path / f"images/bad{number:02}.jpg").write_bytes(b"")
    (tmp_path / "images/1.heic").write_bytes(b"")
    printed = run(*EXPORT, "out=tokens", "split=all")
    assert "7 images of 4 tokens in tokens, split=all\n" in printed
    assert "12 of 19 images could not be read and are left out:" in printed
    assert "  bad09.jpg: is empty\n  and 2 more, all in tokens/manifest.json" in printed
    assert "  tokens/ids-*.npy  images x tokens x slots, uint16\n  tokens/shard-*.json  the names of the im" in printed
    (following,) = [line for line in printed.splitlines() if line.startswith("decode:")]
    pictures = run(*shlex.split(following.partition(":")[2])[1:])
    assert pictures.startswith("7 pictures in tokens_pictures: 000000.png to 000006.png, in the order of tokens\n")
    skips = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert skips == [
        "skipped 1 file of images that imtok does not read: 1 .heic; convert them to JPEG, PNG, WebP or AVIF"
    ]
    manifest = TokenStore(tmp_path / "tokens").manifest
    assert (manifest["images"], manifest["unreadable"], len(manifest["bad"])) == (7, 12, 12)
    digest = manifest["data"].pop("sha256")
    assert len(digest) == 64
    assert manifest["data"].pop("settings")["val_fraction"] == 0.05
    assert manifest["data"] == {"kind": "folder", "path": "images", "split": "all", "image_size": 16, "images": 19}
    assert "folder, path images, split all" in run("verify", "tokens")


def test_the_commands_say_once_which_files_they_skip(run, tmp_path, caplog):
    (tmp_path / "images/1.heic").write_bytes(b"")
    evaluate = (
        "eval",
        "tokenizer=tokenizer",
        "data=folder",
        "data.path=images",
        "threads=1",
        "device=cpu",
        "out=report",
    )
    train = ("data=folder", f"data.path={tmp_path}/images", "trainer.stop_at=1", "trainer.pictures_every=1")
    for command in (lambda: run(*evaluate), lambda: run_tiny(tmp_path / "run", *train)):
        caplog.clear()
        command()
        assert sum("skipped 1 file of" in record.getMessage() for record in caplog.records) == 1


def test_a_store_without_data_in_its_manifest_still_reads(run, tmp_path):
    run(*EXPORT, "out=tokens")
    path = tmp_path / "tokens/manifest.json"
    manifest = json.loads(path.read_text())
    for name in ("data", "unreadable", "sha256"):
        del manifest[name]
    write_json(path, sealed(manifest))
    assert "all as they were written" in run("verify", "tokens")


def test_mistakes_are_one_line_each(run, tmp_path):
    assert "augment must be one of centre, flip" in run(*EXPORT, "augment=nine_crop", code=2)
    assert "did you mean llamagen?" in run("convert", "store=a", "out=b", "format=llamagn", code=2)
    assert "is not a token store" in run("convert", "store=images", "out=b", "format=rar", code=2)
    assert "is not a token store" in run("verify", "images", code=2)
    assert "takes a folder" in run("verify", "tokens", "out=x", code=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "tokenizer"]


@pytest.mark.slow
def test_torchrun_with_two_processes_exports_exactly_what_one_does(run, tmp_path):
    run(*EXPORT, "out=one", "augment=ten_crop", "batch_size=20")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "imtok.cli"]
    arguments = [*torchrun, *EXPORT, "out=two", "augment=ten_crop", "batch_size=20"]
    ended = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("7 images of 4 tokens") == 1
    assert content(tmp_path / "one") == content(tmp_path / "two")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "one", "tokenizer", "two"]


def device_of(name):
    return find_device(OmegaConf.create({"device": name, "threads": None}))


@pytest.mark.parametrize("launcher", ["LOCAL_RANK", "SLURM_LOCALID"])
def test_each_process_of_a_launcher_takes_its_own_gpu(monkeypatch, launcher):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    for name in ("LOCAL_RANK", "SLURM_LOCALID"):
        monkeypatch.delenv(name, raising=False)
    assert device_of("auto") == torch.device("cuda", 0)
    for place, gpu in ((0, 0), (3, 3), (5, 1)):
        monkeypatch.setenv(launcher, str(place))
        assert device_of("auto") == device_of("cuda") == torch.device("cuda", gpu)
        assert device_of("cuda:2") == torch.device("cuda", 2)
        assert device_of("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # srun shows each task its own GPU only
    assert device_of("auto") == torch.device("cuda", 0)


def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused_in_one_line(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert device_of("auto") == torch.device("cpu")
    with pytest.raises(InputError, match=r"^device=cuda needs a GPU.*give device=cpu$"):
        device_of("cuda")
