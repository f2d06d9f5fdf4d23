"""Any list of images into WebDataset shards: in parallel, to be taken up again, and the same bytes every time."""

import errno
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from imtok.data.archives.archive import Archive, room
from imtok.data.archives.index import store_index
from imtok.data.archives.packing import Encoding, Packed, Packer, as_they_are
from imtok.data.archives.sample_names import sample_names
from imtok.data.archives.shards import CLASSES, ShardSource
from imtok.data.images import Source, content_hash
from imtok.data.order.loader import Loader
from imtok.data.order.sampler import epoch_order
from imtok.errors import InputError
from imtok.files import Lock, claim_inside, is_sealed, read_json, sealed, sha256, write_bytes, write_json

FORMAT = "imtok-pack-1"
MANIFEST, INDEX, BAD, PROGRESS = "manifest.json", "index.safetensors", "bad.jsonl", ".progress"
LOCK = "lock"
AT_A_TIME = 16  # images that a worker takes
FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True)
class ShardLayout:
    """How images are dealt out to shards.

    Attributes:
        shard_images: At most so many in one.
        shard_bytes: At most so large, unless one image is.
        shuffle: Seed of their order; None = as in the source. Streams read few shards at a time, and shards sorted by
            class would give batches of few classes.
    """

    shard_images: int = 10_000
    shard_bytes: int = 1_000_000_000
    shuffle: int | None = 0


AS_THEY_ARE = Encoding()


def pack(
    source: Source,
    folder: Path,
    layout: ShardLayout = ShardLayout(),
    encoding: Encoding = AS_THEY_ARE,
    workers: int = 0,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, Any]:
    """Write a source's images as shards, and ``classes.json``, ``index.safetensors``, ``bad.jsonl``, ``manifest.json``.

    A shard is there whole or not at all. Called again after it was stopped, it goes on after the last whole one; what
    it leaves in the end does not depend on that, nor on ``workers``.

    Args:
        source: The images. Those that cannot be decoded are left out and named in ``bad.jsonl``.
        folder: New, empty, or left by such a call.
        layout: How they are dealt out.
        encoding: How they are stored.
        workers: Processes that read, decode and encode; 0 = this one.
        advance: Called with the number of images that are done.

    Returns:
        The manifest.

    Raises:
        InputError: If the folder holds something else, the disk is full, or no image can be decoded.
    """
    plan = {"format": FORMAT, "source": source.digest, "images": len(source), **asdict(layout), **asdict(encoding)}
    if (folder / MANIFEST).exists():
        return _finished(folder, plan)
    claim_inside(folder, PROGRESS)
    with _locked(folder):
        for leftover in folder.glob(".*.tmp"):  # of a process that was killed as it wrote: nobody else writes here now
            leftover.unlink()
        _begin(folder / PROGRESS / "plan.json", plan)
        shards = _whole_shards(folder)
        done = shards[-1]["end"] if shards else 0
        advance(done)
        try:
            for shard in _write(source, folder, layout, encoding, workers, (len(shards), done), advance):
                shards.append(shard)
            manifest = _finish(source, folder, plan, shards)
        except OSError as error:
            raise _no_room(error, folder, shards, len(source)) from None
        shutil.rmtree(folder / PROGRESS)
    return manifest


def _write(
    source: Source,
    folder: Path,
    layout: ShardLayout,
    encoding: Encoding,
    workers: int,
    start: tuple[int, int],
    advance: Callable[[int], None],
) -> Iterator[dict[str, Any]]:
    """Write the shards from ``start`` (number, position) on; yields what is to know of each."""
    # The order of all images, from where an earlier command has stopped.
    count = len(source)
    order = np.arange(count) if layout.shuffle is None else epoch_order(count, layout.shuffle, 0)
    names = sample_names((source.stem(index), source.key(index)) for index in range(count))
    number, at = start
    left = order[at:].tolist()
    chunks = [left[first : first + AT_A_TIME] for first in range(0, len(left), AT_A_TIME)]
    # Workers read and encode; this process writes.
    loader = Loader(Packer(source, encoding), workers, batch_sampler=chunks, collate_fn=as_they_are)
    samples = (sample for chunk in cast(Any, loader) for sample in chunk)
    sample: Packed | None = next(samples, None)
    while sample is not None:
        path = _shard(folder, number)
        shard: dict[str, Any] = {"first": at, "images": 0, "captions": 0, "hashes": [], "bad": []}
        with Archive(path) as archive:
            while sample is not None:
                if sample.reason is None:
                    large = archive.size + room(sample.members) > layout.shard_bytes
                    if shard["images"] and (large or shard["images"] == layout.shard_images):
                        break
                    archive.add(names[sample.index], sample.members)
                    shard["images"] += 1
                    shard["captions"] += "txt" in sample.members
                    shard["hashes"].append(content_hash(sample.image).hex())
                else:
                    shard["bad"].append({"key": source.key(sample.index), "reason": sample.reason})
                at += 1
                advance(1)
                sample = next(samples, None)
            shard["end"] = at

            def note(digest: str, size: int, path: Path = path, shard: dict[str, Any] = shard) -> None:
                shard["bytes"], shard["sha256"] = size, digest
                write_json(folder / PROGRESS / f"{path.stem}.json", shard)

            if not shard["images"]:
                raise InputError(
                    f"none of the images can be decoded, the first being {_first_bad(shard)}; check the data"
                )
            archive.finish(before=note)
        yield shard
        number += 1


