"""The published modules of families whose latents are a sequence, as ``parity/official.py`` has those of grids."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from parity.official import Official, Passed, source

SQUARE: dict[str, Any] = {"square": True, "suffix": ".bin"}


def shorter(blocks: nn.ModuleList, depth: int = 2) -> nn.ModuleList:
    """The first few of its blocks, where the code gives no choice of how many."""
    return nn.ModuleList(blocks[:depth])


def tokenset(tree: Path) -> Iterator[Official]:
    """SetTokenizer of TokenSet, github.com/Gengzigang/TokenSet. It reads latents in an order that it draws."""
    module: Any = source(tree, "set_tokenizer/model.py").SetTokenizer(num_latent_tokens=24, crop_size=64)
    for part in (module.encoder, module.decoder):
        part.transformer, part.num_layers = shorter(part.transformer), 2

    def run(image: Tensor) -> Passed:
        latents = module.encoder(image * 0.5 + 0.5, module.latent_tokens)
        codes, ids = module.quantize(latents)
        return Passed(latents.squeeze(2).transpose(1, 2), ids.reshape(len(image), -1, 1), module.decode(codes))

    yield Official("`SetTokenizer`, 24 tokens, 2 blocks of width 768", module, run, dict, **SQUARE)


SEQUENCES: dict[str, Callable[[Path], Iterator[Official]]] = {"tokenset": tokenset}
