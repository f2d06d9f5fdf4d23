"""The encoder of DualToken (arXiv 2503.14324): one transformer, read early for the pixels and late for the meaning."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.encoders.base import ImageEncoder
from imtok.encoders.pretrained_vit import PretrainedViTEncoder
from imtok.nn.attention_projection import AttentionProjection
from imtok.nn.initialization import start_weights
from imtok.nn.norms import token_norm

Maps = Literal["linear", "attention"]


class TwoDepthEncoder(ImageEncoder):
    """A vision transformer is read after three of its blocks: the last for the meaning, the two others for the pixels.

    Each is mapped to a half of the latents' channels: first the meaning, then the pixels.

    Args:
        out_dim: Width of the latents, even; the builder sets it to the quantizer's.
        net: The transformer, whose ``layers`` are the three blocks, and whose latents are its features.
        shortcut: Factor of the first block's tokens, which are added to the second's where pixels are read.
        maps: What maps them: "attention" = a layer of it for each of the three, whose results are added; "linear" = a
            norm and a linear map, of the sum.
        side: Side to which images are resized before the net sees them, in pixels; None = they are not.

    Raises:
        ValueError: If ``out_dim`` is odd, or ``net`` does not read three layers or maps what it reads, or an argument
            has no such choice; in ``forward`` and ``num_latents``, for images that ``net`` refuses, and with ``side``
            for those that are not square.

    Example:
        >>> net = PretrainedViTEncoder(None, 32, patch_size=8, factor=8, width=32, depth=4, heads=2, layers=(0, 1, 3))
        >>> TwoDepthEncoder(8, net)(torch.rand(1, 3, 32, 32) * 2 - 1).values.shape
        torch.Size([1, 16, 8])
    """

    def __init__(
        self,
        out_dim: int,
        net: PretrainedViTEncoder,
        shortcut: float = 0.6,
        maps: Maps = "linear",
        side: int | None = None,
    ) -> None:
        super().__init__()
        width = net.net.width
        if maps not in get_args(Maps):
            raise ValueError(f"maps must be one of {', '.join(get_args(Maps))}, got {maps!r}")
        if out_dim % 2:
            raise ValueError(f"the latents' width must be even to hold meaning and pixels, got {out_dim}")
        if len(net.layers) != 3:
            raise ValueError(f"net.layers must be three blocks, got {net.layers}")
        if not isinstance(net.project, nn.Identity):
            raise ValueError("net.out_dim must be null: its features are read as they are")
        self.net = net
        self.shortcut, self.side = shortcut, side
        self.maps = nn.ModuleList(AttentionProjection(width, out_dim // 2) for _ in range(3) if maps == "attention")
        if maps == "attention":
            return
        self.norm_semantic = token_norm("layer", width, net.net.style.eps)
        self.norm_pixels = token_norm("layer", width, net.net.style.eps)
        self.project_semantic = nn.Linear(width, out_dim // 2)
        self.project_pixels = nn.Linear(width, out_dim // 2)
        for part in (self.project_semantic, self.project_pixels):
            start_weights(part, "normal")

    @classmethod
    def tell_parts(cls, provided: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What the builder tells the net: to give its features as they are."""
        side = {"image_size": given["side"]} if given.get("side") else {}
        return {"net": {**provided, **side, "out_dim": None}}

    @override
    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        if self.side is not None and image.shape[-1] != self.side:
            size = (self.side, self.side)
            image = F.interpolate(image, size, mode="bicubic", align_corners=False, antialias=True).clamp(-1, 1)
        depths = self.net(image).values.chunk(3, -1)
        if self.maps:
            early, middle, late = (read(tokens) for read, tokens in zip(self.maps, depths, strict=True))
            return torch.cat([late, middle + self.shortcut * early], -1)
        early, middle, late = depths
        semantic = self.project_semantic(self.norm_semantic(late))
        pixels = self.project_pixels(self.norm_pixels(middle + self.shortcut * early))
        return torch.cat([semantic, pixels], -1)

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        if self.side is None:
            return self.net.num_latents(size)
        if size[0] != size[1]:
            raise ValueError(f"image size must be that of a square for this encoder, got {size[0]} x {size[1]}")
        return self.net.num_latents((self.side, self.side))
