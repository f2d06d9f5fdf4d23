"""Any list of images into WebDataset shards: in parallel, to be taken up again, and the same bytes every time."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from imtok.bars import bar
from imtok.data.archives.archive import Archive, room
from imtok.data.archives.index import store_index
from imtok.data.archives.packing import Encoding, Packed, Packer, as_they_are
from imtok.data.archives.sample_names import sample_names
from imtok.data.archives.shards import CLASSES, ShardSource
from imtok.data.images import Source, content_hash
from imtok.data.order.sampler import epoch_order
from imtok.data.order.workers import Loader
from imtok.errors import InputError
from imtok.files import Lock, claim_inside, is_sealed, read_json, sha256, write_bytes, write_json
from imtok.shard_folder import MANIFEST, ShardFolder, writing

FORMAT = "imtok-pack-1"
INDEX, BAD, PROGRESS = "index.safetensors", "bad.jsonl", ".progress"
LOCK = "lock"
AT_A_TIME = 16  # images that a worker takes


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

    Returns:
        The manifest.

    Raises:
        InputError: If the folder holds something else, the disk is full, or no image can be decoded.
    """
    plan = {"format": FORMAT, "source": source.digest, "images": len(source), **asdict(layout), **asdict(encoding)}
    out = ShardFolder(folder, plan, PROGRESS)
    if (folder / MANIFEST).exists():
        return _finished(out)
    claim_inside(folder, PROGRESS)
    with Lock(out.records / LOCK, f"out={folder}").held(), bar("pack") as advance:
        out.sweep()
        out.begin()
        shards = _whole_shards(out)
        done = shards[-1]["end"] if shards else 0
        advance(done, len(source))
        with writing(folder, lambda: _needed(shards, len(source))):
            for shard in _write(source, out, layout, encoding, workers, (len(shards), done), advance):
                shards.append(shard)
            manifest = _finish(source, out, shards)
        shutil.rmtree(out.records)
    return manifest


def _write(
    source: Source,
    out: ShardFolder,
    layout: ShardLayout,
    encoding: Encoding,
    workers: int,
    start: tuple[int, int],
    advance: Callable[[int, int], None],
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
        path = _shard(out, number)
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
                advance(1, count)
                sample = next(samples, None)
            shard["end"] = at
            if not shard["images"]:
                raise InputError(
                    f"none of the images can be decoded, the first being {_first_bad(shard)}; check the data"
                )
            digest = archive.end()
            shard |= {"bytes": archive.written, "sha256": digest}
            write_json(_note(out, path), shard)
            archive.publish()
        yield shard
        number += 1


def _whole_shards(out: ShardFolder) -> list[dict[str, Any]]:
    """What was noted of the shards that are there whole."""
    shards: list[dict[str, Any]] = []
    while _note(out, path := _shard(out, len(shards))).exists():
        shard = read_json(_note(out, path))
        if not path.is_file() or path.stat().st_size != shard["bytes"]:
            break
        shards.append(shard)
    return shards


def _finish(source: Source, out: ShardFolder, shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Write what stands beside the shards, and the manifest last."""
    folder = out.folder
    write_json(folder / CLASSES, {name: label for label, name in enumerate(source.classes)})
    bad = [row for shard in shards for row in shard["bad"]]
    write_bytes(folder / BAD, "".join(json.dumps(row) + "\n" for row in bad).encode())
    paths = [_shard(out, number) for number in range(len(shards))]
    hashes = np.frombuffer(bytes.fromhex("".join(part for shard in shards for part in shard["hashes"])), np.uint8)
    store_index(ShardSource(paths), hashes.reshape(-1, 16), folder / INDEX)
    return out.seal(
        {
            "format": FORMAT,
            "plan": out.plan,
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


def _finished(out: ShardFolder) -> dict[str, Any]:
    """The manifest of an earlier call that asked for the same."""
    manifest = read_json(out.folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or not is_sealed(manifest):
        raise InputError(f"out={out.folder} already holds something else; give another folder")
    out.require_same(manifest["plan"])
    shutil.rmtree(out.records, ignore_errors=True)  # killed just before it was done
    return manifest


def _shard(out: ShardFolder, number: int) -> Path:
    return out.folder / f"shard-{number:06d}.tar"


def _note(out: ShardFolder, shard: Path) -> Path:
    return out.records / f"{shard.stem}.json"


def _first_bad(shard: dict[str, Any]) -> str:
    return "{key}: {reason}".format(**shard["bad"][0])


def _needed(shards: list[dict[str, Any]], images: int) -> str:
    """Bytes that the other images will take, if they are like those of the whole shards."""
    done, size = sum(shard["end"] - shard["first"] for shard in shards), sum(shard["bytes"] for shard in shards)
    return f"about {round(size / done * (images - done))} more" if done else "more"
