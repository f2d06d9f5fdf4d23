"""Runs with a prior: resumed, on two ranks, saved; and parts that do not go with one."""

import json

import pytest
import torch
from ranks import assert_same_log, assert_same_run, run_ranks
from safetensors.torch import load_file
from training.runs import run_tiny, state_of, tiny_run

from imtok.errors import InputError
from imtok.losses.prior.base import PriorLoss
from imtok.tokenizer import Tokenizer
from imtok.training.checkpoints import load
from imtok.training.rehearsal import Rehearsal

SIZES = ("objective.prior.width=16", "objective.prior.depth=1", "objective.prior.heads=2")


def prior(name, *words):
    return (f"+objective/prior@objective.prior={name}", *(() if name == "entropy_rate" else SIZES), *words)


def test_a_run_with_a_prior_goes_on_bit_for_bit_with_dropout_and_drawn_tokens(tmp_path):
    words = prior("larp", "trainer.accumulate=2", "+optimizer.nets.prior.lr=1e-2", "trainer.max_steps=6")
    run_tiny(tmp_path / "straight", *words)
    run_tiny(tmp_path / "resumed", *words, "trainer.stop_at=4")
    run_tiny(tmp_path / "resumed", *words, "ckpt=last")
    straight = state_of(tmp_path / "straight", 6)
    assert straight == state_of(tmp_path / "resumed", 6)
    assert straight["losses"][0].split(",").count("prior") == 1

    checkpoint = load(tmp_path / "straight/checkpoints/step_6")
    held = {name for name in checkpoint.model if name.startswith("objective.prior.")}
    assert held == {f"objective.prior.{name}" for name in tiny_run(tmp_path / "x", *words).objective.prior.state_dict()}
    assert set(checkpoint.state["optimizers"][1]["state"]) == held
    assert not [name for name in checkpoint.ema if "prior" in name]
    saved = tmp_path / "straight/tokenizer"
    assert not [name for name in load_file(saved / "model.safetensors") if "prior" in name]
    assert "prior" not in json.dumps(json.loads((saved / "config.json").read_text()))
    assert Tokenizer.load(saved).encode(torch.zeros(1, 3, 16, 16)).ids.shape == (1, 4, 1)


def test_the_tokenizer_learns_otherwise_with_a_prior_and_the_same_at_weight_0(tmp_path):
    short = "trainer.max_steps=3"
    run_tiny(tmp_path / "plain", short)
    for name, weight in (("idle", 0.0), ("felt", 0.5)):
        run_tiny(tmp_path / name, *prior("ett", f"objective.prior.weight={weight}", short))
    plain, idle, felt = (load(tmp_path / name / "checkpoints/step_3").model for name in ("plain", "idle", "felt"))
    assert all(torch.equal(value, idle[name]) for name, value in plain.items())
    apart = {name.split(".")[1] for name, value in plain.items() if not torch.equal(value, felt[name])}
    assert {"encoder", "quantizer"} <= apart


def test_two_ranks_learn_with_every_prior_like_one_process(tmp_path):
    steps = ("trainer.max_steps=4", "trainer.log_every=1", "trainer.batch_size=6")
    still = ("objective.prior.dropout=0.0", "objective.prior.sampled=0.0")  # what is drawn differs among ranks
    bits = ("quantizer=lfq_14", "quantizer.slot_bits=[6]")
    runs = {
        "larp": [*prior("larp", *still), *steps],
        "ett": [*prior("ett"), *steps],
        "bits": [*prior("bits"), *bits, *steps],
        "entropy_rate": [*prior("entropy_rate"), *steps],
    }
    for world in (1, 2):
        run_ranks(world, "training.ranks:train_many", [str(tmp_path / str(world)), runs], tmp_path / f"log{world}")
    for name in runs:
        assert_same_run(tmp_path / "2" / name, tmp_path / "1" / name, step=4)
        assert_same_log(tmp_path / "2" / name, tmp_path / "1" / name)


def rehearse(run):
    Rehearsal(4, run.image_size, 13, False, run.config)(run.tokenizer, run.objective)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (prior("larp", "quantizer=continuous"), "Continuous gives none; give quantizer=vq"),
        (prior("larp", "encoder.patch_size=16", "decoder.patch_size=16"), "at least 2 tokens to predict one from an"),
        (prior("ett", "quantizer=ema_vq"), "EMAVQ has none here; give quantizer=vq, simvq or ibq"),
        (prior("bits"), "VQ has none; give quantizer=lfq_18, bsq_18 or gq_64"),
        (prior("entropy_rate", "quantizer=fsq"), "one table of at most 4096 codes for an entropy rate, got FSQ with"),
    ],
)
def test_what_cannot_go_with_a_prior_is_one_line_before_the_run(tmp_path, words, message):
    with pytest.raises(InputError, match=rf"do not go together: objective\.prior \(\w+\): .*{message}"):
        rehearse(tiny_run(tmp_path / "run", *words))


def test_codes_of_a_slot_too_many_for_a_net_are_refused_before_it_is_built(tmp_path):
    with pytest.raises(
        InputError, match=r"^objective\.prior: vocab_sizes must be that of one table of at most 1048576"
    ):
        tiny_run(tmp_path / "run", *prior("ett", "quantizer=gq_64"))


@pytest.mark.parametrize("quantizer", ["vq", "simvq", "ibq", "fsq_64000", "lfq_18", "bsq_18", "gq_64", "rq_8"])
def test_larps_prior_is_followed_by_shapes_for_every_kind_of_code(tmp_path, quantizer, caplog):
    caplog.set_level("DEBUG", "imtok.training")
    small = {"simvq": "quantizer.codebook_size=32", "ibq": "quantizer.codebook_size=32"}
    words = (*prior("larp"), f"quantizer={quantizer}", small.get(quantizer, "seed=0"))
    run = tiny_run(tmp_path / "run", *words)
    rehearse(run)
    assert not [line for line in caplog.messages if "not tried" in line or "not followed" in line]
    assert isinstance(run.objective.prior, PriorLoss)
