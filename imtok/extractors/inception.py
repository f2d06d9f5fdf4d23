"""Inception v3 (arXiv 1512.00567) as TensorFlow published it on 2015-12-05: the net that FID is defined by."""

from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.extractors.base import Extractor, Features
from imtok.extractors.fetch import find_or_fetch
from imtok.extractors.resize import RESIZERS
from imtok.weights import WeightFile, fill, identity, read_weights

INPUT = 299
CLASSES = 1008
SPATIAL = 7
PUBLISHED = WeightFile(
    names=("pt_inception-2015-12-05-6726825d.pth", "weights-inception-2015-12-05-6726825d.pth"),
    sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    source="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/pt_inception-2015-12-05-6726825d.pth",
)


class Inception(Extractor):
    """The Inception of FID: 2048 pooled features, the logits of the inception score and the maps of sFID.

    It differs from torchvision's net: its weights are other ones, its average pooling leaves out the padding and its
    last block pools by maximum. Logits are without bias, as ADM and torch-fidelity take them. sFID (Nash et al., arXiv
    2103.03841) is of the first 7 channels of TensorFlow's ``mixed_6/conv``, 17 x 17 places each, as in ADM's evaluator.

    Args:
        weights: The published file; None = the one that pytorch-fid or torch-fidelity left in the cache of
            ``torch.hub``; "download" = fetched into that cache.
        resize: How images come to 299 x 299 pixels: "tf1" (ADM, torch-fidelity), "half_pixel" (pytorch-fid) or
            "antialiased" (torchmetrics by default); "bicubic" is nobody's.
        dtype: "float32" or "float64".
        sha256: Hash of the weight file; None accepts any, and the name says ``unverified``.

    Raises:
        InputError: If the weight file is missing, another one or damaged.
        ValueError: If there is no such resizer or precision.
    """

    dim = 2048
    family = "inception_tf"
    told = ("resize", "dtype")

    def __init__(
        self,
        weights: str | Path | None = None,
        resize: str = "tf1",
        dtype: str = "float32",
        sha256: str | None = PUBLISHED.sha256,
    ) -> None:
        super().__init__(dtype)
        if resize not in RESIZERS:
            raise ValueError(f"resize must be one of {', '.join(RESIZERS)}, got {resize!r}")
        stored = read_weights(find_or_fetch(PUBLISHED, weights), sha256)
        self.net = InceptionNet()
        fill(self.net, stored)
        self.resize = resize
        genuine = stored.sha256 == PUBLISHED.sha256
        self.name = "inception_tf" + ("" if genuine else "_unverified") + ("" if resize == "tf1" else f"_{resize}")
        self.hash = identity(net="inception_tf", weights=stored.sha256, resize=resize, dtype=dtype)
        self.freeze()

    @property
    @override
    def distance(self) -> str:
        return f"fid_{self.name}" if type(self) is Inception else super().distance

    @override
    def extract(self, levels: Float[Tensor, "b 3 h w"]) -> Features:
        image = RESIZERS[self.resize](levels, (INPUT, INPUT))
        # pytorch-fid maps to [-1, 1], TensorFlow's graph to [-1, 127/128]
        image = image / 127.5 - 1 if self.resize == "half_pixel" else (image - 128) / 128
        features, maps = self.net(image.contiguous(memory_format=torch.channels_last))
        return Features(features, features @ self.net.fc.weight.T, rearrange(maps[:, :SPATIAL], "b c h w -> b (h w c)"))


class Unit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        channels: int,
        width: int,
        kernel: int | tuple[int, int] = 1,
        stride: int = 1,
        padding: int | tuple[int, int] = 0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, width, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(width, eps=1e-3)

    @override
    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d p q"]:
        return F.relu(self.bn(self.conv(image)), inplace=True)


class Mixed(nn.Module):
    """Branches side by side, concatenated. Attributes bear the names of the weight file.

    Args:
        branches: Chains of units by name. Units that a tuple holds are fed alike and concatenated.
        pooled: Chain of the last branch, after a pooling.
        pool: "average" or "max", 3 x 3 with stride 1, or "down", a maximum with stride 2.
    """

    def __init__(self, *branches: list[tuple[str, Unit]], pool: str, pooled: Unit | None = None) -> None:
        super().__init__()
        self.chains: list[list[list[str]]] = []
        for branch in branches:
            chain: dict[str, list[str]] = {}
            for name, unit in branch:
                setattr(self, name, unit)
                # ..._2a and ..._2b take the same input: they are one step of the chain
                chain.setdefault(name.rstrip("ab"), []).append(name)
            self.chains.append(list(chain.values()))
        self.pool = pool
        if pooled is not None:
            self.branch_pool = pooled

    @override
    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d p q"]:
        outputs: list[Tensor] = []
        for chain in self.chains:
            output = image
            for step in chain:
                parts = [getattr(self, name)(output) for name in step]
                output = torch.cat(parts, dim=1) if len(parts) > 1 else parts[0]
            outputs.append(output)
        outputs.append(self._pooled(image))
        return torch.cat(outputs, dim=1)

    def _pooled(self, image: Tensor) -> Tensor:
        if self.pool == "down":
            return F.max_pool2d(image, 3, stride=2)
        if self.pool == "max":
            return self.branch_pool(F.max_pool2d(image, 3, stride=1, padding=1))
        return self.branch_pool(F.avg_pool2d(image, 3, stride=1, padding=1, count_include_pad=False))


