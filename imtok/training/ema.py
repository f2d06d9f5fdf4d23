"""Average of the weights. Lightning's averages buffers and critic too, and with two optimisers may never update."""

from copy import deepcopy
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from imtok.tokenizer import Tokenizer
from imtok.training.task import TokenizerTask


class EMA(Callback):
    """Keeps a second tokenizer: its parameters are running averages, its buffers copies.

    The weights in training are never exchanged for it, so no exception can leave them exchanged.

    Args:
        tokenizer: What is trained; the average starts as a copy of it.
        decay: Weight of the past at each step, reached by the ramp ``(1 + updates) / (10 + updates)``; 0 = a copy.

    Attributes:
        tokenizer: The average, in evaluation mode.
        updates: Steps that it has taken in.
    """

    def __init__(self, tokenizer: Tokenizer, decay: float) -> None:
        self.tokenizer = deepcopy(tokenizer).eval().requires_grad_(False)
        self.decay = decay
        self.updates = 0

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.tokenizer.to(pl_module.device)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, TokenizerTask)
        if pl_module.stepped and not pl_module.skipped[1]:
            self.update(pl_module.tokenizer)

    @torch.no_grad()
    def update(self, tokenizer: Tokenizer) -> None:
        """Take in the weights of ``tokenizer``."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        for average, parameter in zip(self.tokenizer.parameters(), tokenizer.parameters(), strict=True):
            if parameter.requires_grad:
                average.lerp_(parameter, 1 - decay)
        for copy, buffer in zip(self.tokenizer.buffers(), tokenizer.buffers(), strict=True):
            copy.copy_(buffer)
        self.updates += 1
