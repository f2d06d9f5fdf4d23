"""Images that could not be decoded, counted while training."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from imtok.data.order.bad import BadSamples
from imtok.training.steps import Task
from imtok.types import Batch


class BadSampleCount(Callback):
    """Names them in ``bad_samples.jsonl`` and stops the run when there are too many.

    Args:
        folder: The run folder, which all ranks share.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bad_samples.jsonl"
        self.samples = BadSamples(None)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, Task)
        self.samples = BadSamples(self.path, seen=pl_module.step * pl_module.trainer_settings.batch_size)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        self.samples.update(batch)
