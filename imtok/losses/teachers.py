"""Frozen nets whose features a tokenizer is to learn, by their names in timm (DINOv2, SigLIP, CLIP and the like)."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.frozen import Frozen
from imtok.nn.timm_net import timm_blank, timm_config, timm_net
from imtok.nn.timm_vit import timm_vit
from imtok.nn.vit import ViT
from imtok.pixels import to_rgb


class TeacherFeatures(NamedTuple):
    """What a teacher sees in images.

    Attributes:
        patches: Features of each place, row by row.
        summary: One feature of the whole image: the class token, or what the net pools its places to.
    """

    patches: Float[Tensor, "b m k"]
    summary: Float[Tensor, "b k2"]


class Widths(NamedTuple):
    """Widths of a teacher's features: of the patches, and of the summary."""

    patches: int
    summary: int


class TeacherNet(nn.Module):
    """A frozen net whose features a tokenizer is to learn; it gives :class:`TeacherFeatures` of images in ``[-1, 1]``.

    A class method ``widths`` that takes some of the arguments and returns :class:`Widths` spares whoever configures an
    alignment the width of its head.

    Attributes:
        dim: Width of the patches.
        summary_dim: Width of the summary.
    """

    dim: int
    summary_dim: int


class Teacher(TeacherNet):
    """Features of a frozen net of timm. No gradient reaches the image.

    A vision transformer of a shape that imtok has (DINO, DINOv2, CLIP, MAE) is held as the encoders hold one that begin
    with it, and its file may be timm's, transformers' or the authors' (:func:`imtok.nn.timm_vit.timm_vit`). Images are
    resized by an antialiased bicubic filter and normalised by the net's own mean and deviation. The net is
    :class:`Frozen`: no checkpoint, optimiser or average holds it.

    Args:
        name: Name in timm, with the tag of its weights: ``vit_base_patch14_dinov2.lvd142m``.
        weights: Weight file (safetensors or torch); None = the one that timm left in the cache of the Hugging Face
            hub; nothing is downloaded. "random" = none: always the same random weights, for trying things out only.
        image_size: Side to which images are resized, in pixels; None = that of the net.
        layer: Block whose output the patches are, from 0, or from -1 backwards; None = the last one, normed.

    Attributes:
        dim: Width of the patches.
        summary_dim: Width of the summary.

    Raises:
        InputError: If timm or the weight file is missing, or the file is of another net.
        ValueError: If timm has no such net, or the net cannot read this size or has no such layer.

    Example:
        >>> teacher = Teacher("test_vit", weights="random", image_size=64)
        >>> patches, summary = teacher(torch.zeros(2, 3, 32, 32))
        >>> patches.shape, summary.shape, len(teacher.state_dict())
        (torch.Size([2, 16, 64]), torch.Size([2, 64]), 0)
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        name: str,
        weights: str | Path | None = None,
        image_size: int | None = None,
        layer: int | None = None,
    ) -> None:
        super().__init__()
        if image_size is not None and image_size < 1:
            raise ValueError(f"image_size must be at least 1, got {image_size}")
        self.name, self.layer = name, layer
        settings, config = _settings(name, image_size), timm_config(name, weights)
        net: Any = timm_vit(name, weights, image_size, **settings) or timm_net(name, weights, **settings)
        self.frozen = Frozen(net)
        self.side = image_size or int(config.input_size[-1])
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("deviation", torch.tensor(config.std).view(3, 1, 1), persistent=False)
        self.dim, self.summary_dim = _tried(net, name, self.side, layer)

    @classmethod
    def widths(cls, name: str, image_size: int | None = None, layer: int | None = None) -> Widths:
        """What ``dim`` and ``summary_dim`` will be, by shapes alone: no weights are read and no memory is taken.

        Args:
            name: See the class.
            image_size: See the class.
            layer: See the class.

        Raises:
            MissingWeightsError: If timm is missing.
            ValueError: If timm has no such net, or the net cannot read this size or has no such layer.

        Example:
            >>> Teacher.widths("test_vit", image_size=64)
            Widths(patches=64, summary=64)
        """
        with torch.device("meta"):
            net = timm_blank(name, **_settings(name, image_size)).eval()
            return _tried(net, name, image_size or int(net.pretrained_cfg["input_size"][-1]), layer)

    @override
    def forward(self, image: Float[Tensor, "b c h w"]) -> TeacherFeatures:
        """Features of images in ``[-1, 1]``."""
        return _look(self.frozen.net, self.pixels(image), self.layer)

    def pixels(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 3 side side"]:
        """Images in ``[-1, 1]`` as the net wants them."""
        size = (self.side, self.side)
        if image.shape[-2:] != size:
            image = F.interpolate(image, size, mode="bicubic", align_corners=False, antialias=True)
        return ((to_rgb(image).clamp(-1, 1) + 1) / 2 - self.mean) / self.deviation

    @override
    def extra_repr(self) -> str:
        return f"{self.name}, side={self.side}, layer={self.layer}"


def _tried(net: Any, name: str, side: int, layer: int | None) -> Widths:
    """The widths of its features, from those of an empty image."""
    try:
        patches, summary = _look(net, torch.zeros(1, 3, side, side), layer)
    except (AssertionError, IndexError, RuntimeError, TypeError, AttributeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"teacher {name} gives no features at {side} pixels, layer {layer} ({reason})") from None
    return Widths(patches.shape[-1], summary.shape[-1])


@torch.no_grad()
def _look(net: Any, pixels: Float[Tensor, "b c h w"], layer: int | None) -> TeacherFeatures:
    if isinstance(net, ViT):
        tokens = net(pixels, () if layer is None else (layer,))
        patches = tokens[:, net.prefix :]
        return TeacherFeatures(patches, tokens[:, 0] if layer is None else patches.mean(1))
    if layer is not None:
        maps = net.forward_intermediates(pixels, indices=[layer], intermediates_only=True)[0]
        return TeacherFeatures(rearrange(maps, "b k h w -> b (h w) k"), reduce(maps, "b k h w -> b k", "mean"))
    features = net.forward_features(pixels)
    summary = net.forward_head(features, pre_logits=True)
    if features.ndim == 3:
        patches = features[:, getattr(net, "num_prefix_tokens", 0) :]
    elif getattr(net, "output_fmt", "NCHW") == "NHWC":
        patches = rearrange(features, "b h w k -> b (h w) k")
    else:
        patches = rearrange(features, "b k h w -> b (h w) k")
    return TeacherFeatures(patches, summary)


def _settings(name: str, image_size: int | None) -> dict[str, Any]:
    """What timm must be told for a net that reads images of one size only."""
    config: Any = import_module("timm").get_pretrained_cfg(name) if find_spec("timm") else None
    return {"img_size": image_size} if image_size is not None and config and config.fixed_input_size else {}
