"""Groups the members of a shard into samples, on a disk and behind a URL alike, and counts what is not used."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from webdataset.tariterators import group_by_keys

from imtok.data.archives.members import CAPTION, CLASS, DESCRIPTION, Fields, MemberPlace, Text, is_picture
from imtok.data.archives.names import printable
from imtok.data.archives.tar import FILE, Member, ShardError
from imtok.data.archives.texts import NONE, DamagedTextError, Read, label_of, texts_of
from imtok.data.reading.headers import nameless_kind
from imtok.data.sources.classes import some

Taken = TypeVar("Taken")
SHOWN = 12  # names, fields and kinds that a sentence holds
ITSELF = ""  # stands for a shard that the caller names
MOST_FIELDS = 1000  # that are told apart
MARKS = ("__key__", "__url__")  # of a sample, which are no fields of it


@dataclass(frozen=True)
class Group(Generic[Taken]):
    """A sample: its key, the field that is its image, and what was taken of its fields."""

    key: bytes
    image: str
    fields: dict[str, Taken]


@dataclass
class Notes:
    """What was found in one or more shards, and what of it is not used.

    Attributes:
        samples: How many have an image.
        imageless: How many have pictures, but not in the field that is the image.
        orphans: How many have a class or a caption, and no image.
        bare: How many have no field that classes are in.
        unlabelled: How many have no class where there should be one.
        uncaptioned: How many have no caption where there should be one.
        odd: How many have a value in the place of a class that is not a class.
        damaged: Names of the fields that should hold JSON and do not.
        unknown: Names that are not in the list of classes.
        skipped: How many pictures are of each kind that is not read.
        found: How often each field was found.
        empty: Names of the shards without a sample.
    """

    samples: int = 0
    imageless: int = 0
    orphans: int = 0
    bare: int = 0
    unlabelled: int = 0
    uncaptioned: int = 0
    odd: int = 0
    damaged: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)
    empty: list[str] = field(default_factory=list)

    def add(self, other: "Notes") -> None:
        """Count those of another shard too."""
        for name, value in vars(other).items():
            setattr(self, name, getattr(self, name) + value)


class Census(Generic[Taken]):
    """Goes through one shard: counts its members, says which are read, and refuses samples that cannot be told apart.

    Args:
        fields: What is read.
        notes: Counts what is found.
    """

    def __init__(self, fields: Fields, notes: Notes) -> None:
        self.fields, self.notes = fields, notes
        self._key, self._taken, self._over = b"", set[str](), set[bytes]()
        self._pictured = set[bytes]()  # keys with pictures in other fields than the image's

    def place(self, member: Member, start: Callable[[Member], bytes]) -> MemberPlace | None:
        """Where the next member belongs; None for one that is not read.

        Args:
            member: The members come in the order of the shard.
            start: Called for the first bytes of a member without a suffix, which may be a picture.

        Raises:
            ShardError: If a key comes back after another one, or a field is there twice.
        """
        place, fields, notes = self.fields.place(member.name), self.fields, self.notes
        # Count the member, and pass it over if it is not read.
        if fields.image is None and (kind := fields.skipped(member.name) or _nameless(member, start)):
            notes.skipped[kind] += 1
        if place is None:
            return None
        if place.field in notes.found or len(notes.found) < MOST_FIELDS:
            notes.found[place.field] += 1
        if not fields.is_image(place.field) and place.field not in fields.texts:
            if fields.image is not None and is_picture(place.field):
                self._pictured.add(place.key)
            return None
        # A sample is complete when the key changes.
        if place.key != self._key:
            self._over.add(self._key)
            self._key, self._taken = place.key, set()
            if place.key in self._over:
                raise ShardError(
                    f"holds the members of {printable(place.key)!r} in two places, the second being {_shown(member)}, "
                    "but the members of a sample must follow each other; write it again sorted by name (tar "
                    "--sort=name)"
                )
        if place.field in self._taken:
            raise ShardError(f"holds two members named {_shown(member)}; write it again with different names")
        self._taken.add(place.field)
        return place

    def group(self, sample: dict[str, Any]) -> Group[Taken] | None:
        """The next sample as webdataset has grouped it; None if it has no image.

        Raises:
            ShardError: If several of its fields may be the image.
        """
        key, fields, notes = sample["__key__"], self.fields, self.notes
        parts: dict[str, Taken] = {name: value for name, value in sample.items() if name not in MARKS}
        images = [name for name in parts if fields.is_image(name)]
        if len(images) > 1 and fields.plain:
            raise ShardError(f"holds two images named {printable(key)!r}; write it again with different names")
        if len(images) > 1:
            names = sorted(name for name in notes.found if fields.is_image(name))
            raise ShardError(
                f"holds several images of the sample {printable(key)!r}; the fields with images are {listed(names)}: "
                f"give data.image=FIELD, such as data.image={images[0]} (data=tars takes each file as an image of its "
                "own)"
            )
        if images:
            notes.samples += 1
            self._pictured.discard(key)
            return Group(key, images[0], parts)
        notes.orphans += key not in self._pictured and not fields.plain
        return None

    def finish(self) -> Notes:
        """What was found in the whole shard."""
        self.notes.imageless = len(self._pictured)
        if not self.notes.samples:  # the shard is named for that
            self.notes.orphans = 0
        return self.notes


def grouped(files: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Samples by webdataset's own grouping, of files whose names are a `MemberPlace`; an empty one ends a shard."""
    keys: Any = tuple  # of a place, which is the key and the field; webdataset expects names
    return group_by_keys(files, keys=keys, lcase=False)


