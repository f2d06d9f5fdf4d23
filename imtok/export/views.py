"""Which crops of an image become tokens: the centre, the centre and its mirror image, or ten crops."""

from dataclasses import asdict, dataclass
from typing import Any

from jaxtyping import Shaped
from torch import Tensor

PLACES = ("top left", "top right", "bottom left", "bottom right", "centre")
AUGMENTS: dict[str, tuple[float, tuple[str, ...], tuple[bool, ...]]] = {
    "centre": (1.0, ("centre",), (False,)),
    "flip": (1.0, ("centre",), (False, True)),
    "ten_crop": (1.1, PLACES, (False, True)),
    "ten_crop_105": (1.05, PLACES, (False, True)),
}


@dataclass(frozen=True)
class View:
    """One crop of an image.

    Attributes:
        resize: Side of the centre square that it is cut from, by its own side.
        place: Where it lies in that square, after mirroring.
        mirrored: Whether the square was mirrored, left to right.
    """

    resize: float
    place: str
    mirrored: bool


class Views:
    """Cuts the crops that LlamaGen (arXiv 2406.06525) trains its generators on, in its order.

    The image comes as its centre square, ``int(size * resize)`` pixels a side by ADM's crop. Ten crops are the four
    corners and the centre, and these five of the mirrored square: torchvision's ``TenCrop``.

    Args:
        augment: "centre" (one view), "flip" (two), "ten_crop" (ten, resize 1.1) or "ten_crop_105" (ten, resize 1.05).

    Raises:
        ValueError: If there is no such choice.

    Example:
        >>> import torch
        >>> views = Views("ten_crop")
        >>> views.square(256), views(torch.zeros(2, 3, 281, 281, dtype=torch.uint8), 256).shape
        (281, torch.Size([2, 10, 3, 256, 256]))
    """

    def __init__(self, augment: str = "centre") -> None:
        if augment not in AUGMENTS:
            raise ValueError(f"augment must be one of {', '.join(AUGMENTS)}, got {augment!r}")
        self.augment = augment
        resize, places, mirrors = AUGMENTS[augment]
        self.resize = resize
        self.all = tuple(View(resize, place, mirrored) for mirrored in mirrors for place in places)

    def __len__(self) -> int:
        return len(self.all)

    @property
    def about(self) -> list[dict[str, Any]]:
        """Plain values that say what each view is."""
        return [asdict(view) for view in self.all]

    def square(self, size: int) -> int:
        """Side of the centre square that crops of ``size`` pixels are cut from."""
        return int(size * self.resize)

    def __call__(
        self,
        image: Shaped[Tensor, "b c square_h square_w"],
        size: int | None,
        out: Shaped[Tensor, "b a c h w"] | None = None,
    ) -> Shaped[Tensor, "b a c h w"]:
        """Every view of every image.

        Args:
            image: Centre squares, ``square(size)`` pixels a side.
            size: Side of the views; None = that of the images, which may then be of any shape.
            out: Memory for the views, such as those of an earlier batch; None = new memory.
        """
        height, width = (image.shape[-2], image.shape[-1]) if size is None else (size, size)
        down, across = image.shape[-2] - height, image.shape[-1] - width
        # Halves are rounded to even, as torchvision does.
        corner = {
            "top left": (0, 0),
            "top right": (0, across),
            "bottom left": (down, 0),
            "bottom right": (down, across),
            "centre": (round(down / 2), round(across / 2)),
        }
        if len(self) == 1 and not down and not across:
            return image[:, None]
        cut = image.new_empty(len(image), len(self), image.shape[1], height, width) if out is None else out
        mirrored = image.flip(-1) if any(view.mirrored for view in self.all) else image
        for number, view in enumerate(self.all):
            top, left = corner[view.place]
            shown = mirrored if view.mirrored else image
            cut[:, number] = shown[..., top : top + height, left : left + width]
        return cut
