"""The contract that every encoder keeps."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.grid import grid_size
from imtok.types import Condition, Latents


class Encoder(nn.Module, ABC):
    """Maps an image to a sequence of continuous latents.

    Attributes:
        takes: The kinds of a condition that it looks at.
        needs: Those of them without which it cannot be trained.
        budgeted: Whether fewer latents are another code, and not the first ones of more.
    """

    takes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    budgeted: bool = False

    @abstractmethod
    def forward(
        self, image: Float[Tensor, "b c h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents:
        """Encode images in ``[-1, 1]``.

        Args:
            image: The images.
            length: How many latents to spend on an image, where the encoder has a say in it; others ignore it.
            condition: What is known of each image besides its pixels, where the encoder reads it.

        Returns:
            The latents, with ``keep`` from an encoder that sets a budget.

        Raises:
            ValueError: If the encoder cannot read images of this size.
        """

    @abstractmethod
    def num_latents(self, size: tuple[int, int]) -> int:
        """Latents for an image of height and width ``size``, in pixels; ValueError for a size it cannot read."""


class ImageEncoder(Encoder):
    """An encoder that reads the image and nothing else."""

    @override
    def forward(
        self, image: Float[Tensor, "b c h w"], length: int | None = None, condition: Condition | None = None
    ) -> Latents:
        self.num_latents((image.shape[-2], image.shape[-1]))  # refuses sizes that it cannot read
        return Latents(self.encode(image))

    @abstractmethod
    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """The latents of images of a size that it can read."""


class GridEncoder(ImageEncoder):
    """An image encoder with a latent for each square of the image, row by row.

    Attributes:
        factor: Side of the square, in pixels.
    """

    factor: int

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        rows, columns = grid_size(size, self.factor)
        return rows * columns


def encoded(
    encoder: Encoder, image: Float[Tensor, "b c h w"], length: int | None = None, condition: Condition | None = None
) -> Latents:
    """What an encoder makes of images; arguments as of ``Encoder.forward``.

    Raises:
        ValueError: If it returns anything but ``Latents``.
    """
    latents = encoder(image, length, condition)
    if not isinstance(latents, Latents):
        raise ValueError(
            f"{type(encoder).__name__}.forward must return Latents(values, keep) of imtok.types, got a "
            f"{type(latents).__name__}"
        )
    return latents
