"""Checkpoint folders that are whole or absent. Stock saving goes through $TMPDIR without fsync and loses good files."""

import logging
import os
import re
import shutil
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from imtok.errors import InputError
from imtok.files import is_sealed, new_folder, read_json, remove_leftovers, sealed, stamp, write_json
from imtok.training.shards import NAME, Shards

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
FORMAT, SHARDED = 3, 4  # in files that are whole, and in files of several ranks
STATE = {"optimizers", "skipped", "ema_updates", "meters"}
FILES = {"model.safetensors", "ema.safetensors", "trainer.pt"}


@dataclass(frozen=True)
class Checkpoint:
    """Everything a run needs to go on.

    Attributes:
        step: Optimiser steps finished.
        model: Weights and buffers of tokenizer and objective, by name.
        ema: Weights and buffers of the averaged tokenizer.
        state: Plain values and tensors: optimisers by parameter name, counters, meters.
        about: What the manifest says besides: config, digest of the data, kind of order, versions.
        shards: Where the tensors are, if the ranks of a run have written them in shards: ``model`` and ``ema`` are
            empty then, and in ``state`` stand names of tensors.
    """

    step: int
    model: dict[str, Tensor]
    ema: dict[str, Tensor]
    state: dict[str, Any]
    about: dict[str, Any]
    shards: Shards | None = None

    def weights(self) -> dict[str, Tensor]:
        """The tensors of ``model``, whole, wherever they are."""
        return self.model if self.shards is None else self.shards.whole("model.")

    def forget(self) -> None:
        """Let go of all tensors, once a run has taken them: it goes on for days, and they are as large as it is."""
        self.model.clear()
        self.ema.clear()
        self.state.clear()


def save(checkpoint: Checkpoint, folder: Path, keep: int) -> Path:
    """Write ``folder/step_N``, read it back, and only then delete the oldest ones beyond ``keep``.

    Raises:
        InputError: If the disk has no room or a number is not finite; earlier checkpoints are untouched.
    """
    # Refuse what would be worth nothing, and what does not fit on the disk.
    require_finite(checkpoint.step, (*checkpoint.model.items(), *checkpoint.ema.items()))
    needed = sum(value.nbytes for value in tree_leaves(vars(checkpoint)) if isinstance(value, Tensor))
    target = folder / f"step_{checkpoint.step}"
    free = room_for(target, needed)
    # Write all files aside, the manifest with their hashes last, and show the folder at once.
    with explained(target, needed, free), new_folder(target) as aside:
        save_file(checkpoint.model, aside / "model.safetensors")
        save_file(checkpoint.ema, aside / "ema.safetensors")
        write_state(aside / "trainer.pt", checkpoint.state)
        files = {path.name: stamp(path) for path in sorted(aside.iterdir())}
        seal(aside, FORMAT, checkpoint, files)
    # Read it back, and only then let an older one go.
    problem = damage(target)
    if problem:
        raise InputError(f"{target} was damaged while it was written ({problem}); check the disk")
    retire(folder, target, keep)
    return target


