"""Where shards lie: the files and addresses that a path, a pattern or a URL names."""

import os
from collections import Counter
from glob import glob, has_magic
from itertools import islice
from pathlib import Path
from typing import BinaryIO

from braceexpand import braceexpand

from imtok.data.archives.listing import unreadable
from imtok.data.archives.remote import REMOTE, find_remote, is_remote
from imtok.data.archives.shards import named
from imtok.data.archives.transport import RemoteShard
from imtok.data.reading.headers import SUFFIXES
from imtok.errors import InputError

MAX_SHARDS = 1_000_000
PACKED = (".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".zip")  # archives that must be unpacked


def shard_place(url: str) -> str:
    """What two names of one shard have in common: its URL, or its file without links."""
    return url if is_remote(url) else os.path.realpath(url)


def local_path(path: str | Path) -> str:
    """The path that a ``file://`` URL names; any other path as it is.

    Example:
        >>> local_path("file:///data/{00..09}.tar"), local_path("s3://set/{00..09}.tar")
        ('/data/{00..09}.tar', 's3://set/{00..09}.tar')
    """
    return str(path)[7:] if str(path).lower().startswith("file:///") else str(path)


def find_streamed(path: str) -> list[RemoteShard]:
    """The shards that a path, a pattern or URLs name, to be read from front to back.

    Raises:
        InputError: If it names none, or one on a local disk that is not there.
    """
    if is_remote(path):
        return find_remote(path, MAX_SHARDS)
    paths = find_shards(path)
    for shard in paths:
        try:
            shard.stat()
        except OSError as error:
            raise unreadable(shard, error) from None
    names = named(paths)
    return [RemoteShard(str(shard), names[number], number) for number, shard in enumerate(paths)]


def open_local(url: str) -> BinaryIO:
    """Opens a shard on a local disk."""
    return Path(url).open("rb")


def find_shards(path: str) -> list[Path]:
    """The shards that a path or pattern names, in its order.

    Raises:
        InputError: If it names none, or something that is not a local file.

    Example:
        >>> [shard.name for shard in find_shards("train-{08..10}.tar")]
        ['train-08.tar', 'train-09.tar', 'train-10.tar']
    """
    if path.lstrip().startswith("pipe:") or "|" in path:
        raise InputError(f"data.path={path} is a command, which is never run; mount or download the shards")
    if REMOTE.search(path) or path.startswith("file:"):
        raise InputError(f"data.path={path} must be a plain path, or the URLs of remote shards only")
    if Path(path).is_file():
        return [Path(path)]
    if Path(path).is_dir():
        shards = sorted(file for file in Path(path).glob("[!.]*") if file.suffix.lower() == ".tar")
        if not shards:
            held = f", only {_counts(_beside(Path(path)))}" if _beside(Path(path)) else ""
            raise InputError(
                f"data.path={path} holds no .tar file{held}; give a folder of shards or DIR/name-{{000..009}}.tar"
            )
        return shards
    try:
        expanded = list(islice(braceexpand(path), MAX_SHARDS + 1))
    except ValueError:
        raise InputError(f"data.path={path} has a brace that is not closed") from None
    if len(expanded) > MAX_SHARDS:
        raise InputError(f"data.path={path} names more than {MAX_SHARDS} shards")
    found: list[Path] = []
    for name in expanded:
        # pathlib globs no absolute pattern
        matches = [Path(match) for match in sorted(glob(name))] if has_magic(name) else [Path(name)]  # noqa: PTH207
        if not matches:
            raise InputError(f"data.path={name} matches no file")
        found += matches
    return found


def passed_over(path: str) -> tuple[str, ...]:
    """The remark on what lies beside the shards of a folder and is not read; none if there is nothing."""
    found = _beside(Path(path)) if Path(path).is_dir() else Counter[str]()
    return (f"{path} holds {_counts(found)} beside its shards, and only the shards are read",) if found else ()


def _beside(folder: Path) -> Counter[str]:
    """What of a folder somebody may take for a part of the data that shards are read of, by kind."""
    found = Counter[str]()
    for file in folder.glob("[!.]*"):
        name = file.name.lower()
        if file.is_dir():
            found[".tar in folders below"] += sum(1 for _ in file.glob("[!.]*.tar"))
        elif name.endswith(PACKED):
            found[next(suffix for suffix in PACKED if name.endswith(suffix))] += 1
        elif name.encode(errors="surrogateescape").endswith(SUFFIXES):
            found[file.suffix.lower()] += 1
    return +found


def _counts(kinds: Counter[str]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
