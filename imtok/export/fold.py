"""Folds away the net that makes a codebook: the same tokenizer with a plain table."""

from typing import Any

import torch
from torch import nn

from imtok.errors import InputError
from imtok.quantizers.reparametrized import ReparametrizedVQ
from imtok.tokenizer import Tokenizer


@torch.no_grad()
def fold(tokenizer: Tokenizer) -> Tokenizer:
    """A copy whose quantizer is a plain :class:`~imtok.quantizers.vq.VQ`: the same ids, codes and images bit for bit.

    The map that made the codes is gone: FVQ's bridge (arXiv 2509.10140) or SimVQ's matrix (arXiv 2411.02038), also
    inside product, residual, multi-scale and segment quantizers. If the copy is trained, its codes learn row by row.

    Args:
        tokenizer: Built from a config, as every loaded one is.

    Raises:
        InputError: If its quantizer holds no such map, or it was not built from a config.
    """
    made = {name: part.table() for name, part in tokenizer.named_modules() if isinstance(part, ReparametrizedVQ)}
    if not made or tokenizer.config is None:
        got = type(tokenizer.quantizer).__name__ if tokenizer.config else "one that was built by hand"
        raise InputError(f"tokenizer must be a stored one with quantizer=fvq or simvq to be folded, got {got}")
    section = _folded(tokenizer.config["quantizer"], tokenizer.quantizer)
    folded = Tokenizer.from_config({**tokenizer.config, "quantizer": section})
    state = folded.state_dict()
    state |= {name: value for name, value in tokenizer.state_dict().items() if name in state}
    folded.load_state_dict(state | {f"{name}.weight": table for name, table in made.items()})
    folded.metadata = dict(tokenizer.metadata)
    return folded.to(tokenizer.decoder.last_layer).eval()


def _folded(section: Any, part: Any) -> Any:
    """The config of a quantizer, or of a list of them, with plain tables in place of maps."""
    if isinstance(part, ReparametrizedVQ):
        return part.folded()
    if isinstance(section, list) and isinstance(part, nn.ModuleList):
        return [_folded(one, inside) for one, inside in zip(section, part, strict=True)]
    if isinstance(section, dict) and isinstance(part, nn.Module):
        return {key: _folded(value, getattr(part, key, None)) for key, value in section.items()}
    return section
