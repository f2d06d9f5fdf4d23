"""Flags of Lightning's Trainer that a run hands on, and those that are imtok's own."""

import inspect
from collections.abc import Mapping
from typing import Any

from lightning import Trainer
from typing_extensions import override

from imtok.data.order.sampler import TrainBatches

# What imtok decides, and by which key a user does.
OWNED = {
    **{name: f"trainer.{name}" for name in ("accelerator", "devices", "num_nodes", "strategy", "precision")},
    **dict.fromkeys(("max_epochs", "min_epochs", "max_steps", "min_steps"), "trainer.max_steps and trainer.stop_at"),
    **dict.fromkeys(
        ("val_check_interval", "check_val_every_n_epoch", "num_sanity_val_steps", "limit_val_batches"),
        "trainer.evaluate_every and trainer.evaluate_images",
    ),
    **dict.fromkeys(("gradient_clip_val", "gradient_clip_algorithm"), "trainer.clip"),
    "accumulate_grad_batches": "trainer.accumulate",
    "log_every_n_steps": "trainer.log_every",
    "enable_checkpointing": "trainer.save_every",
    "logger": "the group logger",
    "callbacks": "the group callback",
    "use_distributed_sampler": "the order of the images, a function of seed and step",
    "reload_dataloaders_every_n_epochs": "the order of the images, a function of seed and step",
    "enable_progress_bar": "its own bar",
    "enable_model_summary": "its own lines at the start of a run",
    "plugins": "trainer.precision and the launcher",
    "deterministic": "trainer.deterministic",
    "barebones": "the other keys of trainer",
    **dict.fromkeys(("limit_test_batches", "limit_predict_batches", "inference_mode"), "imtok eval"),
    **dict.fromkeys(("model_registry", "enable_autolog_hparams"), "the group logger"),
}
_OWN_LOOP = ("overfit_batches",)  # done by imtok: an epoch of Lightning's ends with these batches


def check_flags(flags: Any) -> list[str]:
    """What is wrong with ``trainer.lightning``, one line each."""
    if flags is None:
        return []
    if not isinstance(flags, Mapping):
        return [f"trainer.lightning must be flags of Lightning's Trainer by name, got {flags!r}"]
    known = inspect.signature(Trainer).parameters
    free = sorted(known.keys() - OWNED.keys())
    found = [
        f"trainer.lightning.{name}: imtok does this itself, by {OWNED[name]}; leave it out"
        for name in flags
        if name in OWNED
    ]
    found += [
        f"trainer.lightning.{name}: Lightning's Trainer has no such flag; there are {', '.join(free)}"
        for name in flags
        if name not in known
    ]
    number = flags.get("overfit_batches")
    if number is not None and (not isinstance(number, int) or isinstance(number, bool) or number < 1):
        found.append(f"trainer.lightning.overfit_batches must be a whole number of at least 1, got {number}")
    return found


def handed_on(flags: Mapping[str, Any] | None) -> dict[str, Any]:
    """What Lightning's Trainer is given."""
    return {name: value for name, value in (flags or {}).items() if name not in _OWN_LOOP}


def overfitted(flags: Mapping[str, Any] | None) -> int:
    """After how many global batches the images come again; 0 = never."""
    return int((flags or {}).get("overfit_batches") or 0)


def is_fast(trainer: Trainer) -> bool:
    """Whether ``fast_dev_run`` is given: a trial of a few batches that leaves nothing."""
    return bool(getattr(trainer, "fast_dev_run", False))


class Again(TrainBatches):
    """The first few global batches over and over, in the same crops: what a net should learn by heart.

    Args:
        number: How many.
        batches: Of the run without it.
    """

    def __init__(self, number: int, batches: TrainBatches) -> None:
        vars(self).update(vars(batches))
        self.number, self.batches = number, batches

    @override
    def whole(self, step: int) -> list[tuple[int, int]]:
        return self.batches.whole(step % self.number)
