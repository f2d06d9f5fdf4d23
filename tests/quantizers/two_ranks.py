"""What two processes that train together see of every quantizer; ``test_distributed.py`` compares it with one process.

Run as ``python -m quantizers.two_ranks FILE RANK PORT``: writes what this rank has seen to FILE.
"""

import copy
import sys

import torch
import torch.distributed as dist
from quantizers.contract import NAMES, build, length, multi_scale
from torch import Tensor

from imtok.distributed import rank, sum_over_ranks, world_size
from imtok.quantizers.base import Quantizer
from imtok.quantizers.ema_vq import EMAVQ
from imtok.quantizers.statistics import stats_of_all_ranks
from imtok.quantizers.vq import VQ

STEPS = 5
LEARNING = {
    "vq": {"kind": VQ, "restart_below": 0.5, "usage_decay": 0.5},
    "ema_vq": {"kind": EMAVQ, "restart_below": 0.5, "decay": 0.5},
}


def learner(name: str) -> Quantizer:
    """A small quantizer that restarts codes, the same in every process."""
    torch.manual_seed(1)
    settings = dict(LEARNING[name])
    return settings.pop("kind")(dim=4, codebook_size=32, **settings).double()


def learn(quantizer: Quantizer, parts: range) -> list[dict[str, Tensor]]:
    """Train on those parts of each step's batch; the state after each step."""
    states = []
    for step in range(STEPS):
        batch = torch.randn(2, 3, 10, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        quantized = quantizer(batch[parts.start : parts.stop].flatten(0, 1) + 2 * step)
        total = sum(loss.value * loss.weight for loss in quantized.losses.values())
        parameters = list(quantizer.parameters())
        gradients = torch.autograd.grad(total, parameters) if parameters else []
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter -= 0.5 * sum_over_ranks(gradient) / world_size()
        quantizer.update(stats_of_all_ranks(quantized.stats))
        states.append({name: value.clone() for name, value in quantizer.state_dict().items()})
    return states


def inputs(quantizer: Quantizer) -> tuple[Tensor, dict[str, Tensor | None]]:
    """Four images, and masks by name, uneven over two ranks: the last two images, the second rank's, keep nothing."""
    generator = torch.Generator().manual_seed(3)
    latents = torch.randn(4, length(quantizer), quantizer.in_dim, generator=generator, dtype=torch.float64)
    some = torch.rand(4, length(quantizer), generator=generator) < 0.5
    some[2:] = False
    single = torch.zeros_like(some)
    single[1, 3] = True
    masks = {"some": some, "single": single, "none": torch.zeros_like(some)}
    return latents, {"all": None} if multi_scale(quantizer) else {"all": None, **masks}


def losses(quantizer: Quantizer, latents: Tensor, keep: Tensor | None) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Values of the losses, and gradients of their weighted sum: to the latents first, then to the parameters."""
    latents = latents.clone().requires_grad_()
    terms = quantizer(latents, keep).losses
    wanted = [latents, *quantizer.parameters()]
    total = latents.sum() * 0 + sum(loss.value * loss.weight for loss in terms.values())
    gradients = torch.autograd.grad(total, wanted, allow_unused=True)
    dense = [torch.zeros_like(w) if g is None else g for w, g in zip(wanted, gradients, strict=True)]
    return {name: loss.value.detach() for name, loss in terms.items()}, dense


def prepared(name: str) -> Quantizer:
    """The quantizer of that name, the same in every process, in float64: ranks add up in another order than one."""
    torch.manual_seed(2)
    return build(name).double()


def compare(name: str) -> dict[str, object]:
    """This rank's losses and gradients on its half of the images, with each mask."""
    quantizer = prepared(name)
    latents, masks = inputs(quantizer)
    mine = slice(2 * rank(), 2 * rank() + 2)
    own = {name: None if keep is None else keep[mine] for name, keep in masks.items()}
    seen: dict[str, object] = {name: losses(quantizer, latents[mine], keep) for name, keep in own.items()}
    calls = len(CALLS)
    twin = copy.deepcopy(quantizer).eval()
    with torch.no_grad():
        for keep in own.values():
            twin(latents[mine], keep)
        twin.decode(twin(latents[mine]).ids)
    seen["calls in evaluation"] = len(CALLS) - calls
    return seen


CALLS: list[str] = []


def count_collectives() -> None:
    """Note every collective in ``CALLS``."""
    for name in ("all_reduce", "all_gather", "broadcast", "barrier"):
        plain = getattr(dist, name)

        def noted(*args, _plain=plain, _name=name, **kwargs):
            CALLS.append(_name)
            return _plain(*args, **kwargs)

        setattr(dist, name, noted)


if __name__ == "__main__":
    torch.set_num_threads(1)
    file, this, port = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=this, world_size=2)
    count_collectives()
    result = {
        "states": {name: learn(learner(name), range(rank(), rank() + 1)) for name in LEARNING},
        "losses": {name: compare(name) for name in NAMES},
        "calls": len(CALLS),
    }
    torch.save(result, file)
    dist.destroy_process_group()
