"""The losses of critic and tokenizer pull where they should, at the time they should, and by as much."""

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError

from imtok.critics.base import Critic, CriticAugmentation
from imtok.critics.patchgan import PatchGAN
from imtok.losses.adversarial import Adversary


class Brightness(Critic):
    """Scores are the pixels' brightness times a weight: slopes are known exactly."""

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

    def forward(self, image):
        return self.gain * image.mean(1).flatten(1)


def images(number=3, side=4):
    return torch.randn(number, 3, side, side, dtype=torch.float64)


def slope(function, image):
    """Central differences: independent of any autograd that a loss may have got wrong."""
    found, flat = torch.zeros_like(image), image.flatten()
    for index in range(flat.numel()):
        moved = [flat.clone(), flat.clone()]
        moved[0][index] += 1e-6
        moved[1][index] -= 1e-6
        high, low = (function(one.view_as(image)) for one in moved)
        found.view(-1)[index] = (high - low) / 2e-6
    return found


@pytest.mark.parametrize("form", ["hinge", "logistic", "logistic_mean"])
def test_the_tokenizers_loss_falls_where_the_critic_sees_a_photograph(form):
    adversary, image = Adversary(Brightness(), form=form), images(2)
    leaf = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(adversary.fooling(leaf, 0), leaf)
    torch.testing.assert_close(
        gradient, slope(lambda moved: adversary.fooling(moved, 0).item(), image), atol=1e-8, rtol=0
    )
    assert (gradient < 0).all()  # brighter is more like a photograph
    assert adversary.fooling(image + 1, 0) < adversary.fooling(image, 0)


@pytest.mark.parametrize("form", ["hinge", "logistic"])
def test_the_critic_learns_photographs_and_reconstructions_alike(form):
    """The published code with logits and targets swapped has slope -1 for photographs and 0 for reconstructions."""
    adversary, real, fake = Adversary(Brightness(), critic_form=form), images(2) * 0.1, images(2) * 0.1

    def of_real(moved):
        return adversary._separation(adversary.critic(moved), adversary.critic(fake)).item()

    def of_fake(moved):
        return adversary._separation(adversary.critic(real), adversary.critic(moved)).item()

    assert (slope(of_real, real) < -1e-4).all()
    assert (slope(of_fake, fake) > 1e-4).all()


def test_the_forms_are_their_formulas():
    r, f = images(4).mean(1).flatten(1), images(4).mean(1).flatten(1)
    hinge, logistic = Adversary(Brightness()), Adversary(Brightness(), form="logistic", critic_form="logistic")
    torch.testing.assert_close(hinge._separation(r, f), 0.5 * (F.relu(1 - r).mean() + F.relu(1 + f).mean()))
    torch.testing.assert_close(
        logistic._separation(r, f), 0.5 * (torch.log1p(torch.exp(-r)).mean() + torch.log1p(torch.exp(f)).mean())
    )
    image = images()
    scores = image.mean(1).flatten(1)
    torch.testing.assert_close(hinge.fooling(image, 0), -scores.mean())
    torch.testing.assert_close(logistic.fooling(image, 0), torch.log1p(torch.exp(-scores)).mean())
    per_image = Adversary(Brightness(), form="logistic_mean")
    torch.testing.assert_close(per_image.fooling(image, 0), torch.log1p(torch.exp(-scores.mean(1))).mean())


def test_r1_is_the_squared_slope_and_teaches_the_critic():
    """Without create_graph, as in public code, it has a value and no gradient."""
    adversary, real = Adversary(Brightness(), r1_weight=10.0, r1_every=4), images()
    (term,) = (loss for name, loss in adversary.losses(real, images(), 0).terms.items() if name == "r1")
    expected = 3 * 16 * (1 / 3) ** 2  # each of 48 values has the slope gain / 3
    assert term.value.item() == pytest.approx(expected)
    assert term.weight == 10 / 2 * 4
    (gradient,) = torch.autograd.grad(term.value, adversary.critic.gain)
    assert gradient.item() == pytest.approx(2 * expected)


def test_r1_reaches_a_real_critic_and_comes_every_so_many_steps():
    adversary = Adversary(PatchGAN(8, 2).double(), r1_weight=1.0, r1_every=3, critic_start=2)
    real = images(2, 16)
    has = [step for step in range(2, 12) if "r1" in adversary.losses(real, real, step).terms]
    assert has == [2, 5, 8, 11]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = adversary.losses(real, real, 2).terms["r1"].value
    assert value.dtype == torch.float64
    value.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in adversary.parameters())
    assert sum(p.grad.abs().sum() for p in adversary.parameters() if p.grad is not None) > 0


