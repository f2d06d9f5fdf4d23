"""Files of other code: read as data, whatever lies in them."""

import builtins
import gzip
import io
import json
import os
import pickle
import re
import zipfile
from argparse import Namespace
from collections import OrderedDict

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from imtok.errors import InputError
from imtok.weights import read_weights
from imtok.zoo.files import read_checkpoint
from imtok.zoo.table import TableError


class Calls:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


def refused(path):
    with pytest.raises(InputError) as caught:
        read_checkpoint(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "plain pickle"])
@pytest.mark.parametrize("function", [os.system, os.mkdir, builtins.exec, builtins.getattr, pickle.loads, open])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path, monkeypatch, function, legacy):
    monkeypatch.chdir(tmp_path)
    call = {
        os.system: ("touch ran",),
        builtins.exec: ("import pathlib; pathlib.Path('ran').touch()",),
        builtins.getattr: ("text", "upper"),
        pickle.loads: (pickle.dumps(Calls(os.mkdir, "ran")),),
        open: ("ran", "w"),
    }.get(function, ("ran",))
    path = tmp_path / "a.pt"
    if legacy:
        path.write_bytes(pickle.dumps({"model": {}, "x": Calls(function, *call)}, protocol=2))
    else:
        torch.save({"model": {"a": torch.zeros(1)}, "x": Calls(function, *call)}, path)
    message = refused(path)
    assert legacy or function.__name__ in message
    assert [found.name for found in tmp_path.iterdir()] == ["a.pt"]


def test_an_object_of_an_unknown_class_is_named(tmp_path):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "x": Calls(pytest.approx, 1.0)}, tmp_path / "a.pt")
    assert "approx" in refused(tmp_path / "a.pt")


def test_leftovers_of_trainers_are_not_rebuilt(tmp_path):
    settings = Namespace(lr=0.1, nested=Namespace(a=1))
    torch.save({"args": settings, "state_dict": OrderedDict(a=torch.ones(2))}, tmp_path / "a.pt")
    found = read_checkpoint(tmp_path / "a.pt")
    assert not isinstance(found.content["args"], Namespace)
    assert vars(found.content["args"]) == {"values": {"lr": 0.1}}  # plain values alone
    assert found.arguments("args") == {"lr": 0.1}
    assert found.arguments("state_dict") == found.arguments("none") == {}
    assert torch.equal(found.tensors("ema", "state_dict")["a"], torch.ones(2))


def test_a_config_of_omegaconf_beside_the_weights_does_not_matter(tmp_path):
    config = OmegaConf.create({"model": {"target": "a.b", "sizes": [1, None, True, 0.5, "x"]}, "rate": 1e-4})
    torch.save({"config": config, "state_dict": {"a": torch.ones(2)}}, tmp_path / "a.pt")
    assert torch.equal(read_checkpoint(tmp_path / "a.pt").tensors("state_dict")["a"], torch.ones(2))


def test_the_allow_list_ends_with_the_call(tmp_path):
    torch.save({"args": Namespace(a=1), "model": {"a": torch.ones(2)}}, tmp_path / "a.pt")
    before = torch.serialization.get_safe_globals()
    read_checkpoint(tmp_path / "a.pt")
    assert set(torch.serialization.get_safe_globals()) == set(before)


