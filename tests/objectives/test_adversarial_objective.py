"""The objective with everything: image losses, quantizer, adversary and alignments, each with its own gradient."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from training.gan import adversary
from training.runs import tiny_run

from imtok.config import check_command, register_schemas
from imtok.construct import construct
from imtok.critics.patchgan import PatchGAN
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.losses.adversarial import Adversary
from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.efflite0 import EffLite0Loss
from imtok.losses.pixel import L1Loss, L2Loss
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.tokenizer import Tokenizer
from imtok.training.checkpoints import load
from imtok.training.optimizers import parameter_groups
from imtok.training.run import train
from imtok.types import Batch

CONFIGS = Path(__file__).parents[2] / "configs" / "objective"
NEW = ["vqgan", "llamagen", "magvit2", "bsq", "titok", "ta_titok", "imagefolder", "hita", "offline"]


class Towards(AlignmentLoss):
    """Draws a projection of the encoder's output to the number one."""

    needs = ("encoder",)

    def __init__(self, width=8, weight=0.5):
        super().__init__(weight)
        self.head = torch.nn.Linear(width, 1)
        self.calls = []

    def forward(self, target, quantized, taps, step):
        self.calls.append((target.shape, set(taps), step))
        return (self.head(taps["encoder"]) - 1).square().mean()


@pytest.fixture
def tokenizer():
    return Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 16, "depth": 1},
            "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 8, "codebook_size": 32},
            "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 16, "depth": 1},
        }
    )


@pytest.fixture
def batch():
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    return Batch(image, torch.tensor([0, 1]), torch.tensor([0, 1]), ["a", "b"])


def gradients(module):
    return {name: None if p.grad is None else p.grad.clone() for name, p in module.named_parameters()}


@pytest.mark.parametrize("balance", ["fixed", "adaptive"])
def test_every_part_of_the_total_reaches_what_it_is_about(tokenizer, batch, balance):
    """Against the sum of all terms, differentiated as it stands."""
    critic = Adversary(PatchGAN(4, 2), weight=0.7, balance=balance)
    objective = ReconstructionObjective({"l1": L1Loss(), "l2": L2Loss(0.5)}, critic, {"towards": Towards()})
    losses = objective(tokenizer, batch, 0, torch.Generator())
    losses.total.backward()
    found = gradients(tokenizer) | gradients(objective.alignments)
    assert set(losses.terms) == {"l1", "l2", "adversarial", "codebook", "commit", "towards"}
    expected = sum(value.item() * weight for value, weight in losses.terms.values())
    assert losses.total.item() == pytest.approx(expected, rel=1e-6)
    tokenizer.zero_grad()
    objective.zero_grad()
    target = losses.shown.target
    reconstruction = tokenizer(target, taps=("encoder",))
    ratio = losses.numbers["adversarial_balance"].item() if balance == "adaptive" else 1
    plain = (
        (reconstruction.image - target).abs().mean()
        + 0.5 * (reconstruction.image - target).square().mean()
        - 0.7 * ratio * critic.critic(reconstruction.image).mean()
        + sum(value * weight for value, weight in reconstruction.quantized.losses.values())
        + 0.5 * objective.alignments["towards"](target, reconstruction.quantized, reconstruction.taps, 0)
    )
    plain.backward()
    for name, value in (gradients(tokenizer) | gradients(objective.alignments)).items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-7, msg=lambda text, name=name: name + text)


def test_the_tokenizers_step_leaves_nothing_in_the_critic(tokenizer, batch):
    objective = ReconstructionObjective({"l1": L1Loss()}, adversary("fixed"))
    losses = objective(tokenizer, batch, 0, torch.Generator())
    losses.total.backward()
    assert all(parameter.grad is None for parameter in objective.critic.parameters())
    tokenizer.zero_grad()
    objective.critic_loss(losses.shown, 0).total.backward()
    assert all(parameter.grad is None for parameter in tokenizer.parameters())
    assert any(parameter.grad is not None for parameter in objective.critic.parameters())


def test_before_the_critics_start_it_is_the_objective_without_one(tokenizer, batch):
    late = ReconstructionObjective({"l1": L1Loss()}, adversary("everything"))
    without = ReconstructionObjective({"l1": L1Loss()})
    one, other = (objective(tokenizer, batch, 3, torch.Generator()) for objective in (late, without))
    assert one.total == other.total
    assert set(one.terms) == set(other.terms)
    assert late.critic_loss(one.shown, 3) is None


def test_alignments_see_target_taps_and_step(tokenizer, batch):
    part = Towards()
    ReconstructionObjective({"l1": L1Loss()}, alignments={"towards": part})(tokenizer, batch, 5, torch.Generator())
    assert part.calls == [((2, 3, 32, 32), {"encoder"}, 5)]


