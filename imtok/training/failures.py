"""Which rank failed first. The others only see a closed connection, and their traceback hides the reason."""

import time
from typing import Any

from imtok.distributed import rank, world_size
from imtok.training.records import Events

_WAIT = 3.0  # seconds: the connection closes before or after the reason is written


def note_failure(events: Events, step: int, error: BaseException) -> None:
    """Write down why this rank fails; raise RuntimeError if another rank failed before it.

    Args:
        events: The run's, which all ranks share.
        step: Steps that were finished.
        error: What was raised here.
    """
    first = _failed_elsewhere(events) if world_size() > 1 and _looks_like_a_lost_rank(error) else None
    if first is not None:
        raise RuntimeError(
            f"rank {first['rank']} failed first, after step {first['step']}: {first['reason']}"
        ) from None
    events.write("error", step=step, rank=rank(), reason=f"{type(error).__name__}: {error}")


def _looks_like_a_lost_rank(error: BaseException) -> bool:
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(
        sign in text for sign in ("connection", "gloo", "nccl", "timed out", "timeout", "peer", "socket")
    )


def _failed_elsewhere(events: Events) -> dict[str, Any] | None:
    """The first error of another rank since the run was last started."""
    for _ in range(10):
        latest: list[dict[str, Any]] = []
        for event in events.read():
            latest = [] if event["event"] in ("start", "resume") else [*latest, event]
        found = [event for event in latest if event["event"] == "error" and event.get("rank") != rank()]
        if found:
            return found[0]
        time.sleep(_WAIT / 10)
    return None
