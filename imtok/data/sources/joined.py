"""Several sources one after the other."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Real
from torch import Tensor
from typing_extensions import override

from imtok.data.images import Origins, Source


class Joined(Source):
    """The images of several sources, one source after the other.

    Where the sources name their classes alike, labels stay as they are. Otherwise the classes of each are numbered
    after those of the ones before and called ``name/class``; a source that does not name its classes has none then.

    Args:
        sources: At least one.
        names: What the sources' keys and classes start with; None = nothing, and keys must be unlike by themselves.

    Raises:
        ValueError: If there are no sources, or not as many names.
    """

    def __init__(self, sources: Sequence[Source], names: Sequence[str] | None = None) -> None:
        if not sources or (names is not None and len(names) != len(sources)):
            raise ValueError(f"sources must be one or more with a name each, got {len(sources)} and {names}")
        self.sources, self.names = list(sources), names
        self.remarks = tuple(dict.fromkeys(remark for source in sources for remark in source.remarks))
        self.channels = sources[0].channels
        self.ends = np.cumsum([len(source) for source in sources])
        same = all(source.classes == sources[0].classes for source in sources) and bool(sources[0].classes)
        self.offsets: list[int | None]
        if same or names is None:
            self.classes, self.offsets = sources[0].classes, [0] * len(sources)
        else:
            self.classes, self.offsets = [], []
            for name, source in zip(names, sources, strict=True):
                self.offsets.append(len(self.classes) if source.classes else None)
                self.classes += [f"{name}/{class_name}" for class_name in source.classes]
                if not source.classes and any(source.label(index) >= 0 for index in range(len(source))):
                    self.remarks += (
                        f"the classes of {name} have no names, so its images have no class beside others; name them (a "
                        "classes.json beside shards, data.classes, or names as labels)",
                    )

    def place(self, index: int) -> tuple[int, int]:
        """Which source an image is of, and which of its images it is."""
        part = int(np.searchsorted(self.ends, index, side="right"))
        return part, index - int(self.ends[part]) + len(self.sources[part])

    def class_of(self, part: int, label: int) -> int:
        """The label here of one of a source."""
        offset = self.offsets[part]
        return -1 if label < 0 or offset is None else offset + label

    def name_of(self, part: int, name: str) -> str:
        """The key here of one of a source."""
        return name if self.names is None else f"{self.names[part]}/{name}"

    @override
    def __len__(self) -> int:
        return int(self.ends[-1])

    @override
    def read(self, index: int) -> bytes:
        part, at = self.place(index)
        return self.sources[part].read(at)

    @override
    def ask_channels(self, channels: int) -> None:
        super().ask_channels(channels)
        for source in self.sources:
            source.ask_channels(channels)

    @override
    def image(self, index: int, least: int | None = None) -> Real[Tensor, "c h w"]:
        part, at = self.place(index)
        return self.sources[part].image(at, least)

    @override
    def shape(self, index: int) -> tuple[int, int]:
        part, at = self.place(index)
        return self.sources[part].shape(at)

    @override
    def key(self, index: int) -> str:
        part, at = self.place(index)
        return self.name_of(part, self.sources[part].key(at))

    @override
    def stem(self, index: int) -> str:
        part, at = self.place(index)
        return self.name_of(part, self.sources[part].stem(at))

    @override
    def caption(self, index: int) -> str | None:
        part, at = self.place(index)
        return self.sources[part].caption(at)

    @override
    def texts(self, index: int) -> tuple[str, ...]:
        part, at = self.place(index)
        return self.sources[part].texts(at)

    @override
    def origins(self) -> Origins | None:
        parts = [source.origins() for source in self.sources]
        known = [part for part in parts if part is not None]
        return np.concatenate(known) if len(known) == len(parts) else None

    @override
    def label(self, index: int) -> int:
        part, at = self.place(index)
        return self.class_of(part, self.sources[part].label(at))

    @override
    def record(self, index: int) -> str:
        part, at = self.place(index)
        return self.name_of(part, self.sources[part].record(at))
