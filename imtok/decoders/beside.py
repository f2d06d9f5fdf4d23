"""The decoder of TokenFlow (arXiv 2412.03069): the channels of the pixels make the image."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import Decoder
from imtok.encoders.beside import pixel_width
from imtok.types import Condition


class PixelDecoder(Decoder):
    """A decoder that is given the last channels of the latents, as ``SemanticPixelEncoder`` has them for pixels.

    Args:
        in_dim: Width of the latents, at least 2; the builder sets it to the quantizer's.
        net: The decoder; the builder tells it how many channels it is given.
        pixel_share: Share of the channels that it is given (:func:`imtok.encoders.beside.pixel_width`).

    Raises:
        ValueError: If ``pixel_share`` is out of range, or there is one channel alone; in ``forward``, if ``net``
            refuses latents or size.

    Example:
        >>> import torch
        >>> from imtok.decoders.cnn import CNNDecoder
        >>> decoder = PixelDecoder(10, CNNDecoder(in_dim=2, channels=32, multipliers=(1, 2), blocks=1))
        >>> decoder(torch.randn(1, 128, 10), size=(16, 32)).shape
        torch.Size([1, 3, 16, 32])
    """

    def __init__(self, in_dim: int, net: Decoder, pixel_share: float = 0.2) -> None:
        super().__init__()
        self.first = in_dim - pixel_width(in_dim, pixel_share)
        self.net = net
        self.flexible, self.takes, self.needs = net.flexible, net.takes, net.needs

    @classmethod
    def tell_parts(cls, provided: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """What the builder tells the net: how many channels it is given.

        Args:
            provided: What the builder tells the whole, ``in_dim`` among it.
            given: The settings of the whole, plain values.
        """
        return {"net": {**provided, "in_dim": pixel_width(provided["in_dim"], given.get("pixel_share", 0.2))}}

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return self.net.last_layer

    @override
    def forward(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b c h w"]:
        return self.net(latents[..., self.first :], size, keep, condition)
