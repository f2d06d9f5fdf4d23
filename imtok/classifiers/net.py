"""A classifier with its codebook: built from plain values, trained on stored tokens, measured, saved and read."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from imtok.classifiers.augment import Augmentation
from imtok.classifiers.base import TokenClassifier
from imtok.classifiers.embedded import CodebookEmbedding, Embedded
from imtok.construct import Config, check_stored, construct
from imtok.priors.layout import TokenLayout
from imtok.priors.learner import TokenLearner
from imtok.priors.rows import TokenBatch, TokenRows

FOLDER = "classifier"
ACCURACY = "accuracy"


class StoredClassifier(TokenLearner):
    """Reads stored ids by the codebook that made them, and says the class of each image.

    Args:
        embedding: Makes vectors of ids.
        classifier: Makes logits of vectors.
        augmentation: Changes the vectors of a training batch; None = nothing does.
        config: The plain values that they are built from.

    Example:
        >>> trunk = {"_target_": "imtok.priors.trunk.Trunk", "width": 32, "depth": 1, "heads": 2}
        >>> classifier = {"_target_": "imtok.classifiers.base.TokenViT", "trunk": trunk}
        >>> layout = {"vocab_sizes": [16], "tokens": 4}
        >>> about = {"layout": layout, "dim": 8, "grid": [2, 2], "classes": ["cat", "dog"], "tokens": {}}
        >>> made = StoredClassifier.from_config({"classifier": classifier, **about})
        >>> made.logits(torch.zeros(3, 4, 1, dtype=torch.int64)).shape
        torch.Size([3, 2])
    """

    name, member, command = FOLDER, "classifier", "imtok classify"
    needed, optional = ("classifier", "layout", "dim", "grid", "classes", "tokens"), ("augmentation",)
    numbers: ClassVar[Mapping[str, bool]] = {ACCURACY: True, "cross_entropy": False}

    def __init__(
        self,
        embedding: CodebookEmbedding,
        classifier: TokenClassifier,
        augmentation: Augmentation | None,
        config: Config,
    ) -> None:
        super().__init__()
        self.embedding, self.classifier, self.augmentation = embedding, classifier, augmentation
        self.config = {key: value for key, value in config.items() if key != "augmentation"}  # only for training
        self.layout = TokenLayout.from_plain(config["layout"])
        self.grid: tuple[int, int] = (config["grid"][0], config["grid"][1])
        self.classes: list[str] = list(config["classes"])

    @classmethod
    @override
    def from_config(cls, config: Config, packages: Sequence[str] | None = ("imtok",)) -> Self:
        """Build from plain values; the codebook is empty until a store or weights fill it.

        Args:
            config: ``classifier``, and ``augmentation`` if there is one: a dict with ``_target_`` each; ``layout``:
                arguments of :class:`~imtok.priors.layout.TokenLayout`; ``dim``: width of the codebook; ``grid``: rows
                and columns of the tokens; ``classes``: their names; ``tokens``: where the tokens come from.
            packages: See :meth:`imtok.tokenizer.Tokenizer.from_config`; None = the config is the user's own.

        Raises:
            ValueError: If a class is of another kind or refuses its arguments; InputError in the user's own config.
        """
        if packages is not None:
            check_stored(config["classifier"], packages, TokenClassifier)
            if config.get("augmentation"):
                check_stored(config["augmentation"], packages, Augmentation)
        sizes, tokens = list(config["layout"]["vocab_sizes"]), config["layout"]["tokens"]
        told = {"dim": config["dim"], "tokens": tokens, "classes": len(config["classes"])}
        keys = (FOLDER, "augmentation") if packages is None else ("", "")
        classifier = cast(TokenClassifier, construct(config["classifier"], packages, told, keys[0]))
        augmentation = cast(
            Augmentation | None,
            construct(config["augmentation"], packages, key=keys[1]) if config.get("augmentation") else None,
        )
        return cls(CodebookEmbedding(sizes, config["dim"]), classifier, augmentation, config)

    def logits(self, ids: Tensor, keep: Tensor | None = None) -> Float[Tensor, "b k"]:
        """A logit for each class, of ids ``b n g`` as the store has them."""
        seen = torch.ones_like(ids[..., 0], dtype=torch.bool) if keep is None else keep
        return self.classifier(self._vectors(ids, seen), seen)

    @override
    def losses(self, batch: TokenBatch, progress: float) -> Mapping[str, Float[Tensor, ""]]:
        seen = batch.tokens.keep
        seen = torch.ones_like(batch.tokens.ids[..., 0], dtype=torch.bool) if seen is None else seen
        vectors = self._vectors(batch.tokens.ids, seen)
        targets = F.one_hot(batch.label, len(self.classes)).to(vectors.dtype)
        images = Embedded(vectors, seen, targets, self.grid)
        if self.augmentation is not None and self.training:
            images = self.augmentation(images)
        return {"cross_entropy": F.cross_entropy(self.classifier(images.vectors, images.seen).float(), images.targets)}

    @override
    @torch.no_grad()
    def counts(self, batches: Iterable[TokenBatch]) -> tuple[float, float, float, float]:
        """Images that are told right, nats of cross entropy in all, how many images these are, and their tokens."""
        device, found = next(self.parameters()).device, torch.zeros(4, dtype=torch.float64)
        for batch in batches:
            ids, keep = batch.tokens.ids.to(device), batch.tokens.keep
            logits = self.logits(ids, None if keep is None else keep.to(device)).double().cpu()
            right = (logits.argmax(1) == batch.label).sum()
            nats = F.cross_entropy(logits, batch.label, reduction="sum")
            tokens = ids.shape[0] * ids.shape[1] if keep is None else keep.sum()
            found += torch.tensor([float(right), float(nats), len(batch), float(tokens)], dtype=torch.float64)
        right, nats, images, tokens = found.tolist()
        return right, nats, images, tokens

    @override
    def measured(self, counts: Sequence[float]) -> tuple[int, dict[str, float]]:
        right, nats, images, _ = counts
        return int(images), {ACCURACY: right / images, "cross_entropy": nats / images}

    @override
    def concluded(self, counts: Sequence[float], rows: TokenRows, held_out: TokenRows) -> dict[str, Any]:
        """Accuracy in [0, 1], that of the most frequent class, and what an image takes as tokens and as pixels.

        ``bits_per_image`` is tokens times the logarithm of the vocabulary to base 2; ``pixel_bits_per_image`` is 8
        bits for each pixel of the size that was encoded, of one channel.
        """
        images, found = self.measured(counts)
        labels = torch.cat([batch.label for batch in held_out.batches(1024)])
        height, width = held_out.store.manifest["image_size"]
        bits, pixels = counts[3] / images * self.layout.bits, 8 * height * width
        found |= {"chance": float(labels.bincount().max() / len(labels)), "bits_per_image": bits}
        return {
            **found,
            "pixel_bits_per_image": pixels,
            "share_of_pixel_bits": bits / pixels,
            "images": images,
            "learnt_from": len(rows),
            "classes": len(self.classes),
        }

    @override
    def described(self) -> Mapping[str, str]:
        learnt = sum(parameter.numel() for parameter in self.parameters())
        rows, columns = self.grid
        return {
            "classifier": f"{type(self.classifier).__name__}, {learnt / 1e6:.2f} M parameters",
            "tokens": f"{self.layout.in_words}, {rows} x {columns}",
            "classes": str(len(self.classes)),
        }

    def _vectors(self, ids: Tensor, seen: Tensor) -> Float[Tensor, "b n d"]:
        """The vectors of tokens; zeros, which are their mean, where there are none."""
        return self.embedding(ids.masked_fill(~seen[..., None], 0)) * seen[..., None]
