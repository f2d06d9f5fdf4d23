"""Encode an image once, though encoder and decoder each ask the space for its map."""

from collections.abc import Iterator
from contextlib import contextmanager

from jaxtyping import Float
from torch import Tensor

from imtok.spaces.base import Space


@contextmanager
def encoded_once(space: Space | None) -> Iterator[None]:
    """Within it, ``space`` encodes the same image tensor once and then returns the same map.

    With a space that samples, encoder and decoder so see the same sample, as a step of latent diffusion wants it.

    Args:
        space: A frozen autoencoder; None = there is none.
    """
    if space is None:
        yield
        return
    encode = space.encode
    known: list[tuple[Tensor, Tensor]] = []

    def remembered(image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h2 w2"]:
        for seen, features in known:
            if seen is image:
                return features
        known.append((image, encode(image)))
        return known[-1][1]

    object.__setattr__(space, "encode", remembered)
    try:
        yield
    finally:
        object.__delattr__(space, "encode")
