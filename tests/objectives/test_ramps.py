"""Weights that begin larger than their config says: BSQ-ViT's entropy, and any other term."""

import csv
from dataclasses import replace

import pytest
import torch
from hydra import compose, initialize_config_dir
from training.runs import state_of, tiny_run

from imtok.config import check_command, register_schemas
from imtok.construct import construct
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.losses.pixel import L2Loss
from imtok.objectives.ramps import Ramp
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.options import option
from imtok.tokenizer import Tokenizer
from imtok.training.run import train
from imtok.types import Batch

TERMS = ("entropy_token", "entropy_codebook")
SMALL = ["quantizer=bsq_18", "quantizer.entropy_bits=9", "trainer.log_every=1", "trainer.max_steps=8"]


def ramps(first=3.0, steps=2000):
    return {name: Ramp(first, steps) for name in TERMS}


@pytest.fixture
def tokenizer():
    return Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 16, "depth": 1},
            "quantizer": {"_target_": "imtok.quantizers.bsq.BSQ", "slot_bits": [4], "commit_weight": 0.25},
            "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 16, "depth": 1},
        }
    )


@pytest.fixture
def batch():
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    return Batch(image, torch.tensor([0, 1]), torch.tensor([0, 1]), ["a", "b"])


@pytest.mark.parametrize("first", [3.0, 0.0])
def test_the_factor_is_the_published_mixture(first):
    """BSQ-ViT's: w (r + 3 (1 - r)), where r is the step over 2000, at most 1."""
    ramp = Ramp(first, 2000)
    for step in (0, 1, 500, 1999, 2000, 2001, 10**6):
        share = min(2000, step) / 2000
        assert ramp(step) == pytest.approx(share + first * (1 - share), rel=1e-12)


@pytest.mark.parametrize(("first", "steps"), [(-1.0, 5), (3.0, 0)])
def test_a_ramp_out_of_range_is_refused(first, steps):
    with pytest.raises(ValueError, match="first must not be negative and steps at least 1"):
        Ramp(first, steps)


@pytest.mark.parametrize("step", [0, 1000, 2000, 5000])
def test_the_total_and_its_gradient_have_the_weights_of_the_step(tokenizer, batch, step):
    """Values and the other terms stay as they are, and so does the quantizer's own weight."""
    found = ReconstructionObjective({"l2": L2Loss()}, ramps=ramps())(tokenizer, batch, step, torch.Generator())
    plain = ReconstructionObjective({"l2": L2Loss()})(tokenizer, batch, step, torch.Generator())
    factor = 1 + 2 * max(0.0, 1 - step / 2000)
    assert found.terms.keys() == plain.terms.keys()
    for name, (value, weight) in plain.terms.items():
        assert found.terms[name].value == value
        assert found.terms[name].weight == pytest.approx(weight * (factor if name in TERMS else 1))
    expected = plain.total + sum(plain.terms[name].value * plain.terms[name].weight * (factor - 1) for name in TERMS)
    torch.testing.assert_close(found.total, expected)
    parameters = [p for p in tokenizer.encoder.parameters() if p.requires_grad]
    gradients = [torch.autograd.grad(total, parameters) for total in (found.total, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert tokenizer.quantizer.entropy_weight == (0.1, 0.1)


def test_a_ramp_of_no_term_is_named_with_those_that_there_are(tokenizer, batch):
    objective = ReconstructionObjective({"l2": L2Loss()}, ramps={"entropy": Ramp(3.0, 9)})
    with pytest.raises(InputError, match=r"there are commit, entropy_codebook, entropy_token, got entropy; give obj"):
        objective(tokenizer, batch, 0, torch.Generator())


def test_a_run_logs_the_weight_and_goes_on_bit_for_bit_inside_the_ramp(tmp_path):
    def run(name, *overrides):
        objective = ReconstructionObjective({"l2": L2Loss()}, ramps=ramps(steps=6))
        train(replace(tiny_run(tmp_path / name, *SMALL, *overrides), objective=objective))

    run("straight")
    run("halves", "trainer.stop_at=3")
    run("halves", "ckpt=last")
    assert state_of(tmp_path / "halves", 8) == state_of(tmp_path / "straight", 8)
    with (tmp_path / "straight/metrics.csv").open() as file:
        log = [{name: float(row[name]) for name in row if row[name]} for row in csv.DictReader(file)]
    own = option("quantizer", "bsq_18")["entropy_weight"]
    for name, weight in zip(TERMS, (own, -own), strict=True):
        factors = [row[f"{name}_weighted"] / row[name] / weight for row in log]
        assert factors == pytest.approx([3 - step / 3 for step in range(6)] + [1, 1], rel=1e-4)


def test_all_micro_batches_of_a_step_have_its_weight(tmp_path):
    factors = {}
    for name, given in {"whole": (), "cut": ("trainer.accumulate=2",)}.items():
        objective = ReconstructionObjective({"l2": L2Loss()}, ramps=ramps(steps=6))
        train(replace(tiny_run(tmp_path / name, *SMALL, *given), objective=objective))
        with (tmp_path / name / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        factors[name] = [float(row["entropy_token_weighted"]) / float(row["entropy_token"]) for row in rows]
    assert factors["cut"] == pytest.approx(factors["whole"], rel=1e-4)


def test_bsq_vits_recipe_begins_at_three_times_the_weight_of_its_quantizer():
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=["experiment=bsq_vit"])
    assert config.quantizer.entropy_weight == pytest.approx(0.1 * 18**0.5, rel=1e-5)
    assert set(config.objective.ramps) == set(TERMS)
    for ramp in config.objective.ramps.values():
        built = construct(dict(ramp))
        assert [built(step) for step in (0, 1000, 2000)] == [3, 2, 1]


def test_a_key_that_a_ramp_does_not_read_is_an_error():
    given = ["experiment=bsq_vit", "data.path=x", "+objective.ramps.entropy_token.last=2"]
    with pytest.raises(InputError, match="Ramp has no argument last"):
        check_command("train", given)
