"""Where numbers come from: which data, which part of them, which tokenizer, when, and by which command."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any


@dataclass(frozen=True)
class Origin:
    """What a report must say, so that somebody else knows what its numbers describe.

    Attributes:
        data: The data section of the config, as plain values; empty = not known.
        split: Which part of the data: "val", "train", "all"; empty = not known.
        tokenizer: Its path, or its name on the hub, as it was given.
        command: What makes the report again, quoted for a shell; empty = it was made from Python.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    split: str = ""
    tokenizer: str = ""
    command: str = ""

    def about_data(self) -> dict[str, Any]:
        """Kind, paths, split and all settings of the data, as plain values for JSON."""
        if not self.data:
            return {}
        paths = dict(_paths(self.data))
        return {"kind": kind(self.data), **paths, "split": self.split, "settings": dict(self.data)}


def kind(section: Mapping[str, Any]) -> str:
    """What a data section is called: ``folder`` for imtok's own, the whole name of a class of somebody else's.

    Example:
        >>> kind({"_target_": "imtok.data.sources.folder.Folder", "path": "."}), kind({"_target_": "mine.data.Own"})
        ('folder', 'mine.data.Own')
    """
    target = str(section.get("_target_", ""))
    return target.rpartition(".")[2].lower() if target.startswith("imtok.") else target


def describe_data(about: Mapping[str, Any]) -> str:
    """What ``about_data`` says, in words.

    Example:
        >>> data = {"_target_": "imtok.data.sources.folder.Folder", "path": "photos", "val_path": None, "flip": True}
        >>> describe_data(Origin(data, split="val").about_data())
        'folder, path photos, split val'
    """
    others = ("kind", "split", "settings", "images", "unreadable", "image_size", "sha256")
    names = [name for name in about if name not in others]
    parts = [str(about.get("kind", "")), *(f"{name} {about[name]}" for name in names)]
    return ", ".join(part for part in [*parts, about.get("split") and f"split {about['split']}"] if part)


def now() -> str:
    """The time in UTC, to the second, as ISO 8601 writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _paths(section: Mapping[str, Any], parents: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """Every path in a section, as it was given, and those of its parts."""
    for name, value in section.items():
        if isinstance(value, Mapping):
            yield from _paths(value, (*parents, str(name)))
        elif name in ("path", "val_path", "sources") and value is not None:
            yield ".".join((*parents, str(name))), str(value)
