"""Deterministic operations for the length of a run, and the name of one that has no deterministic form."""

import pytest
import torch
from training.runs import tiny_run, weights_of

from imtok.errors import InputError
from imtok.training.determinism import deterministic
from imtok.training.run import train


def test_torch_is_set_for_the_length_of_a_block(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with deterministic(False):
        assert not torch.are_deterministic_algorithms_enabled()
    with deterministic(True):
        assert torch.are_deterministic_algorithms_enabled()
    assert not torch.are_deterministic_algorithms_enabled()


def test_an_operation_without_such_a_form_is_named_and_other_errors_are_left_alone():
    message = "scatter_thing_cuda does not have a deterministic implementation, but you set ..."
    with (
        pytest.raises(InputError, match=r"^trainer.deterministic=true: scatter_thing_cuda gives other bits each time"),
        deterministic(True),
    ):
        raise RuntimeError(message)
    with pytest.raises(RuntimeError, match="of something else"), deterministic(True):
        raise RuntimeError("of something else")
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_run_on_a_processor_is_the_same_with_it(tmp_path):
    for name in ("true", "false"):
        train(tiny_run(tmp_path / name, "trainer.max_steps=2", f"trainer.deterministic={name}"))
    assert weights_of(tmp_path / "true") == weights_of(tmp_path / "false")
