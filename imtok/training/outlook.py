"""Names schedules that reach beyond the end of a run, before the run starts."""

from collections.abc import Iterator
from typing import Any

from imtok.schedules import Schedule
from imtok.training.rates import unread
from imtok.training.settings import OptimizerSettings, TrainerSettings

_STARTS = ("critic_start", "generator_start", "start_step", "anneal_start")
_SPANS = {"ramp_steps": "generator_start", "anneal_steps": "anneal_start", "steps": None}  # and where each begins


def unlikely(
    trainer: TrainerSettings, optimizer: OptimizerSettings, config: dict[str, Any], schedule: Schedule | None = None
) -> list[str]:
    """Every part of a schedule that lies beyond the last step: a line each, with keys and numbers.

    Args:
        trainer: Length of the run.
        optimizer: Its warm-up, and the critic's.
        config: The run's config as plain values: what its parts call a first step or a number of steps.
        schedule: Of the learning rate; None = warm-up, then half a cosine.
    """
    steps = trainer.max_steps
    found = []
    for name in unread(schedule):
        value = getattr(optimizer, name)
        if config.get("optimizer", {}).get(name):
            found.append(f"optimizer.{name}={value} has no effect: {type(schedule).__name__} has no {name}")
    if optimizer.warmup_steps > steps and "warmup_steps" not in unread(schedule):
        reached = optimizer.rate(steps - 1, steps, 0, schedule) / optimizer.lr
        found.append(
            f"optimizer.warmup_steps={optimizer.warmup_steps} is more than trainer.max_steps={steps}: the learning "
            f"rate ends at {reached:.2g} of optimizer.lr"
        )
    start, warmup = _critic_start(config), optimizer.critic.warmup_steps
    if start is not None and warmup is not None and start < steps < start + warmup:
        found.append(
            f"optimizer.critic.warmup_steps={warmup} from objective.adversary.critic_start={start} on ends after "
            f"trainer.max_steps={steps}: the critic's learning rate never reaches its peak"
        )
    found += [
        line
        for section in ("objective", "regularizer", "quantizer", "encoder", "decoder")
        for line in _late(config.get(section), section, steps)
    ]
    if trainer.evaluate_every > steps:
        lost = f", and trainer.best={trainer.best} keeps no tokenizer" if trainer.best else ""
        found.append(
            f"trainer.evaluate_every={trainer.evaluate_every} is more than trainer.max_steps={steps}: nothing is "
            f"evaluated before the end{lost}"
        )
    if trainer.stop_at is not None and trainer.stop_at > steps:
        found.append(f"trainer.stop_at={trainer.stop_at} is more than trainer.max_steps={steps}: it has no effect")
    return found


def _late(node: Any, path: str, steps: int) -> Iterator[str]:
    """Starts and ends in a section that lie beyond the last step."""
    if not isinstance(node, dict):
        return
    never = [key for key in _STARTS if _number(node.get(key)) >= steps]
    for key in never[:1]:  # what depends on it need not be named as well
        yield f"{path}.{key}={node[key]} is not before trainer.max_steps={steps}: this never begins"
    for key, first in _SPANS.items() if not never else ():
        length, start = _number(node.get(key)), _number(node.get(first)) if first else 0
        if length > 0 and start + length > steps and (first is not None or _is_ramp(node)):
            since = f" from {path}.{first}={start} on" if first and start else ""
            yield f"{path}.{key}={length}{since} ends after trainer.max_steps={steps}: the last value is not reached"
    for key, value in node.items():
        yield from _late(value, f"{path}.{key}", steps)


def _critic_start(config: dict[str, Any]) -> int | None:
    adversary = (config.get("objective") or {}).get("adversary")
    return _number(adversary.get("critic_start")) if isinstance(adversary, dict) else None


def _number(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _is_ramp(node: dict[str, Any]) -> bool:
    """A number called "steps" may also be of a sampler."""
    return str(node.get("_target_", "")).endswith(".Ramp")
