"""The contract that every decoder keeps."""

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.types import Condition, Loss


class Decoder(nn.Module, ABC):
    """Maps a sequence of latents back to an image.

    What a latent that was not kept becomes (absent, masked key, learned vector, zero) is the decoder's business.

    Attributes:
        flexible: Whether it decodes any first few of the latents as well as all of them, and takes ``keep``.
        unordered: Whether the latents are a set, of which every order makes the same image.
        takes: The kinds of a condition that it looks at.
        needs: Those of them without which it cannot be trained.
    """

    flexible: bool = False
    unordered: bool = False
    takes: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()

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
        condition: Condition | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Decode to images of height and width ``size``, in ``[-1, 1]`` up to overshoot.

        Args:
            latents: Quantized latents.
            size: Height and width of the image, in pixels.
            keep: True where a latent was transmitted; None = all of them.
            condition: What is known of each image besides its pixels, where the decoder reads it.

        Raises:
            ValueError: If the latents cannot fill an image of this size, or some are left out and all are needed.
        """

    def require_all(self, keep: Bool[Tensor, "b n"] | None) -> None:
        """Refuse a mask unless this decoder is flexible.

        Raises:
            ValueError: If there is a mask and all latents are needed.
        """
        if keep is not None and not self.flexible:
            raise ValueError(
                "every latent is needed here, and a regularizer (or an encoder with a budget) leaves some out; give "
                "regularizer=none, or a decoder that can do without them"
            )


class WholeDecoder(Decoder):
    """A decoder that reads all latents of an image, and nothing else."""

    @override
    def forward(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b c h w"]:
        self.require_all(keep)
        return self.decode(latents, size)

    @abstractmethod
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b c h w"]:
        """The images of latents of which none is left out; arguments and errors as ``forward``."""


class ProxyDecoder(Decoder):
    """Predicts the codes of a frozen tokenizer, and makes the image from what it expects them to be."""

    @abstractmethod
    def logits(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b m v"]:
        """Scores of the codes at each position of the frozen tokenizer's grid, row by row. Arguments as ``forward``."""


class GenerativeDecoder(Decoder):
    """Draws an image that fits the latents; ``forward`` samples, always from the same noise unless asked otherwise."""

    @abstractmethod
    def loss(
        self,
        image: Float[Tensor, "b c h w"],
        latents: Float[Tensor, "b n d"],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Loss]:
        """What training minimises, by name.

        Args:
            image: What the latents stand for, in ``[-1, 1]``.
            latents: Quantized latents.
            keep: True where a latent was transmitted; None = all of them.
            condition: What is known of each image besides its pixels, where the decoder reads it.
            generator: Randomness of times, noise and dropped conditions, on the CPU.
        """
