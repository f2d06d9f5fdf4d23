"""The contract that every encoder keeps."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float
from torch import Tensor, nn

Latents = Float[Tensor, "b n d"]


class Encoder(nn.Module, ABC):
    """Maps an image to a sequence of continuous latents."""

    @abstractmethod
    def forward(
        self, image: Float[Tensor, "b 3 h w"], length: int | None = None, context: Tensor | None = None
    ) -> Latents | tuple[Latents, Bool[Tensor, "b n"]]:
        """Encode images in ``[-1, 1]``.

        Args:
            image: The images.
            length: How many latents to spend on an image, where the encoder has a say in it; others ignore it.
            context: Text, class or target quality, where the encoder takes it.

        Returns:
            The latents; with them ``keep`` (True = transmitted) from an encoder that sets a budget.

        Raises:
            ValueError: If the encoder cannot read images of this size.
        """

    @abstractmethod
    def num_latents(self, size: tuple[int, int]) -> int:
        """Latents for an image of height and width ``size``, in pixels; ValueError for a size it cannot read."""
