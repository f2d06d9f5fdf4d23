"""The adapter that learns to crop and mirror maps of tokens, from a store with several views of each image."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self, cast

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.classifiers.adapting import AdapterNet, Between, Move, moved, relative_error
from imtok.classifiers.embedded import CodebookEmbedding
from imtok.construct import Config, check_stored, construct
from imtok.priors.layout import TokenLayout
from imtok.priors.learner import TokenLearner
from imtok.priors.rows import TokenBatch, TokenRows

FOLDER = "adapter"
ERROR = "error"


class ViewRows(TokenRows):
    """The images of a store. A row has the tokens of all views of one image, one view after the other."""

    @override
    def __len__(self) -> int:
        return len(self.images)

    @override
    def __getitem__(self, place: int | tuple[int, int]) -> tuple[Any, ...]:
        image, views = place[1] if isinstance(place, tuple) else place, self.store.views
        rows = [super(ViewRows, self).__getitem__(image * views + view) for view in range(views)]
        return np.concatenate([ids for ids, *_ in rows]), None, *rows[0][2:]


class TokenAdapter(TokenLearner):
    """Turns the tokens of one view of an image into those of another view, by moving their map in a learned space.

    SeiT++ encodes each training image twice. This adapter learns from a store that holds several views of each image.

    Args:
        embedding: Turns ids into vectors.
        net: Maps tokens into the learned space and back.
        config: The plain values that embedding and net are built from.
    """

    name, member, command = FOLDER, "adapter", "imtok adapt"
    needed, optional = ("adapter", "layout", "dim", "grid", "augment", "image_size", "tokens"), ()
    numbers: ClassVar[Mapping[str, bool]] = {ERROR: False}

    def __init__(self, embedding: CodebookEmbedding, net: AdapterNet, config: Config) -> None:
        super().__init__()
        self.embedding, self.net, self.config = embedding, net, config
        self.grid: tuple[int, int] = (config["grid"][0], config["grid"][1])
        self.between = Between(config["augment"], config["image_size"])

    @classmethod
    @override
    def from_config(cls, config: Config, packages: Sequence[str] | None = ("imtok",)) -> Self:
        """Build from plain values; the codebook is empty until a store or weights fill it.

        Args:
            config: ``adapter``: a dict with ``_target_``; ``layout``: arguments of
                :class:`~imtok.priors.layout.TokenLayout`; ``dim``: width of the codebook; ``grid``: rows and columns of
                the tokens; ``augment`` and ``image_size``: the views of the store and their side in pixels;
                ``tokens``: where the tokens come from.
            packages: See :meth:`imtok.tokenizer.Tokenizer.from_config`; None = the config is the user's own.

        Raises:
            ValueError: If a class is of another kind or refuses its arguments.
        """
        if packages is not None:
            check_stored(config["adapter"], packages, AdapterNet)
        told, key = {"dim": config["dim"]}, FOLDER if packages is None else ""
        net = cast(AdapterNet, construct(config["adapter"], packages, told, key))
        return cls(CodebookEmbedding(list(config["layout"]["vocab_sizes"]), config["dim"]), net, config)

    @override
    def losses(self, batch: TokenBatch, progress: float) -> Mapping[str, Float[Tensor, ""]]:
        views = len(self.between.starts)
        source = torch.randint(views, (len(batch),))
        target = (source + torch.randint(1, views, (len(batch),))) % views
        found, wanted, moves = self._pair(self._maps(batch), source, target)
        return {ERROR: relative_error(self.net(found, *moves), wanted, *moves).mean()}

    @override
    @torch.no_grad()
    def counts(self, batches: Iterable[TokenBatch]) -> tuple[float, float, float]:
        """Sums over images of the error and of the error if the plain map is moved, and the number of images."""
        views, found = len(self.between.starts), torch.zeros(3, dtype=torch.float64)
        pairs = [(source, (source + step) % views) for step in {1, views // 2} for source in range(views)]
        for batch in batches:
            maps = self._maps(batch)
            for source, target in pairs:
                given, wanted, moves = self._pair(maps, *(torch.full((len(batch),), one) for one in (source, target)))
                plain = moved(given, *moves)
                for place, one in enumerate((self.net(given, *moves), plain)):
                    found[place] += relative_error(one, wanted, *moves).double().sum().cpu() / len(pairs)
            found[2] += len(batch)
        error, plain, images = found.tolist()
        return error, plain, images

    @override
    def measured(self, counts: Sequence[float]) -> tuple[int, dict[str, float]]:
        error, _, images = counts
        return int(images), {ERROR: error / images}

    @override
    def concluded(self, counts: Sequence[float], rows: TokenRows, held_out: TokenRows) -> dict[str, Any]:
        """The error on held-out images, and the error if the plain map is moved; vectors have variance 1."""
        images, found = self.measured(counts)
        return {**found, "plain_error": counts[1] / images, "images": images, "learnt_from": len(rows)}

    @override
    def described(self) -> Mapping[str, str]:
        rows, columns = self.grid
        layout = TokenLayout.from_plain(self.config["layout"])
        learnt = sum(parameter.numel() for parameter in self.net.parameters())
        return {
            "adapter": f"{type(self.net).__name__}, {learnt / 1e6:.2f} M parameters",
            "tokens": f"{layout.in_words}, {rows} x {columns}",
            "views": f"{len(self.between.starts)} of each image",
        }

    def _maps(self, batch: TokenBatch) -> Float[Tensor, "b v d h w"]:
        vectors = self.embedding(batch.tokens.ids).unflatten(1, (len(self.between.starts), -1))  # b v n d
        return vectors.transpose(2, 3).unflatten(3, self.grid)

    def _pair(self, maps: Tensor, source: Tensor, target: Tensor) -> tuple[Tensor, Tensor, tuple[Move, Move]]:
        """One view of each image, another one, and the moves from one to the other."""
        rows, columns = self.between(source, target)
        device, each = maps.device, torch.arange(len(maps), device=maps.device)
        on_device = tuple((scale.to(device), start.to(device)) for scale, start in (rows, columns))
        return maps[each, source.to(device)], maps[each, target.to(device)], (on_device[0], on_device[1])
