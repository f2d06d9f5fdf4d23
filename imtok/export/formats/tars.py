"""Tar archives of samples, the same bytes every time."""

import io
import tarfile
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from pathlib import Path


def write_tars(folder: Path, samples: Iterator[Mapping[str, bytes]], per_file: int) -> int:
    """Write ``tokens-000000.tar``, ...: members are named by the number of their sample and what they are.

    Args:
        folder: Where the archives go.
        samples: The members of each, by the end of their name.
        per_file: Samples per archive.

    Returns:
        How many archives there are.
    """
    numbered, files = enumerate(samples), 0
    for first in numbered:
        with tarfile.open(folder / f"tokens-{files:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
            for number, sample in chain([first], islice(numbered, per_file - 1)):
                for suffix, data in sample.items():
                    member = tarfile.TarInfo(f"{number:08d}.{suffix}")
                    member.size, member.mtime = len(data), 0
                    archive.addfile(member, io.BytesIO(data))
        files += 1
    return files
