"""The run folder: what may be written to it, what it says about the run, where it goes on from."""

import contextlib
import logging
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from imtok.distributed import launched_rank
from imtok.errors import InputError
from imtok.files import Lock, claim_inside, read_json, unwritable, write_bytes, write_json
from imtok.paste import shell_line
from imtok.training import checkpoints
from imtok.training.checkpoints import Checkpoint

log = logging.getLogger(__name__)

CONFIG = "config.yaml"
LOCK = ".lock"
STAGES = "stages"  # runs that came before this one, for a recipe of several stages
_BEGINNINGS = ("run.json", "loggers.json", "events.jsonl", "metrics.csv", "evaluation.csv", "bad_samples.jsonl")
_PACKAGES = ("imtok", "torch", "torchvision", "lightning", "hydra-core", "webdataset", "torchmetrics", "safetensors")


def find_checkpoint(folder: Path, ckpt: str | None, hashes: bool = True) -> Checkpoint | None:
    """What ``ckpt`` names: ``last``, the newest whole checkpoint of the folder, or a checkpoint folder.

    ``last`` in a folder without any run is the start of one: the same command begins a run and goes on with it.

    Args:
        folder: The run folder.
        ckpt: What the config says.
        hashes: Whether to verify the hashes of shards now; else ranks share that, once they have met.

    Raises:
        InputError: If it names nothing that can be read, or a run is there without a whole checkpoint.
    """
    if ckpt is None:
        return None
    if ckpt != "last":
        if not Path(ckpt).is_dir():
            raise InputError(f"ckpt={ckpt} is not a checkpoint folder; give RUN/checkpoints/step_N or ckpt=last")
        return checkpoints.opened(Path(ckpt), hashes)
    found = checkpoints.newest(folder / "checkpoints", hashes)
    if found is not None:
        return found
    if has_begun(folder):
        raise InputError(f"{folder}/checkpoints holds no whole checkpoint; start anew in another folder")
    log.info("no checkpoint in %s yet: starting at step 0", folder)
    return None


def has_begun(folder: Path) -> bool:
    """Whether a run has saved a step in a folder."""
    return any((folder / "checkpoints").glob("step_*"))


def left_out_so_far(folder: Path, ckpt: str | None) -> dict[str, str] | None:
    """The judges that the run to go on with is without, and why; None if a run begins, or has saved no step."""
    if ckpt is None or (ckpt == "last" and not has_begun(folder)):
        return None
    path = folder / "run.json" if ckpt == "last" else Path(ckpt) / checkpoints.MANIFEST
    if not path.is_file():  # what is wrong with it is said where it is read
        return None
    stored = read_json(path)
    return dict(stored.get("left_out") or {}) if isinstance(stored, dict) else None


@contextmanager
def held(folder: Path) -> Iterator[Lock]:
    """The lock of a run folder, for as long as the block lasts.

    Where there is a run it is taken at once, before its checkpoints are read. In a new folder :func:`claim` takes it,
    once it is known that the run can begin; in a folder of somebody else's nothing is touched.

    Raises:
        InputError: If another process holds it.
    """
    lock = Lock(folder / LOCK, f"out={folder}")
    try:
        if launched_rank() == 0:
            with contextlib.suppress(OSError):  # if it matters, claim says so
                if (folder / CONFIG).exists():
                    lock.take()
        yield lock
    finally:
        if lock.release():
            with contextlib.suppress(OSError):  # what was given back is gone once the lock is; all else stays
                folder.rmdir()


def claim(folder: Path, ckpt: str | None, lock: Lock) -> None:
    """Check that a run may start in ``folder``, take it, and remove what a killed process left half-written.

    Raises:
        InputError: If the folder holds another run or something else, or another process is at work in it.
    """
    claim_inside(folder, CONFIG, (STAGES,))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.take()
        if (folder / CONFIG).exists() and ckpt is None:
            raise InputError(f"out={folder} already holds a run; give another folder, or ckpt=last to go on with it")
        for place in (folder, folder / "checkpoints"):
            checkpoints.clean(place)
    except OSError as error:
        raise unwritable(f"out={folder}", error) from None


def describe(folder: Path, config_yaml: str, about: dict[str, Any], seed: int) -> None:
    """Write ``config.yaml`` and ``run.json``: all that one needs to repeat the run, and nothing of the environment.

    Raises:
        InputError: If the disk has no room.
    """
    facts = {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seed": seed,
        **({"left_out": about["left_out"]} if "left_out" in about else {}),
        "data": about["data"],
        "order": about["order"],
        "versions": {"python": platform.python_version(), **{name: _version(name) for name in _PACKAGES}},
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
        "config": about["config"],
    }
    facts["starts"] = [*_starts(folder), _start(facts)]
    try:
        write_bytes(folder / CONFIG, config_yaml.encode())
        write_json(folder / "run.json", facts)
    except OSError as error:
        raise InputError(f"out={folder} cannot be written to ({error.strerror or error}); free some room") from None


def give_back(folder: Path, places: Iterable[str] = ()) -> None:
    """Remove what a run has written that was refused before its first step, so that the mended one may start there.

    Args:
        folder: The run folder.
        places: Names in it that loggers have made.
    """
    for name in places:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name, ignore_errors=True)
        else:
            (folder / name).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        if not any((folder / "checkpoints").glob("step_*")):
            for name in (CONFIG, *_BEGINNINGS):
                (folder / name).unlink(missing_ok=True)
            for place in (folder / "checkpoints", folder):
                if place.is_dir() and not any(place.iterdir()):
                    place.rmdir()


def _starts(folder: Path) -> list[dict[str, Any]]:
    """What is known of the earlier starts of a run."""
    path = folder / "run.json"
    found = read_json(path) if path.is_file() else {}
    starts = found.get("starts", []) if isinstance(found, dict) else []
    return starts if isinstance(starts, list) else []


def _start(facts: dict[str, Any]) -> dict[str, Any]:
    """What one start was: its command line, host, and the commit of the checkout that imtok is in."""
    return {
        "command": shell_line(*sys.argv[0].split(" "), *sys.argv[1:]),
        "host": platform.node(),
        "commit": _commit(Path(__file__).resolve().parents[2]),
        **{key: facts[key] for key in ("started", "versions", "device", "config")},
    }


def _commit(checkout: Path) -> str | None:
    """The commit that a checkout is at; None if it is none."""
    if not (checkout / ".git").exists():
        return None
    with contextlib.suppress(OSError):  # git is not installed
        done = subprocess.run(["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True)
        return done.stdout.strip() or None
    return None


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
