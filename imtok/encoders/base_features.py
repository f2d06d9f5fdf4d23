"""What ALIT (arXiv 2411.02393) and KARL (arXiv 2507.07995) see of an image: frozen features beside trained patches."""

from typing import cast

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.grid import to_sequence
from imtok.nn.initialization import start_weights
from imtok.pixels import to_range
from imtok.spaces.base import Space, hold


class BaseFeatures(nn.Module):
    """A token per position of a frozen space: its features, and a linear map of the pixels there, on other channels.

    Args:
        space: The frozen autoencoder; its features fill as many channels as it has.
        width: Width of the tokens, more than that.
        value_range: Of the pixels that the linear map sees.

    Raises:
        ValueError: If there is no space, or ``width`` leaves no channel to the pixels.

    Attributes:
        factor: Pixels per token, along each side.
    """

    def __init__(self, space: Space | None, width: int, value_range: tuple[float, float] = (0.0, 1.0)) -> None:
        super().__init__()
        if space is None:
            raise ValueError("space must be a frozen autoencoder for this encoder, got none")
        if width <= space.dim:
            raise ValueError(f"width must be more than the {space.dim} channels of the space, got {width}")
        hold(self, space)
        self.factor = space.factor
        self.value_range = value_range
        self.patches = nn.Conv2d(3, width - space.dim, space.factor, stride=space.factor)
        start_weights(self.patches, "normal")

    @override
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n c2"]]:
        """The space's features and those of the pixels, row by row."""
        frozen = cast(Space, self.space).maps(image)
        trained = self.patches(to_range(image, self.value_range))
        return to_sequence(frozen).to(trained.dtype), to_sequence(trained)
