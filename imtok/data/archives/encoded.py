"""From the samples of a stream to images that are not decoded yet, with their classes and captions."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from imtok.data.archives.names import printable
from imtok.data.archives.samples import ITSELF, Census, Group, label_in, remarks, texts_in
from imtok.data.archives.tar import ShardError
from imtok.data.archives.texts import NONE, LongCaptionError
from imtok.errors import InputError


class EncodedImage(NamedTuple):
    """An image as a stream gives it.

    Attributes:
        stem: Its name without suffix.
        data: Its bytes; None = too many. A pipeline of the user's own may give an image that is decoded.
        label: Its class, or -1.
        texts: The texts about it.
        unread: Why the texts cannot be read, which are none then: whoever wants captions refuses it.
        shard: The shard that it is from.
        epoch: In which epoch that is read.
    """

    stem: str
    data: Any
    label: int
    texts: tuple[str, ...] = ()
    unread: str = ""
    shard: int = 0
    epoch: int = 0


class Samples:
    """Reads the classes and captions of the samples of one shard.

    Args:
        census: Counts them.
        name: What messages call the shard.
        classes: Names of the classes in their order, for samples in which these are written as names.
    """

    def __init__(self, census: Census[Any], name: str, classes: Sequence[str] | None) -> None:
        self.census, self.name, self.classes = census, name, classes
        self._number = {name: label for label, name in enumerate(classes or ())}
        self._kinds = dict[bool, str]()  # whether classes are names, and of which sample

    def image(self, sample: dict[str, Any]) -> EncodedImage | None:
        """The image of a sample; None if it has none.

        Args:
            sample: Its fields by name, the key in ``__key__``, and in ``__url__`` the
                :class:`~imtok.data.archives.transport.RemoteShard` that it is from.

        Raises:
            InputError: If the sample cannot be used.
        """
        try:
            group = self.census.group(sample)
            if group is None:
                return None
            label = self._label(group)
            texts, unread = tuple[str, ...](), ""
            try:
                texts = texts_in(group, self.census.fields, group.fields.get, self.census.notes)
            except LongCaptionError as error:
                unread = str(error)
        except ShardError as error:
            raise InputError(f"{self.name} cannot be used: it {error}") from None
        shard = sample["__url__"]
        return EncodedImage(
            printable(group.key), group.fields[group.image], label, texts, unread, shard.number, shard.epoch
        )

    def finish(self) -> list[str]:
        """Sentences about what was left aside."""
        notes = self.census.finish()
        notes.empty += [] if notes.samples else [ITSELF]
        return [f"{self.name}: {remark}" for remark in remarks(notes, self.census.fields)]

    def _label(self, group: Group[Any]) -> int:
        notes, classes, key = self.census.notes, self.classes, printable(group.key)
        label = label_in(group, self.census.fields, group.fields.get, notes)
        if label != NONE:
            self._kinds.setdefault(isinstance(label, str), key)
        if len(self._kinds) > 1:
            raise ShardError(
                f"names the class of {self._kinds[True]!r} and numbers that of {self._kinds[False]!r}; write all of "
                "them in one way"
            )
        if isinstance(label, int):
            if classes and label >= len(classes):
                raise ShardError(
                    f"holds {key!r} of class {label}, and {len(classes)} classes have names; name all classes, or mend "
                    "the label"
                )
            return label
        if classes is None:
            raise ShardError(
                f"names the class of {key!r} ({label!r}), and a stream cannot number names that it does not know; give "
                "data.classes=FILE, a JSON map of names to numbers, or write the shards with imtok pack"
            )
        notes.unknown += [] if label in self._number else [label]
        return self._number.get(label, NONE)
