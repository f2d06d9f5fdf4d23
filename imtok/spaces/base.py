"""The contract that every frozen space keeps."""

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.pretrained import RANDOM, Pretrained


class Space(nn.Module, Pretrained, ABC):
    """A frozen autoencoder: images to feature maps and back. It is built once, and saved with the tokenizer.

    It never trains and is always in evaluation mode, whatever is asked of the module that holds it. Gradients pass
    through it.

    Args:
        weights: Path of its weights, or "random".

    Attributes:
        dim: Channels of its maps.
        factor: Pixels per position of its maps, along each side.
    """

    dim: int
    factor: int

    def __init__(self, weights: str = RANDOM) -> None:
        super().__init__()
        self.weights = weights

    @abstractmethod
    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Images in ``[-1, 1]`` to maps."""

    @abstractmethod
    def decode(self, features: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b 3 h w"]:
        """Maps to images in ``[-1, 1]`` up to overshoot."""

    @override
    def train(self, mode: bool = True) -> "Space":
        return super().train(False)


def hold(part: nn.Module, space: nn.Module) -> None:
    """Give ``part`` the attribute ``space`` without its weights: these belong to the tokenizer, which has them once."""
    object.__setattr__(part, "space", space)