def gather(
    members: Iterable[Member],
    fields: Fields,
    take: Callable[[str, Member], Taken],
    start: Callable[[Member], bytes],
    notes: Notes,
) -> Iterator[Group[Taken]]:
    """The samples of a shard that have an image.

    Args:
        members: In the order of the shard.
        fields: What is read.
        take: Called with each field that is read, in the order of the shard.
        start: See :meth:`Census.place`.
        notes: Counts what is found.

    Raises:
        ShardError: If the members are no samples that can be told apart.
    """
    census = Census[Taken](fields, notes)
    places = ((census.place(member, start), member) for member in members)
    files = (
        {"fname": place, "data": take(place.field, member), "__url__": ""}
        for place, member in places
        if place is not None
    )
    for sample in grouped(files):
        if (group := census.group(sample)) is not None:
            yield group
    census.finish()


def _nameless(member: Member, start: Callable[[Member], bytes]) -> str | None:
    """What a member without a suffix is, if that is a picture."""
    if member.kind != FILE or b"." in member.name.rpartition(b"/")[2]:
        return None
    return nameless_kind(start(member))


def label_in(group: Group[Taken], fields: Fields, read: Read, notes: Notes) -> int | str:
    """A sample's class as :func:`label_of` reads it; missing, odd and damaged ones are noted."""
    try:
        label = label_of(group.key, fields, read)
    except DamagedTextError as error:
        notes.damaged.append(str(error))
        return NONE
    notes.odd += label is None
    notes.bare += fields.label is None and CLASS not in group.fields and DESCRIPTION not in group.fields
    notes.unlabelled += fields.label is not None and label == NONE
    return NONE if label is None else label


def texts_in(group: Group[Taken], fields: Fields, read: Read, notes: Notes) -> tuple[str, ...]:
    """A sample's captions as :func:`texts_of` reads them; missing ones are counted if the settings ask for captions."""
    texts = texts_of(group.key, fields.caption, read)
    notes.uncaptioned += fields.caption is not None and not texts
    return texts


def together(members: list[Member], fields: Fields) -> list[Member]:
    """Members sorted so that those of one key follow each other, for plain archives; keys keep their first order."""
    first: dict[bytes, int] = {}
    places = [fields.place(member.name) for member in members]
    rank = [first.setdefault(place.key, len(first)) if place else 0 for place in places]
    return [members[at] for at in sorted(range(len(members)), key=rank.__getitem__)]


def remarks(notes: Notes, fields: Fields) -> tuple[str, ...]:
    """Sentences about what is not used."""
    said: list[str] = []
    if notes.empty == [ITSELF]:
        said.append("it holds no image")
    elif notes.empty:
        said.append(f"no image was found in {_counted(len(notes.empty), 'shard')}: {listed(notes.empty)}")
    if notes.skipped:
        kinds = listed([f"{count} {kind}" for kind, count in notes.skipped.most_common()])
        total = notes.skipped.total()
        said.append(f"skipped {_counted(total, 'picture')} of kinds that imtok does not read: {kinds}")
    if notes.imageless:
        said.append(
            f"left out {_counted(notes.imageless, 'sample')} with pictures in other fields than "
            f"data.image={fields.image}; {notes.samples} have that field"
        )
    if notes.orphans:
        said.append(f"left out {_counted(notes.orphans, 'sample')} with a class or a caption and no image")
    if 0 < notes.bare < notes.samples and CLASS in notes.found and not fields.plain:
        said.append(f"{notes.bare} of {notes.samples} samples have no {CLASS}, and so no class")
    if notes.unlabelled and fields.label is not None:
        said.append(f"{notes.unlabelled} of {notes.samples} samples have no data.label={setting(fields.label)}")
    if notes.uncaptioned and fields.caption is not None:
        said.append(f"{notes.uncaptioned} of {notes.samples} samples have no data.caption={setting(fields.caption)}")
    if notes.unknown:
        names = some(sorted(set(notes.unknown)))
        said.append(f"images of class {names} have no class, because the list of classes lacks it")
    if notes.damaged:
        verb = "is" if len(notes.damaged) == 1 else "are"
        said.append(f"{listed(notes.damaged)} {verb} not JSON, so no class is read from there; write it again")
    return (*said, *(() if fields.plain else _unread(notes, fields)))


def _unread(notes: Notes, fields: Fields) -> Iterator[str]:
    """Sentences about fields that may be meant for class or caption."""
    if notes.odd and fields.label is None:
        yield (
            f"{_counted(notes.odd, 'sample')} without a class, because the label in json is not a whole number; "
            "data.label=json.label reads names of classes too"
        )
    for what, own, usual in (("label", fields.label, CLASS), ("caption", fields.caption, CAPTION)):
        like = sorted(name for name in notes.found if name.endswith(f".{usual}"))
        if own is None and like and usual not in notes.found:
            yield f"no {what} is read from {listed(like)}; give data.{what}={like[0]} to read it"


def setting(text: Text) -> str:
    """A place as a config gives it."""
    return text.field if text.key is None else f"{text.field}.{text.key}"


def listed(names: list[str]) -> str:
    """Some of many names."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def _shown(member: Member) -> str:
    return repr(printable(member.name))
