"""The decoder is trained further alone, with LPIPS and a critic on frozen features; the tokens stay what they are."""

import csv

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from training.runs import run_tiny, state_of, tiny_run
from typing_extensions import override

from imtok.config import check_command
from imtok.errors import InputError
from imtok.losses.pixel import L1Loss
from imtok.objectives.post_training import PostTrainingObjective
from imtok.tokenizer import Tokenizer
from imtok.training.checkpoints import load
from imtok.training.run import train
from imtok.types import Batch

CRITIC = "objective.adversary.critic"
SMALL = (  # frozen nets without files, and a critic that is asked early
    "objective=decoder_tuning",
    "objective.losses.lpips.net=alex",
    "objective.losses.lpips.weights=random",
    "objective.losses.lpips.heads=random",
    *(f"{CRITIC}.net=test_vit", f"{CRITIC}.weights=random", f"{CRITIC}.layers=[1,3]", f"{CRITIC}.side=32"),
    "objective.adversary.generator_start=1",
    "objective.adversary.ramp_steps=2",
    "image_size=32",
    "trainer.max_steps=4",
    "trainer.log_every=1",
    "freeze=[encoder,quantizer]",
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "run"
    run_tiny(folder, "trainer.max_steps=3", "image_size=32")
    return folder


@pytest.fixture(scope="module")
def tuned(trained):
    folder = trained.parent / "tuned"
    run_tiny(folder, *SMALL, f"init_from={trained}", "ema.decay=0.5", "trainer.accumulate=2")
    return folder


def test_the_tokens_and_all_that_makes_them_are_bit_for_bit_what_they_were(trained, tuned):
    before, after = (Tokenizer.load(folder).state_dict() for folder in (trained, tuned))
    checkpoint = load(tuned / "checkpoints/step_4")
    for name, value in before.items():
        if name.startswith(("encoder.", "quantizer.")):
            assert torch.equal(after[name], value), name
            assert torch.equal(checkpoint.ema[name], value), name
            assert torch.equal(checkpoint.model[f"tokenizer.{name}"], value), name
    assert any(not torch.equal(after[name], value) for name, value in before.items() if name.startswith("decoder."))
    image = torch.rand(4, 3, 32, 32) * 2 - 1
    own, theirs = Tokenizer.load(tuned), Tokenizer.load(trained)
    assert torch.equal(own.encode(image).ids, theirs.encode(image).ids)
    assert own.codes_fingerprint() == theirs.codes_fingerprint(), "so that it decodes what was exported before"
    assert own.fingerprint() != theirs.fingerprint()


def test_only_the_decoder_and_the_critic_are_in_optimisers(tuned):
    tokenizer, critic = (optimizer["state"] for optimizer in load(tuned / "checkpoints/step_4").state["optimizers"])
    learning = {name for name, _ in Tokenizer.load(tuned).named_parameters() if name.startswith("decoder.")}
    assert {name.removeprefix("tokenizer.") for name in tokenizer} == learning
    assert critic
    assert not [name for name in critic if "vit" in name.split(".")]


def test_the_loss_is_of_images_lpips_and_the_critic_and_of_no_code(tuned):
    with (tuned / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {"l1", "l2", "lpips", "adversarial", "critic", "score_fake"} <= rows[-1].keys()
    assert not {"commit", "codebook", "entropy_token"} & rows[-1].keys()
    assert [float(row["adversarial_weighted"] or 0) != 0 for row in rows] == [False, True, True, True]


def test_a_run_that_was_stopped_ends_bit_for_bit_like_one_that_was_not(trained, tuned, tmp_path):
    own = [*SMALL, "ema.decay=0.5", "trainer.accumulate=2"]
    run_tiny(tmp_path / "stopped", *own, f"init_from={trained}", "trainer.stop_at=2")
    run_tiny(tmp_path / "stopped", *own, "ckpt=last")
    assert state_of(tmp_path / "stopped", 4) == state_of(tuned, 4)


def test_ranks_exchange_the_gradients_of_the_decoder_alone(trained, tmp_path):
    run = tiny_run(tmp_path / "run", "freeze=[encoder,quantizer]", "image_size=32", f"init_from={trained}")
    step = _Step(run.tokenizer, PostTrainingObjective({"l1": L1Loss()}))
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        ddp, exchanged = DistributedDataParallel(step), list[torch.Tensor]()

        def note(_, bucket):
            exchanged.extend(bucket.parameters())
            future = torch.futures.Future()
            future.set_result(bucket.buffer())
            return future

        ddp.register_comm_hook(None, note)
        ddp(torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)).backward()
    finally:
        torch.distributed.destroy_process_group()
    assert {id(value) for value in exchanged} == {id(value) for value in run.tokenizer.decoder.parameters()}


class _Step(torch.nn.Module):
    def __init__(self, tokenizer, objective):
        super().__init__()
        self.tokenizer, self.objective = tokenizer, objective

    @override
    def forward(self, image):
        none = torch.zeros(len(image), dtype=torch.int64)
        batch = Batch(image, none, none, [""] * len(image))
        return self.objective(self.tokenizer, batch, 0, torch.Generator()).total


@pytest.mark.parametrize("frozen", ["[]", "[encoder]", "[quantizer]"])
def test_a_run_in_which_more_would_learn_is_refused_before_it_begins(frozen, trained, tmp_path):
    run = tiny_run(tmp_path / "run", *SMALL[:-1], f"freeze={frozen}", f"init_from={trained}")
    with pytest.raises(
        InputError, match=r"trains the decoder alone, and .* would learn too; give freeze=\[encoder,quan"
    ):
        train(run)
    assert not (tmp_path / "run/checkpoints").exists()


def test_a_decoder_without_tokens_that_were_learnt_is_refused():
    with pytest.raises(InputError, match=r"freeze=\['encoder'\] needs init_from=RUN"):
        check_command("train", ["objective=decoder_tuning", "freeze=[encoder,quantizer]"])
