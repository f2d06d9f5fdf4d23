"""Seconds and bytes of what a run does once for all images, up to 100 million; and exports that share shards.

    python benchmarks/scale.py [--images 1000000 10000000 100000000] [--rounds 3] [--out docs/benchmarks-scale.md]

The images are rows of an index without shards behind it, since nothing here reads one. Each number is measured in a
process of its own. The export encodes with a net that costs next to nothing.
"""

import argparse
import json
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from export import write_images

from imtok.data.archives.index import find_index, store_index
from imtok.data.archives.names import Names
from imtok.data.archives.shard_paths import open_local
from imtok.data.archives.shards import ShardSource
from imtok.data.images import Columns, Indexable
from imtok.data.order.sampler import KEYED, PERMUTED, order_of
from imtok.data.sources.webdataset import WebDataset
from imtok.data.stream import ImageStream
from imtok.export.feed import make_feed
from imtok.export.tokens import export_tokens
from imtok.tokenizer import Tokenizer

SHARD, BATCH, NAME = 10_000, 256, 20  # images, images, bytes
IMAGES, SHARDS, PACE = 320, 16, 1e6  # of the export; bytes per second of a slow line
PARTS: dict[str, Any] = {
    "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 32, "width": 8, "depth": 0},
    "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 8, 8]},
    "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 32, "width": 8, "depth": 0},
}


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, nargs="+", default=[10**6, 10**7, 10**8])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks-scale.md"))
    arguments = parser.parse_args()
    rows = []
    for count in arguments.images:
        with tempfile.TemporaryDirectory() as name:
            rows.append((count, lists(count, Path(name) / "index.safetensors")))
            print(json.dumps(rows[-1]), flush=True)
    with tempfile.TemporaryDirectory() as name:
        speeds = exports(Path(name), arguments.rounds)
    arguments.out.write_text(page(rows, speeds, arguments.rounds))


class Rows(Indexable):
    """Columns of an index, and nothing behind them."""

    kind = "shards"

    def __init__(self, columns: Columns) -> None:
        self._columns = columns

    def columns(self) -> Columns:
        """As they were given."""
        return self._columns

    def __len__(self) -> int:
        return len(self._columns["names"])

    def read(self, index: int) -> bytes:
        """Nothing here reads an image."""
        raise OSError(f"row {index} has no image behind it")

    def key(self, index: int) -> str:
        """The name."""
        return cast(Names, self._columns["names"]).text(index)

    def label(self, index: int) -> int:
        """The class."""
        return int(cast(np.ndarray, self._columns["labels"])[index])

    def record(self, index: int) -> str:
        """The name alone."""
        return self.key(index)