def require_finite(step: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
    """Raise InputError if a number is not finite: such a checkpoint is worth nothing."""
    for name, value in tensors:
        if value.is_floating_point() and not torch.isfinite(value).all():
            raise InputError(f"checkpoint at step {step} not written: {name} holds NaN or infinity")


def room_for(target: Path, needed: int) -> int:
    """The free bytes where a checkpoint is to lie; InputError if it will not fit. Its folder is made."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
    except OSError as error:
        raise InputError(f"{target.parent} cannot be written to ({error.strerror or error})") from None
    if free < 1.1 * needed:
        raise InputError(
            f"{target} not written: it needs {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free; the earlier "
            "checkpoints are whole: free some room and go on with ckpt=last"
        )
    return free


@contextmanager
def explained(target: Path, needed: int, free: int) -> Iterator[None]:
    """One clear error where the disk refuses what is written in the block."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:  # the latter are how writers report a full disk
        cause = error if isinstance(error, OSError) else error.__context__
        reason = cause.strerror if isinstance(cause, OSError) and cause.strerror else error
        raise InputError(
            f"{target} not written ({reason}; {needed / 1e6:.1f} MB needed, {free / 1e6:.1f} MB were free); the "
            "earlier checkpoints are whole: mend that and go on with ckpt=last"
        ) from None


def seal(folder: Path, number: int, checkpoint: Checkpoint, files: dict[str, Any]) -> None:
    """Write the manifest, after all else."""
    manifest = {"format": number, "step": checkpoint.step, "files": files, **checkpoint.about}
    write_json(folder / MANIFEST, sealed(manifest))


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Write plain values and tensors in torch's format."""
    with path.open("wb") as file:
        torch.save(state, file)


def find(folder: Path, hashes: bool = True) -> Path | None:
    """The newest checkpoint in ``folder`` that is whole; damaged newer ones are named in a warning."""
    damaged: list[str] = []
    for path in _newest_first(folder):
        problem = damage(path, hashes)
        if problem is None:
            if damaged:
                log.warning("%s; going back to %s", "; ".join(damaged), path)
            return path
        damaged.append(f"{path} is damaged ({problem})")
    return None


def damage(path: Path, hashes: bool = True) -> str | None:
    """What is wrong with a checkpoint folder; None if every file has the size and hash of the manifest.

    Args:
        path: The folder.
        hashes: Whether to look at the hashes of shards, too, which ranks can do together later.
    """
    try:
        manifest = read_json(path / MANIFEST)
        if not isinstance(manifest, dict) or manifest.get("format") not in (FORMAT, SHARDED):
            return f"{MANIFEST} is not of format {FORMAT} or {SHARDED}"
        if not is_sealed(manifest):
            return f"{MANIFEST} was altered"
        names, shards = set(manifest["files"]), {file.name for file in path.glob("shard-*")}
        if names != FILES if manifest["format"] == FORMAT else not _are_shards(names):
            return f"{MANIFEST} does not name the files of a checkpoint"
        if manifest["format"] == SHARDED and shards - names:
            return f"{min(shards - names)} is not one of its files"
        for name, about in manifest["files"].items():
            file = path / name
            if not file.is_file():
                return f"{name} is missing"
            same = file.stat().st_size == about["bytes"]
            if not same or ((hashes or not NAME.fullmatch(name)) and stamp(file) != about):
                return f"{name} was altered or cut"
    except (InputError, OSError, KeyError, TypeError, AttributeError) as error:
        return str(error)
    return None


def _are_shards(names: set[str]) -> bool:
    return "trainer.pt" in names and len(names) > 1 and all(NAME.fullmatch(name) for name in names - {"trainer.pt"})


def load(path: Path) -> Checkpoint:
    """Read a checkpoint folder, and all of its tensors; see :func:`opened`."""
    checkpoint = opened(path)
    if checkpoint.shards is None:
        return checkpoint
    try:
        tensors = checkpoint.shards.whole()
    except Exception as error:
        raise _foreign(path, error) from None
    parts = {kind: {n[len(kind) :]: v for n, v in tensors.items() if n.startswith(kind)} for kind in ("model.", "ema.")}
    state = tree_map(lambda one: tensors.get(one, one) if isinstance(one, str) else one, checkpoint.state)
    return Checkpoint(checkpoint.step, parts["model."], parts["ema."], state, checkpoint.about)


def opened(path: Path, hashes: bool = True) -> Checkpoint:
    """Read a checkpoint folder but for its shards; InputError if it is damaged or hostile. Runs no code in it."""
    problem = damage(path, hashes)
    if problem:
        raise InputError(f"{path} is not a whole checkpoint ({problem}); choose another one")
    return _read(path, hashes)


def newest(folder: Path, hashes: bool = True) -> Checkpoint | None:
    """The checkpoint that :func:`find` finds, without its shards; its bytes are verified once."""
    found = find(folder, hashes)
    return None if found is None else _read(found, hashes)


def _read(path: Path, hashes: bool) -> Checkpoint:
    """Read a checkpoint folder whose hashes hold. Its tensors stay in the files until somebody looks at them."""
    manifest = read_json(path / MANIFEST)
    about = {key: value for key, value in manifest.items() if key not in ("format", "step", "files", "sha256")}
    try:
        with zipfile.ZipFile(path / "trainer.pt") as archive:
            if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                raise ValueError("trainer.pt is compressed, which imtok never does: it may swell without end")
        state = torch.load(path / "trainer.pt", map_location="cpu", weights_only=True, mmap=True)
        if not isinstance(state, dict) or not state.keys() >= STATE:
            raise ValueError(f"trainer.pt must hold {', '.join(sorted(STATE))}")
        if manifest["format"] == SHARDED:
            stamps = {name: about for name, about in manifest["files"].items() if NAME.fullmatch(name)}
            return Checkpoint(int(manifest["step"]), {}, {}, state, about, Shards(path, stamps, verified=hashes))
        model, ema = load_file(path / "model.safetensors"), load_file(path / "ema.safetensors")
        return Checkpoint(int(manifest["step"]), model, ema, state, about)
    except Exception as error:  # unpicklers and parsers raise many kinds
        raise _foreign(path, error) from None


def _foreign(path: Path, error: Exception) -> InputError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return InputError(f"{path} is not a checkpoint of imtok ({reason}); choose another one")


def clean(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for path in folder.glob(".*.tmp"):
        found = re.fullmatch(r"\.(.+)\.\d+(\.old)?\.tmp", path.name)
        if found:
            remove_leftovers(folder / found[1])


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step_*") if path.name.removeprefix("step_").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step_")), reverse=True)


def retire(folder: Path, written: Path, keep: int) -> None:
    """Delete the oldest beyond ``keep``, and those of later steps: damaged, or of a course that the run has left."""
    found = _newest_first(folder)
    at = found.index(written)
    for path in (*found[:at], *found[at + keep :]):
        try:
            aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
            path.rename(aside)
            shutil.rmtree(aside)
        except OSError as error:
            log.warning("%s could not be deleted (%s)", path, error)
