"""The latents that a codebook begins with: of whole images, no more than are needed, the same for any split."""

import pytest
import torch
from training.runs import tiny_run

from imtok.quantizers.vq import VQ
from imtok.training import task
from imtok.training.run import train


@pytest.fixture
def begun_with(monkeypatch):
    """The latents that each quantizer was started with."""
    found = []
    monkeypatch.setattr(VQ, "start", lambda quantizer, latents: found.append(latents.clone()))
    return found


@pytest.mark.parametrize(("most", "images"), [(1 << 16, 4), (3 * 16 + 1, 3), (1, 1)])
def test_whole_images_are_enough_and_micro_batches_change_nothing(tmp_path, monkeypatch, begun_with, most, images):
    monkeypatch.setattr(task, "START_TOKENS", most)
    for accumulate in (1, 4):
        overrides = ("quantizer.restart_below=0.0", "trainer.max_steps=1", f"trainer.accumulate={accumulate}")
        train(tiny_run(tmp_path / str(accumulate), "encoder.patch_size=4", "decoder.patch_size=4", *overrides))
    whole, in_parts = begun_with
    assert len(whole) == images * 16  # patches of an image of 16 pixels
    torch.testing.assert_close(whole, in_parts)


def test_the_encoder_computes_as_in_training(tmp_path, begun_with):
    for precision in ("fp32", "bf16"):
        train(tiny_run(tmp_path / precision, "trainer.max_steps=1", f"trainer.precision={precision}"))
    exact, rounded = begun_with
    assert exact.dtype == rounded.dtype == torch.float32
    assert not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.05, atol=0.05)
