"""The contract that every prior keeps, and the parts that all of them share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.priors.heads import TokenHead
from imtok.priors.layout import TokenLayout
from imtok.priors.prefix import Prefix
from imtok.priors.sampling import Given, Sampling
from imtok.priors.trunk import Trunk
from imtok.types import Condition, Tokens


class Prior(nn.Module, ABC):
    """A generator of the tokens of one image. It knows ids and a condition, and nothing of pixels.

    Args:
        layout: What the tokens are; its builder says it.

    Attributes:
        layout: What the tokens are.
        exact: Whether ``nats`` is the likelihood itself, and not an upper bound of minus its logarithm.
    """

    exact = True

    def __init__(self, layout: TokenLayout) -> None:
        super().__init__()
        self.layout = layout

    @abstractmethod
    def losses(self, tokens: Tokens, condition: Condition | None, progress: float) -> Mapping[str, Float[Tensor, ""]]:
        """What a training step minimises, by name: their sum.

        Args:
            tokens: Of a batch of images.
            condition: What is told of them; None = nothing.
            progress: Share of the run that is over, in [0, 1].
        """

    @abstractmethod
    def nats(self, tokens: Tokens, condition: Condition | None) -> Float[Tensor, " b"]:
        """Minus the logarithm of the probability of each image's tokens, or a bound above it (``exact``)."""

    @abstractmethod
    def sample(
        self,
        indices: Sequence[int],
        condition: Condition | None,
        settings: Sampling,
        given: Given | None = None,
    ) -> Tokens:
        """Draw tokens.

        Args:
            indices: A number for each sample, of which its draws are a function.
            condition: What is told of the samples; None = nothing.
            settings: See there.
            given: Tokens that are not drawn, for tokenizers of one length; None = all are.

        Raises:
            ValueError: If it cannot be sampled by these settings.
        """

    @property
    def gives_guidance(self) -> bool:
        """Whether it has learnt what tokens are without a condition."""
        return False


class TransformerPrior(Prior):
    """A prior of four parts, whatever the order of its tokens: ids go in and out by a head, a trunk stands between.

    Args:
        layout: What the tokens are; its builder says it.
        head: How ids go in and out.
        trunk: The transformer.
        prefix: What is told of an image, as the first vectors.
    """

    def __init__(self, layout: TokenLayout, head: TokenHead, trunk: Trunk, prefix: Prefix) -> None:
        super().__init__(layout)
        self.head, self.trunk, self.prefix = head, trunk, prefix
        self.positions = nn.Parameter(torch.randn(layout.tokens, trunk.width) * 0.02)
        self.apply(_start)

    @classmethod
    def tell_parts(cls, provided: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What the builder tells the parts: how many ids each slot has, the width of the trunk, what is told."""
        told = {name: value for name, value in provided.items() if name != "layout"}
        width = given["trunk"]["width"]
        head = {"vocab_sizes": provided["layout"].vocab_sizes, "width": width}
        return {"head": head, "prefix": {**told, "width": width}}

    @property
    @override
    def gives_guidance(self) -> bool:
        return self.prefix.told and self.prefix.drop > 0

    def require(self, settings: Sampling) -> None:
        """Raise ValueError if the prior cannot be sampled by these settings."""
        self.head.require(settings)
        if settings.guided and not self.gives_guidance:
            raise ValueError(
                f"guidance must be 1, got {settings.guidance}: this prior is told nothing of images, or has never "
                "learnt images of which nothing is told (prefix.drop)"
            )

    def require_given(self, given: Given | None) -> None:
        """Raise ValueError if tokens that are given are not those of the layout."""
        if given is None:
            return
        if self.layout.variable_length:
            raise ValueError("tokens can only be given where every image has the same number of them")
        self.check(Tokens(given.ids))

    def check(self, tokens: Tokens) -> Bool[Tensor, "b t"]:
        """Which tokens there are; ValueError if they are not those of the layout.

        Tokens that are left out must be the last ones.
        """
        shape = (self.layout.tokens, self.layout.slots)
        if tokens.ids.shape[1:] != shape:
            raise ValueError(f"ids must be of {shape[0]} tokens and {shape[1]} slots, got {tuple(tokens.ids.shape)}")
        if tokens.keep is None:
            return torch.ones(tokens.ids.shape[:2], dtype=torch.bool, device=tokens.ids.device)
        if (tokens.keep[:, 1:] & ~tokens.keep[:, :-1]).any() or not tokens.keep[:, 0].all():
            raise ValueError("tokens that an image leaves out must be its last ones, and one must stay")
        return tokens.keep


def _start(module: nn.Module) -> None:
    """Weights of deviation 0.02, as GPT-2's."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def mean_of(nats: Float[Tensor, "b t g"], there: Bool[Tensor, "b t"]) -> Float[Tensor, ""]:
    """The mean over images of what their tokens cost, in nats per token that an image can have.

    Tokens that are left out cost nothing and still count, so that a batch in parts, over micro-batches or ranks, has
    the mean of the whole.
    """
    return (nats.sum(-1) * there).sum(1).mean() / there.shape[1]


def stop_nats(logits: Float[Tensor, "b t"], there: Bool[Tensor, "b t"]) -> Float[Tensor, "b t"]:
    """Nats of going on or ending at each token, where that is open: not at the first one, which there always is.

    Args:
        logits: Of the end, before each token.
        there: Which tokens there are.

    Returns:
        At tokens that there are, the nats of going on; at the first that there is not, those of the end; else 0.
    """
    ended = ~there
    first = ended & there.roll(1, 1)
    first[:, 0] = False
    each = F.binary_cross_entropy_with_logits(logits.float(), ended.float(), reduction="none")
    open_ = (there | first).float()
    open_[:, 0] = 0
    return each * open_
