"""The same shards on a disk and behind a URL, for tests of what is read of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec

from imtok.data.images import ImageSet
from imtok.data.sources.webdataset import WebDataset
from imtok.data.stream import ImageStream

Picture = Callable[[int], bytes]
Write = Callable[[Path, list[tuple[str, bytes]]], Path]
Found = dict[str, tuple[int, str, bytes]]
HERE, REASON = "0.tar", r"shard .*0\.tar cannot be used: it .*"


class Both:
    """The same shards on a disk and in memory, as remote ones."""

    def __init__(self, folder: Path, write_shard: Write) -> None:
        self.folder, self.write_shard = folder, write_shard
        self.files = fsspec.filesystem("memory")

    def write(self, members: list[tuple[str, bytes]], name: str = HERE) -> None:
        path = self.write_shard(self.folder / name, members)
        self.files.pipe(f"/both/{name}", path.read_bytes())

    @property
    def paths(self) -> list[str]:
        names = sorted(path.name for path in self.folder.glob("*.tar"))
        return [str(self.folder), f"memory://both/{{{','.join(names)}}}" if names[1:] else f"memory://both/{names[0]}"]

    def found(self, **settings: Any) -> list[Found]:
        """Key, class, caption and pixels by either way."""
        return [samples(WebDataset(path, **settings)) for path in self.paths]


def samples(data: WebDataset) -> Found:
    images = data.evaluation(8)
    found: Found = {}
    for sample in (
        images.once(0, 1) if isinstance(images, ImageStream) else (images[0, at] for at in range(len(images)))
    ):
        caption = images.source.caption(sample.index) or "" if isinstance(images, ImageSet) else sample.caption
        assert sample.image is not None
        found[sample.key.partition(":")[2]] = (sample.label, caption, sample.image.numpy().tobytes())
    return found


def texts(found: Found) -> dict[str, tuple[int, str]]:
    return {key: (label, caption) for key, (label, caption, _) in found.items()}
