"""MAGE's VQGAN (arXiv 2211.09117): the frozen codes that ALIT (arXiv 2411.02393) and KARL (2507.07995) start from."""

import re
from pathlib import Path

from torch import Tensor
from typing_extensions import override

from imtok.pretrained import read_tensors
from imtok.spaces.maskgit import MaskGIT, load_codebook, load_exactly


class MAGEVQGAN(MaskGIT):
    """The net of :class:`~imtok.spaces.maskgit.MaskGIT`, with the file that MAGE published.

    Args:
        weights: Path of ``vqgan_jax_strongaug.ckpt``, or "random".
        channels: Channels at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first.
        blocks: Residual blocks per level.
        codes: Number of codes.
        code_dim: Width of the codes.
        cache: See :class:`~imtok.spaces.base.Space`.

    Raises:
        ValueError: In ``encode``, if the image is no multiple of the pixels per code.

    Example:
        >>> import torch
        >>> space = MAGEVQGAN(channels=16, multipliers=(1, 2), blocks=1, codes=32, code_dim=8)
        >>> space.encode(torch.rand(1, 3, 16, 32) * 2 - 1).shape
        torch.Size([1, 8, 8, 16])
    """

    files = ("vqgan_jax_strongaug.ckpt",)

    @override
    def read_weights(self, path: Path) -> None:
        tensors = read_mage(path)
        load_exactly(self.encoder, tensors, path, "encoder.")
        load_exactly(self.decoder, tensors, path, "decoder.")
        load_codebook(self.codebook, tensors, path)


def read_mage(path: Path) -> dict[str, Tensor]:
    """The tensors of MAGE's file, by the names that MaskGIT's has for them.

    Raises:
        InputError: If the file cannot be read.
    """
    return {_maskgit_name(name): tensor for name, tensor in read_tensors(path).items()}


def _maskgit_name(name: str) -> str:
    name = re.sub(r"\.mid\.block_(\d+)\.", lambda match: f".mid.{int(match[1]) - 1}.", name)
    return name.replace(".upsample.conv.", ".upsample_conv.")
