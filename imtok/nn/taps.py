"""What sub-modules of a net make and take on the way, noted without a word in the net."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from imtok.types import Latents, Quantized

INPUT = ":input"  # "encoder.project:input" is what the encoder's last map takes


@contextmanager
def tapped(root: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Collects the outputs of named sub-modules by hooks for the length of a ``with``.

    Of an encoder and of a quantizer these are the latents. A name that ends in ``:input`` stands for what the
    sub-module takes first.

    Raises:
        ValueError: If there is no sub-module of a name; while the net computes, if one gives no tensor.
    """
    outputs: dict[str, Tensor] = {}
    modules = dict(root.named_modules()) if names else {}
    with ExitStack() as hooks:
        for name in names:
            module = modules.get(name.removesuffix(INPUT))
            if module is None:
                raise ValueError(f"taps must name sub-modules of the tokenizer, got {name!r}")

            def record(_module: nn.Module, args: Any, output: Any, name: str = name) -> None:
                outputs[name] = _tensor(args[0] if name.endswith(INPUT) else output, name)

            hooks.callback(module.register_forward_hook(record).remove)
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
