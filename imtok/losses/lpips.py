"""LPIPS, the distance of two images in the features of a classifier (Zhang et al., arXiv 1801.03924), version 0.1."""

from importlib.util import find_spec
from pathlib import Path

import torch
from einops import einsum, reduce
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.errors import InputError, MissingWeightsError
from imtok.losses.classifier import PUBLISHED, ClassifierLoss
from imtok.nn.exact import exact, exactly
from imtok.pretrained import RANDOM
from imtok.weights import Weights, identity, read_weights

_EPSILON = 1e-10


class LPIPSLoss(ClassifierLoss):
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

    what = "LPIPS"

    def __init__(
        self,
        net: str = "vgg",
        weights: str | Path | None = None,
        heads: str | Path | None = None,
        weight: float = 1.0,
        sha256: str | None = "published",
    ) -> None:
        super().__init__(net, weights, weight, sha256, beside=heads)
        genuine = self.digest.startswith(PUBLISHED[net].sha256)
        self.name = f"lpips_{net}" + ("" if genuine else f"_{RANDOM if weights == RANDOM else 'unverified'}")
        self.hash = identity(net=self.name, backbone=self.digest, heads=self.heads_digest)

    @override
    def _read_beside(self, path: str | Path | None) -> None:
        if self.digest == RANDOM:
            self.heads_digest = RANDOM
            for depth, width in enumerate(self._widths()):
                self.register_buffer(f"head_{depth}", torch.ones(width), persistent=False)
            return
        table = read_weights(_find_heads(self.net, path), None)
        self.heads_digest = table.sha256
        self._keep_heads(table)

    @override
    def forward(self, image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, ""]:
        return self.per_image(image, target).mean()

    def per_image(self, image: Float[Tensor, "b c h w"], target: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """The distance of each pair, float32 or better; images in ``[-1, 1]``."""
        first, *others = self._compared(image, target, self._distance)
        return sum(others, first)

    def _distance(self, depth: int, features: Tensor, others: Tensor) -> Float[Tensor, " b"]:
        with exactly(features.device):
            difference = (_unit(features) - _unit(others)).square()
            weighted = einsum(difference, getattr(self, f"head_{depth}").to(difference), "b d h w, d -> b h w")
            return reduce(weighted, "b h w -> b", "mean")

    def _keep_heads(self, table: Weights) -> None:
        for depth, width in enumerate(self._widths()):
            name, shape = f"lin{depth}.model.1.weight", (1, width, 1, 1)
            head = table.tensors.get(name)
            if head is None or head.shape != shape:
                found = "none" if head is None else str(list(head.shape))
                raise InputError(f"{table.path} is of another net: {name} must have shape {list(shape)}, got {found}")
            self.register_buffer(f"head_{depth}", head.flatten().detach().float().clone(), persistent=False)


def _unit(features: Tensor) -> Tensor:
    features = exact(features)
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
