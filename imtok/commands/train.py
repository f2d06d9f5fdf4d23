"""``imtok train``, the same as ``python train.py``."""

import sys
from dataclasses import replace

from omegaconf import DictConfig
from rich.console import Console
from rich.markup import escape

from imtok.build import build_run
from imtok.command_line import go_on, job_words, output_folder
from imtok.distributed import launched_rank
from imtok.measures.report.writing import BESIDE, PAGE, show
from imtok.paste import imtok_line
from imtok.sweeps import chosen, note_job
from imtok.text import terminal
from imtok.training.run import train

_RESULTS = {
    f"evaluation/{PAGE}": BESIDE,
    "tokenizer": "the tokenizer: config.json and model.safetensors (averaged weights), codebook included",
    "best": "the best tokenizer by trainer.best",
    "images": "reconstructions during training",
    "metrics.csv": "losses, usage and speed by step",
    "checkpoints": "to go on with: imtok train ckpt=last out=DIR",
}


def run(config: DictConfig) -> float | None:
    """Train, and say what there is now and what to do with it.

    Returns:
        The number of the final report that ``trainer.best`` names, or its PSNR, for Hydra's sweepers; None if the run
        is not at its end.
    """
    console = Console(highlight=False)
    folder = output_folder(config, config.name)
    again = imtok_line("eval", tokenizer=folder, split="val")
    made = replace(build_run(config, folder), measured_by=again)
    outcome, shown = train(made), escape(str(folder))
    console.quiet = launched_rank() != 0
    if outcome.finished_before:
        console.print(f"already finished: {shown} is at step {outcome.step}, its last; nothing was changed")
        return None
    if outcome.signal:
        console.print(f"stopped by signal {outcome.signal} after step {outcome.step}, all saved")
        console.print(f"go on with: {go_on(folder)}", soft_wrap=True, markup=False)
        sys.exit(128 + outcome.signal)
    if outcome.report is None:
        why = "trainer.lightning" if made.trainer.lightning and made.trainer.stop_at is None else "trainer.stop_at"
        console.print(f"stopped after step {outcome.step} as {why} says")
        console.print(f"go on with: {go_on(folder)}", soft_wrap=True, markup=False)
        return None
    measured = "held out of training" if made.data.measures_apart else "of which some were trained on"
    show(outcome.report, console, f", {measured}")
    if made.note:
        console.print(terminal(made.note), soft_wrap=True)
    for name, what in _RESULTS.items():
        if (folder / name).exists():
            console.print(f"  {escape(str(folder / name))}  [dim]{what}[/dim]", soft_wrap=True)
    console.print(f"evaluate: {again}", soft_wrap=True, markup=False)
    quantizer = made.tokenizer.quantizer
    if quantizer.vocab_sizes:
        following = imtok_line("export", tokenizer=folder, split="train", out=folder / "tokens")
        console.print(f"export:   {following}", soft_wrap=True, markup=False)
    else:
        following = imtok_line(
            "quantize", tokenizer=folder, **{"quantizer.dim": quantizer.dim}, out=folder / "quantized"
        )
        console.print(f"give ids: {following}", soft_wrap=True, markup=False)
    value, numbers = chosen(outcome.report.metrics, made.trainer.best)
    note_job(job_words(), numbers, folder)
    return value
