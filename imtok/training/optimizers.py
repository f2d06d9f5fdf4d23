"""The optimiser, and which parameters decay."""

import torch
from torch import nn

from imtok.quantizers.base import Quantizer
from imtok.training.settings import OptimizerSettings

_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def make_optimizer(module: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW over the parameters of ``module`` that learn; the learning rate is set anew at every step."""
    decayed, others = parameter_groups(module)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (settings.betas[0], settings.betas[1])
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.lr, betas=betas)


def parameter_groups(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters that decay, and those that do not.

    The matrices of linear layers and the kernels of convolutions decay. Nothing else does: norms, biases, embeddings,
    codebooks with all that belongs to them, and what stands by itself, such as learned tokens and positions.
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
    return chosen, [p for p in module.parameters() if p.requires_grad and id(p) not in names]
