"""``imtok check``: a folder, shards, a pack or tables, looked at from end to end, and every fault named."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from imtok.bars import bar
from imtok.data.archives.index import find_index, require_same
from imtok.data.archives.listing import ShardIndex, index_shard
from imtok.data.archives.members import Fields
from imtok.data.archives.pack import FORMAT, INDEX, MANIFEST, PROGRESS
from imtok.data.archives.shard_paths import find_shards, passed_over
from imtok.data.archives.shards import ShardSource
from imtok.data.images import Source
from imtok.data.inspect import Findings, find_twice, look
from imtok.data.reading.headers import KINDS
from imtok.data.sources.folder import FileSource
from imtok.data.sources.huggingface import TABLES, find_tables, key_names, parts
from imtok.data.sources.metadata import TABLES as METADATA
from imtok.data.sources.tables import NoRowError, TableSource
from imtok.data.sources.webdataset import number_members
from imtok.errors import InputError
from imtok.files import is_sealed, read_json, sha256


class CheckSettings(NamedTuple):
    """How training reads the data, by the keys of its config: a check must see the same images, classes and texts.

    Attributes:
        image: ``data.image``, a field of a sample or a column; None = the usual one, as for the next two.
        caption: ``data.caption``.
        label: ``data.label``.
        labels: ``data.labels`` of plain archives; None = these are shards of samples.
    """

    image: str | None = None
    caption: str | None = None
    label: str | None = None
    labels: str | None = None

    @property
    def fields(self) -> Fields:
        """What is read of the members of shards; InputError if a name is empty."""
        if self.labels is not None:
            return Fields(plain=self.labels != "member")
        try:
            return Fields.of(self.image, self.caption, self.label)
        except ValueError as error:
            raise InputError(f"data.{error}") from None


def check(
    path: str,
    workers: int = 0,
    asked: CheckSettings = CheckSettings(),  # noqa: B008, it cannot change
) -> Findings:
    """Look at every image below a path.

    Args:
        path: A folder of images, of ``.tar`` shards (a pattern such as ``DIR/{000..009}.tar`` too), of what ``imtok
            pack`` wrote, or of ``.parquet`` or ``.arrow`` files.
        workers: Processes that read and decode; 0 = this one.
        asked: How training reads the data.

    Raises:
        InputError: If there is nothing to look at.
    """
    if not Path(path).exists() and not any(mark in path for mark in "*?[{:|"):
        raise InputError(f"{path} does not exist; give a folder of images, of shards or of tables")
    findings = Findings()
    sources = _sources(path, findings, asked)
    total = sum(map(len, sources))
    if sources and not total:
        findings.faults.append(f"{path}: holds no {KINDS}")
    with bar("check") as advance:
        for source in sources:
            look(source, findings, workers, lambda count: advance(count, total))
    return findings


def _sources(path: str, findings: Findings, asked: CheckSettings) -> list[Source]:
    place = Path(path)
    if place.is_dir() and (place / PROGRESS).is_dir() and not (place / MANIFEST).exists():
        findings.faults.append(f"{path}: was not packed to its end; run imtok pack again with the same settings")
    if place.is_dir() and not _holds(place, (".tar",)) and not (place / MANIFEST).exists():
        if _holds(place, TABLES) or any(_holds(folder, TABLES) for folder in place.iterdir() if folder.is_dir()):
            return _tables(place, findings, asked)
        return [FileSource(place, label=asked.label, caption=asked.caption)]
    if place.is_file() and place.suffix.lower() in TABLES:
        return [_table([place], [place.name], asked)]
    shards = _stated(place, findings) if (place / MANIFEST).is_file() else find_shards(path)
    source = _shards(shards, asked, findings)
    if source is None:
        return []
    source.remarks += passed_over(path)
    find_twice([(source.shard(at), source.stem(at)) for at in range(len(source))], findings)
    if (place / INDEX).is_file() and len(source.paths) == len(shards):  # else a shard is a fault already
        _compare(source, place / INDEX, findings)
    return [source]


def _tables(folder: Path, findings: Findings, asked: CheckSettings) -> list[Source]:
    """Tables part by part, as training reads them; file by file where those of a part do not go together."""
    files = find_tables(folder)
    names = dict(zip(files, key_names(files, folder), strict=True))
    good: dict[Path, TableSource | None] = {}  # None where there is no row
    for file in files:
        try:
            good[file] = _table([file], [names[file]], asked)
        except NoRowError:
            good[file] = None
        except InputError as error:
            findings.faults.append(str(error))
    sources, like = list[Source](), None
    for own in parts(list(good), folder).values():
        try:
            source = _table(own, [names[file] for file in own], asked, like)
        except InputError as error:
            findings.faults.append(str(error))
            sources += [source for file in own if (source := good[file]) is not None]
        else:
            sources, like = [*sources, source], like or source
    return sources


def _table(files: list[Path], names: list[str], asked: CheckSettings, like: TableSource | None = None) -> TableSource:
    return TableSource(files, image=asked.image, label=asked.label, caption=asked.caption, like=like, names=names)


def _shards(paths: list[Path], asked: CheckSettings, findings: Findings) -> ShardSource | None:
    """The shards that can be used, as one source; the others are faults."""
    indexes: dict[Path, ShardIndex] = {}
    fields = asked.fields
    for path in paths:
        try:
            indexes[path] = index_shard(path, fields)
        except InputError as error:
            findings.faults.append(str(error))
    if not indexes:
        return None
    try:
        source = ShardSource(list(indexes), fields=fields, indexes=list(indexes.values()))
    except InputError as error:  # they do not go together
        findings.faults.append(str(error))
        return None
    for path, index in indexes.items():
        findings.faults += [f"{path}: {name} is not JSON; write it again" for name in index.notes.damaged]
    if fields.plain:
        number_members(source, asked.labels or "folder")
    return source


def _holds(folder: Path, suffixes: tuple[str, ...]) -> bool:
    """Whether such files lie in a folder; metadata beside images are no table of images."""
    names = [file.name for file in folder.iterdir() if not file.name.startswith(".")]
    return any(
        name.lower().endswith(suffixes) and name.encode(errors="surrogateescape") not in METADATA for name in names
    )


def _stated(folder: Path, findings: Findings) -> list[Path]:
    """The shards of a pack; what does not agree with its manifest is a fault."""
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        return find_shards(str(folder))  # somebody else's
    if not is_sealed(manifest):
        raise InputError(f"{folder / MANIFEST} is damaged (its checksum is wrong); pack again into another folder")
    shards: list[dict[str, Any]] = manifest["shards"]
    expected = {shard["name"]: shard["sha256"] for shard in shards} | manifest["files"]
    for name, digest in expected.items():
        path = folder / name
        if not path.is_file():
            findings.faults.append(f"{path}: is in the manifest and not there; pack again into another folder")
        elif sha256(path) != digest:
            findings.faults.append(f"{path}: does not have the sha256 of the manifest; pack again into another folder")
    others = sorted(path.name for path in folder.glob("[!.]*.tar") if path.name not in expected)
    findings.faults += [f"{folder / name}: is not in the manifest; remove it" for name in others]
    return [folder / shard["name"] for shard in shards if (folder / shard["name"]).is_file()]


def _compare(source: ShardSource, index: Path, findings: Findings) -> None:
    """The index against the shards: names, places, and from then on the content of each image."""
    try:
        stored = find_index(index, ShardSource.kind)
        assert stored is not None
        found = source.columns()
        require_same(stored, found, "shards", "shard_bytes", "shard")
        require_same(stored, found, "names", "sizes", "image")
        if not np.array_equal(np.asarray(stored["offsets"]), np.asarray(found["offsets"])):
            raise InputError(f"{index}: does not have the places of the images; delete it")
    except InputError as error:
        findings.faults.append(str(error))
        return
    source.content_hashes = np.asarray(stored["hashes"])