class Shifted(CriticAugmentation):
    """Brighter by a number and by the step, so that it is seen who was changed by what."""

    def __init__(self, by):
        super().__init__()
        self.by = by

    def forward(self, image, step):
        return image + self.by + step


def test_what_the_critic_sees_is_augmented_by_steps_since_its_start():
    adversary, image = Adversary(Brightness(), augment=Shifted(10), critic_start=4), images()
    torch.testing.assert_close(adversary.fooling(image, 7), -(image + 13).mean())
    scores = (image + 13).mean(1).flatten(1)
    expected = (F.relu(1 - scores).mean() + F.relu(1 + scores).mean()) / 2
    torch.testing.assert_close(adversary.losses(image, image, 7).total, expected)


def test_consistency_is_half_the_squared_distance_to_scores_of_images_that_are_changed_otherwise():
    settings = {"augment": Shifted(2), "consistency_weight": 4.0, "consistency_augment": Shifted(5)}
    adversary, real, fake = Adversary(Brightness(), **settings), images(), images()
    losses = adversary.losses(real, fake.requires_grad_(), 0)
    term = losses.terms["critic_consistency"]
    torch.testing.assert_close(term.value, torch.tensor(9.0, dtype=torch.float64))  # (3^2 + 3^2) / 2
    assert term.weight == 4
    torch.testing.assert_close(losses.total, losses.terms["critic"].value + 36)
    (gradient,) = torch.autograd.grad(term.value, adversary.critic.gain)
    torch.testing.assert_close(gradient, torch.tensor(18.0, dtype=torch.float64))  # the critic learns from both looks
    assert fake.grad is None
    plain = Adversary(Brightness(), augment=Shifted(2), consistency_weight=1.0).losses(real, fake, 0)
    torch.testing.assert_close(plain.terms["critic_consistency"].value, torch.tensor(4.0, dtype=torch.float64))


def test_lecam_is_its_formula_and_moves_once_per_update():
    adversary = Adversary(Brightness(), lecam_weight=0.5, lecam_decay=0.9).double()
    real, fake = images() + 0.5, images() - 0.5
    first = adversary.losses(real, fake, 0)
    assert first.terms["lecam"].value == 0  # there are no means yet
    means = adversary.means.clone()
    adversary.losses(real, fake, 0)
    torch.testing.assert_close(adversary.means, means, rtol=0, atol=0)
    halves = [adversary.losses(a, b, 0).stats["scores"] for a, b in zip(real.split(1), fake.split(1), strict=True)]
    adversary.update({"scores": torch.stack(halves).sum(0)})
    r, f = real.mean(1).flatten(1), fake.mean(1).flatten(1)
    torch.testing.assert_close(adversary.means, torch.stack([r.mean(), f.mean()]))
    expected = F.relu(r - f.mean()).square().mean() + F.relu(r.mean() - f).square().mean()
    torch.testing.assert_close(adversary.losses(real, fake, 1).terms["lecam"].value, expected)
    adversary.update(adversary.losses(fake, real, 1).stats)
    torch.testing.assert_close(adversary.means[0], 0.9 * r.mean() + 0.1 * f.mean())
    assert adversary.updates == 2
    assert {"means", "updates"} <= adversary.state_dict().keys()


def test_before_its_start_the_critic_is_not_asked():
    class Silent(Critic):
        def forward(self, image):
            raise AssertionError("asked")

    adversary = Adversary(Silent(), critic_start=5, generator_start=7, ramp_steps=2, weight=0.8)
    assert adversary.losses(images(), images(), 4) is None
    with pytest.raises(AssertionError, match="asked"):
        adversary.losses(images(), images(), 5)
    assert [adversary.factor(step) for step in (0, 6, 7, 8, 99)] == [0, 0, 0.4, 0.8, 0.8]


def test_the_image_that_the_critic_learns_from_gets_no_gradient():
    adversary, image = Adversary(Brightness()), images().requires_grad_()
    adversary.losses(images(), image, 0).total.backward()
    assert image.grad is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": -1.0}, "weight must not be negative"),
        ({"lecam_decay": 1.0}, "lecam_decay must be in"),
        ({"r1_every": 0}, "r1_every positive"),
        ({"consistency_weight": -1.0}, "consistency_weight must not be negative"),
        ({"critic_start": 9, "generator_start": 3}, "generator_start must not be before critic_start=9, got 3"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Adversary(Brightness(), **settings)


@pytest.mark.parametrize("settings", [{"form": "swapped"}, {"critic_form": "logistic_mean"}, {"balance": "auto"}])
def test_names_that_do_not_exist_are_refused(settings):
    with pytest.raises((ValueError, TypeCheckError)):
        Adversary(Brightness(), **settings)
