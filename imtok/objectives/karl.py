"""The two stages of KARL (arXiv 2507.07995), each of two passes: what an image needs, then how to find it in one."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.distributed import gather_rows
from imtok.encoders.karl import ERRORS, KARLEncoder
from imtok.losses.adversarial import Adversary
from imtok.losses.base import ImageLoss
from imtok.losses.total import total
from imtok.nn.grid import to_map
from imtok.objectives.base import Objective
from imtok.objectives.codes import code_parts, code_terms
from imtok.objectives.images import image_terms
from imtok.objectives.passes import together
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Condition, Loss, Losses, Quantized, StepOutput


class Pass(NamedTuple):
    """What one pass makes of the codes: a total to differentiate, its terms, the image, and what else to log."""

    total: Float[Tensor, ""]
    terms: dict[str, Loss]
    image: Float[Tensor, "b c h w"]
    numbers: dict[str, Tensor]


class KARLObjective(Objective):
    """Reconstruct with few latents, measure the error; then ask for just that error of all latents.

    In the first pass ("estimate") the budget is drawn, every latent is used and none is to halt. In the second
    ("tokenize") the budget is the largest, the wanted error is what the first pass reached, the latents beyond the
    first budget are to halt, the others are not, and the image is made of those that do not.

    The wanted error of the first pass is drawn from the lowest five; those that images have reached are drawn less
    and less often. Where the first budget was the largest, a lower error is wanted in the second pass now and then;
    where it was two steps of the budget, a higher one.

    Differs from the public code: no budget is above the largest; the quantizer's losses are over the latents that
    are kept; an error below the lowest is never raised; the odds of wanted errors are the same on all ranks, and are
    saved.

    Args:
        budget_step: Budgets of the first pass are the multiples of this.
        spread: Chance that a wanted error is moved, where that is sensible.
        halting_weight: Weight of each cross entropy (nats) of what is to halt.

    Raises:
        ValueError: If ``budget_step`` or ``spread`` is out of range; in ``forward``, if the encoder is not KARL's.
    """

    odds: Tensor

    def __init__(self, budget_step: int = 16, spread: float = 0.45, halting_weight: float = 1.0) -> None:
        super().__init__()
        if budget_step < 1 or not 0 <= spread <= 1:
            raise ValueError(f"budget_step must be positive and spread in [0, 1], got {budget_step} and {spread}")
        self.budget_step = budget_step
        self.spread = spread
        self.halting_weight = halting_weight
        low = torch.tensor([float(error <= 0.04) for error in ERRORS])
        self.register_buffer("odds", low / low.sum())

    @abstractmethod
    def reconstructor(
        self, tokenizer: Tokenizer, target: Float[Tensor, "b c h w"], step: int, condition: Condition | None
    ) -> Callable[[Quantized], Pass]:
        """What makes a pass's terms and image of the codes."""

    @override
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        encoder = tokenizer.encoder
        if not isinstance(encoder, KARLEncoder):
            raise ValueError(f"encoder must be KARL's for this objective, got {type(encoder).__name__}")
        target = to_float(batch.image)
        most = len(encoder.queries)
        steps = int(torch.randint(1, max(most // self.budget_step, 1) + 1, (), generator=generator))
        budget = min(steps * self.budget_step, most)
        estimate, odds = encoder.judge(target, budget, self._draw(len(target), generator))
        first = tokenizer.quantizer(estimate)
        reconstruct = self.reconstructor(tokenizer, target, step, tokenizer.condition_of(batch))
        estimated = reconstruct(first)
        halting = {"active_estimate": Loss(F.softplus(odds).mean(), self.halting_weight)}
        error = (estimated.image.detach() - target).abs().flatten(1).mean(1) / 2  # of pixels in [0, 1]
        self._note(error)

        latents, odds = encoder.judge(target, None, self._wanted(encoder, error, budget, generator))
        second = tokenizer.quantizer(latents, encoder.keep(odds))
        tokenized = reconstruct(second)
        halting["active_tokenize"] = Loss(F.softplus(odds[:, :budget]).mean(), self.halting_weight)
        beyond = F.softplus(-odds[:, budget:]).sum() / (odds[:, budget:].numel() or 1)
        halting["halted_tokenize"] = Loss(beyond, self.halting_weight)

        quantized = together([first, second])
        others = halting | quantized.losses
        passes = {"estimate": estimated, "tokenize": tokenized}
        terms = {f"{name}_{key}": term for key, part in passes.items() for name, term in part.terms.items()}
        numbers = {f"{name}_{key}": value for key, part in passes.items() for name, value in part.numbers.items()}
        whole = total(estimated.total, tokenized.total, others)
        return Losses(whole, terms | others, StepOutput(target, tokenized.image, quantized), numbers)

    def _draw(self, images: int, generator: torch.Generator) -> Int64[Tensor, " b"]:
        """Levels of wanted error for the first pass."""
        drawn = torch.rand(images, generator=generator).to(self.odds)
        return torch.searchsorted(self.odds.cumsum(0), drawn).clamp(max=len(ERRORS) - 1)

    @torch.no_grad()
    def _note(self, error: Float[Tensor, " b"]) -> None:
        """Draw errors that some image has reached less often from now on."""
        least = gather_rows(error.min()[None]).min().to(self.odds.dtype)
        reached = torch.tensor(ERRORS, device=least.device) >= least
        odds = torch.where(reached, self.odds * 0.99, self.odds)
        self.odds.copy_(odds / odds.sum())

    def _wanted(
        self, encoder: KARLEncoder, error: Float[Tensor, " b"], budget: int, generator: torch.Generator
    ) -> Int64[Tensor, " b"]:
        """Levels of wanted error for the second pass."""
        level = encoder.level(error)
        moved = float(torch.rand((), generator=generator)) < self.spread
        share = torch.rand(len(level), generator=generator).to(level.device)
        if moved and budget == len(encoder.queries):
            return torch.minimum(level, 1 + (share * level).long())
        if moved and budget == 2 * self.budget_step:
            return level + (share * (len(ERRORS) - 1 - level)).long()
        return level


class KARLDistillation(KARLObjective):
    """Stage 1: the decoder is to tell the codes of the frozen net. Freeze ``decoder.codebook`` and ``decoder.pixels``.

    Args:
        budget_step: Budgets of the first pass are the multiples of this.
        spread: Chance that a wanted error is moved, where that is sensible.
        halting_weight: Weight of each cross entropy (nats) of what is to halt.
        codes_weight: Weight of the cross entropy (nats per code) of the decoder's scores.
        mixture_weight: Weight of the squared error of the mean code that the scores expect.

    Raises:
        ValueError: If an argument is out of range; in ``forward``, if the tokenizer is not KARL's.
    """

    def __init__(
        self,
        budget_step: int = 16,
        spread: float = 0.45,
        halting_weight: float = 1.0,
        codes_weight: float = 1.0,
        mixture_weight: float = 1.0,
    ) -> None:
        super().__init__(budget_step, spread, halting_weight)
        self.weights = (codes_weight, mixture_weight)

    @override
    def reconstructor(
        self, tokenizer: Tokenizer, target: Float[Tensor, "b c h w"], step: int, condition: Condition | None
    ) -> Callable[[Quantized], Pass]:
        decoder, space = code_parts(tokenizer)
        size = (target.shape[-2], target.shape[-1])
        codes = space.ids(target)

        def reconstruct(quantized: Quantized) -> Pass:
            logits = decoder.logits(quantized.latents, size, quantized.keep, condition)
            with torch.no_grad():
                mixture = logits.detach().to(space.codebook.dtype).softmax(-1) @ space.codebook
                image = space.decode(to_map(mixture, size, space.factor)).to(target.dtype)
            terms = code_terms(logits, codes, space, self.weights)
            return Pass(total(terms, idle=logits), terms, image, {})

        return reconstruct


class KARLFinetuning(KARLObjective):
    """Stage 2: pixel losses. The public code also trains the frozen net's encoder; here the space stays frozen.

    Args:
        losses: Image losses by the name under which they are logged.
        budget_step: Budgets of the first pass are the multiples of this.
        spread: Chance that a wanted error is moved, where that is sensible.
        halting_weight: Weight of each cross entropy (nats) of what is to halt.
        adversary: A critic that the images of both passes are to fool, and which learns from those of the second;
            None = there is none.

    Raises:
        ValueError: If there is no image loss or an argument is out of range; in ``forward``, if the encoder is not
            KARL's.
    """

    def __init__(
        self,
        losses: Mapping[str, ImageLoss],
        budget_step: int = 16,
        spread: float = 0.45,
        halting_weight: float = 1.0,
        adversary: Adversary | None = None,
    ) -> None:
        super().__init__(budget_step, spread, halting_weight)
        if not losses:
            raise ValueError("losses must name at least one image loss, got none")
        self.losses = nn.ModuleDict(losses)
        self.critic = adversary

    @override
    def reconstructor(
        self, tokenizer: Tokenizer, target: Float[Tensor, "b c h w"], step: int, condition: Condition | None
    ) -> Callable[[Quantized], Pass]:
        def reconstruct(quantized: Quantized) -> Pass:
            size = (target.shape[-2], target.shape[-1])
            image = tokenizer.decoder(quantized.latents, size, quantized.keep, condition).to(target.dtype)
            found = image_terms(image, target, dict(self.losses.items()), self.adversary, tokenizer.decoder, step)
            return Pass(found.total, found.terms, image, found.numbers)

        return reconstruct
