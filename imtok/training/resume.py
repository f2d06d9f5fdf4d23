"""Whether a run may go on under a config that has changed since."""

import re
from collections.abc import Mapping
from typing import Any

from imtok.construct import current_path
from imtok.data.order.sampler import KEYED, PERMUTED
from imtok.errors import InputError
from imtok.measures.named import sections

# What may change without a question: where and how it runs and is written down, not what it computes.
_FREE = {
    "out", "ckpt", "init_from", "init_from.path", "init_from.parts", "name", "note", "logger", "allow_change", "judges",
    "store", "val",  # of a prior, whose tokens are told by their hash
    "trainer.stop_at", "trainer.accelerator",
    "trainer.compile", "trainer.tf32", "trainer.deterministic",
    "trainer.devices", "trainer.num_nodes", "trainer.strategy", "trainer.fsdp_replicas",
    "trainer.workers", "trainer.threads",
    "trainer.log_every", "trainer.save_every", "trainer.save_async", "trainer.keep", "trainer.pictures_every",
    "trainer.skip_nonfinite",
    "trainer.accumulate", "trainer.micro_batch", "data.index", "condition.weights", "condition.cache",
    "space.cache",
    *(f"trainer.lightning.{flag}" for flag in ("profiler", "fast_dev_run", "limit_train_batches", "max_time")),
}  # fmt: skip


# Loggers, the stages that came before, and the files that space, encoder and decoder began with: the checkpoint has
# what became of them.
_FREE_FORMS = re.compile(r"logger\.|stages(\.|$)|(encoder|decoder|space)\.([\w.]+\.)?weights$")
_SINCE = {  # what runs of before had, whose configs do not say it
    "channels": 3, "in_space": [], "data.access": "random", "condition.drop": 0.0,
    **dict.fromkeys(("encoder.norm_last", "encoder.net.norm_last", "encoder.semantic.norm_last"), False),
}  # fmt: skip


def kind_of_order(before: Mapping[str, Any] | None) -> str:
    """The kind of order of a run: that of the run so far, by what its checkpoint says (older ones say nothing)."""
    return KEYED if before is None else before.get("order", PERMUTED)


def changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Old and new value of each key that differs and that the result depends on."""
    before, after = (_SINCE | dict(_flat(as_now(config))) for config in (old, new))
    keys = sorted(key for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return {key: (before.get(key), after.get(key)) for key in keys if key not in _FREE and not _FREE_FORMS.match(key)}


def as_now(config: dict[str, Any]) -> dict[str, Any]:
    """A config as it is written now, of a run of before: with its measures, which were named in a list, and more."""
    found = {"schedule": {"_target_": "imtok.schedules.WarmupCosine"}, **config}
    trainer, optimizer = dict(config.get("trainer") or {}), dict(config.get("optimizer") or {})
    if optimizer:
        found["optimizer"] = {"_target_": "torch.optim.AdamW", **optimizer}
    named = trainer.pop("evaluate_metrics", None)
    if named is not None:
        chosen = ["linear_probe" if name == "probe" else name for name in named]
        found |= {"trainer": trainer, "measure": sections(chosen)}
    return found


def check_changes(old: dict[str, Any], new: dict[str, Any], allowed: list[str]) -> list[str]:
    """Lines that name each change, all of them allowed. More steps than before always are.

    Args:
        old: Config of the run so far.
        new: Config that it would go on with.
        allowed: Keys (or their sections) that the user lets change.

    Raises:
        InputError: If a change is not allowed.
    """
    lines, refused = [], []
    for key, (before, after) in changes(old, new).items():
        lines.append(f"{key}: {before} -> {after}")
        if key == "trainer.max_steps" and after > before:
            continue
        if not any(key == name or key.startswith((f"{name}.", f"{name}[")) for name in allowed):
            refused.append(key)
    if refused:
        listed = "\n".join(f"  {line}" for line in lines)
        raise InputError(
            f"the config differs from that of the run so far:\n{listed}\n"
            f"set it back, or say allow_change=[{','.join(refused)}] to go on all the same"
        )
    return lines


def _flat(value: Any, path: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        return [item for key, part in value.items() for item in _flat(part, f"{path}.{key}" if path else str(key))]
    return [(path, current_path(value) if path.endswith("_target_") and value else value)]
