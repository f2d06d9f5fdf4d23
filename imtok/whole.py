"""Whole images of any height and width: grown to what a tokenizer can read, and cut again."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from imtok.errors import InputError
from imtok.nn.positions import GridPositions
from imtok.nn.sampled_positions import SampledPositions
from imtok.tokenizer import Tokenizer

LARGEST_STEP = 128  # no net here makes a latent of more pixels a side

Size = tuple[int, int]


def readable_size(tokenizer: Tokenizer, size: Size) -> Size:
    """The least height and width of at least ``size`` that a tokenizer reads, each a multiple of its patch.

    Args:
        tokenizer: Any; one for images of a single size reads no other.
        size: Height and width, in pixels.

    Raises:
        InputError: If it reads none, with its own reason.

    Example:
        >>> from imtok.decoders.patch import PatchDecoder
        >>> from imtok.encoders.patch import PatchEncoder
        >>> from imtok.quantizers.fsq import FSQ
        >>> readable_size(Tokenizer(PatchEncoder(2, width=8), FSQ([8, 5]), PatchDecoder(2, width=8)), (37, 101))
        (40, 104)
    """
    reason = ""
    for step in range(1, LARGEST_STEP + 1):
        height, width = (-(-side // step) * step for side in size)
        try:
            tokenizer.num_tokens((height, width))
        except ValueError as error:
            reason = str(error)
        else:
            return height, width
    raise InputError(f"the tokenizer cannot read whole images of {size[1]}x{size[0]} pixels ({reason})")


def size_step(tokenizer: Tokenizer, side: int) -> int:
    """The smallest step between side lengths that the tokenizer can read, in pixels.

    Args:
        tokenizer: A tokenizer that reads images of several shapes.
        side: Smallest height and width to try, in pixels.

    Raises:
        InputError: If the tokenizer reads only squares of one size, with its reason.
    """
    reason = ""
    for step in range(1, LARGEST_STEP + 1):
        least = -(-side // step) * step
        try:
            tokenizer.num_tokens((least, least + step))
        except ValueError as error:
            reason = str(error)
        else:
            return step
    raise InputError(f"the tokenizer reads only square images ({reason})")


def grown(image: Float[Tensor, "b c h w"], size: Size) -> Float[Tensor, "b c h2 w2"]:
    """Images with their last column and row repeated to the right and below, up to ``size``."""
    return F.pad(image, (0, size[1] - image.shape[-1], 0, size[0] - image.shape[-2]), mode="replicate")


def cut(image: Float[Tensor, "b c h2 w2"], size: Size) -> Float[Tensor, "b c h w"]:
    """What :func:`grown` was given: the top left part of ``size``."""
    return image[..., : size[0], : size[1]]


def interpolate_positions(tokenizer: Tokenizer) -> None:
    """Let learned positions be resized for images of other sizes, as ``positions=interpolated`` does from the start.

    Weights and fingerprint stay as they are.

    Raises:
        InputError: If nothing in the tokenizer has such positions.
    """
    found = [part for part in tokenizer.modules() if isinstance(part, GridPositions | SampledPositions)]
    if not found:
        raise InputError(
            "positions=interpolated is for nets with learned positions, and this tokenizer has none; leave it out"
        )
    for part in found:
        part.interpolate = True
