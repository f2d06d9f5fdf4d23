"""Images of a pipeline of the user's own: its samples, as a shard would hold them, in the place of shards."""

import json
from collections.abc import Iterable, Iterator, Sequence
from tarfile import TarError
from typing import Any
from urllib.parse import urlsplit

import numpy as np
from jaxtyping import Real
from torch import Tensor
from typing_extensions import override

from imtok.data.archives.encoded import EncodedImage, Samples
from imtok.data.archives.members import Fields, is_picture
from imtok.data.archives.remote import Stage
from imtok.data.archives.samples import Census, Notes
from imtok.data.archives.transport import RemoteShard, without_secrets
from imtok.data.order.position import StreamPosition
from imtok.data.order.splitting import SampleSource, Splitting
from imtok.data.reading.decoded import decoded_pixels
from imtok.data.reading.reading import Reading
from imtok.data.reading.transforms import Transform
from imtok.data.stream import ImageStream, StreamPart
from imtok.distributed import rank
from imtok.errors import InputError

NAME = "data.pipeline"


class PipelineStream(ImageStream):
    """Transformed images of a pipeline of the user's own; see :class:`Pipeline` and :class:`ImageStream`.

    Args:
        pipeline: Gives the samples.
        splitting: Which of its samples a reader takes.
        transform: Makes the images squares of one size.
        seed: The run's seed.
        training: Read without end.
        part: Which images are taken.
        reading: How the images are decoded.
    """

    nothing = f"{NAME} gives no sample with an image; data.image=FIELD names the field that is one"
    unheld = f"{NAME} gives no held-out sample; give data.val_pipeline, or raise data.val_fraction"
    untrained = (
        f"{NAME} gives a reader no image to train on: it has none, all are held out, or there are too few for all "
        "readers; lower data.val_fraction or trainer.workers"
    )

    def __init__(
        self,
        pipeline: SampleSource,
        splitting: Splitting,
        transform: Transform,
        seed: int = 0,
        training: bool = False,
        part: StreamPart = StreamPart(),  # noqa: B008, it cannot change
        reading: Reading = Reading(),  # noqa: B008, it cannot change
    ) -> None:
        whole = [RemoteShard("", NAME)]  # of which nobody knows the parts
        super().__init__(whole, transform, seed, training, part, 1, reading)
        self.pipeline, self.splitting = pipeline, splitting
        self._reader, self._count = (0, 1), 0

    @property
    @override
    def about(self) -> dict[str, int | str]:
        return {"pipeline": type(self.pipeline).__name__}

    @property
    @override
    def size(self) -> str:
        return f"a pipeline ({type(self.pipeline).__name__})"

    @override
    def going_on(self, position: StreamPosition) -> str:
        return f"{NAME} does not say where the run stood in it, so the epoch begins anew with its first sample"

    @override
    def check_readers(self, world: int, workers: int) -> None:
        parts = self.splitting.strides(world, workers)
        if parts > 1 and rank() == 0:
            self._say(
                f"{NAME} does not split its samples between {world} processes with {workers} workers each, so every "
                f"sample is read {parts} times and taken once; data.splitting=own if it does"
            )

    @override
    def _own(self, reader: int, readers: int, epoch: int = 0, position: StreamPosition | None = None) -> Sequence[int]:
        self._reader = (reader, readers)
        return [0]

    @override
    def _read(
        self, shards: Iterable[int], epoch: int = 0, say: bool = True, stages: Sequence[Stage] = ()
    ) -> Iterator[EncodedImage]:
        census = Census[Any](self.fields, Notes())
        samples = Samples(census, NAME, self.classes)
        images = self._images(samples, self.shards[0]._replace(epoch=epoch))
        for stage in stages:
            images = stage(images)
        yield from images
        for remark in samples.finish() if say else ():
            self._say(remark)

    def _images(self, samples: Samples, source: RemoteShard) -> Iterator[EncodedImage]:
        for sample in read_samples(self.splitting.samples(self.pipeline, *self._reader)):
            group = as_group(sample, self.fields)
            samples.census.notes.found.update(str(name).lower() for name in sample if not str(name).startswith("__"))
            image = samples.image({**group, "__url__": source})
            if image is not None and self.splitting.takes(group["__key__"], *self._reader):
                yield image

    @override
    def _pixels(self, data: Any, key: str) -> Real[Tensor, "c h w"]:
        if isinstance(data, bytes | bytearray | memoryview):
            return super()._pixels(bytes(data), key)
        return decoded_pixels(data, key, self.reading.max_pixels, self.reading.shade, self.channels)

    @override
    def _key(self, image: EncodedImage) -> str:
        return image.stem

    @override
    def _draw(self, key: str) -> int:
        self._count += self.splitting.endless  # where an epoch has no end, an image comes back in it
        return super()._draw(f"{self._count}:{key}" if self.splitting.endless else key)

    @override
    def _origin(self, image: EncodedImage) -> str:
        return NAME


def read_samples(samples: Iterable[Any]) -> Iterator[Any]:
    """Samples of a pipeline; InputError in one line if a file of it cannot be read. Other errors are its own."""
    try:
        yield from samples
    except InputError:
        raise
    except (OSError, TarError) as error:
        name, reason = getattr(error, "filename", None), getattr(error, "strerror", None)
        reason = reason or str(error.args[0] if error.args else "").partition("\n")[0] or type(error).__name__
        what = without_secrets(reason if name is None else f"{name}: {reason}")
        raise InputError(f"{NAME} cannot be read ({what}); see that its files can be reached and are whole") from error


def as_group(sample: Any, fields: Fields) -> dict[str, Any]:
    """Those fields of a sample that are read, as a shard would hold them: texts are bytes.

    Raises:
        InputError: If it is no sample.

    Example:
        >>> as_group({"__key__": "1", "jpg": b"...", "cls": 3, "npy": None}, Fields())
        {'__key__': b'1', 'jpg': b'...', 'cls': b'3'}
    """
    if not isinstance(sample, dict) or not isinstance(sample.get("__key__"), str):
        what = f"a dict of {', '.join(map(str, sample))}" if isinstance(sample, dict) else type(sample).__name__
        raise InputError(
            f"{NAME} gives {what:.200}, and samples must be dicts with a text in __key__ and the image and other "
            "fields by name; leave out to_tuple and batched"
        )
    named = {str(name).lower(): value for name, value in sample.items() if not str(name).startswith("__")}
    if fields.image is None and "image" in named and not any(map(is_picture, named)):
        named["png"] = named["image"]
    key, url = sample["__key__"], sample.get("__url__")
    if isinstance(url, str):
        key = f"{urlsplit(url).path.rpartition('/')[2]}:{key}"
    group = {name: value for name, value in named.items() if fields.is_image(name) and value is not None}
    texts = {name: _text(named[name], f"{key}.{name}") for name in fields.texts if named.get(name) is not None}
    return {"__key__": key.encode(errors="surrogateescape")} | group | texts


def _text(value: Any, name: str) -> bytes:
    """What a shard would hold of a field with a class or a text."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode(errors="replace")
    try:
        return json.dumps(value.tolist() if isinstance(value, Tensor | np.generic | np.ndarray) else value).encode()
    except (TypeError, ValueError):
        what = type(value).__name__
        raise InputError(f"{NAME} gives {name} as {what}, not a number, a text or what JSON holds") from None
