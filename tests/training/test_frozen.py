"""What is frozen stays as it is through a run: no update, no decay, no training mode, no optimiser state."""

import pytest
import torch
from torch import nn
from training.runs import tiny_run

from imtok.training.checkpoints import load
from imtok.training.run import train


@pytest.mark.parametrize("part", ["encoder", "quantizer", "decoder.blocks"])
def test_frozen_parts_stay_frozen_and_in_evaluation_mode(tmp_path, part):
    """With weight decay, dropout, micro-batches and averaging, all of which must pass it by."""
    run = tiny_run(tmp_path / "run", "trainer.accumulate=2", "trainer.max_steps=4", "ema.decay=0.5")
    frozen = run.tokenizer.get_submodule(part)
    frozen.add_module("dropout", nn.Dropout(0.5))
    run.tokenizer.freeze([part])
    with torch.no_grad():  # no start of the codebook, either
        before = {name: value.clone() for name, value in frozen.state_dict().items()}
    modes = set()
    for module in frozen.modules():
        module.register_forward_pre_hook(lambda module, _: modes.add(module.training))
    train(run)
    assert modes == {False}
    checkpoint = load(tmp_path / "run/checkpoints/step_4")
    changed = {
        name for name, value in checkpoint.ema.items() if not torch.equal(value, checkpoint.model[f"tokenizer.{name}"])
    }
    assert changed  # the others are averaged
    for name, value in before.items():
        torch.testing.assert_close(checkpoint.model[f"tokenizer.{part}.{name}"], value, rtol=0, atol=0)
        torch.testing.assert_close(checkpoint.ema[f"{part}.{name}"], value, rtol=0, atol=0)
    (states,) = (optimizer["state"] for optimizer in checkpoint.state["optimizers"])
    assert states
    assert not [name for name in states if name.startswith(f"{part}.")]
