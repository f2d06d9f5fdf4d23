"""Looks at every image of a folder, of shards or of tables, and says what is there and what is wrong with it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from torch.utils.data import Dataset
from typing_extensions import override

from imtok.data.archives.texts import UNREADABLE
from imtok.data.images import Source, content_hash
from imtok.data.order.workers import Loader
from imtok.data.reading.decode import MAX_PIXELS, WHITE, DecodeError, decode_image, stored_mode
from imtok.data.reading.headers import read_header
from imtok.errors import InputError

AT_A_TIME = 16  # images that a worker takes


@dataclass(frozen=True)
class InspectedImage:
    """One image: its file's format and size in bytes, its mode and size in pixels, or why it is broken."""

    index: int
    format: str = ""
    mode: str = ""
    height: int = 0
    width: int = 0
    bytes: int = 0
    reason: str | None = None


@dataclass
class Findings:
    """What is known of a data set.

    Attributes:
        images: Number of images, broken ones included.
        bytes: Of all image files together.
        formats: How many are JPEG, PNG, WebP, AVIF.
        modes: How many are RGB, L, CMYK, ..., as stored.
        short, long: Short and long sides of the images, in pixels, and how many have them.
        labels: How many images have each label; -1 = none.
        classes: Names of the classes.
        captions: How many images have a caption.
        broken: Why images cannot be decoded, by key.
        faults: What else is wrong, a line each.
        remarks: What is not read, a line each; see :class:`~imtok.data.images.Source`.
    """

    images: int = 0
    bytes: int = 0
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    short: Counter[int] = field(default_factory=Counter)
    long: Counter[int] = field(default_factory=Counter)
    labels: Counter[int] = field(default_factory=Counter)
    classes: list[str] = field(default_factory=list)
    captions: int = 0
    broken: dict[str, str] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether nothing is wrong."""
        return not self.broken and not self.faults


class ImageInspection(Dataset[InspectedImage]):
    """Decodes every image of a source and keeps no pixels.

    Args:
        source: The images.
    """

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return len(self.source)

    @override
    def __getitem__(self, index: int) -> InspectedImage:
        try:
            data = self.source.read(index)
            header = read_header(data)
            decode_image(data, "", MAX_PIXELS, WHITE)
            mode = stored_mode(data)
        except DecodeError as error:
            return InspectedImage(index, reason=str(error).removeprefix(": "))
        except Exception as error:  # whatever it is, it is this image's
            reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
            return InspectedImage(index, reason=reason.splitlines()[0])
        hashes = self.source.content_hashes
        if hashes is not None and content_hash(data) != hashes[index].tobytes():
            return InspectedImage(index, reason="does not have the content of the index")
        return InspectedImage(index, header.format, mode, header.height, header.width, len(data))


def look(
    source: Source, findings: Findings, workers: int = 0, advance: Callable[[int], None] = lambda count: None
) -> None:
    """Add what is to be known of a source's images to ``findings``.

    Args:
        source: The images.
        findings: What was found so far.
        workers: Processes that read and decode; 0 = this one.
        advance: Called with the number of images that were looked at.
    """
    findings.remarks += [remark for remark in source.remarks if remark not in findings.remarks]
    chunks = [list(range(at, min(at + AT_A_TIME, len(source)))) for at in range(0, len(source), AT_A_TIME)]
    for chunk in cast(Any, Loader(ImageInspection(source), workers, batch_sampler=chunks, collate_fn=list)):
        for seen in chunk:
            _count(seen, source, findings)
        advance(len(chunk))
    findings.classes = source.classes or findings.classes


def _count(seen: InspectedImage, source: Source, findings: Findings) -> None:
    findings.images += 1
    label = source.label(seen.index)
    findings.labels[label] += 1
    if source.classes and label >= len(source.classes):
        findings.faults.append(f"{source.key(seen.index)}: has class {label}, and there are {len(source.classes)}")
    if seen.reason is not None:
        findings.broken[source.key(seen.index)] = seen.reason
        return
    try:
        texts = source.texts(seen.index)
    except InputError as error:
        findings.faults.append(str(error))
        texts = ()
    findings.captions += bool(texts)
    if any(UNREADABLE in text for text in texts):
        findings.faults.append(f"{source.key(seen.index)}: its caption is not UTF-8; write it again")
    findings.bytes += seen.bytes
    findings.formats[seen.format] += 1
    findings.modes[seen.mode] += 1
    findings.short[min(seen.height, seen.width)] += 1
    findings.long[max(seen.height, seen.width)] += 1


def find_twice(names: Sequence[tuple[str, str]], findings: Findings) -> None:
    """Name keys that several shards have.

    Args:
        names: Shard and key of every image.
        findings: What was found so far.
    """
    first: dict[str, str] = {}
    for shard, key in names:
        if first.setdefault(key, shard) != shard:
            findings.faults.append(f"key {key}: is in {first[key]} and in {shard}; give each image a key of its own")
