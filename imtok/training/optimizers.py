"""Optimisers by their class, and which parameters each of them trains in which way."""

import inspect
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils._pytree import tree_leaves
from typing_extensions import override

from imtok.errors import InputError
from imtok.quantizers.base import Quantizer
from imtok.tokenizer import Tokenizer
from imtok.training.parts import build, find_class
from imtok.training.settings import OptimizerSettings
from imtok.training.sharding import units

_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_PLAIN = (Tensor, int, float, str, type(None))  # what a checkpoint can hold of an optimiser's state
Group = dict[str, Any]


class Together(torch.optim.Optimizer):
    """Several optimisers that train one net as one. They share groups, state and step.

    Args:
        optimizers: Each has parameters that no other one has.
    """

    def __init__(self, optimizers: list[torch.optim.Optimizer]) -> None:
        super().__init__([group for one in optimizers for group in one.param_groups], {})
        self.optimizers = optimizers
        self.state = defaultdict(dict)
        for one in optimizers:
            one.state = self.state

    @override
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        found = None
        if closure is not None:
            with torch.enable_grad():
                found = closure()
        for one in self.optimizers:
            one.step()
        return found


def make_optimizer(module: nn.Module, settings: OptimizerSettings, key: str = "optimizer") -> torch.optim.Optimizer:
    """The optimiser of the parameters of ``module`` that learn; the learning rate is set anew at every step.

    Args:
        module: What learns.
        settings: The class, its arguments, and how groups are made.
        key: Where the settings stand in the config, for messages.

    Raises:
        InputError: If a class is no optimiser, refuses its arguments, or cannot do what the settings ask for.
    """
    groups = parameter_groups(module, settings, key)
    if settings.beside is None:
        return _make(groups, _section(settings, key), settings, key)
    matrices = {id(parameter) for parameter in _hidden_matrices(module)}
    kinds = [_only(groups, matrices, inside) for inside in (True, False)]
    if not kinds[0] and key == "optimizer":
        name = settings._target_.rpartition(".")[2]
        raise InputError(f"optimizer: {name} is for matrices of linear layers, and none learns; give optimizer=adamw")
    sections = ((_section(settings, key), key), (_beside(settings, key), f"{key}.beside"))
    made = [
        _make(kind, section, settings, where) for kind, (section, where) in zip(kinds, sections, strict=True) if kind
    ]
    return made[0] if len(made) == 1 else Together(made)


def parameter_groups(module: nn.Module, settings: OptimizerSettings, key: str = "optimizer") -> list[Group]:
    """Parameters by how they learn: ``params``, ``weight_decay`` and ``scale``, a factor of the learning rate.

    The matrices of linear layers and the kernels of convolutions decay. Nothing else does: norms, biases, embeddings,
    codebooks with all that belongs to them, and what stands by itself, such as learned tokens and positions. Where
    weights lie in shards, no group holds both sharded and whole parameters: kernels for many tensors take one kind.

    Raises:
        InputError: If ``layer_decay`` is given and the encoder has no blocks.
    """
    kept = {
        id(parameter) for part in module.modules() if isinstance(part, Quantizer) for parameter in part.parameters()
    }
    decayed: dict[int, nn.Parameter] = {}
    for part in module.modules():
        if isinstance(part, _MATRICES):
            decayed |= {id(p): p for p in part.parameters(recurse=False) if p.requires_grad and p.ndim >= 2}
    chosen = [parameter for key, parameter in decayed.items() if key not in kept]
    names = {id(parameter) for parameter in chosen}
    others = [p for p in module.parameters() if p.requires_grad and id(p) not in names]
    scales = _scales(module, settings.layer_decay, key) if settings.layer_decay is not None else {}
    found: dict[tuple[bool, float, bool], list[nn.Parameter]] = defaultdict(list)
    for parameters, decays in ((chosen, True), (others, False)):
        for parameter in parameters:
            found[decays, scales.get(id(parameter), 1.0), not isinstance(parameter, DTensor)].append(parameter)
    return [
        {"params": parameters, "weight_decay": settings.weight_decay if decays else 0.0, "scale": scale}
        for (decays, scale, _), parameters in sorted(found.items(), key=lambda item: (not item[0][0], *item[0][1:]))
    ]


