"""The encoder of TokenFlow (arXiv 2412.03069): a transformer for meaning beside a convolutional net for pixels."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.base import Encoder, ImageEncoder
from imtok.encoders.pretrained_vit import PretrainedViTEncoder
from imtok.nn.initialization import start_weights


class SemanticPixelEncoder(ImageEncoder):
    """Two nets read the image; their latents stand side by side in channels, those of the meaning first.

    Two linear maps with tanh between them make the first channels of the features of the net for meaning.

    Args:
        out_dim: Width of the latents, at least 2; the builder sets it to the quantizer's.
        semantic: The net for meaning, in TokenFlow CLIP's image encoder, whose latents are its features.
        pixels: The net for pixels, with as many latents; the builder tells it its width.
        pixel_share: Share of the latents' channels that ``pixels`` makes (:func:`pixel_width`).

    Raises:
        ValueError: If ``pixel_share`` is out of range, there is one channel alone, or ``semantic`` maps its features;
            in ``forward`` and ``num_latents``, if the two make other numbers of latents.

    Example:
        >>> from imtok.encoders.cnn import CNNEncoder
        >>> encoder = SemanticPixelEncoder(
        ...     10,
        ...     PretrainedViTEncoder(None, image_size=16, patch_size=4, factor=4, width=16, depth=1, heads=2),
        ...     CNNEncoder(2, channels=16, multipliers=(1, 1, 2)),
        ... )
        >>> encoder(torch.rand(1, 3, 16, 16) * 2 - 1).values.shape
        torch.Size([1, 16, 10])
    """

    def __init__(self, out_dim: int, semantic: PretrainedViTEncoder, pixels: Encoder, pixel_share: float = 0.2) -> None:
        super().__init__()
        if not isinstance(semantic.project, nn.Identity):
            raise ValueError("semantic.out_dim must be null: its features are mapped here")
        width = semantic.net.width * max(len(semantic.layers), 1)
        self.semantic = semantic
        self.pixels = pixels
        self.project = nn.Sequential(
            nn.Linear(width, width), nn.Tanh(), nn.Linear(width, out_dim - pixel_width(out_dim, pixel_share))
        )
        start_weights(self.project, "normal")

    @classmethod
    def tell_parts(cls, provided: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What the builder tells both nets: one gives its features as they are, the other its share of the channels.

        Args:
            provided: What the builder tells the whole, ``out_dim`` among it.
            given: The settings of the whole, plain values.
        """
        width = pixel_width(provided["out_dim"], given.get("pixel_share", 0.2))
        return {"semantic": {**provided, "out_dim": None}, "pixels": {**provided, "out_dim": width}}

    @override
    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b n d"]:
        return torch.cat([self.project(self.semantic(image).values), self.pixels(image).values], -1)

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        semantic, pixels = self.semantic.num_latents(size), self.pixels.num_latents(size)
        if semantic != pixels:
            raise ValueError(f"semantic and pixels must make as many latents of an image, got {semantic} and {pixels}")
        return semantic


def pixel_width(width: int, share: float) -> int:
    """How many of a latent's channels are for pixels, the last ones: one at least, and one at least is for meaning.

    Args:
        width: Width of the latents.
        share: Share of the channels for pixels, in (0, 1), rounded to whole channels.

    Raises:
        ValueError: If the share is out of range, or there is one channel alone.
    """
    if not 0 < share < 1:
        raise ValueError(f"pixel_share must be in (0, 1), got {share}")
    if width < 2:
        raise ValueError(f"the latents' width must be at least 2 to hold meaning and pixels, got {width}")
    return min(max(round(width * share), 1), width - 1)
