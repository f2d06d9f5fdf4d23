"""What a finished run leaves: the tokenizer with averaged weights, its evaluation and a summary."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader
from typing_extensions import override

from imtok.distributed import rank, world_size
from imtok.evaluation.evaluate import evaluate
from imtok.evaluation.report import Report, write_report
from imtok.files import write_json
from imtok.training.ema import EMA
from imtok.training.task import MakeLoader, TokenizerTask


class Finish(Callback):
    """Evaluates and writes ``tokenizer/``, ``evaluation/`` and ``summary.json`` once the last step is done.

    Args:
        folder: The run folder.
        ema: The averaged weights.
        make_loader: Called with rank and world size; yields this rank's part of the held-out images.

    Attributes:
        report: The evaluation; None until the last step is done.
    """

    def __init__(self, folder: Path, ema: EMA, make_loader: MakeLoader) -> None:
        self.folder = folder
        self.ema = ema
        self.make_loader = make_loader
        self.report: Report | None = None

    @override
    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, TokenizerTask)
        if pl_module.step < pl_module.trainer_settings.max_steps:
            return
        loader: DataLoader[Any] = self.make_loader(rank(), world_size())
        self.report = evaluate(self.ema.tokenizer, loader, pl_module.device)
        if trainer.is_global_zero:
            self.ema.tokenizer.save(self.folder / "tokenizer")
            write_report(self.report, self.folder / "evaluation")
            metrics = {
                name: self.report.metrics[name]
                for name in ("psnr", "ssim", "usage", "perplexity")
                if name in self.report.metrics
            }
            write_json(
                self.folder / "summary.json",
                {
                    **metrics,
                    "steps": pl_module.step,
                    "skipped": pl_module.skipped[0],
                    "images": self.report.images,
                    "weights": "ema",
                },
            )
        trainer.strategy.barrier("finish")
