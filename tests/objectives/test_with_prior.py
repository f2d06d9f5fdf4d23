"""Any objective with a prior: what it adds to the loss, who learns what of it, and how a config says so."""

import pytest
import torch
from training.runs import tiny_run

from imtok.build import build_part
from imtok.config import check_command
from imtok.errors import InputError
from imtok.losses.pixel import L2Loss
from imtok.losses.prior.larp import LARPPrior
from imtok.objectives.judges import build_with_found
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.objectives.with_prior import WithPrior, build_objective, with_prior
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

SMALL = ("objective.prior.width=16", "objective.prior.depth=1", "objective.prior.heads=2")
LARP = ("+objective/prior@objective.prior=larp", *SMALL)
L2 = {"l2": {"_target_": "imtok.losses.pixel.L2Loss"}}
PLAIN = {"_target_": "imtok.objectives.reconstruction.ReconstructionObjective", "losses": L2}
PRIOR = {
    "_target_": "imtok.losses.prior.larp.LARPPrior",
    **{"dim": 8, "num_latents": 16, "max_steps": 9, "width": 16, "depth": 1, "heads": 2},
}


def tokenizer():
    torch.manual_seed(0)
    patch = {"patch_size": 8, "width": 16, "depth": 1}
    return Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **patch},
            "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 8, "codebook_size": 32},
            "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **patch},
            "image_size": 32,
        }
    ).double()


def batch(images=3):
    torch.manual_seed(1)
    keys = [str(number) for number in range(images)]
    pixels = torch.randint(256, (images, 3, 32, 32), dtype=torch.uint8)
    return Batch(pixels, torch.zeros(images, dtype=torch.long), torch.arange(images), keys)


def gradients(module):
    return {name: value.grad for name, value in module.named_parameters() if value.grad is not None}


def test_encoder_and_prior_get_the_gradients_of_one_joint_loss(monkeypatch):
    """Though the prior's pass is computed twice: with dropout, with drawn tokens, and with nets that are held fixed."""
    monkeypatch.setattr("imtok.objectives.reconstruction.to_float", lambda image: image.double() / 127.5 - 1)
    net, step, generator = tokenizer(), 6, torch.Generator().manual_seed(3)
    prior = LARPPrior(dim=8, num_latents=16, max_steps=9, width=16, depth=1, heads=2).double()
    objective = with_prior(ReconstructionObjective({"l2": L2Loss()}), prior)
    prior.requires_grad_(False)  # as in a step
    losses = objective(net, batch(), step, generator)
    losses.total.backward()
    assert gradients(prior) == {}
    prior.requires_grad_(True)
    own = objective.net_losses("prior", losses.shown, step)
    before = {name: value.clone() for name, value in gradients(net).items()}
    own.total.backward()
    assert all(torch.equal(before[name], value) for name, value in gradients(net).items())
    found = {**gradients(net), **gradients(prior)}

    net.zero_grad(), prior.zero_grad()
    generator = torch.Generator().manual_seed(3)
    plain = ReconstructionObjective({"l2": L2Loss()})(net, batch(), step, generator)
    torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
    quantized = plain.shown.quantized
    nats = prior(prior.look(quantized, net.quantizer, quantized.latents), step)
    (plain.total + 0.06 * nats).backward()
    torch.testing.assert_close(losses.total, plain.total + 0.06 * nats, rtol=1e-12, atol=0)
    assert losses.terms["prior"].value.item() == pytest.approx(nats.item(), rel=1e-12)
    assert own.total.item() == pytest.approx(nats.item(), rel=1e-12)
    assert losses.numbers["prior_bits"].item() == pytest.approx(nats.item() / 0.6931471805599453, rel=1e-12)
    joint = {**gradients(net), **{name: value / 0.06 for name, value in gradients(prior).items()}}
    assert found.keys() == joint.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, joint[name], rtol=1e-9, atol=1e-12)


def test_at_weight_0_the_prior_learns_and_the_tokenizer_does_not_feel_it():
    net = tokenizer().float()
    prior = LARPPrior(dim=8, num_latents=16, max_steps=9, width=16, depth=1, heads=2, weight=0.0)
    objective = with_prior(ReconstructionObjective({"l2": L2Loss()}), prior)
    losses = objective(net, batch(), 6, torch.Generator().manual_seed(3))
    losses.total.backward()
    found = {name: value.clone() for name, value in gradients(net).items()}
    objective.net_losses("prior", losses.shown, 6).total.backward()
    assert gradients(prior)
    net.zero_grad()
    ReconstructionObjective({"l2": L2Loss()})(net, batch(), 6, torch.Generator().manual_seed(3)).total.backward()
    assert all(torch.equal(found[name], value) for name, value in gradients(net).items())


def test_without_gradients_there_are_none_of_the_prior_either():
    with torch.no_grad():
        losses = build_objective(PLAIN | {"prior": PRIOR})(tokenizer().float(), batch(), 6, torch.Generator())
    assert not losses.total.requires_grad
    assert not losses.terms["prior"].value.requires_grad


