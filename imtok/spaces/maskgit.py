"""MaskGIT's VQGAN (arXiv 2202.04200): the frozen tokenizer whose codes TiTok learns to predict first."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.errors import InputError
from imtok.nn.grid import grid_size, to_sequence
from imtok.nn.maskgit import MaskGITDecoder, MaskGITEncoder
from imtok.pixels import from_range, to_range
from imtok.pretrained import RANDOM, read_tensors
from imtok.spaces.base import Space

PIXELS = (0.0, 1.0)  # the range that it was trained on


class MaskGIT(Space):
    """A convolutional autoencoder with a codebook of its own, at 16 x 16 pixels per code as published.

    Args:
        weights: Path of ``maskgit-vqgan-imagenet-f16-256.bin``, or "random".
        channels: Channels at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first.
        blocks: Residual blocks per level.
        codes: Number of codes.
        code_dim: Width of the codes.
        cache: See :class:`~imtok.spaces.base.Space`.

    Raises:
        ValueError: In ``encode``, if the image is no multiple of the pixels per code.

    Example:
        >>> space = MaskGIT(channels=16, multipliers=(1, 2), blocks=1, codes=32, code_dim=8)
        >>> image = torch.rand(1, 3, 16, 32) * 2 - 1
        >>> space.ids(image).shape, space.decode(space.encode(image)).shape
        (torch.Size([1, 128]), torch.Size([1, 3, 16, 32]))
    """

    files = ("maskgit-vqgan-imagenet-f16-256.bin",)

    def __init__(
        self,
        weights: str | None = RANDOM,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 1, 2, 2, 4),
        blocks: int = 2,
        codes: int = 1024,
        code_dim: int = 256,
        cache: str | None = None,
    ) -> None:
        super().__init__(weights, cache)
        self.dim = code_dim
        self.factor = 2 ** (len(multipliers) - 1)
        self.encoder = MaskGITEncoder(code_dim, channels, multipliers, blocks)
        self.codebook = nn.Parameter(torch.randn(codes, code_dim))
        self.decoder = MaskGITDecoder(code_dim, channels, multipliers, blocks)
        self.requires_grad_(False).eval()

    @override
    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h2 w2"]:
        grid_size((image.shape[-2], image.shape[-1]), self.factor)
        return self.encoder(to_range(image, PIXELS))

    @override
    def decode(self, features: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b 3 h w"]:
        return from_range(self.decoder(features), PIXELS)

    @torch.no_grad()
    def ids(self, image: Float[Tensor, "b 3 h w"]) -> Int64[Tensor, "b m"]:
        """The nearest code at each position of the grid, row by row; the lowest of equal ones."""
        with torch.autocast(image.device.type, enabled=False):
            latents = to_sequence(self.maps(image.to(self.codebook.dtype)))
            # |z - e|^2 without |z|^2, which is the same for all codes.
            return (self.codebook.square().sum(1) - 2 * latents @ self.codebook.T).argmin(-1)

    @override
    def read_weights(self, path: Path) -> None:
        tensors = read_tensors(path)
        load_exactly(self.encoder, tensors, path, "encoder.")
        load_exactly(self.decoder, tensors, path, "decoder.")
        load_codebook(self.codebook, tensors, path)


def load_exactly(module: nn.Module, tensors: Mapping[str, Tensor], path: Path, prefix: str) -> None:
    """Fill a MaskGIT encoder or decoder from the published tensors whose names begin with ``prefix``.

    Raises:
        InputError: If a tensor is missing, superfluous or of another shape.
    """
    levels = len(getattr(module, "levels"))  # noqa: B009, nn.Module's attributes are of unknown type
    found = {
        _our_name(name.removeprefix(prefix), levels, decoder="upsamplers" in dict(module.named_children())): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
    try:
        module.load_state_dict(found)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"{path} is not a MaskGIT-VQGAN of this size ({reason})") from None


def load_codebook(codebook: Tensor, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Fill a codebook from the published tensors.

    Raises:
        InputError: If it is missing or of another shape.
    """
    found = tensors.get("quantize.embedding.weight")
    if found is None or found.shape != codebook.shape:
        shape = "none" if found is None else list(found.shape)
        raise InputError(
            f"{path} is not a MaskGIT-VQGAN of this size: quantize.embedding.weight must have shape "
            f"{list(codebook.shape)}, got {shape}"
        )
    with torch.no_grad():
        codebook.copy_(found)


def _our_name(name: str, levels: int, decoder: bool) -> str:
    """The name in :mod:`imtok.nn.maskgit` of a published tensor; decoders count levels from full resolution there."""

    def level(match: re.Match[str]) -> str:
        index = int(match[1])
        return str(levels - 1 - index if decoder else index)

    rules = [
        (r"^(?:down|up)\.(\d+)\.block\.", lambda match: f"levels.{level(match)}."),
        (r"^up\.(\d+)\.upsample_conv\.", lambda match: f"upsamplers.{level(match)}.conv."),
        (r"^mid\.", "middle."),
        (r"nin_shortcut", "shortcut"),
        (r"^norm_out\.", "norm_out.0."),
    ]
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name
