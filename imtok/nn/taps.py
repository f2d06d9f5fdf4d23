"""What sub-modules of a net make on the way, noted without a word in the net."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from imtok.types import Latents, Quantized


@contextmanager
def tapped(root: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collects the outputs of named sub-modules by hooks for the length of a ``with``.

    Of an encoder and of a quantizer these are the latents.

    Raises:
        ValueError: If there is no sub-module of a name; while the net computes, if one gives no tensor.
    """
    outputs: dict[str, Tensor] = {}
    modules = dict(root.named_modules()) if names else {}
    with ExitStack() as hooks:
        for name in names:
            if name not in modules:
                raise ValueError(f"taps must name sub-modules of the tokenizer, got {name!r}")

            def record(_module: nn.Module, _args: Any, output: Any, name: str = name) -> None:
                outputs[name] = _tensor(output, name)

            hooks.callback(modules[name].register_forward_hook(record).remove)
        yield outputs


def _tensor(output: Any, name: str) -> Tensor:
    """The tensor of what a sub-module has returned."""
    if isinstance(output, Latents):
        return output.values
    if isinstance(output, Quantized):
        return output.latents
    if not isinstance(output, Tensor):
        raise ValueError(f"taps must name sub-modules that give a tensor, and {name} gives {type(output).__name__}")
    return output
