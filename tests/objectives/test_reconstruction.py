"""The total of an objective is what its terms say."""

import pytest
import torch

from imtok.losses.pixel import L1Loss, L2Loss
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch


@pytest.fixture
def tokenizer():
    return Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 16, "depth": 1},
            "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32},
            "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 16, "depth": 1},
        }
    )


@pytest.fixture
def batch():
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    return Batch(image, torch.tensor([0, 1]), torch.tensor([0, 1]), ["a", "b"])


def test_the_total_is_the_sum_of_weights_times_values(tokenizer, batch):
    objective = ReconstructionObjective({"l1": L1Loss(0.5), "l2": L2Loss(2.0)})
    losses = objective(tokenizer, batch, step=0, generator=torch.Generator())
    assert set(losses.terms) == {"l1", "l2", "codebook", "commit"}
    assert [losses.terms[name].weight for name in ("l1", "l2", "codebook", "commit")] == [0.5, 2.0, 1.0, 0.25]
    torch.testing.assert_close(losses.total, sum(value * weight for value, weight in losses.terms.values()))
    torch.testing.assert_close(losses.terms["l1"].value, (losses.shown.image - to_float(batch.image)).abs().mean())


def test_a_term_of_weight_zero_cannot_spoil_the_total(tokenizer, batch):
    objective = ReconstructionObjective({"l1": L1Loss(), "l2": L2Loss(0.0)})
    objective.losses["l2"].forward = lambda image, target: torch.tensor(float("inf"))
    assert torch.isfinite(objective(tokenizer, batch, 0, torch.Generator()).total)


def test_every_parameter_learns(tokenizer, batch):
    objective = ReconstructionObjective({"l2": L2Loss()})
    objective(tokenizer, batch, 0, torch.Generator()).total.backward()
    for name, parameter in tokenizer.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_a_critic_that_an_objective_assigns_is_its_critic():
    objective = ReconstructionObjective({"l2": L2Loss()})
    assert objective.critic is None
    objective.critic = torch.nn.Linear(1, 1)
    assert isinstance(objective.critic, torch.nn.Linear)
    assert "critic.weight" in objective.state_dict()


def test_an_objective_without_image_loss_is_refused():
    with pytest.raises(ValueError, match="at least one image loss"):
        ReconstructionObjective({})
