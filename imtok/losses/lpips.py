"""LPIPS, the distance of two images in the features of a classifier (Zhang et al., arXiv 1801.03924), version 0.1."""

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from einops import einsum, reduce
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models import alexnet, vgg16
from typing_extensions import override

from imtok.errors import InputError, MissingWeightsError
from imtok.losses.base import ImageLoss
from imtok.nn.frozen import Frozen, warn_random
from imtok.pretrained import RANDOM
from imtok.weights import WeightFile, Weights, fill, identity, read_weights

_HUB = "https://download.pytorch.org/models/"
PUBLISHED = {
    "vgg": WeightFile(("vgg16-397923af.pth",), "397923af", f"{_HUB}vgg16-397923af.pth"),
    "alex": WeightFile(("alexnet-owt-7be5be79.pth",), "7be5be79", f"{_HUB}alexnet-owt-7be5be79.pth"),
}
_NETS: dict[str, Callable[[], Any]] = {"vgg": vgg16, "alex": alexnet}
_COMPARED = {"vgg": (3, 8, 15, 22, 29), "alex": (1, 4, 7, 9, 11)}  # places in torchvision's `features`, all ReLUs
_SMALLEST = {"vgg": 16, "alex": 31}
_EPSILON = 1e-10


class LPIPSLoss(ImageLoss):
    """Weighted squared difference of unit-length features of two images, summed over five depths of a classifier.

    The net is torchvision's and frozen, so no checkpoint holds its weights and no optimiser sees them. Features become
    unit vectors by ``x / sqrt(|x|^2 + 1e-10)``: added to the root instead, as elsewhere, the gradient of an all-zero
    feature is NaN.

    Args:
        net: "vgg" (VGG16, the usual choice for training) or "alex" (AlexNet, the usual choice for measuring).
        weights: torchvision's weight file; None = the one in the cache of ``torch.hub``. Nothing is downloaded.
            "random" = no file: fixed random weights and equal heads, for trying things out only.
        heads: The five weightings; None = those that come with the PyPI package ``lpips``.
        weight: Factor in the total.
        sha256: First digits of the hash of the weight file; "published" = those of torchvision's; None accepts any
            file, and the name says ``unverified``.

    Raises:
        InputError: If a weight file is missing, another one or damaged.
        ValueError: If there is no such net or ``weight`` is negative; in use, if images are too small or differ
            in shape.

    Example:
        >>> loss = LPIPSLoss("alex", weights="random")
        >>> image = torch.rand(2, 3, 64, 64) * 2 - 1
        >>> loss(image, image).item(), loss(image, -image).item() > 0
        (0.0, True)
    """

    shift: Tensor
    scale: Tensor

    def __init__(
        self,
        net: str = "vgg",
        weights: str | Path | None = None,
        heads: str | Path | None = None,
        weight: float = 1.0,
        sha256: str | None = "published",
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
        if weights == RANDOM:
            genuine, digests = False, (RANDOM, RANDOM)
            warn_random("LPIPS")
            self._draw()
        else:
            published = PUBLISHED[net]
            expected = published.sha256 if sha256 == "published" else sha256
            stored = read_weights(published.find(weights), expected)
            table = read_weights(_find_heads(net, heads), None)
            genuine, digests = stored.sha256.startswith(published.sha256), (stored.sha256, table.sha256)
            fill(made, stored, "features.")
            self._keep_heads(table)
        self.name = f"lpips_{net}" + ("" if genuine else f"_{RANDOM if weights == RANDOM else 'unverified'}")
        self.hash = identity(net=self.name, backbone=digests[0], heads=digests[1])
        for name, values in (("shift", (-0.030, -0.088, -0.188)), ("scale", (0.458, 0.448, 0.450))):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    @override
    def forward(self, image: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, ""]:
        return self.per_image(image, target).mean()

    def per_image(self, image: Float[Tensor, "b 3 h w"], target: Float[Tensor, "b 3 h w"]) -> Float[Tensor, " b"]:
        """The distance of each pair, float32 or better; images in ``[-1, 1]``."""
        if image.shape != target.shape:
            raise ValueError(f"images must have the shape of their targets {tuple(target.shape)}, got {image.shape}")
        if min(image.shape[-2:]) < _SMALLEST[self.net]:
            raise ValueError(
                f"images must be at least {_SMALLEST[self.net]} pixels a side for LPIPS with {self.net}, "
                f"got {tuple(image.shape[-2:])}"
            )
        distance = image.new_zeros(len(image), dtype=torch.promote_types(image.dtype, torch.float32))
        pairs = zip(self._features(image), self._features(target), strict=True)
        for depth, (features, others) in enumerate(pairs):
            with torch.autocast(image.device.type, enabled=False):
                difference = (_unit(features) - _unit(others)).square()
                weighted = einsum(difference, getattr(self, f"head_{depth}").to(difference), "b d h w, d -> b h w")
                distance = distance + reduce(weighted, "b h w -> b", "mean")
        return distance

    def _features(self, image: Tensor) -> Iterator[Tensor]:
        image = (image - self.shift) / self.scale
        for place, layer in enumerate(self.features.net):
            if isinstance(layer, nn.Conv2d):  # in the precision of the image, whatever that of the weights
                weight, bias = layer.weight.to(image), layer.bias.to(image)  # pyright: ignore[reportOptionalMemberAccess]
                image = F.conv2d(image, weight, bias, layer.stride, layer.padding)  # pyright: ignore[reportArgumentType]
            else:
                image = layer(image)
            if place in _COMPARED[self.net]:
                yield image

    def _widths(self) -> list[int]:
        """Channels of the features that are compared: those of the convolution before each ReLU."""
        return [self.features.net[place - 1].out_channels for place in _COMPARED[self.net]]

    def _keep_heads(self, table: Weights) -> None:
        for depth, width in enumerate(self._widths()):
            name, shape = f"lin{depth}.model.1.weight", (1, width, 1, 1)
            head = table.tensors.get(name)
            if head is None or head.shape != shape:
                found = "none" if head is None else str(list(head.shape))
                raise InputError(f"{table.path} is of another net: {name} must have shape {list(shape)}, got {found}")
            self.register_buffer(f"head_{depth}", head.flatten().detach().float().clone(), persistent=False)

    def _draw(self) -> None:
        """The same weights in every process and run, so that ranks and resumed runs agree."""
        generator = torch.Generator().manual_seed(0)
        for layer in self.features.net:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
                nn.init.zeros_(layer.bias)  # pyright: ignore[reportArgumentType], these have one
        for depth, width in enumerate(self._widths()):
            self.register_buffer(f"head_{depth}", torch.ones(width), persistent=False)


def _unit(features: Tensor) -> Tensor:
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    return features / (features.square().sum(1, keepdim=True) + _EPSILON).sqrt()


def _find_heads(net: str, heads: str | Path | None) -> Path:
    if heads is not None:
        if Path(heads).is_file():
            return Path(heads)
        raise InputError(f"heads={heads} is not a file; give the {net}.pth of LPIPS 0.1, or pip install lpips")
    package = find_spec("lpips")
    if package is None or package.origin is None:
        raise MissingWeightsError(
            "the heads of LPIPS are missing; pip install lpips (imtok's extra `lpips`), or give the path of its file "
            "as heads=PATH"
        )
    return Path(package.origin).parent / "weights" / "v0.1" / f"{net}.pth"
