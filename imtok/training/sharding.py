"""Weights, gradients and optimiser state in shards, one per device (FSDP2): for tokenizers too large for one device.

The blocks of transformers and the stages of convolutional nets are sharded: they hold nearly all weights and are
always called as modules. What is left (embeddings, last layers, quantizers with all that they hold, critics, small
heads) stays whole on every device, so that objectives may look at it at any time; its gradients are averaged once per
step.
"""

import math
from collections.abc import Iterable, Iterator
from functools import cache

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

from imtok.distributed import sum_over_ranks, world_size
from imtok.nn.convolution import ConvolutionStack
from imtok.nn.dc_ae import Level
from imtok.nn.qformer import QFormer, QFormerBlock
from imtok.nn.transformer import Block, Transformer
from imtok.quantizers.base import Quantizer

_UNITS = (Block, QFormerBlock, ConvolutionStack, Level)  # gathered whole, one at a time, while they compute
_TRUNKS = (Transformer, QFormer)  # they let one unit be gathered while the one before computes
_BUCKET = 32 * 2**20  # elements that are averaged at a time


def shard(module: nn.Module, mesh: DeviceMesh, bf16: bool = False) -> None:
    """Leave each device its part of the weights of every block and stage in ``module``, in place.

    Args:
        module: With the same weights on every device.
        mesh: The devices, in one dimension; in two, the first one counts whole sets of shards.
        bf16: Whether blocks are gathered, and compute, in bf16; gradients are summed in fp32 in any case.
    """
    policy = MixedPrecisionPolicy()
    if bf16:
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32, torch.float32)
    for part in units(module):
        fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    for part in _outermost(module, _TRUNKS):
        fully_shard(part, mesh=mesh, reshard_after_forward=True)


def is_sharded(parameters: Iterable[Tensor]) -> bool:
    """Whether any of them lies in shards."""
    return any(isinstance(parameter, DTensor) for parameter in parameters)


def whole(value: Tensor) -> Tensor:
    """The value with all its shards; every rank must ask for it."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def own(value: Tensor) -> Tensor:
    """What this rank holds of a tensor: all of it, or its shard. Shares its memory."""
    return value.to_local() if isinstance(value, DTensor) else value


def aside(value: Tensor) -> Tensor:
    """A copy on the CPU that shares no memory with anything.

    From a GPU it goes to pinned memory while the caller goes on: it is there after the GPU was synchronised. Of a
    tensor in shards it has this rank's, and says where that lies.
    """
    if isinstance(value, DTensor):
        mesh, copy = _on_cpu(value.device_mesh), aside(value.to_local())
        return DTensor.from_local(
            copy, mesh, value.placements, run_check=False, shape=value.shape, stride=value.stride()
        )
    pinned = value.device.type == "cuda"
    copy = torch.empty(value.shape, dtype=value.dtype, device="cpu", pin_memory=pinned)
    return copy.copy_(value.detach(), non_blocking=pinned)


@cache
def _on_cpu(mesh: DeviceMesh) -> DeviceMesh:
    """The same ranks as a mesh that says where shards lie, and over which nothing travels."""
    return DeviceMesh("cpu", mesh.mesh, mesh_dim_names=mesh.mesh_dim_names, _init_backend=False)


def own_part(value: Tensor, like: Tensor) -> Tensor:
    """A tensor that lies as ``like`` does, from one that is whole on every rank."""
    if not isinstance(like, DTensor):
        return value.to(like.device)
    value = value.to(like.device_mesh.device_type)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)  # no data travels


@torch.no_grad()
def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Average over ranks the gradients of parameters that are whole on each of them.

    One that no rank has a gradient for keeps none. Sharded ones were averaged in the backward pass.
    """
    shared = [p for p in parameters if p.requires_grad and not isinstance(p, DTensor)]
    if world_size() == 1 or not shared:
        return
    used = torch.tensor([float(parameter.grad is not None) for parameter in shared], device=shared[0].device)
    found = sum_over_ranks(used).tolist()
    shared = [parameter for parameter, count in zip(shared, found, strict=True) if count]
    for parameter in shared:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    for bucket in _buckets(shared):
        gradients = [parameter.grad for parameter in bucket if parameter.grad is not None]
        flat = sum_over_ranks(torch.cat([gradient.reshape(-1) for gradient in gradients])) / world_size()
        for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


@torch.no_grad()
def clip_gradients(parameters: Iterable[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients so that their norm is at most ``limit``; returns the norm that they had.

    The norm is that of all weights, also where each rank holds only a part of some.
    """
    learning = [parameter for parameter in parameters if parameter.grad is not None]
    if not is_sharded(learning):
        return nn.utils.clip_grad_norm_(learning, limit)
    gradients = [parameter.grad for parameter in learning if parameter.grad is not None]
    parts = [own(gradient) for gradient in gradients if isinstance(gradient, DTensor)]
    sets = next(_sets(gradient) for gradient in gradients if isinstance(gradient, DTensor))
    shared = [gradient for gradient in gradients if not isinstance(gradient, DTensor)]
    square = sum_over_ranks(_square(parts)) / sets + (_square(shared) if shared else 0)
    norm = square.sqrt()
    scale = (limit / (norm + 1e-6)).clamp(max=1)
    for kind in (parts, shared):
        if kind:
            torch._foreach_mul_(kind, scale)  # pyright: ignore[reportPrivateImportUsage]
    return norm


def units(module: nn.Module) -> list[nn.Module]:
    """The blocks and stages in ``module``, each once, in the order of their depth."""
    return _outermost(module, _UNITS)


def _sets(value: DTensor) -> int:
    """How many whole sets of its shards there are."""
    mesh = value.device_mesh
    return math.prod(mesh.size(i) for i, placement in enumerate(value.placements) if isinstance(placement, Replicate))


def _square(values: list[Tensor]) -> Tensor:
    norms = torch._foreach_norm(values)  # pyright: ignore[reportPrivateImportUsage]
    return torch.stack(norms).square().sum()


def _outermost(module: nn.Module, kinds: tuple[type[nn.Module], ...]) -> list[nn.Module]:
    """Modules of these kinds that have weights and lie in no other one and in no quantizer, each once."""
    quantizers = [part for part in module.modules() if isinstance(part, Quantizer)]
    inside = {id(child) for part in quantizers for child in part.modules()}
    found = []
    for part in module.modules():  # parents come before their children, and a shared module comes once
        if isinstance(part, kinds) and id(part) not in inside and next(part.parameters(), None) is not None:
            inside.update(id(child) for child in part.modules())
            found.append(part)
    return found


def _buckets(parameters: list[nn.Parameter]) -> Iterator[list[nn.Parameter]]:
    """Lists of one type each that are not too long."""
    for dtype in dict.fromkeys(parameter.dtype for parameter in parameters):
        bucket: list[nn.Parameter] = []
        for parameter in (parameter for parameter in parameters if parameter.dtype == dtype):
            if bucket and sum(other.numel() for other in bucket) + parameter.numel() > _BUCKET:
                yield bucket
                bucket = []
            bucket.append(parameter)
        if bucket:
            yield bucket
