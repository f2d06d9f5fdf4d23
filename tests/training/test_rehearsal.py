"""The step that is tried before a run starts: it finds what does not fit, changes nothing, and refuses nothing else."""

import copy
import threading
from typing import Any, cast

import pytest
import torch
from training.runs import state_of, tiny_run

from imtok.errors import InputError
from imtok.quantizers.vq import VQ
from imtok.training import prepare
from imtok.training.rehearsal import Rehearsal
from imtok.training.run import train

pytestmark = pytest.mark.usefixtures("rehearsed")


def rehearse(run, step=13):
    Rehearsal(4, run.image_size, step, False, run.config)(run.tokenizer, run.objective)


def test_it_leaves_no_trace(tmp_path):
    run = tiny_run(tmp_path)
    parts = torch.nn.ModuleList([run.tokenizer, run.objective])
    before, attributes = copy.deepcopy(parts.state_dict()), {id(part): set(vars(part)) for part in parts.modules()}
    random = torch.get_rng_state()
    rehearse(run)
    assert torch.equal(torch.get_rng_state(), random)
    assert {id(part): set(vars(part)) for part in parts.modules()} == attributes
    for name, value in parts.state_dict().items():
        assert type(value) is torch.Tensor
        assert torch.equal(value, before[name])


def test_a_run_computes_the_same_bits_with_it_as_without_it(tmp_path, monkeypatch):
    train(tiny_run(tmp_path / "with", "trainer.max_steps=3"))
    monkeypatch.setattr(prepare, "_rehearse", lambda *_: None)
    train(tiny_run(tmp_path / "without", "trainer.max_steps=3"))
    assert state_of(tmp_path / "with", 3) == state_of(tmp_path / "without", 3)


class Counting(VQ):
    """Branches on a value, which has none in a rehearsal by shapes."""

    def quantize(self, latents, keep=None):
        if latents.abs().max().item() < 0:
            raise ValueError("an absolute value must not be negative")
        return super().quantize(latents, keep)


class Wrong(VQ):
    """A user's own part with a fault."""

    def quantize(self, latents, keep=None):
        raise AttributeError("no_such_thing")


def own(run, kind):
    run.tokenizer.quantizer.__class__ = kind
    return run


def test_a_part_that_branches_on_values_is_not_refused(tmp_path):
    rehearse(own(tiny_run(tmp_path), Counting))


def test_a_part_that_cannot_be_copied_is_not_refused(tmp_path):
    run = tiny_run(tmp_path)
    cast(Any, run.objective).lock = threading.Lock()
    rehearse(run)


def test_a_fault_in_a_part_of_ones_own_keeps_its_traceback(tmp_path):
    with pytest.raises(AttributeError, match="no_such_thing"):
        train(own(tiny_run(tmp_path / "run"), Wrong))
    assert not (tmp_path / "run").exists()


def test_shapes_that_only_torch_refuses_are_one_line_with_the_part(tmp_path):
    run = tiny_run(tmp_path)
    run.tokenizer.decoder.conv_in = torch.nn.Conv2d(7, 16, 1)
    with pytest.raises(InputError, match=r"do not go together: decoder \(PatchDecoder\): Given groups=1"):
        rehearse(run)
