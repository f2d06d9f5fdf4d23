"""Fit k-means to the latents of a whole data set, which no memory has to hold, and go on after a kill."""

import hashlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from imtok.bars import bar
from imtok.data.base import Images
from imtok.data.order.workers import Loader
from imtok.data.told import require_each
from imtok.distributed import from_main, rank, world_size
from imtok.errors import InputError
from imtok.files import Lock, canonical_json
from imtok.measures.inference import evaluating, read_images, require_finite, require_images, together
from imtok.quantizers.clustering import Clustering, first_centres
from imtok.quantizers.clusters import KMeans
from imtok.shard_folder import put
from imtok.spaces.cache import net_hash
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

_FORMAT, _STATE = "imtok clusters 1", "clusters.safetensors"
Batches = Iterator[Batch | None]
_PER_CENTRE, _AT_LEAST = 4, 16_384  # latents that the first centres are made of


@dataclass(frozen=True)
class Passes:
    """How k-means goes over the images.

    Attributes:
        most: Passes over all images at most.
        tolerance: Share of the squared distance that a pass must take off for another one to follow.
        every: Batches of all ranks after which sums are put together, and stored.
        seed: Of the order of the images, and of the first centres.
    """

    most: int = 20
    tolerance: float = 1e-4
    every: int = 64
    seed: int = 0


class Clusters:
    """k-means of the latents of a tokenizer whose quantizer is :class:`KMeans`.

    Several processes share the batches; centres are the same bit for bit as those of one. What is reached is stored,
    and the same call goes on there, with any number of processes.

    Args:
        tokenizer: On ``device``.
        images: In the order in which they are read; see :meth:`~imtok.data.contract.Images.shuffled`.
        batch_size: Images per batch.
        workers: Processes that load images beside this one; of a stream one at most.
        device: Where to compute.
        settings: How to go over the images.
        missing: Whether images may lack what the tokenizer's condition reads.

    Raises:
        InputError: If the quantizer is another one.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        images: Images,
        batch_size: int,
        workers: int,
        device: torch.device,
        settings: Passes,
        missing: bool = False,
    ) -> None:
        if not isinstance(tokenizer.quantizer, KMeans):
            raise InputError(f"quantizer must be kmeans, got {type(tokenizer.quantizer).__name__}")
        self.tokenizer, self.quantizer, self.images = tokenizer, tokenizer.quantizer, images
        self.batch_size, self.workers, self.device, self.missing = batch_size, workers, device, missing
        self.settings = settings
        self.bad = list[str]()

    def fit(self, aside: Path) -> Clustering:
        """Fit the quantizer, and return what was found; every rank calls it.

        Args:
            aside: Holds what is reached, and is there; see :func:`partial_folder`.

        Raises:
            InputError: If there are no images or fewer latents than centres, some are not finite, an image cannot be
                used, or the folder holds the rest of other work.
        """
        with evaluating(self.tokenizer), refused():
            found, first = self._begin(aside)
            while found.passes < self.settings.most and not self._settled(found):
                self._pass(found, first, aside)
                first = 0
        self.quantizer.centres.copy_(found.centres)
        return found

    def _settled(self, found: Clustering) -> bool:
        last = found.distances[-2:]
        return len(last) == 2 and last[1] >= (1 - self.settings.tolerance) * last[0]

    def _pass(self, found: Clustering, first: int, aside: Path) -> None:
        batches = self._batches(first)
        total = self.images.count
        with bar(f"k-means, pass {found.passes + 1}") as advance:
            advance(first * self.batch_size, total)
            while self._round(found, batches, first, aside, lambda count: advance(count, total)):
                first += self.settings.every
        found.end_pass()
        self._store(aside, found, 0)

    def _round(self, found: Clustering, batches: Batches, first: int, aside: Path, done: Callable[[int], None]) -> bool:
        """A few batches of each rank; whether there may be more."""
        taken = 0
        with together():
            for batch in islice(batches, self.settings.every):
                taken += 1
                for points in self._latents([] if batch is None else [batch]):
                    with refused():
                        found.add(points)
        found.merge()
        done(taken * self.batch_size)
        if taken < self.settings.every:
            return False
        self._store(aside, found, first + taken)
        return True

    def _begin(self, aside: Path) -> tuple[Clustering, int]:
        """From what is stored, or from the first images; and the batch that comes next."""
        stored = from_main(partial(_read, aside / _STATE, self._plan))
        if stored is None:
            stored = from_main(self._first)
        tensors, texts = stored
        found = Clustering(tensors["centres"].to(self.device), 1.0)
        found.load(tensors, texts)
        return found, int(texts["batches"])

    def _first(self) -> tuple[dict[str, Tensor], dict[str, str]]:
        """First centres, of latents of the first images. One process finds them for all."""
        count = len(self.quantizer.centres)
        wanted, points, seen = max(_PER_CENTRE * count, _AT_LEAST), list[Tensor](), 0
        for rows in self._latents(self._loader(lambda number: True)):
            points.append(rows[: wanted - seen])
            seen += len(points[-1])
            if seen >= wanted:
                break
        require_images(seen, self.bad)
        with refused():
            tensors, texts = first_centres(torch.cat(points), count, self.settings.seed).state()
        self.bad.clear()  # they come again
        return tensors, texts | {"batches": "0"}

    def _latents(self, batches: Any) -> Iterator[Float[Tensor, "m d"]]:
        for batch, image, _ in read_images(self.tokenizer, batches, self.device, self.bad):
            require_each(batch, self.tokenizer.condition, self.missing)
            encoded = self.tokenizer.encoder(image, condition=self.tokenizer.condition_of(batch))
            require_finite(encoded.values, batch.key, "latents")
            yield encoded.values.flatten(0, 1) if encoded.keep is None else encoded.values[encoded.keep]

    def _batches(self, first: int) -> Batches:
        """All batches from a number on; None in place of those that are other ranks'."""
        ours, world = rank(), world_size()
        for number, batch in enumerate(self._loader(lambda number: number >= first and number % world == ours)):
            if number >= first:
                yield batch if number % world == ours else None

    def _loader(self, own: Callable[[int], bool]) -> Loader:
        return self.images.whole_loader(self.batch_size, self.workers, own)

    @cached_property
    def _plan(self) -> str:
        """A digest of all that decides the centres; how many processes there are and when they end does not."""
        parts = {"encoder": self.tokenizer.encoder, "space": self.tokenizer.space}
        config = {**(self.tokenizer.config or {}), "decoder": None, "regularizer": None}
        plan = {
            "config": config,
            "weights": {name: net_hash(part.state_dict()) for name, part in parts.items() if part is not None},
            "images": self.images.about,
            "batch_size": self.batch_size,
            "every": self.settings.every,
            "seed": self.settings.seed,
        }
        return hashlib.sha256(canonical_json(plan).encode()).hexdigest()

    def _store(self, aside: Path, found: Clustering, batches: int) -> None:
        tensors, texts = found.state()
        texts |= {"batches": str(batches), "plan": self._plan, "format": _FORMAT}
        from_main(partial(_write, aside / _STATE, tensors, texts))


