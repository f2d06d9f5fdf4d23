"""What an image becomes on its way into a shard: its own bytes or new ones, its class, its caption and its story."""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
from einops import rearrange
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from imtok.data.images import Source
from imtok.data.reading.decode import DecodeError
from imtok.data.reading.headers import read_header
from imtok.data.reading.transforms import scale_short_side
from imtok.errors import InputError
from imtok.files import canonical_json

SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WebP": "webp", "AVIF": "avif"}
FORMATS = {"jpeg": "JPEG", "png": "PNG", "webp": "WebP"}


@dataclass(frozen=True)
class Encoding:
    """How images are stored.

    Attributes:
        resize: Images whose short side is longer are scaled to so many pixels (ADM's way: :func:`scale_short_side`).
        encode: "jpeg", "png" or "webp"; None = as they came.
        quality: Of JPEG, WebP and AVIF that are written anew, 1 to 100. JPEG keeps its colours at full size (4:4:4).
    """

    resize: int | None = None
    encode: str | None = None
    quality: int = 95


@dataclass(frozen=True)
class Packed:
    """A sample: its members by suffix, or why there are none.

    Attributes:
        index: Its position in the source.
        members: Their bytes: the image, ``json``, and ``cls`` and ``txt`` where there is a class or a caption.
        reason: Why it is left out.
    """

    index: int
    members: dict[str, bytes]
    reason: str | None = None

    @property
    def image(self) -> bytes:
        """The image's bytes."""
        return next(self.members[suffix] for suffix in SUFFIXES.values() if suffix in self.members)


class Packer(Dataset["Packed | InputError"]):
    """Every image of a source as it will lie in a shard.

    Each is decoded once, whether or not it is stored anew: what cannot be decoded is left out and named.

    Args:
        source: The images.
        encoding: How they are stored.
    """

    def __init__(self, source: Source, encoding: Encoding) -> None:
        self.source, self.encoding = source, encoding

    def __len__(self) -> int:
        return len(self.source)

    @override
    def __getitem__(self, index: int) -> Packed | InputError:
        try:
            image = self.source.image(index)
            data = self.source.read(index)
            data = stored(image, data, self.encoding)
            label, texts = self.source.label(index), self.source.texts(index)
        except DecodeError as error:
            return Packed(index, {}, str(error).partition(": ")[2] or str(error))
        except OSError as error:
            return Packed(index, {}, str(error.strerror or error))
        except InputError as error:  # as a value, since a worker's own would arrive as a traceback
            return error
        story: dict[str, str | int | list[str]] = {"key": self.source.key(index)}
        members = {SUFFIXES[read_header(data).format]: data}
        if label >= 0:
            members["cls"], story["label"] = b"%d" % label, label
            if label < len(self.source.classes):
                story["class"] = self.source.classes[label]
        if texts:
            members["txt"], story["caption"] = texts[0].encode(errors="replace"), texts[0]
        if len(texts) > 1:
            story["captions"] = list(texts)
        members["json"] = canonical_json(story).encode()
        return Packed(index, members)


def stored(image: UInt8[Tensor, "3 h w"], data: bytes, encoding: Encoding) -> bytes:
    """The bytes to store: those of the file where nothing about it is to change."""
    large = encoding.resize is not None and min(image.shape[-2:]) > encoding.resize
    if encoding.resize is not None and large:
        image = scale_short_side(image, encoding.resize)
    own = read_header(data).format
    wanted = FORMATS[encoding.encode] if encoding.encode is not None else own
    return encoded(image, wanted, encoding.quality) if large or wanted != own else data


def encoded(image: UInt8[Tensor, "3 h w"], kind: str, quality: int) -> bytes:
    """Pixels as a file."""
    options = {"JPEG": {"quality": quality, "subsampling": 0}, "PNG": {}}.get(kind, {"quality": quality})
    file = BytesIO()
    Image.fromarray(np.ascontiguousarray(rearrange(image, "c h w -> h w c").numpy())).save(file, kind, **options)
    return file.getvalue()


def as_they_are(samples: Sequence[Packed | InputError]) -> list[Packed] | InputError:
    """A worker's samples together; the first error instead, if there is one."""
    error = next((sample for sample in samples if isinstance(sample, InputError)), None)
    return [sample for sample in samples if isinstance(sample, Packed)] if error is None else error
