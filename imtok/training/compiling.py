"""What of a run ``torch.compile`` compiles, and torch's settings while it does."""

import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch._dynamo.config as dynamo
import torch._functorch.config as functorch
from torch import nn
from torch.utils._triton import has_triton

from imtok.critics.base import Critic
from imtok.losses.base import ImageLoss
from imtok.objectives.base import Objective
from imtok.tokenizer import Tokenizer

log = logging.getLogger(__name__)
_COMPILERS = {"cpu": ("CXX", ("g++", "clang++", "c++")), "cuda": ("CC", ("gcc", "clang", "cc"))}


def parts_of(tokenizer: Tokenizer, objective: Objective, tf32: bool = False) -> list[nn.Module]:
    """Encoder, quantizer and decoder, the critics, and the losses that compare images.

    With TF32 the quantizer and the losses are not compiled: they leave TF32 where they compare, and a graph cannot
    change between the two.
    """
    critics = [part for part in objective.modules() if isinstance(part, Critic)]
    if tf32:
        return [tokenizer.encoder, tokenizer.decoder, *critics]
    losses = [part for part in objective.modules() if isinstance(part, ImageLoss)]
    return [tokenizer.encoder, tokenizer.quantizer, tokenizer.decoder, *critics, *losses]


def compiles(setting: str | bool, device: torch.device) -> bool:
    """Whether a run on a device is compiled.

    Args:
        setting: ``trainer.compile``: True, False, or "auto": on a GPU. Where there is no compiler, one line says so,
            and nothing is compiled.
        device: What the run computes on.
    """
    if not (setting if isinstance(setting, bool) else device.type == "cuda"):
        return False
    reason = _without_compiler(device)
    if reason is not None:
        log.warning("nothing is compiled: %s; steps take longer (trainer.compile=false leaves this line out)", reason)
    return reason is None


@contextmanager
def compiled(parts: Iterable[nn.Module]) -> Iterator[None]:
    """Compile parts when they are first called; for the length of a ``with`` torch is set as that needs it.

    Gradients are computed without autocast, as a task calls them, and the compiler plans them in the forward pass.
    Taps are hooks for the length of a step: a part that was compiled while there was none must notice them. What they
    note of a block whose activations are computed again is that of the forward pass, and stays within the graph.
    """
    for part in parts:
        part.compile()
    taps = {"skip_nnmodule_hook_guards": False, "skip_fwd_side_effects_in_bwd_under_checkpoint": True}
    with functorch.patch(backward_pass_autocast="off"), dynamo.patch(taps):
        yield


def _without_compiler(device: torch.device) -> str | None:
    """Why code cannot be generated for a device; None if it can."""
    if device.type not in _COMPILERS:
        return f"torch.compile is not used on {device.type}"
    if device.type == "cuda" and not has_triton():
        return "triton is not installed, or does not know this GPU"
    variable, names = _COMPILERS[device.type]
    if variable in os.environ or any(shutil.which(name) for name in names):
        return None
    return f"there is no C compiler ({', '.join(names)}, or the one that {variable} names)"