@contextmanager
def refused() -> Iterator[None]:
    """A ValueError of latents is what a user can mend."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"the quantizer cannot be fitted: {error}") from None


@contextmanager
def partial_folder(folder: Path) -> Iterator[Path]:
    """``NAME.partial`` beside a folder, for what is reached before that is there; gone once the block has ended well.

    Raises:
        InputError: If something else lies there, or another process works in it.
    """
    aside = folder.with_name(f"{folder.name}.partial")
    lock = Lock(aside / ".lock", f"out={folder}")
    from_main(partial(_enter, aside, lock))
    try:
        yield aside
        if rank() == 0:
            shutil.rmtree(aside)
    finally:
        lock.release()


def _enter(aside: Path, lock: Lock) -> None:
    if aside.exists() and any(item.name not in (".lock", _STATE) for item in aside.iterdir()):
        raise InputError(f"{aside} is in the way and not the rest of a quantization; move it elsewhere")
    aside.mkdir(parents=True, exist_ok=True)
    lock.take()


def _read(path: Path, plan: str) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """What is stored, if it is of this plan; None if there is nothing."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            texts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, it is no dict
    except (OSError, SafetensorError) as error:
        raise InputError(f"{path} cannot be read ({error}); remove {path.parent} to begin again") from None
    if texts.get("format") != _FORMAT or texts.get("plan") != plan:
        raise InputError(
            f"{path.parent} holds the rest of another quantization (of another tokenizer, other images or settings); "
            "remove it to begin again, or give another out"
        )
    return tensors, texts


def _write(path: Path, tensors: dict[str, Tensor], texts: dict[str, str]) -> None:
    put(path, save({name: value.contiguous() for name, value in tensors.items()}, texts))
