"""LPIPS, the distance of two images in the features of a classifier (Zhang et al., arXiv 1801.03924), version 0.1."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import einsum, reduce
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.errors import InputError, MissingWeightsError
from imtok.losses.base import ImageLoss
from imtok.nn.frozen import warn_random
from imtok.pretrained import RANDOM
from imtok.weights import WeightFile, Weights, identity, read_weights

_HUB = "https://download.pytorch.org/models/"
PUBLISHED = {
    "vgg": WeightFile(("vgg16-397923af.pth",), "397923af", f"{_HUB}vgg16-397923af.pth"),
    "alex": WeightFile(("alexnet-owt-7be5be79.pth",), "7be5be79", f"{_HUB}alexnet-owt-7be5be79.pth"),
}
# What follows each other in torchvision's `features`: a convolution (channels, kernel, stride, padding) with its
# ReLU, or a pooling (kernel, stride). A dot marks the features that are compared.
_VGG = "64 3 1 1, 64 3 1 1 ., 2 2, 128 3 1 1, 128 3 1 1 ., 2 2, 256 3 1 1, 256 3 1 1, 256 3 1 1 ., 2 2, " + (
    "512 3 1 1, 512 3 1 1, 512 3 1 1 ., 2 2, 512 3 1 1, 512 3 1 1, 512 3 1 1 ."
)
_ALEX = "64 11 4 2 ., 3 2, 192 5 1 2 ., 3 2, 384 3 1 1 ., 256 3 1 1 ., 256 3 1 1 ."
_LAYERS = {"vgg": _VGG, "alex": _ALEX}
_SMALLEST = {"vgg": 16, "alex": 31}
_EPSILON = 1e-10


class LPIPSLoss(ImageLoss):
    """Weighted squared difference of unit-length features of two images, summed over five depths of a classifier.

    The net is frozen and has no dropout or batch norm, so there is nothing to switch between training and evaluation.
    Its weights are buffers that are not saved, so no checkpoint holds them and no optimiser sees them. Features
    become unit vectors by ``x / sqrt(|x|^2 + 1e-10)``: added to the root instead, as elsewhere, the gradient of an
    all-zero feature is NaN.

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
        if net not in _LAYERS:
            raise ValueError(f"net must be one of {', '.join(_LAYERS)}, got {net!r}")
        self.net = net
        self.layers = [layer.split() for layer in _LAYERS[net].split(",")]
        self.convolutions = [position for position, layer in _positions(self.layers) if len(layer) > 2]
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
            self._read(stored, table)
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
        for position, layer in _positions(self.layers):
            if len(layer) == 2:
                image = F.max_pool2d(image, int(layer[0]), int(layer[1]))
                continue
            kernel, bias = getattr(self, f"kernel_{position}"), getattr(self, f"bias_{position}")
            image = F.relu(F.conv2d(image, kernel.to(image), bias.to(image), int(layer[2]), int(layer[3])))
            if layer[-1] == ".":
                yield image

    def _read(self, stored: Weights, table: Weights) -> None:
        channels, depth = 3, 0
        for position, layer in _positions(self.layers):
            if len(layer) == 2:
                continue
            width, side = int(layer[0]), int(layer[1])
            self._keep(f"kernel_{position}", stored, f"features.{position}.weight", (width, channels, side, side))
            self._keep(f"bias_{position}", stored, f"features.{position}.bias", (width,))
            if layer[-1] == ".":
                self._keep(f"head_{depth}", table, f"lin{depth}.model.1.weight", (1, width, 1, 1))
                depth += 1
            channels = width

    def _keep(self, name: str, weights: Weights, stored: str, shape: tuple[int, ...]) -> None:
        tensor = weights.tensors.get(stored)
        if tensor is None or tensor.shape != shape:
            found = "none" if tensor is None else str(list(tensor.shape))
            raise InputError(f"{weights.path} is of another net: {stored} must have shape {list(shape)}, got {found}")
        flat = tensor.flatten() if name.startswith("head") else tensor
        self.register_buffer(name, flat.detach().float().clone(), persistent=False)

    def _draw(self) -> None:
        """The same weights in every process and run, so that ranks and resumed runs agree."""
        generator, channels, depth = torch.Generator().manual_seed(0), 3, 0
        for position, layer in _positions(self.layers):
            if len(layer) == 2:
                continue
            width, side = int(layer[0]), int(layer[1])
            kernel = torch.empty(width, channels, side, side)
            nn.init.kaiming_normal_(kernel, nonlinearity="relu", generator=generator)
            self.register_buffer(f"kernel_{position}", kernel, persistent=False)
            self.register_buffer(f"bias_{position}", torch.zeros(width), persistent=False)
            if layer[-1] == ".":
                self.register_buffer(f"head_{depth}", torch.ones(width), persistent=False)
                depth += 1
            channels = width


def _positions(layers: list[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Layers with their place in torchvision's ``features``, where a ReLU takes a place of its own."""
    position = 0
    for layer in layers:
        yield position, layer
        position += 1 if len(layer) == 2 else 2


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
            "the heads of LPIPS are missing; pip install lpips, or give the path of its file as heads=PATH"
        )
    return Path(package.origin).parent / "weights" / "v0.1" / f"{net}.pth"
