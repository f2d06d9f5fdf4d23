"""A pipeline of the user's own as data: any object that gives samples as webdataset does.

imtok knows nothing of where its samples come from. It takes each of them once, whatever the numbers of processes and
workers, and it cannot say where a run stood: a run that is resumed begins the epoch anew.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, Unpack, cast

from typing_extensions import override

from imtok.data.archives.members import Fields
from imtok.data.archives.shards import read_classes
from imtok.data.base import Images, check_split
from imtok.data.images import Columns, Source
from imtok.data.order.splitting import SampleSource, splitting_of
from imtok.data.reading.reading import ReadingSettings
from imtok.data.reading.transforms import CentreCrop, Transform
from imtok.data.sources.collection import Collection
from imtok.data.sources.pipeline_stream import NAME, PipelineStream
from imtok.data.stream import StreamPart
from imtok.errors import InputError


class Pipeline(Collection):
    """The images of a pipeline of the user's own, a :class:`webdataset.WebDataset` or any other iterable of samples.

    A sample is a dict as webdataset makes it: its name in ``__key__``, and fields by their suffix. The image may be
    bytes, an image of Pillow, or an array or tensor; the class a whole number or its text; the caption a text. Names
    that begin with two underscores are no fields. ``__url__`` makes names of samples of several shards unlike.

    Args:
        pipeline: The samples to train on. Each ``iter`` of it is an epoch. It mixes them itself.
        val_pipeline: The samples that are held out; None = the part ``val_fraction`` of those of ``pipeline``, told by
            the hash of their names.
        splitting: Whether the pipeline itself gives each process and each worker samples of its own: "auto", as the
            stages of a webdataset pipeline say, and not any other; or "own", it does. One that does not is read by
            every reader, of which each takes its share.
        val_fraction: See :class:`Collection`.
        image: The field that is the image; None = the only one with the suffix of an image, else "image".
        caption: See :class:`~imtok.data.sources.webdataset.WebDataset`.
        label: See :class:`~imtok.data.sources.webdataset.WebDataset`.
        classes: Names of the classes in their order, or a JSON file that maps them to numbers, for samples in which
            classes are written as names; None = classes are numbers.
        **reading: See :class:`~imtok.data.reading.reading.Reading`.

    Raises:
        ValueError: If an argument is out of range.
        InputError: From its methods, if a sample cannot be used.
    """

    kind = "samples"

    def __init__(
        self,
        pipeline: SampleSource,
        val_pipeline: SampleSource | None = None,
        splitting: Literal["auto", "own"] = "auto",
        val_fraction: float = 0.05,
        image: str | None = None,
        caption: str | None = None,
        label: str | None = None,
        classes: Sequence[str] | str | Path | None = None,
        **reading: Unpack[ReadingSettings],
    ) -> None:
        super().__init__(NAME, None, val_fraction, None, **reading)  # it takes no index
        for name, given in (("pipeline", pipeline), ("val_pipeline", val_pipeline)):
            if given is not None:
                require_source(name, given)
        self.pipeline, self.val_pipeline, self.splitting = pipeline, val_pipeline, splitting
        self.fields, self._said = Fields.of(image, caption, label), set[str]()
        self.classes = read_classes(Path(classes)) if isinstance(classes, str | Path) else classes

    @property
    @override
    def holds_out(self) -> bool:
        return self.val_pipeline is not None

    @property
    @override
    def measures_apart(self) -> bool:
        return True

    @override
    def open(self, path: str, classes: list[str] | None, stored: Columns | None) -> Source:
        raise InputError(f"{NAME} is read from its start to its end, and has no list of images")

    @override
    def train(self, image_size: int, seed: int) -> Images:
        transform = self.reading.training_crop(image_size)
        part = StreamPart("train", self.val_fraction) if self.val_pipeline is None else StreamPart()
        return self._stream(self.pipeline, transform, part, seed, training=True)

    @override
    def evaluation(self, image_size: int, split: str | None = None) -> Images:
        check_split(split or "all")
        held_out = split == "val" and self.val_pipeline is not None
        pipeline = self.val_pipeline if held_out and self.val_pipeline is not None else self.pipeline
        whole = split in (None, "all") or self.val_pipeline is not None
        part = StreamPart() if whole else StreamPart(split or "all", self.val_fraction)
        stream = self._stream(pipeline, CentreCrop(image_size), part)
        if stream.splitting.endless:
            raise InputError(
                f"{NAME} has no end, so it cannot be measured; give data.val_pipeline, one that ends, or leave out "
                "resampled and repeat"
            )
        return stream

    def _stream(
        self, pipeline: SampleSource, transform: Transform, part: StreamPart, seed: int = 0, training: bool = False
    ) -> PipelineStream:
        splitting = splitting_of(pipeline, self.splitting == "own")
        stream = PipelineStream(pipeline, splitting, transform, seed, training, part, self.reading)
        stream.said = self._said  # what was said of its training images is not said again of others
        stream.fields, stream.classes = self.fields, cast("Sequence[str] | None", self.classes)
        return stream


def require_source(name: str, pipeline: Any) -> None:
    """Raise ValueError unless each epoch can iterate over a pipeline anew, and its shards are no commands."""
    what = type(pipeline).__name__
    if not isinstance(pipeline, Iterable):
        raise ValueError(f"{name} must be an object to iterate over, which gives samples, got {what}")
    if isinstance(pipeline, Iterator):
        raise ValueError(
            f"{name} must give its samples anew whenever it is iterated over, and {what} gives them once; write a "
            "class with __iter__ and no __next__"
        )
    for stage in getattr(pipeline, "pipeline", ()):
        commands = [url for url in getattr(stage, "urls", ()) if str(url).lower().lstrip().startswith("pipe:")]
        if commands:
            raise ValueError(f"{name} names the command {commands[0]!r:.80}, which is never run; give plain shards")
