"""The images that pictures show: which ones, and what a tokenizer made of them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from einops import reduce
from jaxtyping import UInt8
from torch import Tensor

from imtok.data.contract import Images
from imtok.data.told import shown_captions
from imtok.distributed import gather_values
from imtok.types import Batch

SHOWN = 16  # images in a report, and in the pictures of a training run
_CANDIDATES = 4  # looked at for each of them


def choose_shown(images: Images, number: int = SHOWN) -> Batch:
    """The images to look at: spread evenly over a data set, and no blank ones where there are others.

    Four times as many candidates lie evenly over the data set (of a stream they are its first images). From each four
    that follow one another the image with the most contrast is taken, which is the one whose grey levels vary most.
    The choice depends on the images alone. So the pictures of a training run, its final report and every later
    report on the same images show the same ones, with any number of processes and workers.

    Args:
        images: In evaluation mode.
        number: How many are wanted; there are fewer if the data set is smaller.

    Raises:
        InputError: If the images cannot be read.
    """
    candidates = next(iter(images.spread_loader(_CANDIDATES * number)))
    contrast = reduce(candidates.image.double(), "b c h w -> b h w", "mean").flatten(1).var(1, correction=0).tolist()
    number = min(number, len(contrast))
    edges = [place * len(contrast) // number for place in range(number + 1)] if number else []
    rows = [max(range(*edges[place : place + 2]), key=contrast.__getitem__) for place in range(number)]
    return replace(
        candidates,
        image=candidates.image[rows],
        label=candidates.label[rows],
        index=candidates.index[rows],
        key=[candidates.key[row] for row in rows],
        source=None,
        caption=shown_captions(candidates, rows),
        texts=[],
    )


@dataclass
class Pictures:
    """Images of a data set and their reconstructions, taken from batch after batch.

    Images that are named are taken by their keys. Otherwise they are spread evenly over a data set of unknown length:
    every ``stride``-th image is kept; whenever there are twice as many as wanted, every other one goes.

    Attributes:
        most: How many are wanted.
        named: The keys of the images that are wanted; None = spread evenly.
    """

    most: int
    keys: list[str] = field(default_factory=list)
    originals: list[UInt8[Tensor, "3 _ _"]] = field(default_factory=list)
    reconstructions: list[UInt8[Tensor, "3 _ _"]] = field(default_factory=list)
    stride: int = 1
    seen: int = 0
    named: Sequence[str] | None = None

    @classmethod
    def wanted(cls, which: int | Sequence[str]) -> "Pictures":
        """None yet, of so many images that are spread evenly, or of the images with these keys."""
        return cls(which) if isinstance(which, int) else cls(len(which), named=tuple(which))

    def add(
        self, keys: list[str], originals: UInt8[Tensor, "b 3 h w"], reconstructions: UInt8[Tensor, "b 3 h w"]
    ) -> None:
        """Go through a batch."""
        for key, original, reconstruction in zip(keys, originals, reconstructions, strict=True):
            if self._wants(key):
                self.keys.append(key)
                self.originals.append(original.cpu().clone())
                self.reconstructions.append(reconstruction.cpu().clone())
                if self.named is None and len(self.keys) == 2 * self.most:
                    self._take(range(0, 2 * self.most, 2))
                    self.stride *= 2
            self.seen += 1

    def finish(self) -> "Pictures":
        """No more than ``most`` of them: evenly, or those that are named, of all processes and in the given order."""
        if self.named is not None:
            parts = gather_values((self.keys, self.originals, self.reconstructions))
            self.keys, self.originals, self.reconstructions = (
                [one for column in columns for one in column] for columns in zip(*parts, strict=True)
            )
            self._take([self.keys.index(key) for key in self.named if key in self.keys])
        count = len(self.keys)
        if count > self.most:
            self._take([index * count // self.most for index in range(self.most)])
        return self

    def _wants(self, key: str) -> bool:
        if self.named is not None:
            return key in self.named and key not in self.keys
        return bool(self.most) and self.seen % self.stride == 0

    def _take(self, chosen: Iterable[int]) -> None:
        chosen = list(chosen)
        self.keys = [self.keys[index] for index in chosen]
        self.originals = [self.originals[index] for index in chosen]
        self.reconstructions = [self.reconstructions[index] for index in chosen]
