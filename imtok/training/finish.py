"""What a finished run leaves: the tokenizer with averaged weights, its evaluation and a summary."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from imtok.distributed import from_main
from imtok.files import write_json
from imtok.measures.evaluate import evaluate
from imtok.measures.report.origin import Origin
from imtok.measures.report.writing import Report, write_report
from imtok.measures.settings import Settings
from imtok.tokenizer import Tokenizer

SUMMARY = "summary.json"


def finish(
    folder: Path,
    tokenizer: Tokenizer,
    loader: DataLoader[Any],
    facts: dict[str, Any],
    shown: Sequence[str],
    origin: Origin | None = None,
) -> Report:
    """Evaluate and write ``tokenizer/``, ``evaluation/`` and, when these are whole, ``summary.json``.

    Args:
        folder: The run folder.
        tokenizer: The averaged weights, on the device where they are.
        loader: This rank's part of the held-out images.
        facts: What the summary says besides: steps that the run has taken, those whose update was left out, and the
            judges that it was without.
        shown: Keys of the images that the report shows.
        origin: What the report says of its data and its command; None = nothing.

    Raises:
        InputError: If the images cannot be read, or the disk has no room.
    """
    settings = Settings(skip_missing=True, untold=True)  # nobody asked for these metrics, and the run is over
    report = evaluate(tokenizer, loader, tokenizer.decoder.last_layer.device, shown, settings)
    without = [f"the run was without {key}, whose weights were not on its machine" for key in facts.get("left_out", ())]
    warnings = [*report.warnings, *without]
    report = replace(report, name=folder.resolve().name, origin=origin or Origin(), warnings=warnings)
    from_main(lambda: _write(folder, tokenizer, report, facts))
    return report


def _write(folder: Path, tokenizer: Tokenizer, report: Report, facts: dict[str, Any]) -> None:
    tokenizer.save(folder / "tokenizer")
    write_report(report, folder / "evaluation")
    shown = ("psnr", "ssim", "usage", "perplexity")
    metrics = {name: report.metrics[name] for name in shown if name in report.metrics}
    write_json(folder / SUMMARY, {**metrics, **facts, "images": report.images, "weights": "ema"})
