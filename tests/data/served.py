"""Shards behind a server and in memory, and what is read of them, for tests of streams."""

from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

from imtok.data.order.loader import train_loader
from imtok.data.sources.webdataset import WebDataset
from imtok.data.stream import ImageStream, StreamBatches
from imtok.types import Batch

Write = Callable[[Path, list[tuple[str, bytes]]], Path]
SHARDS, EACH = 6, 5


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, and can break off."""

    break_after: int | None = None
    breaks = 0
    answer: tuple[int, str] | None = None  # status, and where a redirect leads; {} is the path that was asked for

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        if self.answer is None:
            super().do_HEAD()
        else:
            self.say()

    def say(self) -> None:
        status, place = self.answer or (200, "")
        self.send_response(status)
        if place:
            self.send_header("Location", place.format(self.path))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        if self.answer is not None:
            self.say()
            return
        if type(self).breaks:
            type(self).breaks -= 1
            self.send_response(200)
            data = Path(self.translate_path(self.path)).read_bytes()
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: self.break_after])
            self.close_connection = True
            return
        super().do_GET()


def stream(path: str, buffer: int = 4, seed: int = 3) -> ImageStream:
    images = WebDataset(path, val_path="memory://none.tar", shuffle_buffer=buffer).train(8, seed)
    assert isinstance(images, ImageStream)
    return images


def train(images: ImageStream, batches: int, workers: int = 0, rank: int = 0, world: int = 1, **more) -> list[Batch]:
    return list(train_loader(images, StreamBatches(images, 5, rank, world, batches, **more), workers))


def keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.key]


def epochs(batches: list[Batch]) -> dict[int, list[str]]:
    """Keys by epoch."""
    found: dict[int, list[str]] = {}
    for batch in batches:
        for key, reading in zip(batch.key, batch.index.tolist(), strict=True):
            found.setdefault(reading // SHARDS, []).append(key)
    return found
