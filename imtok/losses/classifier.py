"""What losses in the features of an ImageNet classifier share: the frozen net, and what it sees at five depths."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import alexnet, vgg16

from imtok.losses.base import ImageLoss
from imtok.nn.frozen import Frozen, warn_random
from imtok.pixels import to_rgb
from imtok.pretrained import RANDOM
from imtok.weights import WeightFile, fill, read_weights

_HUB = "https://download.pytorch.org/models/"
PUBLISHED = {
    "vgg": WeightFile(("vgg16-397923af.pth",), "397923af", f"{_HUB}vgg16-397923af.pth"),
    "alex": WeightFile(("alexnet-owt-7be5be79.pth",), "7be5be79", f"{_HUB}alexnet-owt-7be5be79.pth"),
}
_NETS: dict[str, Callable[[], Any]] = {"vgg": vgg16, "alex": alexnet}
_COMPARED = {"vgg": (3, 8, 15, 22, 29), "alex": (1, 4, 7, 9, 11)}  # places in torchvision's `features`, all ReLUs
_SMALLEST = {"vgg": 16, "alex": 31}


class ClassifierLoss(ImageLoss):
    """Compares two images in the features of a frozen net of torchvision.

    No checkpoint holds its weights and no optimiser sees them.

    Args:
        net: "vgg" (VGG16) or "alex" (AlexNet).
        weights: torchvision's weight file; None = the one in the cache of ``torch.hub``. Nothing is downloaded.
            "random" = no file: fixed random weights, for trying things out only.
        weight: Factor in the total.
        sha256: First digits of the hash of the weight file; "published" = those of torchvision's; None accepts any.
        beside: A further file that the loss needs.

    Attributes:
        what: The loss's name, for the log.
        digest: Hash of the weight file; "random" where there is none.

    Raises:
        InputError: If the weight file is missing, another one or damaged.
        ValueError: If there is no such net or ``weight`` is negative.
    """

    what: str
    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        net: str,
        weights: str | Path | None,
        weight: float = 1.0,
        sha256: str | None = "published",
        beside: str | Path | None = None,
    ) -> None:
        super().__init__(weight)
        if net not in _NETS:
            raise ValueError(f"net must be one of {', '.join(_NETS)}, got {net!r}")
        self.net = net
        with torch.device("meta"):  # the whole net has a hundred million weights that are not needed
            made = _NETS[net]().features[: _COMPARED[net][-1] + 1]
        for layer in made:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # in place, gradients of images stored channels last have other last bits
        self.features = Frozen(made.to_empty(device="cpu"))
        published, stored = PUBLISHED[net], None
        if weights != RANDOM:
            stored = read_weights(published.find(weights), published.sha256 if sha256 == "published" else sha256)
        self.digest = RANDOM if stored is None else stored.sha256
        self._read_beside(beside)
        if stored is None:
            warn_random(self.what)
            self._draw()
        else:
            fill(made, stored, "features.")
        for name, values in (("shift", (-0.030, -0.088, -0.188)), ("scale", (0.458, 0.448, 0.450))):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    def _read_beside(self, path: str | Path | None) -> None:
        """Read a further file, before either is used: what is missing is named before what is damaged."""

    def _compared(
        self,
        image: Float[Tensor, "b c h w"],
        target: Float[Tensor, "b c h w"],
        compare: Callable[[int, Tensor, Tensor], Tensor],
    ) -> list[Tensor]:
        """What ``compare`` finds of the maps of both images, in ``[-1, 1]``, at each of the five depths.

        Both go through the net together, so that no more maps are kept than those of one depth, unless gradients are
        wanted.
        """
        if image.shape != target.shape:
            raise ValueError(f"images must have the shape of their targets {tuple(target.shape)}, got {image.shape}")
        if min(image.shape[-2:]) < _SMALLEST[self.net]:
            raise ValueError(
                f"images must be at least {_SMALLEST[self.net]} pixels a side for {self.what} with {self.net}, "
                f"got {tuple(image.shape[-2:])}"
            )
        found = list[Tensor]()
        image, target = ((to_rgb(one) - self.shift) / self.scale for one in (image, target))
        for place, layer in enumerate(self.features.net):
            image, target = _through(layer, image), _through(layer, target)
            if place in _COMPARED[self.net]:
                found.append(compare(len(found), image, target))
        return found

    def _widths(self) -> list[int]:
        """Channels of the features that are compared: those of the convolution before each ReLU."""
        return [self.features.net[place - 1].out_channels for place in _COMPARED[self.net]]

    def _draw(self) -> None:
        """The same weights in every process and run, so that ranks and resumed runs agree."""
        generator = torch.Generator().manual_seed(0)
        for layer in self.features.net:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType], these have one


def _through(layer: nn.Module, image: Tensor) -> Tensor:
    """A layer of the net in the precision of the image, whatever that of its weights."""
    if not isinstance(layer, nn.Conv2d):
        return layer(image)
    weight, bias = layer.weight.to(image), layer.bias.to(image)  # pyright: ignore[reportOptionalMemberAccess]
    return F.conv2d(image, weight, bias, layer.stride, layer.padding)  # pyright: ignore[reportArgumentType]