def set_rate(optimizer: Any, rate: float) -> None:
    """Set the learning rate of every group: ``rate`` times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


def arguments_of(node: Mapping[str, Any]) -> dict[str, Any]:
    """What of the plain section ``optimizer`` its class is given, with ``_target_``; ``betas`` only where they are its.

    ``betas`` are a key of every recipe. Where another optimiser stands beside, that one gets them, unless both take
    them.
    """
    own = vars(OptimizerSettings()).keys() - {"_target_", "betas", "arguments"}
    found = {name: value for name, value in node.items() if name not in own}
    beside = node.get("beside") or {}
    if found.get("betas") is None or (_takes(beside, "betas") and not _takes(found, "betas")):
        found.pop("betas", None)
    return found


def try_optimizer(settings: OptimizerSettings, key: str, sharded: bool) -> None:
    """Let an optimiser take two steps on a net of a few weights, so that what it cannot do is known before a run.

    Args:
        settings: As for :func:`make_optimizer`.
        key: Where they stand in the config.
        sharded: Whether the run's weights lie in shards.

    Raises:
        InputError: If the optimiser cannot be used: it wants its gradients or its steps in another way, it remembers
            what no checkpoint can hold, or what cannot be cut into shards.
    """
    name = settings._target_.rpartition(".")[2]
    with torch.random.fork_rng(devices=[]):
        net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        optimizer = make_optimizer(net, replace(settings, layer_decay=None), key)
        try:
            for _ in range(2):
                for parameter in net.parameters():
                    parameter.grad = torch.full_like(parameter, 0.1)
                set_rate(optimizer, settings.lr)
                optimizer.step(_nothing)
        except Exception as error:  # what a class of anybody's may raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise InputError(f"{key}: {name} cannot train this net in steps of imtok: {reason}") from error
    for owner, values in optimizer.state.items():
        for what, value in values.items() if isinstance(values, dict) else ():
            leaves = tree_leaves(value)
            if strange := [one for one in leaves if not isinstance(one, _PLAIN)]:
                kind = type(strange[0]).__name__
                raise InputError(f"{key}: {name} keeps {what} as {kind}, which no checkpoint can hold")
            shape = getattr(owner, "shape", None)
            if sharded and any(isinstance(one, Tensor) and one.ndim and one.shape != shape for one in leaves):
                raise InputError(
                    f"{key}: {name} keeps {what} in another shape than the weight's, which trainer=fsdp cannot cut "
                    "into shards; give trainer=ddp or another optimizer"
                )


def _nothing() -> Any:
    """What Lightning calls in a step of manual optimisation: the gradients are there."""


def _section(settings: OptimizerSettings, key: str) -> dict[str, Any]:
    """The section of the class, checked against what it takes."""
    section = arguments_of({**vars(settings), **settings.arguments, "arguments": None})
    del section["arguments"]
    if section.get("betas") is not None and not _takes(section, "betas", key):
        name = settings._target_.rpartition(".")[2]
        raise InputError(f"{key}.betas: {name} has no betas; leave it out by ~{key}.betas")
    return section


def _beside(settings: OptimizerSettings, key: str) -> dict[str, Any]:
    section = dict(settings.beside or {})
    if settings.betas is not None and _takes(section, "betas", f"{key}.beside"):
        section.setdefault("betas", settings.betas)
    return section


def _takes(section: Mapping[str, Any], argument: str, key: str = "optimizer") -> bool:
    """Whether the class of a section has an argument of that name."""
    if "_target_" not in section:
        return False
    return argument in inspect.signature(find_class(section["_target_"], "optimizer", key)).parameters


def _make(groups: list[Group], section: dict[str, Any], settings: OptimizerSettings, key: str) -> torch.optim.Optimizer:
    name = str(section.get("_target_")).rpartition(".")[2]
    for argument in ("params", "lr"):
        if not _takes(section, argument, key):
            raise InputError(f"{key}: {name} must take {argument}, as torch's optimisers do")
    if settings.weight_decay and not _takes(section, "weight_decay", key):
        raise InputError(f"{key.split('.beside')[0]}.weight_decay must be 0, since {name} has none")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in section.items()}
    if _fuses(section, groups, key):
        given["fused"] = True
    made = build(given, "optimizer", key, {"params": groups, "lr": settings.lr})
    for group in made.param_groups:
        group["begun"] = deepcopy(settings_of(group))  # what it changes of these is kept in checkpoints
    return made


def _fuses(section: Mapping[str, Any], groups: Iterable[Group], key: str) -> bool:
    """Whether the class updates all weights on a GPU in one kernel, and the section does not say how."""
    said = {"fused", "foreach", "capturable", "differentiable"} & section.keys()
    on_gpu = all(parameter.is_cuda for group in groups for parameter in group["params"])
    return not said and on_gpu and _takes(section, "fused", key)


def settings_of(group: Group) -> Group:
    """A group without its parameters and its learning rate, which is set anew at every step."""
    return {name: value for name, value in group.items() if name not in ("params", "lr", "scale", "begun")}


def _only(groups: Iterable[Group], chosen: set[int], inside: bool) -> list[Group]:
    """The groups with only the parameters that are among the chosen ones, or with only those that are not."""
    kept = [{**group, "params": [p for p in group["params"] if (id(p) in chosen) is inside]} for group in groups]
    return [group for group in kept if group["params"]]


def _hidden_matrices(module: nn.Module) -> list[nn.Parameter]:
    """Matrices of linear layers, but for those that make pixels: the last layers of decoders."""
    last = {id(part.decoder.last_layer) for part in module.modules() if isinstance(part, Tokenizer)}
    kept = {id(p) for part in module.modules() if isinstance(part, Quantizer) for p in part.parameters()}
    linear = [p for part in module.modules() if isinstance(part, nn.Linear) for p in part.parameters(recurse=False)]
    return [p for p in linear if p.requires_grad and p.ndim == 2 and id(p) not in last | kept]


def _scales(module: nn.Module, decay: float, key: str) -> dict[int, float]:
    """A factor for each parameter of the encoder, as timm has it: 1 behind the blocks, less by ``decay`` at each block.

    What the encoder registers before its first block, embeddings and learned tokens, counts as one block more. A norm
    right behind the last block belongs to that block.
    """
    found: dict[int, float] = {}
    for tokenizer in [part for part in module.modules() if isinstance(part, Tokenizer)]:
        encoder = tokenizer.encoder
        blocks = units(encoder)
        if not blocks:
            raise InputError(f"{key}.layer_decay needs an encoder of blocks, and {type(encoder).__name__} has none")
        inside = {id(p): depth for depth, block in enumerate(blocks) for p in block.parameters()}
        inside |= {id(p): len(blocks) - 1 for p in _norm_behind(encoder, blocks[-1]).parameters()}
        begun = False
        for parameter in encoder.parameters():
            begun = begun or id(parameter) in inside
            depth = inside.get(id(parameter), len(blocks) if begun else -1)
            found[id(parameter)] = decay ** (len(blocks) - depth)
    return found


def _norm_behind(net: nn.Module, block: nn.Module) -> nn.Module:
    """The norm that a net registers right behind a block; a module without parameters if something else is there."""
    parts = [part for part in net.modules() if next(part.parameters(recurse=False), None) is not None]
    own = {id(part) for part in block.modules()}
    last = max(index for index, part in enumerate(parts) if id(part) in own)
    after = parts[last + 1 : last + 2]
    return after[0] if after and isinstance(after[0], nn.LayerNorm | nn.RMSNorm) else nn.Identity()
