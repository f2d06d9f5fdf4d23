"""Learn how many tokens an image needs from the error of each number of tokens (AdaTok, arXiv 2606.07185)."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.encoders.adatok import AdaTokEncoder
from imtok.losses.adversarial import Adversary
from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.base import ImageLoss
from imtok.losses.total import with_terms
from imtok.objectives.draws import image_draws
from imtok.objectives.ramps import Ramp
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.pixels import to_float
from imtok.regularizers.prefix import keep_first
from imtok.tokenizer import Tokenizer, tapped
from imtok.types import Batch, Condition, Loss, Losses, Quantized, Reconstruction


class AdaTokObjective(ReconstructionObjective):
    """Reconstruct images from random budgets, and reward the policy for budgets whose tokens are worth their cost.

    The first part is nested dropout over the encoder's budgets. The second part, from step ``policy_from`` on, is
    group-relative policy optimisation (GRPO, arXiv 2402.03300). The group of an image is all of its K budgets::

        reward    = -(mean squared error of the image in [-1, 1]) - cost * tokens / all tokens
        advantage = (reward - mean over the budgets) / deviation over the budgets
        policy    = -mean over images and budgets of (advantage + rest) * log probability

    Each budget is tried once and no budget is sampled, so there are no ratios to clip. ``rest`` is the weight of the
    policy's divergence from the uniform one. If it is at least the square root of K - 1, no factor is negative, and the
    probability of a budget tends to ``(1 + expected advantage / rest) / K``. The tokenizer does not learn from this
    term, and still learns from random budgets.

    Args:
        losses: See :class:`~imtok.objectives.reconstruction.ReconstructionObjective`.
        adversary: See the same class.
        alignments: See the same class.
        ramps: See the same class.
        cost: Cost of all tokens of an image, as a squared error; a higher cost gives fewer tokens.
        policy_from: First step in which the policy learns.
        policy_weight: Weight of the policy's term.
        rest: Weight, inside that term, of the divergence of the policy from the uniform one.
        seed: Seed of the random budgets.

    Raises:
        ValueError: If a number is out of range; in ``forward``, if the encoder is not AdaTok's, or a regulariser also
            drops tokens.
    """

    def __init__(
        self,
        losses: Mapping[str, ImageLoss],
        adversary: Adversary | None = None,
        alignments: Mapping[str, AlignmentLoss] | None = None,
        ramps: Mapping[str, Ramp] | None = None,
        cost: float = 0.01,
        policy_from: int = 0,
        policy_weight: float = 1.0,
        rest: float = 3.0,
        seed: int = 0,
    ) -> None:
        super().__init__(losses, adversary, alignments, ramps)
        numbers = {"cost": cost, "policy_from": policy_from, "policy_weight": policy_weight, "rest": rest}
        if min(numbers.values()) < 0:
            raise ValueError(f"{', '.join(numbers)} must not be negative, got {list(numbers.values())}")
        self.cost, self.policy_from, self.seed = cost, policy_from, seed
        self.policy_weight, self.rest = policy_weight, rest

    @override
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        encoder = tokenizer.encoder
        if not isinstance(encoder, AdaTokEncoder):
            raise ValueError(f"encoder must be adatok for the objective adatok, got {type(encoder).__name__}")
        if tokenizer.regularizer is not None:
            raise ValueError("regularizer must be none for the objective adatok, which drops tokens itself")
        target, condition = to_float(batch.image), tokenizer.condition_of(batch)
        budgets = encoder.budgets
        drawn = (image_draws(batch, step, self.seed, 1)[:, 0] * len(budgets)).long().to(budgets.device)
        with tapped(tokenizer, self.taps) as taps:
            whole = tokenizer.quantizer(encoder.latents(target, condition))
            nested = keep_first(whole, budgets[drawn])
            size = (target.shape[-2], target.shape[-1])
            image = tokenizer.decoder(nested.latents, size, nested.keep, condition)
        found = self.judge(tokenizer, target, Reconstruction(image, nested, taps), step, batch.caption)
        scores = encoder.policy(target)
        policy, numbers = 0 * scores.sum(), {"tokens": budgets[scores.argmax(-1)].double().mean()}
        if step >= self.policy_from:
            rewards = self.rewards(tokenizer, target, whole, condition)
            policy = self.policy_loss(scores, rewards)
            numbers["reward"] = (scores.softmax(-1) * rewards).sum(-1).mean().detach()
        return with_terms(found, {"policy": Loss(policy, self.policy_weight)}, numbers, idle=scores)

    @torch.no_grad()
    def rewards(
        self,
        tokenizer: Tokenizer,
        target: Float[Tensor, "b c h w"],
        whole: Quantized,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b k"]:
        """The reward of each budget for each image, from the codes of all tokens."""
        encoder, size = tokenizer.encoder, (target.shape[-2], target.shape[-1])
        assert isinstance(encoder, AdaTokEncoder), "as in forward"
        found = list[Tensor]()
        for budget in encoder.choices:
            image = tokenizer.decoder(whole.latents[:, :budget], size, None, condition)
            error = (image.to(target.dtype) - target).square().flatten(1).mean(1)
            found.append(-error - self.cost * budget / whole.latents.shape[1])
        return torch.stack(found, 1)

    def policy_loss(self, scores: Float[Tensor, "b k"], rewards: Float[Tensor, "b k"]) -> Float[Tensor, ""]:
        """The loss of the policy, a mean over images."""
        centred = rewards - rewards.mean(1, keepdim=True)
        advantages = centred / rewards.std(1, unbiased=False, keepdim=True).clamp_min(1e-8)
        return -((advantages + self.rest) * scores.log_softmax(-1)).mean()
