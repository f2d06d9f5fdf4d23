"""How much of a net that begins with published weights goes on learning."""

from importlib import import_module
from importlib.util import find_spec
from typing import Any, Literal, get_args

from torch import nn

from imtok.errors import InputError
from imtok.nn.vit import ViT

Train = Literal["all", "none", "last", "lora"]


def let_learn(net: ViT, train: Train, blocks: int, rank: int) -> list[nn.Module]:
    """Set which weights learn, in place.

    Args:
        net: The net; with "lora" the maps of its attention get adapters (arXiv 2106.09685).
        train: "all" of it learns, "none" of it, the "last" ``blocks`` with the norm behind them, or adapters of rank
            ``rank`` and nothing else ("lora").
        blocks: See above.
        rank: See above.

    Returns:
        The modules that stay as they are, and in evaluation mode.

    Raises:
        InputError: If peft is missing, which makes the adapters.
        ValueError: If ``train`` has no such choice, or a number is out of range.
    """
    if train not in get_args(Train):
        raise ValueError(f"train must be one of {', '.join(get_args(Train))}, got {train!r}")
    depth = len(net.trunk.blocks)
    if train == "last" and not 1 <= blocks <= depth:
        raise ValueError(f"last_blocks must lie in [1, {depth}], the blocks of the net, got {blocks}")
    if train == "all":
        return []
    net.requires_grad_(False)
    if train == "last":
        learning = [*net.trunk.blocks[depth - blocks :], net.norm]
        for part in learning:
            part.requires_grad_(True)
        return [net.patches, net.norm_in, *net.trunk.blocks[: depth - blocks]]
    if train == "lora":
        _adapt(net, rank)
        return []
    return [net]


def _adapt(net: ViT, rank: int) -> None:
    if rank < 1:
        raise ValueError(f"lora_rank must be at least 1, got {rank}")
    if find_spec("peft") is None:
        raise InputError("peft is missing, which train=lora needs; pip install peft (imtok's extra `lora`)")
    peft: Any = import_module("peft")
    settings = peft.LoraConfig(r=rank, lora_alpha=rank, target_modules=["query_key_value", "project"])
    peft.inject_adapter_in_model(settings, net)
