"""What the members of a shard are by their names: which sample each belongs to, and which of its fields.

WebDataset's rule: a sample's key ends at the first dot of the base name, and the rest is the field. So ``cats/1.jpg``,
``cats/1.seg.png`` and ``cats/1.cls`` are the fields ``jpg``, ``seg.png`` and ``cls`` of the sample ``cats/1``.
"""

import re
from typing import NamedTuple

from imtok.data.archives.names import printable
from imtok.data.archives.tar import ShardError
from imtok.data.reading.headers import SUFFIXES, skipped_kind

CLASS, DESCRIPTION, CAPTION = "cls", "json", "txt"
MAX_LABEL_BYTES = 2**16
MAX_DESCRIPTION_BYTES = 2**24
OWN = re.compile(rb"(__[^/]*__)(?:/|$)")  # names that WebDataset keeps for itself
INSIDE = re.compile(r"((?:[^.]+\.)*?json)\.(.+)", re.IGNORECASE)


class MemberPlace(NamedTuple):
    """The sample that a member belongs to, and which field of it the member is, in small letters."""

    key: bytes
    field: str


class Text(NamedTuple):
    """Where a class or a caption stands: in a field, or at a key inside of one (``json.a.b``)."""

    field: str
    key: str | None = None


class Fields(NamedTuple):
    """Which fields of a sample are read.

    Attributes:
        image: Field of the image; None = the only one whose suffix is that of an image.
        caption: Where the caption is; None = ``txt``.
        label: Where the class is; None = ``cls``, else "label" in ``json`` where that is a whole number.
        plain: No samples: every file is an image of its own, called by all that is before its suffix.
    """

    image: str | None = None
    caption: Text | None = None
    label: Text | None = None
    plain: bool = False

    @classmethod
    def of(cls, image: str | None, caption: str | None, label: str | None) -> "Fields":
        """Fields as they are given in a config.

        Raises:
            ValueError: If a name is empty.

        Example:
            >>> Fields.of(".JPG", "outputs.txt", "json.about.Class")[:3]
            ('jpg', Text(field='outputs.txt', key=None), Text(field='json', key='about.Class'))
        """
        for name, given in (("image", image), ("caption", caption), ("label", label)):
            if given is not None and not str(given).strip("."):
                raise ValueError(f"{name} must be a field such as jpg or seg.png, got {given!r}")
        own = None if image is None else str(image).removeprefix(".").lower()
        return cls(own, _text(caption), _text(label))

    def place(self, name: bytes) -> MemberPlace | None:
        """Where a member belongs by its name; None for one that is no field of a sample: hidden, or without a suffix.

        Raises:
            ShardError: If the name leads out of the archive.

        Example:
            >>> Fields().place(b"./a.b/1.Seg.PNG"), Fields(plain=True).place(b"a.b/1.seg.png")
            (MemberPlace(key=b'a.b/1', field='seg.png'), MemberPlace(key=b'a.b/1.seg', field='png'))
            >>> Fields().place(b"a/.1.png"), Fields().place(b"README")
            (None, None)
        """
        own, name = OWN.match(name), _relative(name)
        if b".." in name.split(b"/"):
            raise ShardError(f"holds {printable(name)!r}, a name that leads out of it; write it again with plain names")
        folder, slash, base = name.rpartition(b"/")
        stem, dot, field = base.rpartition(b".") if self.plain else base.partition(b".")
        if not stem or not dot or base.startswith(b".") or (own and not self.plain):
            return None
        return MemberPlace(folder + slash + stem, field.decode("utf-8", "backslashreplace").lower())

    def skipped(self, name: bytes) -> str | None:
        """What kind of picture a member is that is passed over; None if it is not passed over, or no picture.

        Example:
            >>> Fields().skipped(b"a/1.seg.TIFF"), Fields().skipped(b"__meta__/1.png"), Fields().skipped(b"1.png")
            ('.tiff', "__meta__/ (WebDataset's own)", None)
        """
        base, own = name.rpartition(b"/")[2], OWN.match(name)
        field = base.partition(b".")[2].decode("utf-8", "backslashreplace").lower()
        if base.startswith(b"."):
            return None
        if own is not None and not self.plain:
            return f"{printable(own[1])}/ (WebDataset's own)" if is_picture(field) else None
        return skipped_kind(b"." + field.encode())

    def is_image(self, field: str) -> bool:
        """Whether a field is the image, or may be."""
        return is_picture(field) if self.image is None else field == self.image

    @property
    def texts(self) -> tuple[str, ...]:
        """The fields that class and caption are in."""
        label = (CLASS, DESCRIPTION) if self.label is None else (self.label.field,)
        return (*label, CAPTION if self.caption is None else self.caption.field)


def is_picture(field: str) -> bool:
    """Whether a field has the suffix of an image that imtok reads."""
    return f".{field.rpartition('.')[2]}".encode() in SUFFIXES


def _relative(name: bytes) -> bytes:
    return name.lstrip(b"/").removeprefix(b"./")


def _text(setting: str | None) -> Text | None:
    if setting is None:
        return None
    setting = str(setting).removeprefix(".")
    inside = INSIDE.fullmatch(setting)
    return Text(inside[1].lower(), inside[2]) if inside else Text(setting.lower())
