"""The contract that every encoder keeps."""

from abc import ABC, abstractmethod

from jaxtyping import Bool, Float
from torch import Tensor, nn

from imtok.types import Condition

Latents = Float[Tensor, "b n d"]


class Encoder(nn.Module, ABC):
    """Maps an image to a sequence of continuous latents.

    Attributes:
        takes: The kinds of a condition that it looks at.
        needs: Those of them without which it cannot be trained.
    """

    takes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

    @abstractmethod
    def forward(
        self, image: Float[Tensor, "b 3 h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents | tuple[Latents, Bool[Tensor, "b n"]]:
        """Encode images in ``[-1, 1]``.

        Args:
            image: The images.
            length: How many latents to spend on an image, where the encoder has a say in it; others ignore it.
            condition: What is known of each image besides its pixels, where the encoder reads it.

        Returns:
            The latents; with them ``keep`` (True = transmitted) from an encoder that sets a budget.

        Raises:
            ValueError: If the encoder cannot read images of this size.
        """

    @abstractmethod
    def num_latents(self, size: tuple[int, int]) -> int:
        """Latents for an image of height and width ``size``, in pixels; ValueError for a size it cannot read."""
