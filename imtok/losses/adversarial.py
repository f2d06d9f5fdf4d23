"""A critic, and what tokenizer and critic make of its scores (VQGAN, arXiv 2012.09841).

Its regularisers are LeCam (arXiv 2104.03310), R1 (arXiv 1801.04406) and balanced consistency (arXiv 2002.04724).
"""

from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from imtok.critics.base import Critic, CriticAugmentation
from imtok.losses.total import total
from imtok.nn.exact import exact, exact_backward, exactly
from imtok.schedules import linear_ramp
from imtok.types import Loss, NetLosses

Form = Literal["hinge", "logistic", "logistic_mean"]
CriticForm = Literal["hinge", "logistic"]
Balance = Literal["fixed", "adaptive"]
NAMES = ("adversarial", "critic", "critic_consistency", "lecam", "r1")


class Adversary(nn.Module):
    """What the tokenizer has to fool: a critic with its losses, schedule and regularisers.

    The critic starts to learn at one step and the tokenizer to look at it at another, then with a weight that ramps up:
    an untrained critic only does harm. Before ``critic_start`` the critic is not evaluated at all.

    LeCam penalises scores that lie beyond the running mean of the scores of the other kind. These means move once per
    step, over all micro-batches and ranks, and are saved; in the first step there are none and it is zero. R1 is the
    squared gradient of the critic's summed scores with respect to a photograph; it is differentiated itself, in float32
    or better, at every ``r1_every``-th step with as many times its weight.

    Balanced consistency wants a critic that does not mind how an image is augmented: it is half the sum, over
    photographs and reconstructions, of the mean squared differences between the scores and those of the same images
    after another augmentation.

    Args:
        critic: Scores images.
        form: The tokenizer's loss of scores f of reconstructions. "hinge" is -mean f, "logistic" is mean softplus(-f),
            "logistic_mean" is the same of each image's mean score (Open-MAGVIT2, IBQ).
        critic_form: The critic's loss, half the sum over photographs r and reconstructions f: "hinge" is
            relu(1 - r) and relu(1 + f), "logistic" softplus(-r) and softplus(f).
        weight: Of the tokenizer's loss.
        balance: "fixed", or "adaptive": times the ratio of gradients at the decoder's last layer that VQGAN takes.
        critic_start: First step in which the critic learns.
        generator_start: First step in which the tokenizer sees it; None = ``critic_start``.
        ramp_steps: Steps over which ``weight`` is reached from there; 0 = at once.
        lecam_weight: Of LeCam; 0 = none.
        lecam_decay: Of its running means, per step.
        r1_weight: Of R1, the textbook's gamma, of which half is applied; 0 = none.
        r1_every: Steps between two evaluations of R1.
        augment: Changes images before the critic sees them; None = nothing does.
        consistency_weight: Of balanced consistency; 0 = none.
        consistency_augment: What changes images for it; None = nothing, scores are compared with those of the images.

    Raises:
        ValueError: If a name is unknown, a number out of range, or the tokenizer would see a critic that never learnt.

    Example:
        >>> from imtok.critics.patchgan import PatchGAN
        >>> adversary = Adversary(PatchGAN(channels=8), weight=0.5, critic_start=10, generator_start=20, ramp_steps=2)
        >>> [adversary.factor(step) for step in (10, 19, 20, 21)]
        [0.0, 0.0, 0.25, 0.5]
        >>> photographs, images = torch.rand(2, 3, 32, 32), torch.zeros(2, 3, 32, 32)
        >>> adversary.losses(photographs, images, step=9) is None
        True
        >>> sorted(adversary.losses(photographs, images, step=10).terms)
        ['critic']
    """

    means: Tensor
    updates: Tensor

    def __init__(
        self,
        critic: Critic,
        form: Form = "hinge",
        critic_form: CriticForm = "hinge",
        weight: float = 1.0,
        balance: Balance = "fixed",
        critic_start: int = 0,
        generator_start: int | None = None,
        ramp_steps: int = 0,
        lecam_weight: float = 0.0,
        lecam_decay: float = 0.999,
        r1_weight: float = 0.0,
        r1_every: int = 16,
        augment: CriticAugmentation | None = None,
        consistency_weight: float = 0.0,
        consistency_augment: CriticAugmentation | None = None,
    ) -> None:
        super().__init__()
        # What cannot be is refused.
        for name, value, known in (
            ("form", form, Form),
            ("critic_form", critic_form, CriticForm),
            ("balance", balance, Balance),
        ):
            if value not in get_args(known):
                raise ValueError(f"{name} must be one of {', '.join(get_args(known))}, got {value!r}")
        numbers = {"weight": weight, "critic_start": critic_start, "ramp_steps": ramp_steps}
        numbers |= {"lecam_weight": lecam_weight, "r1_weight": r1_weight}
        numbers["consistency_weight"] = consistency_weight
        for name, value in numbers.items():
            if value < 0:
                raise ValueError(f"{name} must not be negative, got {value}")
        if not 0 <= lecam_decay < 1 or r1_every < 1:
            raise ValueError(f"lecam_decay must be in [0, 1) and r1_every positive, got {lecam_decay} and {r1_every}")
        self.generator_start = critic_start if generator_start is None else generator_start
        if self.generator_start < critic_start:
            raise ValueError(
                f"generator_start must not be before critic_start={critic_start}, got {generator_start}: "
                "the tokenizer would learn from an untrained critic"
            )
        # Settings, and running means for LeCam and the adaptive balance.
        self.critic = critic
        self.form = form
        self.critic_form = critic_form
        self.weight = weight
        self.balance = balance
        self.critic_start = critic_start
        self.ramp_steps = ramp_steps
        self.lecam_weight = lecam_weight
        self.lecam_decay = lecam_decay
        self.r1_weight = r1_weight
        self.r1_every = r1_every
        self.augment = augment
        self.consistency_weight = consistency_weight
        self.consistency_augment = consistency_augment
        self.register_buffer("means", torch.zeros(2))  # of the scores of photographs and of reconstructions
        self.register_buffer("updates", torch.zeros((), dtype=torch.int64))

    def factor(self, step: int) -> float:
        """Weight of the tokenizer's loss at a step, before any balance; 0 = the critic is not to be asked."""
        return self.weight * linear_ramp(step, self.generator_start, self.ramp_steps)

    def fooling(self, image: Float[Tensor, "b c h w"], step: int) -> Float[Tensor, ""]:
        """The tokenizer's loss: low where the critic takes reconstructions for photographs."""
        scores = self._scores(image, self.augment, step)
        if self.form == "hinge":
            return -scores.mean()
        return F.softplus(-(scores.mean(1) if self.form == "logistic_mean" else scores)).mean()

    def losses(self, target: Float[Tensor, "b c h w"], image: Float[Tensor, "b c h w"], step: int) -> NetLosses | None:
        """The critic's own losses on photographs and their reconstructions; None before it starts."""
        if step < self.critic_start:
            return None
        image = image.detach()
        real, fake = self._scores(target, self.augment, step), self._scores(image, self.augment, step)
        terms = {"critic": Loss(self._separation(real, fake), 1.0)}
        stats: dict[str, Tensor] = {}
        means = torch.stack([real.detach().mean(), fake.detach().mean()])
        if self.lecam_weight:
            terms["lecam"] = Loss(self._lecam(real, fake), self.lecam_weight)
            stats["scores"] = torch.cat([means, means.new_ones(1)])
        if self.consistency_weight:
            again = [self._scores(seen, self.consistency_augment, step) for seen in (target, image)]
            apart = (F.mse_loss(again[0], real) + F.mse_loss(again[1], fake)) / 2
            terms["critic_consistency"] = Loss(apart, self.consistency_weight)
        if self.r1_weight and (step - self.critic_start) % self.r1_every == 0:
            terms["r1"] = Loss(self._r1(target, step), self.r1_weight / 2 * self.r1_every)
        return NetLosses(total(terms), terms, {"score_real": means[0], "score_fake": means[1]}, stats)

    @torch.no_grad()
    def update(self, stats: dict[str, Tensor]) -> None:
        """Move the running means by the scores of a whole step."""
        if "scores" in stats:
            real, fake, number = stats["scores"]
            means = (torch.stack([real, fake]) / number).to(self.means)
            self.means.copy_(torch.where(self.updates == 0, means, means.lerp(self.means, self.lecam_decay)))
            self.updates += 1
        self.critic.update()

    def _scores(
        self, image: Tensor, augment: CriticAugmentation | None, step: int, compiled: bool = True
    ) -> Float[Tensor, "b k"]:
        """The critic's scores of augmented images, in float32 or better; a compiled critic has no second gradient."""
        seen = image if augment is None else augment(image, step - self.critic_start)
        return exact(self.critic(seen) if compiled else self.critic.forward(seen))

    def _separation(self, real: Tensor, fake: Tensor) -> Float[Tensor, ""]:
        if self.critic_form == "hinge":
            return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2
        return (F.softplus(-real).mean() + F.softplus(fake).mean()) / 2

    def _lecam(self, real: Tensor, fake: Tensor) -> Float[Tensor, ""]:
        mean_real, mean_fake = self.means.to(real)
        apart = F.relu(real - mean_fake).square().mean() + F.relu(mean_real - fake).square().mean()
        return apart * (self.updates > 0)

    def _r1(self, target: Tensor, step: int) -> Float[Tensor, ""]:
        twice = sdpa_kernel(SDPBackend.MATH)  # the kernel of attention that can be differentiated twice
        with exactly(target.device), twice:
            seen = exact(target.detach()).requires_grad_(True)
            scores = self._scores(seen, self.augment, step, compiled=False)
            (slope,) = torch.autograd.grad(scores.sum(), seen, create_graph=True)
            penalty = slope.square().sum((1, 2, 3)).mean()
        exact_backward([penalty])
        return penalty