def test_random_draws_of_all_else_are_as_without_a_prior():
    net = tokenizer().float()
    objective = build_objective(PLAIN | {"prior": PRIOR})
    torch.manual_seed(4)
    objective(net, batch(), 6, torch.Generator().manual_seed(3))
    after = torch.rand(3)
    torch.manual_seed(4)
    build_part({"objective": PLAIN}, "objective")(net, batch(), 6, torch.Generator().manual_seed(3))
    assert torch.equal(after, torch.rand(3))


def test_the_objective_stays_what_it_is():
    objective = build_objective(PLAIN | {"prior": PRIOR})
    assert isinstance(objective, ReconstructionObjective)
    assert isinstance(objective, WithPrior)
    assert type(objective).__name__ == "ReconstructionObjective"
    assert [name for name, _ in objective.named_children()] == ["losses", "alignments", "prior"]
    assert list(objective.nets()) == ["prior"]
    assert objective.net_start("prior") is None


@pytest.mark.parametrize("without", [PLAIN, PLAIN | {"prior": None}])
def test_without_a_prior_it_is_the_plain_class(without):
    assert type(build_objective(without)) is ReconstructionObjective


def test_a_prior_stands_beside_a_critic():
    adversary = {
        "_target_": "imtok.losses.adversarial.Adversary",
        "critic": {"_target_": "imtok.critics.patchgan.PatchGAN", "channels": 8},
    }
    objective, left = build_with_found(PLAIN | {"prior": PRIOR, "adversary": adversary})
    assert list(objective.nets()) == ["critic", "prior"]
    assert objective.critic is objective.adversary
    assert left == {}


def test_an_objective_with_a_prior_of_its_own_takes_no_other():
    class Own(ReconstructionObjective):
        prior = None

    with pytest.raises(ValueError, match=r"Own has a prior of its own; leave objective\.prior out"):
        with_prior(Own({"l2": L2Loss()}), LARPPrior(**{key: value for key, value in PRIOR.items() if key[0] != "_"}))


@pytest.mark.parametrize("words", [("objective=larp", *SMALL), LARP])
def test_a_config_gives_any_objective_a_prior_and_tells_it_its_sizes(tmp_path, words):
    run = tiny_run(tmp_path / "run", *words)
    assert len(run.objective.prior.net.state_dict()) > 5
    assert run.config["objective"]["prior"]["num_latents"] == 4
    if "larp" in words[0]:
        assert run.objective.prior.max_steps == 14


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("+objective.prior=ett",),
            r"prior: it has no _target_, so nothing can build it; give \+objective/prior@objective\.prior=ett,",
        ),
        (("+objective.prior={weight:1.0}",), r"objective\.prior: it has no _target_"),
        (
            ("+objective.prior={_target_:imtok.losses.pixel.L1Loss}",),
            r"objective\.prior\._target_: must be of class PriorLoss, got L1Loss",
        ),
        ((*LARP, "+objective.prior.wieght=1"), r"objective\.prior\.wieght: LARPPrior has no argument wieght; did you"),
        ((*LARP, "objective.prior.rounds=two"), r"objective\.prior\.rounds: must be a whole number, got 'two'"),
    ],
)
def test_a_prior_that_is_none_is_refused_by_its_key(words, message):
    with pytest.raises(InputError, match=message):
        check_command("train", list(words))


def test_settings_out_of_range_are_refused_by_the_key_of_the_prior(tmp_path):
    with pytest.raises(InputError, match=r"^objective\.prior: heads must divide the width 16, got 3"):
        tiny_run(tmp_path / "run", *LARP, "objective.prior.heads=3")


ETT = {
    "_target_": "imtok.losses.prior.ett.ETTPrior",
    **{"dim": 8, "vocab_sizes": [32], "num_latents": 16, "width": 16, "depth": 1, "heads": 2},
}


@pytest.mark.parametrize(("prior", "frozen"), [(PRIOR, ["encoder"]), (PRIOR, ["encoder", "quantizer"])])
def test_a_prior_whose_gradients_reach_only_frozen_parts_is_refused(prior, frozen):
    net = tokenizer().float()
    net.freeze(frozen)
    with pytest.raises(ValueError, match=r"LARPPrior must have something to teach, .* frozen; ~objective\.prior"):
        build_objective(PLAIN | {"prior": prior})(net, batch(), 0, torch.Generator())


def test_a_codebook_learns_from_ett_beside_a_frozen_encoder():
    net = tokenizer().float()
    net.freeze(["encoder"])
    build_objective(PLAIN | {"prior": ETT})(net, batch(), 0, torch.Generator()).terms["prior"].value.backward()
    assert net.quantizer.weight.grad.abs().sum() > 0


def test_a_term_of_the_same_name_is_refused():
    losses = {"losses": {"prior": L2["l2"]}}
    with pytest.raises(ValueError, match="no term of an objective with a prior must be called prior"):
        build_objective(PLAIN | losses | {"prior": PRIOR})(tokenizer().float(), batch(), 0, torch.Generator())
