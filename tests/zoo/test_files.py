"""Files of other code: read as data, whatever lies in them."""

import builtins
import os
import pickle
from argparse import Namespace
from collections import OrderedDict

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from imtok.errors import InputError
from imtok.zoo.files import read_checkpoint


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
    assert not vars(found.content["args"])
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


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 cut"], ids=["empty", "text", "cut archive"])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_damaged_file_is_one_line(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name)


def test_a_missing_file_and_one_without_tensors_are_refused(tmp_path):
    assert "not a file" in refused(tmp_path / "none.pt")
    torch.save({"model": {"a": 1}}, tmp_path / "a.pt")
    with pytest.raises(InputError, match="must hold tensors by name"):
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
