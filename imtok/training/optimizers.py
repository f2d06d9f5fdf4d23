"""The optimiser, and which parameters decay."""

import torch
from torch import nn

from imtok.quantizers.base import Quantizer
from imtok.training.settings import OptimizerSettings


def make_optimizer(module: nn.Module, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """AdamW over the parameters of ``module`` that learn; the learning rate is set anew at every step."""
    decayed, others = parameter_groups(module)
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (settings.betas[0], settings.betas[1])
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=settings.lr, betas=betas)


def parameter_groups(module: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Parameters that decay (matrices and kernels), and those that do not: norms, biases, embeddings, codebooks."""
    exempt = {
        id(parameter)
        for part in module.modules()
        if isinstance(part, (Quantizer, nn.Embedding))
        for parameter in part.parameters()
    }
    learning = [parameter for parameter in module.parameters() if parameter.requires_grad]
    decayed = [parameter for parameter in learning if parameter.ndim >= 2 and id(parameter) not in exempt]
    chosen = {id(parameter) for parameter in decayed}
    return decayed, [parameter for parameter in learning if id(parameter) not in chosen]
