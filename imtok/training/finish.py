"""What a finished run leaves: the tokenizer with averaged weights, its evaluation and a summary."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader

from imtok.distributed import from_main
from imtok.files import read_json, write_json
from imtok.measures.evaluate import evaluate
from imtok.measures.report.origin import Origin
from imtok.measures.report.writing import Report, write_report
from imtok.measures.settings import Settings
from imtok.tokenizer import Tokenizer
from imtok.training.checkpoints import Checkpoint

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


def finished_before(
    folder: Path, resume: Checkpoint, config: Mapping[str, Any], max_steps: int
) -> dict[str, Any] | None:
    """The summary of a run that has come to its end before; None if it has not.

    A run ends at its last step, or where the callbacks that it still has ended it. The summary of a shorter run that
    went on, and was killed before it wrote another, is none of this one.

    Args:
        folder: The run folder.
        resume: Its newest checkpoint.
        config: The run's, as plain values.
        max_steps: Its last step.
    """
    if not (folder / SUMMARY).exists():
        return None
    summary = read_json(folder / SUMMARY)
    if summary.get("steps", resume.step) != resume.step:
        return None
    same = (resume.about["config"].get("callback") or {}) == (config.get("callback") or {})
    ended = resume.step >= max_steps or (summary.get("stopped_at") == resume.step and same)
    return summary if ended else None


def _write(folder: Path, tokenizer: Tokenizer, report: Report, facts: dict[str, Any]) -> None:
    tokenizer.save(folder / "tokenizer")
    write_report(report, folder / "evaluation")
    shown = ("psnr", "ssim", "usage", "perplexity")
    metrics = {name: report.metrics[name] for name in shown if name in report.metrics}
    write_json(folder / SUMMARY, {**metrics, **facts, "images": report.images, "weights": "ema"})