def test_entries_are_taken_in_order_and_a_flat_file_as_it_is(tmp_path):
    torch.save({"ema": {"a": torch.ones(1)}, "model": {"a": torch.zeros(1)}}, tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt").tensors("ema", "model")["a"] == 1
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors", {"config": "{}"})
    flat = read_checkpoint(tmp_path / "a.safetensors")
    assert flat.tensors("ema", "model")["a"] == 1
    assert flat.metadata == {"config": "{}"}


def zipped(*names):
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w") as archive:
        for name in names:
            archive.writestr(name, "x")
    return held.getvalue()


OTHERS = {
    "empty": (b"", "is empty"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git lfs pull"),
    "web page": (b"\n<!DOCTYPE html><html><title>Sign in</title></html>", "is a web page"),
    "XML": (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is a web page"),
    "JSON": (b'{"error": "not found"}', "is JSON"),
    "gzip": (gzip.compress(b"weights"), "unpack it"),
    "tar": (b"a".ljust(257, b"\0") + b"ustar\0" + b"\0" * 300, "unpack it"),
    "zip": (zipped("a/b.txt"), "is a zip archive"),
    "npz": (zipped("kernel.npy", "bias.npy"), "is an npz of numpy"),
    "TorchScript": (zipped("net/data.pkl", "net/constants.pkl", "net/code/a.py"), "TorchScript"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 40, "HDF5"),
    "npy": (b"\x93NUMPY\x01\x00" + b" " * 40, "array of numpy"),
    "image": (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "is an image"),
    "GGUF": (b"GGUF" + b"\0" * 40, "GGUF"),
    "cut archive": (b"PK\x03\x04 cut", "is cut short"),
    "cut safetensors": ((10_000).to_bytes(8, "little") + b'{"a":', "is cut short"),
}


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_no_weight_file_is_named_for_what_it_is(tmp_path, name, kind):
    content, message = OTHERS[kind]
    (tmp_path / name).write_bytes(content)
    assert message in refused(tmp_path / name)
    with pytest.raises(InputError, match=re.escape(message)):  # also where another file is expected
        read_weights(tmp_path / name, "0123")


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_what_nothing_is_known_of_is_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"not a checkpoint")
    assert "cannot be read" in refused(tmp_path / name)


def test_the_content_decides_and_not_the_name(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "a.bin", {"config": "{}"})
    torch.save({"a": torch.ones(2)}, tmp_path / "b.safetensors")
    assert read_checkpoint(tmp_path / "a.bin").metadata == {"config": "{}"}
    assert read_checkpoint(tmp_path / "b.safetensors").tensors()["a"].shape == (2,)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_a_checkpoint_in_shards_is_read_whole(tmp_path, suffix):
    write = save_file if suffix == "safetensors" else torch.save
    names = [f"model-0000{number}-of-00002.{suffix}" for number in (1, 2)]
    for number, name in enumerate(names):
        write({f"part.{number}": torch.full((2,), float(number))}, tmp_path / name)
    index = tmp_path / f"model.{suffix}.index.json"
    index.write_text(json.dumps({"weight_map": {f"part.{number}": name for number, name in enumerate(names)}}))
    for given in (index, *(tmp_path / name for name in names)):
        found = read_checkpoint(given).tensors()
        assert {name: tensor[0].item() for name, tensor in found.items()} == {"part.0": 0.0, "part.1": 1.0}
    hashes = {read_weights(given, None).sha256 for given in (index, tmp_path / names[0])}
    assert len(hashes) == 1
    (tmp_path / names[1]).unlink()
    assert names[1] in refused(index)
    assert names[1] in refused(tmp_path / names[0])
    index.write_text("{}")
    assert "weight_map" in refused(index)


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "module._orig_mod.", "model.", "_orig_mod.module.", "module.module."]
)
def test_what_wrappers_put_before_all_names_is_taken_away(tmp_path, prefix):
    torch.save(
        {"model": {f"{prefix}encoder.weight": torch.ones(1), f"{prefix}bias": torch.zeros(1)}}, tmp_path / "a.pt"
    )
    assert set(read_checkpoint(tmp_path / "a.pt").tensors("model")) == {"encoder.weight", "bias"}
    assert set(read_weights(tmp_path / "a.pt", None, entries=("model",)).tensors) == {"encoder.weight", "bias"}


def test_a_name_of_some_tensors_alone_is_no_wrapper(tmp_path):
    torch.save({"model.weight": torch.ones(1), "bias": torch.zeros(1)}, tmp_path / "a.pt")
    assert set(read_checkpoint(tmp_path / "a.pt").tensors()) == {"model.weight", "bias"}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "plain pickle"])
def test_numbers_of_numpy_beside_the_weights_do_not_matter(tmp_path, legacy):
    callbacks = {"best": np.float64(0.5), "step": np.int64(3), "mean": np.float32(2.0)}
    held = {"state_dict": {"a": torch.ones(1)}, "callbacks": callbacks}
    torch.save(held, tmp_path / "a.ckpt", _use_new_zipfile_serialization=not legacy)
    assert read_checkpoint(tmp_path / "a.ckpt").tensors("state_dict")["a"] == 1


def test_a_missing_file_and_one_without_tensors_are_refused(tmp_path):
    assert "not a file" in refused(tmp_path / "none.pt")
    torch.save({"model": {"a": 1}}, tmp_path / "a.pt")
    with pytest.raises(TableError, match="must hold tensors by name"):
        read_checkpoint(tmp_path / "a.pt").tensors("model")
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    assert "must hold a dict" in refused(tmp_path / "list.pt")


def test_a_damaged_config_beside_the_file_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    checkpoint = read_checkpoint(tmp_path / "a.pt")
    assert checkpoint.beside() == {}
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(InputError, match="JSON object"):
        checkpoint.beside()