class InceptionNet(nn.Module):
    """The convolutional part with its pooled output and the maps of ``Mixed_6d``, and the classifier's table.

    ``Mixed_6d`` is TensorFlow's ``mixed_6``; its first 192 maps are those of ``mixed_6/conv``, its 1 x 1 convolution.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Unit(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Unit(32, 32, 3)
        self.Conv2d_2b_3x3 = Unit(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Unit(64, 80)
        self.Conv2d_4a_3x3 = Unit(80, 192, 3)
        for name, channels, pooled in (("Mixed_5b", 192, 32), ("Mixed_5c", 256, 64), ("Mixed_5d", 288, 64)):
            setattr(self, name, _grid_35(channels, pooled))
        self.Mixed_6a = _to_grid_17(288)
        for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            setattr(self, name, _grid_17(width))
        self.Mixed_7a = _to_grid_8(768)
        self.Mixed_7b = _grid_8(1280, "average")
        self.Mixed_7c = _grid_8(2048, "max")
        self.fc = nn.Linear(2048, CLASSES)

    @override
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b 2048"], Float[Tensor, "b 768 p q"]]:
        maps = image
        for name, block in self.named_children():
            if name in ("Conv2d_3b_1x1", "Mixed_5b"):
                image = F.max_pool2d(image, 3, stride=2)
            if name != "fc":
                image = block(image)
            if name == "Mixed_6d":
                maps = image
        return reduce(image, "b d h w -> b d", "mean"), maps


def _row(channels: int, width: int, length: int) -> Unit:
    return Unit(channels, width, (1, length), padding=(0, length // 2))


def _column(channels: int, width: int, length: int) -> Unit:
    return Unit(channels, width, (length, 1), padding=(length // 2, 0))


def _grid_35(channels: int, pooled: int) -> Mixed:
    return Mixed(
        [("branch1x1", Unit(channels, 64))],
        [("branch5x5_1", Unit(channels, 48)), ("branch5x5_2", Unit(48, 64, 5, padding=2))],
        [
            ("branch3x3dbl_1", Unit(channels, 64)),
            ("branch3x3dbl_2", Unit(64, 96, 3, padding=1)),
            ("branch3x3dbl_3", Unit(96, 96, 3, padding=1)),
        ],
        pool="average",
        pooled=Unit(channels, pooled),
    )


def _to_grid_17(channels: int) -> Mixed:
    return Mixed(
        [("branch3x3", Unit(channels, 384, 3, stride=2))],
        [
            ("branch3x3dbl_1", Unit(channels, 64)),
            ("branch3x3dbl_2", Unit(64, 96, 3, padding=1)),
            ("branch3x3dbl_3", Unit(96, 96, 3, stride=2)),
        ],
        pool="down",
    )


def _grid_17(width: int, channels: int = 768) -> Mixed:
    return Mixed(
        [("branch1x1", Unit(channels, 192))],
        [
            ("branch7x7_1", Unit(channels, width)),
            ("branch7x7_2", _row(width, width, 7)),
            ("branch7x7_3", _column(width, 192, 7)),
        ],
        [
            ("branch7x7dbl_1", Unit(channels, width)),
            ("branch7x7dbl_2", _column(width, width, 7)),
            ("branch7x7dbl_3", _row(width, width, 7)),
            ("branch7x7dbl_4", _column(width, width, 7)),
            ("branch7x7dbl_5", _row(width, 192, 7)),
        ],
        pool="average",
        pooled=Unit(channels, 192),
    )


def _to_grid_8(channels: int) -> Mixed:
    return Mixed(
        [("branch3x3_1", Unit(channels, 192)), ("branch3x3_2", Unit(192, 320, 3, stride=2))],
        [
            ("branch7x7x3_1", Unit(channels, 192)),
            ("branch7x7x3_2", _row(192, 192, 7)),
            ("branch7x7x3_3", _column(192, 192, 7)),
            ("branch7x7x3_4", Unit(192, 192, 3, stride=2)),
        ],
        pool="down",
    )


def _grid_8(channels: int, pool: str) -> Mixed:
    return Mixed(
        [("branch1x1", Unit(channels, 320))],
        [
            ("branch3x3_1", Unit(channels, 384)),
            ("branch3x3_2a", _row(384, 384, 3)),
            ("branch3x3_2b", _column(384, 384, 3)),
        ],
        [
            ("branch3x3dbl_1", Unit(channels, 448)),
            ("branch3x3dbl_2", Unit(448, 384, 3, padding=1)),
            ("branch3x3dbl_3a", _row(384, 384, 3)),
            ("branch3x3dbl_3b", _column(384, 384, 3)),
        ],
        pool=pool,
        pooled=Unit(channels, 192),
    )