def write(count: int, path: Path) -> None:
    """An index of so many images in shards of 10,000."""
    shards = -(-count // SHARD)
    digits = np.full((count, NAME), ord("0"), np.uint8)
    left = np.arange(count, dtype=np.int64)
    for place in range(len(str(count))):
        digits[:, NAME - 1 - place] += (left % 10).astype(np.uint8)
        left //= 10
    column = np.arange(count, dtype=np.int64)
    columns: Columns = {
        "shards": Names([b"%08d.tar" % number for number in range(shards)]),
        "shard_bytes": np.full(shards, 10**9),
        "counts": np.diff(np.minimum(np.arange(shards + 1) * SHARD, count)),
        "names": Names.of(digits.ravel(), np.arange(count + 1, dtype=np.int64) * NAME),
        "offsets": column % SHARD * 100_000 + 512,
        "sizes": column % 7919 + 50_000,
        "labels": column % 1000,
    }
    store_index(Rows(columns), np.zeros((count, 16), np.uint8), path)


def mapped(path: Path) -> ShardSource:
    """The source of a stored index, whose shards are not looked for."""
    columns = find_index(path, "shards")
    assert columns is not None
    source = ShardSource.__new__(ShardSource)
    source.paths, source.shards = [], [name.decode() for name in cast(Names, columns["shards"])]
    source.ends = np.cumsum(cast(np.ndarray, columns["counts"]))
    source.stems, source.offsets, source.sizes, source.labels = (
        cast(Any, columns[name]) for name in ("names", "offsets", "sizes", "labels")
    )
    return source


def lists(count: int, path: Path) -> dict[str, float]:
    """Seconds and bytes at one number of images."""
    apart(write, count, path)
    found: dict[str, float] = {"file_bytes": path.stat().st_size}
    for name, action in {
        "permuted": partial(orders, PERMUTED, count),
        "keyed": partial(orders, KEYED, max(count, 2**22 + 1)),
        "first": partial(opens, path),  # from the disk, where the file is not in the page cache
        "index": partial(opens, path),
        "other": partial(opens, path, 1),
        "columns": partial(digests, path, "columns"),
        "records": partial(digests, path, "records"),
    }.items():
        if name in ("permuted", "records") and count > 10**7:
            continue  # minutes, and gigabytes; the slope is known by then
        seconds, memory, *more = apart(action)
        found |= {f"{name}_seconds": seconds, f"{name}_bytes": memory}
        found |= {f"{name}_step": step for step in more}
    return found


def apart(action: Callable[..., Any], *arguments: Any) -> Any:
    """What an action returns, done in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(action, arguments)


def orders(kind: str, count: int) -> tuple[float, float, float]:
    """Seconds to the first batch, bytes that are kept, and seconds of a batch after it."""
    before, start = private(), time.perf_counter()
    order = order_of(kind, count, 0, 0)
    order[0:BATCH]
    first = time.perf_counter() - start
    kept, start = private() - before, time.perf_counter()
    for number in range(50):
        order_of(kind, count, 0, 0)[number * BATCH : (number + 1) * BATCH].tolist()
    return first, max(0, kept), (time.perf_counter() - start) / 50


def opens(path: Path, rank: int = 0) -> tuple[float, float]:
    """Seconds to open an index and to read 256 of its rows, and bytes that no other process shares.

    Process 0 checks all bytes, and no other one does.
    """
    os.environ["RANK"] = str(rank)
    before, start = private(), time.perf_counter()
    source = mapped(path)
    source.records(np.linspace(0, len(source) - 1, BATCH).astype(np.int64))
    return time.perf_counter() - start, max(0, private() - before)


def digests(path: Path, way: str) -> tuple[float, float]:
    """Seconds to hash the list, and bytes that no other process shares."""
    source = mapped(path)
    before, start = private(), time.perf_counter()
    if way == "records":
        assert source.sha256
    else:
        assert len(source) <= 2**22 or source.identity["xxh3"]
        if len(source) <= 2**22:
            import xxhash

            source.fold(xxhash.xxh3_128())
    return time.perf_counter() - start, max(0, private() - before)


def private() -> int:
    """Bytes that this process has made, and that no other one shares. Pages of a mapped file are the system's."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Private_Dirty"))


def exports(root: Path, rounds: int) -> dict[str, list[float]]:
    """Images per second of an export of streamed shards: where they lie, how many processes, by which clock."""
    write_images(root / "images", IMAGES)
    shards(root, sorted((root / "images").rglob("*.jpg")))
    found: dict[str, list[float]] = {}
    for turn in range(rounds):
        for place, pace in (("disk", None), ("line", PACE)):
            for processes in (1, 2):
                wall, used = export_once(root, root / f"tokens-{turn}-{place}-{processes}", processes, pace)
                found.setdefault(f"{place} {processes}", []).append(wall)
                found.setdefault(f"{place} {processes} processor", []).append(used)
                print(place, processes, wall, used, flush=True)
    return found


def export_once(root: Path, out: Path, processes: int, pace: float | None) -> tuple[float, float]:
    """Images per second of one export, by the clock and by the processor's."""
    context = multiprocessing.get_context("spawn")
    gate, done = context.Barrier(processes + 1), context.Queue()
    started = [context.Process(target=encode, args=(root, out, gate, done, pace)) for _ in range(processes)]
    for process in started:
        process.start()
    gate.wait()
    start = time.perf_counter()
    used = sum(done.get() for _ in started)
    seconds = time.perf_counter() - start
    for process in started:
        process.join()
    return IMAGES / seconds, IMAGES / used


class Paced:
    """A file behind a connection of so many bytes per second."""

    def __init__(self, pace: float, url: str) -> None:
        self.pace, self.file = pace, open_local(url)

    def read(self, size: int) -> bytes:
        """Its next bytes, after the time that they take."""
        data = self.file.read(size)
        time.sleep(len(data) / self.pace)
        return data

    def close(self) -> None:
        """Close it."""
        self.file.close()


def shards(root: Path, images: list[Path], number: int = SHARDS) -> None:
    """The images in shards."""
    import tarfile

    for shard in range(number):
        with tarfile.open(root / f"{shard:02d}.tar", "w") as archive:
            for path in images[shard::number]:
                archive.add(path, path.name)


def encode(root: Path, out: Path, gate: Any, done: Any, pace: float | None) -> None:
    """One process of an export; seconds of the processor are put into ``done``."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_config({**PARTS, "image_size": 256}).eval()
    images = cast(ImageStream, WebDataset(root, access="stream").evaluation(256))
    if pace is not None:
        images.opener = cast(Any, partial(Paced, pace))
    gate.wait()
    before = resource.getrusage(resource.RUSAGE_SELF)
    export_tokens(tokenizer, make_feed(images, 10_000, 16, 0), out)
    after = resource.getrusage(resource.RUSAGE_SELF)
    done.put(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def page(rows: list[tuple[int, dict[str, float]]], speeds: dict[str, list[float]], rounds: int) -> str:
    """The results as Markdown."""
    given = " ".join(str(count) for count, _ in rows)
    lines = [
        "# Very large data sets",
        "",
        "What a run does once for all its images, by their number, in one process on one core. Bytes are those that "
        f"no other process shares. Names have {NAME} characters, and shards {SHARD:,} images. A step takes {BATCH}.",
        f"{os.cpu_count()} CPU cores ({platform.machine()}), files in the page cache where they fit; numpy "
        f"{np.__version__}; other work made the load of the machine {os.getloadavg()[2]:.1f}. "
        f"Written by `python benchmarks/scale.py --images {given} --rounds {rounds}`.",
        "",
        "| images | order | first batch | a step | kept |",
        "|---:|---|---:|---:|---:|",
    ]
    for count, found in rows:
        for kind, name in (("permuted", "permutation, as before"), ("keyed", "computed place by place")):
            if f"{kind}_seconds" in found:
                step, kept = seconds(found[f"{kind}_step"]), size(found[f"{kind}_bytes"])
                lines.append(f"| {count:,} | {name} | {seconds(found[f'{kind}_seconds'])} | {step} | {kept} |")
    lines += [
        "",
        "Up to 4,194,304 images a run takes the permutation. The computed order of that size is shown as 4,194,305.",
        "",
        "| images | index | open it, and check all bytes | open it, in other processes | kept by a process "
        "| hash of columns | hash of lines |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for count, found in rows:
        lines_hash = seconds(found["records_seconds"]) if "records_seconds" in found else ""
        lines.append(
            f"| {count:,} | {size(found['file_bytes'])} | {seconds(found['index_seconds'])} | "
            f"{seconds(found['other_seconds'])} | {size(found['index_bytes'])} | {seconds(found['columns_seconds'])} | "
            f"{lines_hash} |"
        )
    one, other = rows[-2][1], rows[-1][1]
    ratio = rows[-1][0] / rows[-2][0]
    slopes = {
        "opening and checking": other["index_seconds"] / one["index_seconds"],
        "the hash of columns": other["columns_seconds"] / one["columns_seconds"],
        "a step of the computed order": other["keyed_step"] / one["keyed_step"],
    }
    told = "; ".join(f"{name} {slope:.1f}" for name, slope in slopes.items())
    lines += [
        "",
        f"From {rows[-2][0]:,} to {rows[-1][0]:,} images, which are {ratio:.0f} times as many, times grow by: {told}.",
    ]
    lines += [
        "",
        "## An export of streamed shards",
        "",
        f"{IMAGES} JPEGs of 500 x 375 pixels in {SHARDS} shards, read as a stream and encoded at 256 pixels by a net "
        f"of one linear layer. Medians of {rounds} rounds; models are loaded before the clock runs. The slow line "
        f"gives each reader {PACE / 1e6:.0f} MB per second, so that the processor is no limit.",
        "",
        "| shards | images/s, 1 process | 2 processes | times | by the processor, 1 process | 2 processes | times |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for place, name in (("disk", "on this disk"), ("line", "behind a slow line")):
        cells = [name]
        for clock in ("", " processor"):
            one_way, both = speeds[f"{place} 1{clock}"], speeds[f"{place} 2{clock}"]
            cells += [f"{statistics.median(values):.0f}" for values in (one_way, both)]
            cells.append(f"{statistics.median(b / a for a, b in zip(one_way, both, strict=True)):.2f}")
        lines.append(f"| {' | '.join(cells)} |")
    lines += [
        "",
        "By the processor means images per second of all processes' time, which other work on the machine changes "
        "less: two processes do no more work than one where the ratio is 1, and with a core for each they take half "
        "the time. Before, each process decoded the whole stream, so that two took as long as one.",
    ]
    return "\n".join(lines) + "\n"


def seconds(value: float) -> str:
    """A time with its unit."""
    if value < 1e-4:
        return f"{value * 1e6:.0f} us"
    return f"{value:.1f} s" if value >= 1 else f"{value * 1e3:.1f} ms"


def size(value: float) -> str:
    """A number of bytes with its unit."""
    return f"{value / 1e9:.1f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


if __name__ == "__main__":
    main()