def _whole_shards(folder: Path) -> list[dict[str, Any]]:
    """What was noted of the shards that are there whole."""
    shards: list[dict[str, Any]] = []
    while (note := folder / PROGRESS / f"{_shard(folder, len(shards)).stem}.json").exists():
        shard = read_json(note)
        path = _shard(folder, len(shards))
        if not path.is_file() or path.stat().st_size != shard["bytes"]:
            break
        shards.append(shard)
    return shards


def _finish(source: Source, folder: Path, plan: dict[str, Any], shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Write what stands beside the shards, and the manifest last."""
    write_json(folder / CLASSES, {name: label for label, name in enumerate(source.classes)})
    bad = [row for shard in shards for row in shard["bad"]]
    write_bytes(folder / BAD, "".join(json.dumps(row) + "\n" for row in bad).encode())
    paths = [_shard(folder, number) for number in range(len(shards))]
    hashes = np.frombuffer(bytes.fromhex("".join(part for shard in shards for part in shard["hashes"])), np.uint8)
    store_index(ShardSource(paths), hashes.reshape(-1, 16), folder / INDEX)
    manifest = sealed(
        {
            "format": FORMAT,
            "plan": plan,
            "images": sum(shard["images"] for shard in shards),
            "captions": sum(shard["captions"] for shard in shards),
            "bad": len(bad),
            "classes": len(source.classes),
            "shards": [
                {"name": path.name, **{name: shard[name] for name in ("images", "bytes", "sha256")}}
                for path, shard in zip(paths, shards, strict=True)
            ],
            "files": {name: sha256(folder / name) for name in (CLASSES, BAD, INDEX)},
        }
    )
    write_json(folder / MANIFEST, manifest)
    return manifest


def _finished(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """The manifest of an earlier call that asked for the same."""
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not is_sealed(manifest):
        raise InputError(f"out={folder} already holds something else; give another folder")
    _require_same(folder, manifest["plan"], plan)
    shutil.rmtree(folder / PROGRESS, ignore_errors=True)  # killed just before it was done
    return manifest


def _begin(path: Path, plan: dict[str, Any]) -> None:
    if path.exists():
        _require_same(path.parent.parent, read_json(path), plan)
    else:
        write_json(path, plan)


def _require_same(folder: Path, before: dict[str, Any], plan: dict[str, Any]) -> None:
    name = next((name for name in plan if before.get(name) != plan[name]), None)
    if name is not None:
        then, now = ("other images", "these") if name == "source" else (before.get(name), plan[name])
        raise InputError(f"out={folder} was packed with {name}={then}, not {now}; give another folder or remove it")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep a second process from writing to the same folder."""
    lock = Lock(folder / PROGRESS / LOCK, f"out={folder}")
    try:
        (folder / PROGRESS).mkdir(parents=True, exist_ok=True)
        lock.take()
    except OSError as error:
        raise InputError(f"out={folder} cannot be written ({error.strerror or error}); give another folder") from None
    try:
        yield
    finally:
        lock.release()


def _shard(folder: Path, number: int) -> Path:
    return folder / f"shard-{number:06d}.tar"


def _first_bad(shard: dict[str, Any]) -> str:
    return "{key}: {reason}".format(**shard["bad"][0])


def _no_room(error: OSError, folder: Path, shards: list[dict[str, Any]], images: int) -> Exception:
    """What to say of a disk that is full."""
    if error.errno not in FULL:
        return InputError(f"out={folder} cannot be written ({error.strerror or error}); mend that and run it again")
    done, size = sum(shard["end"] - shard["first"] for shard in shards), sum(shard["bytes"] for shard in shards)
    needed = f"about {round(size / done * (images - done))}" if done else "more"
    return InputError(
        f"out={folder}: the disk is full: {needed} bytes are needed and {shutil.disk_usage(folder).free} are free; the "
        f"{len(shards)} whole shards stay: free some room and run it again"
    )
