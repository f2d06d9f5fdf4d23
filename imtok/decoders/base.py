"""The contract that every decoder keeps."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float
from torch import Tensor, nn


class Decoder(nn.Module, ABC):
    """Maps a sequence of latents back to an image.

    What a latent that was not kept becomes (absent, masked key, learned vector, zero) is the decoder's business.
    """

    @property
    @abstractmethod
    def last_layer(self) -> nn.Parameter:
        """Weight of the layer that writes the pixels: where an adaptive adversarial weight measures gradients."""

    @abstractmethod
    def forward(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        context: Tensor | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        """Decode to images of height and width ``size``, in ``[-1, 1]`` up to overshoot.

        Args:
            latents: Quantized latents.
            size: Height and width of the image, in pixels.
            keep: True where a latent was transmitted; None = all of them.
            context: Text, class or target quality, where the decoder takes it.

        Raises:
            ValueError: If the latents cannot fill an image of this size.
        """
