"""The global batch is the config's, however it is cut; and what a cut changes is said before the first step."""

import logging
from dataclasses import replace

import pytest
import torch
from training.critics import in_float64
from training.runs import tiny_run

from imtok.critics.dino import DinoCritic
from imtok.critics.patchgan import PatchGAN
from imtok.critics.stylegan import StyleGANCritic
from imtok.errors import InputError
from imtok.losses.adversarial import Adversary
from imtok.losses.alignment.distances import Contrastive
from imtok.losses.pixel import L2Loss
from imtok.objectives import reconstruction
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.quantizers.lfq import LFQ
from imtok.quantizers.residual import Residual
from imtok.quantizers.vq import VQ
from imtok.training import task
from imtok.training.checkpoints import load
from imtok.training.hardware import with_micro_batches
from imtok.training.in_batch import in_batch_terms
from imtok.training.run import train
from imtok.training.settings import TrainerSettings


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "expected"), [(256, 32, 1, 8), (256, 32, 8, 1), (256, 8, 8, 4), (96, 4, 3, 8)]
)
def test_micro_batches_follow_from_the_number_of_processes(batch, micro, processes, expected):
    settings = with_micro_batches(TrainerSettings(batch_size=batch, micro_batch=micro), processes)
    assert settings.accumulate == expected
    assert settings.accumulate * micro * processes == settings.batch_size == batch


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "fix"),
    [
        (256, 48, 2, "trainer.micro_batch=32 fits"),
        (100, 64, 2, "trainer.micro_batch=50 fits"),
        (7, 4, 1, "trainer.micro_batch=1 fits"),
        (256, 32, 6, "256 images cannot be spread over 6 processes: use 4"),
    ],
)
def test_one_that_does_not_divide_is_refused_with_one_that_does(batch, micro, processes, fix):
    with pytest.raises(
        InputError, match=rf"multiple of processes x micro_batch = {processes} x {micro}, got {batch}"
    ) as e:
        with_micro_batches(TrainerSettings(batch_size=batch, micro_batch=micro), processes)
    assert fix in str(e.value)


def test_accumulate_and_micro_batch_exclude_each_other():
    assert TrainerSettings(micro_batch=4, accumulate=2).check()
    assert TrainerSettings(micro_batch=0).check()
    assert not TrainerSettings(micro_batch=4).check()


@pytest.fixture(autouse=True)
def _float32_again(monkeypatch):
    """Runs in float64 exchange how images are read, for all that follow."""
    for module in (task, reconstruction):
        monkeypatch.setattr(module, "to_float", module.to_float)


def weights_after(folder, objective, *overrides):
    run = in_float64(replace(tiny_run(folder, "trainer.max_steps=6", *overrides), objective=objective))
    train(run)
    return load(folder / "checkpoints/step_6").model


def test_a_micro_batch_trains_like_accumulate_and_goes_on_where_that_left(tmp_path):
    def objective():
        return ReconstructionObjective({"l2": L2Loss()})

    whole = weights_after(tmp_path / "whole", objective(), "trainer.batch_size=6")
    cut = weights_after(
        tmp_path / "cut", objective(), "trainer.batch_size=6", "trainer.micro_batch=2", "trainer.stop_at=6"
    )
    run = tiny_run(
        tmp_path / "cut", "trainer.batch_size=6", "trainer.micro_batch=3", "trainer.max_steps=6", "ckpt=last"
    )
    assert train(run).finished_before  # another cut is no other run
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, rtol=1e-9, atol=1e-9, msg=name)


def adversarial(**settings):
    torch.manual_seed(3)
    adversary = Adversary(PatchGAN(channels=8, halvings=1), weight=0.1, critic_start=2, **settings)
    return ReconstructionObjective({"l2": L2Loss()}, adversary)


@pytest.mark.parametrize(
    ("settings", "exact"),
    [
        ({}, True),
        ({"consistency_weight": 0.5}, True),
        ({"lecam_weight": 0.5}, True),
        ({"r1_weight": 1.0, "r1_every": 2}, True),
        ({"balance": "adaptive"}, False),
    ],
    ids=["hinge", "consistency", "LeCam", "R1", "adaptive"],
)
def test_what_is_not_warned_of_is_the_same_in_three_micro_batches(tmp_path, settings, exact):
    given = ["trainer.batch_size=6"]
    whole = weights_after(tmp_path / "whole", adversarial(**settings), *given)
    cut = weights_after(tmp_path / "cut", adversarial(**settings), *given, "trainer.accumulate=3")
    largest = max((cut[name] - value).abs().max().item() for name, value in whole.items())
    assert (largest < 1e-9) is exact
    assert (in_batch_terms(adversarial(**settings), VQ(dim=8, codebook_size=16)) == []) is exact


@pytest.mark.parametrize(
    ("quantizer", "expected"),
    [
        (VQ(dim=8, codebook_size=16), False),
        (VQ(dim=8, codebook_size=16, entropy_weight=0.1), True),
        (LFQ(slot_bits=[8]), True),
        (
            Residual(
                [VQ(dim=8, codebook_size=16, entropy_weight=0.1), VQ(dim=8, codebook_size=16, entropy_weight=0.1)]
            ),
            True,
        ),
    ],
    ids=["vq", "vq with entropy", "lfq", "inside another"],
)
def test_an_entropy_of_the_codebook_is_in_batch(quantizer, expected):
    found = in_batch_terms(ReconstructionObjective({"l2": L2Loss()}), quantizer)
    assert len(found) == expected
    assert all("entropy_weight" in term for term in found)


def test_comparisons_between_images_are_in_batch():
    objective = ReconstructionObjective({"l2": L2Loss()}, Adversary(StyleGANCritic(image_size=16, channels=8)))
    objective.losses["contrast"] = Contrastive()
    found = in_batch_terms(objective, VQ(dim=8, codebook_size=16))
    assert [term.split()[0] for term in found] == ["Contrastive", "StyleGANCritic"]


@pytest.mark.parametrize(("norm", "expected"), [("local", 1), ("group", 0)])
def test_dinos_critic_looks_at_one_image_at_a_time_where_its_norms_do(norm, expected):
    adversary = Adversary(DinoCritic("test_vit", "random", (0,), side=32, norm=norm))
    objective = ReconstructionObjective({"l2": L2Loss()}, adversary)
    assert len(in_batch_terms(objective, VQ(dim=8, codebook_size=16))) == expected


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_run_warns_before_its_first_step_where_a_cut_changes_a_term(tmp_path, caplog, accumulate):
    caplog.set_level(logging.WARNING)
    given = ["quantizer.entropy_weight=0.1", f"trainer.accumulate={accumulate}", "trainer.max_steps=1"]
    train(tiny_run(tmp_path / "run", *given))
    warned = [record.getMessage() for record in caplog.records if "micro-batches per step" in record.getMessage()]
    if accumulate == 1:
        assert warned == []
    else:
        (line,) = warned
        assert line.startswith(
            "with 2 micro-batches per step the codebook's entropy (quantizer.entropy_weight) differs"
        )