@pytest.mark.parametrize("taken", ["losses", "alignments"])
def test_a_name_that_a_term_of_the_quantizer_has_is_refused(tokenizer, batch, taken):
    """It would take that term's place: in the total as an alignment, in the log as an image loss."""
    parts = {"losses": {"l1": L1Loss()}, "alignments": {}}
    parts[taken] |= {"commit": L1Loss() if taken == "losses" else Towards()}
    with pytest.raises(ValueError, match=r"must differ from the quantizer's terms, got \['commit'\]"):
        ReconstructionObjective(**parts)(tokenizer, batch, 0, torch.Generator())


def test_heads_learn_with_the_tokenizer_but_are_not_averaged_nor_exported(tmp_path):
    objective = ReconstructionObjective({"l1": L1Loss()}, adversary("fixed"), {"towards": Towards()})
    before = objective.alignments["towards"].head.weight.detach().clone()
    run = replace(tiny_run(tmp_path / "run"), objective=objective)
    train(run)
    assert not torch.equal(objective.alignments["towards"].head.weight, before)
    checkpoint = load(tmp_path / "run/checkpoints/step_14")
    assert "objective.alignments.towards.head.weight" in checkpoint.model
    assert any("towards.head.weight" in name for name in checkpoint.state["optimizers"][0]["state"])
    assert not any("towards" in name for name in checkpoint.ema)
    saved = Tokenizer.load(tmp_path / "run").state_dict()
    assert not any("towards" in name or "critic" in name for name in saved)


def test_heads_resume_bit_for_bit(tmp_path):
    def run(name, *overrides):
        torch.manual_seed(5)
        objective = ReconstructionObjective({"l1": L1Loss()}, alignments={"towards": Towards()})
        train(replace(tiny_run(tmp_path / name, *overrides), objective=objective))

    run("straight")
    run("halves", "trainer.stop_at=6")
    run("halves", "ckpt=last")
    left, right = (load(tmp_path / name / "checkpoints/step_14").model for name in ("straight", "halves"))
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_frozen_nets_are_in_no_checkpoint(tmp_path):
    objective = ReconstructionObjective({"l1": L1Loss(), "efflite0": EffLite0Loss("random")}, adversary("fixed"))
    train(replace(tiny_run(tmp_path / "run", "trainer.max_steps=2"), objective=objective))
    names = load(tmp_path / "run/checkpoints/step_2").model
    assert not any("efflite0" in name or "losses" in name for name in names)


def test_two_terms_of_one_name_are_refused():
    for losses, alignments in (({"critic": L1Loss()}, None), ({"l1": L1Loss()}, {"l1": Towards()})):
        with pytest.raises(ValueError, match="must differ"):
            ReconstructionObjective(losses, alignments=alignments)


def test_only_matrices_and_kernels_decay(tmp_path):
    run = tiny_run(
        tmp_path, "encoder=titok_b", "decoder=titok_pixels", "encoder.heads=2", "decoder.heads=2", "image_size=32"
    )
    groups = parameter_groups(run.tokenizer, replace(run.optimizer, weight_decay=0.1))
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    names = {id(parameter): name for name, parameter in run.tokenizer.named_parameters()}
    decayed, kept = ({names[id(p)] for p in group["params"]} for group in groups)
    assert not decayed & kept
    assert decayed | kept == set(names.values())
    assert all(name.endswith("weight") for name in decayed)
    assert any(name.startswith("encoder") for name in decayed)
    tables = ("latents", "positions", "token", "codebook", "norm", "bias", "quantizer", "class_position")
    assert not any(word in name for name in decayed for word in tables)
    kept_tables = [name for name in kept if run.tokenizer.get_parameter(name).ndim > 1]
    assert kept_tables  # latents, positions, mask and class tokens, the codebook


@pytest.mark.parametrize("name", NEW)
def test_each_ready_made_objective_builds_and_says_whose_it_is(name):
    register_schemas()
    check_command("train", [f"objective={name}", "image_size=64"])
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=[f"objective={name}", "image_size=64"])
    plain = OmegaConf.to_container(config.objective, resolve=True)
    for loss in plain["losses"].values():
        if "weights" in loss:
            loss |= {"weights": "random"} | ({"side": 32} if "side" in loss else {})
    critic = plain["adversary"]["critic"]
    if "net" in critic:
        critic |= {"net": "test_vit", "weights": "random", "layers": [0, 1], "side": 32}
    objective = construct(plain)
    assert isinstance(objective.adversary, Adversary)
    text = (CONFIGS / f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert "arXiv" in text or name == "offline"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+objective.adversary.disc_weight=0.8", "Adversary has no argument disc_weight"),
        ("objective.adversary.form=wgan", "must be hinge or logistic or logistic_mean, got 'wgan'"),
        ("optimizer.critic.rate=1", "no such key"),
        ("optimizer.critic.lr=-1", "optimizer.critic.lr must be positive"),
    ],
)
def test_a_key_that_nothing_reads_is_an_error(override, message):
    with pytest.raises(InputError, match=message):
        check_command("train", ["objective=llamagen", override])


def test_missing_weights_are_said_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"vgg16-\w+\.pth is not in .*download https://.*weights=PATH"):
        tiny_run(tmp_path / "run", "objective=llamagen")
    assert not (tmp_path / "run").exists()
