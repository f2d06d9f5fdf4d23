"""What sub-modules of a net make on the way, noted without a word in the net."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from imtok.types import Quantized


@contextmanager
def tapped(root: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collects the outputs of named sub-modules (of a quantizer its latents) by hooks for the length of a ``with``."""
    outputs: dict[str, Tensor] = {}
    modules = dict(root.named_modules()) if names else {}
    with ExitStack() as hooks:
        for name in names:
            if name not in modules:
                raise ValueError(f"taps must name sub-modules of the tokenizer, got {name!r}")

            def record(_module: nn.Module, _args: Any, output: Any, name: str = name) -> None:
                latents = output.latents if isinstance(output, Quantized) else output
                outputs[name] = latents[0] if isinstance(latents, tuple) else latents  # latents with a mask

            hooks.callback(modules[name].register_forward_hook(record).remove)
        yield outputs
