"""A prior with what it is told of images: built from plain values, saved, read, measured and sampled."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from typing_extensions import override

from imtok.conditions.base import Conditioner, pinned
from imtok.conditions.tokens import OtherTokens
from imtok.construct import Config, check_stored, construct
from imtok.priors.base import Prior
from imtok.priors.layout import TokenLayout
from imtok.priors.learner import TokenLearner
from imtok.priors.ngrams import ngram_bits
from imtok.priors.rows import TokenBatch, TokenRows
from imtok.priors.sampling import Given, Sampling
from imtok.types import Condition, Tokens

FOLDER = "prior"
BITS = "bits_per_token"


class Generator(TokenLearner):
    """A prior, and the condition that it is told. It is to tokens what a tokenizer is to images.

    Args:
        prior: Knows tokens.
        condition: Says what is told of images; None = nothing.
        config: The plain values that both are built from.

    Example:
        >>> head = {"_target_": "imtok.priors.heads.ParallelHead"}
        >>> trunk = {"_target_": "imtok.priors.trunk.Trunk", "width": 32, "depth": 1, "heads": 2}
        >>> prefix = {"_target_": "imtok.priors.prefix.Prefix"}
        >>> prior = {"_target_": "imtok.priors.ar.ARPrior", "head": head, "trunk": trunk, "prefix": prefix}
        >>> layout = {"vocab_sizes": [16], "tokens": 4}
        >>> made = Generator.from_config({"prior": prior, "layout": layout, "tokens": {}})
        >>> made.sample([0, 1], Sampling()).ids.shape
        torch.Size([2, 4, 1])
    """

    name, member, command = FOLDER, "generator", "imtok prior"
    needed, optional = ("prior", "layout", "tokens"), ("condition",)
    numbers: ClassVar[Mapping[str, bool]] = {BITS: False, "bits_per_image": False}

    def __init__(self, prior: Prior, condition: Conditioner | None, config: Config) -> None:
        super().__init__()
        self.prior, self.condition, self.config = prior, condition, config

    @classmethod
    @override
    def from_config(cls, config: Config, packages: Sequence[str] | None = ("imtok",), key: str = "") -> Self:
        """Build from plain values.

        Args:
            config: ``prior``, and ``condition`` if it is told something: a dict with ``_target_`` each; ``layout``:
                arguments of :class:`~imtok.priors.layout.TokenLayout`; ``tokens``: where the tokens come from, plain
                values.
            packages: See :meth:`imtok.tokenizer.Tokenizer.from_config`.
            key: Where the prior stands in the user's config, for messages; "" = in none.

        Raises:
            ValueError: If a class is of another kind or refuses its arguments; InputError with ``key``.
        """
        if packages is not None:
            check_stored(config["prior"], packages, Prior)
            if config.get("condition"):
                check_stored(config["condition"], packages, Conditioner)
        told = {"layout": TokenLayout.from_plain(config["layout"])}
        condition = cast(
            Conditioner | None, construct(config["condition"], packages) if config.get("condition") else None
        )
        sizes = condition.sizes if condition is not None else {}
        prior = cast(Prior, construct(config["prior"], packages, {**told, **sizes}, key))
        return cls(prior, condition, pinned(config, condition))

    @override
    def losses(self, batch: TokenBatch, progress: float) -> Mapping[str, Float[Tensor, ""]]:
        """See :meth:`imtok.priors.base.Prior.losses`."""
        return self.prior.losses(
            self.prior.layout.filled(batch.tokens), self._told(batch.caption, batch.label, batch.other), progress
        )

    def nats(self, batch: TokenBatch) -> Float[Tensor, " b"]:
        """See :meth:`imtok.priors.base.Prior.nats`."""
        told = self._told(batch.caption, batch.label, batch.other)
        return self.prior.nats(self.prior.layout.filled(batch.tokens), told)

    def sample(
        self,
        indices: Sequence[int],
        settings: Sampling,
        captions: Sequence[str] | None = None,
        labels: Sequence[int] | None = None,
        given: Given | None = None,
        other: Int64[Tensor, "b t g"] | None = None,
    ) -> Tokens:
        """Draw tokens of images of which something is told.

        Args:
            indices: A number for each sample, of which its draws are a function.
            settings: See there.
            captions: Text for each; None = none.
            labels: Class of each, -1 = none; None = none.
            given: Tokens that are not drawn; None = all are.
            other: Ids of another tokenizer as the condition of the samples; None = no ids.

        Raises:
            ValueError: If it cannot be sampled by these settings.
        """
        device = next(self.parameters()).device
        told = torch.tensor(labels or [-1] * len(indices), device=device)
        condition = self._told(captions or [""] * len(indices), told, None if other is None else other.to(device))
        drawn = self.prior.sample(indices, condition, settings, given)
        return self.prior.layout.emptied(drawn)

    @override
    def try_out(self, batch: TokenBatch) -> None:
        self.nats(batch)

    @override
    @torch.no_grad()
    def counts(self, batches: Iterable[TokenBatch]) -> tuple[float, int, int]:
        """Bits of all tokens of some images, how many images and how many tokens these are."""
        device, total, images, tokens = next(self.parameters()).device, 0.0, 0, 0
        for batch in batches:
            total += float(self.nats(batch.to(device)).double().sum()) / math.log(2)
            images += len(batch)
            keep = batch.tokens.keep
            tokens += batch.tokens.ids.shape[0] * batch.tokens.ids.shape[1] if keep is None else int(keep.sum())
        return total, images, tokens

    @override
    def measured(self, counts: Sequence[float]) -> tuple[int, dict[str, float]]:
        total, images, tokens = counts
        return int(images), {BITS: total / tokens, "bits_per_image": total / images}

    @override
    def concluded(self, counts: Sequence[float], rows: TokenRows, held_out: TokenRows) -> dict[str, Any]:
        """Bits per token, image and pixel, beside those of models that count.

        ``exact`` is false where the prior's bits are a bound above its own.
        """
        images, found = self.measured(counts)
        manifest = held_out.store.manifest
        height, width = manifest["image_size"]
        counted = ngram_bits(
            [batch.tokens for batch in rows.batches(1024)],
            [batch.tokens for batch in held_out.batches(1024)],
            manifest["vocab_sizes"],
        )
        found["bits_per_pixel"] = found["bits_per_image"] / height / width
        found |= {f"{name}_bits_per_token": bits for name, bits in counted.items()}
        return {**found, "images": images, "tokens": int(counts[2]), "exact": self.prior.exact}

    @override
    def described(self) -> Mapping[str, str]:
        learnt = sum(parameter.numel() for parameter in self.parameters())
        return {
            "prior": f"{type(self.prior).__name__}, {learnt / 1e6:.2f} M parameters",
            "tokens": self.prior.layout.in_words,
        }

    @property
    def tokens(self) -> dict[str, Any]:
        """Where the tokens that it has learnt come from: the hash of their tokenizer, and the size of its images."""
        return self.config["tokens"]

    def _told(
        self, captions: Sequence[str], labels: Int64[Tensor, " b"], other: Int64[Tensor, "b t g"] | None
    ) -> Condition | None:
        if isinstance(self.condition, OtherTokens):
            return self.condition.of(other)
        return None if self.condition is None else self.condition.make(captions, labels)
