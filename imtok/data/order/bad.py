"""Images that could not be decoded: each named once, and a run that stops when there are too many."""

import json
import logging
from pathlib import Path

from imtok.distributed import world_size
from imtok.errors import InputError
from imtok.types import Batch

logger = logging.getLogger(__name__)
SHOWN = 10


class BadSamples:
    """Collects ``Batch.bad`` in the main process of each rank.

    Every image is written once to a file of JSON lines, which only grows: across ranks (they share the file), epochs
    and resumes.

    Args:
        path: The file; None = nothing is written.
        budget: How many of the samples seen may be bad, in [0, 1].
        minimum: So many bad images are always allowed.
        seen: Samples that the run had consumed before it was resumed.

    Raises:
        ValueError: If the budget is out of range.
        InputError: If the file cannot be read.

    Example:
        >>> import torch
        >>> bad = BadSamples(None, minimum=0)
        >>> image, label = torch.zeros(1, 3, 8, 8, dtype=torch.uint8), torch.tensor([0])
        >>> bad.update(Batch(image, label, label, ["2.png"], bad=["1.png: is empty"]))
        Traceback (most recent call last):
        imtok.errors.InputError: too many images cannot be decoded (1 bad, 0 allowed after 1 samples): 1.png: is empty
    """

    def __init__(self, path: Path | None, budget: float = 0.001, minimum: int = 10, seen: int = 0) -> None:
        if not 0 <= budget <= 1:
            raise ValueError(f"bad-sample budget must lie in [0, 1], got {budget}")
        self.path, self.budget, self.minimum, self.seen = path, budget, minimum, seen
        self.names: dict[str, str] = {}  # key: reason, in the order in which they were met
        self._read_to = 0
        self._read_others()

    def update(self, batch: Batch) -> None:
        """Count a batch and record its bad images.

        Raises:
            InputError: If there are more than the budget allows; it names the first ten.
        """
        self.seen += len(batch.key) * world_size()
        if not batch.bad:
            return
        self._read_others()
        for entry in batch.bad:
            key, _, reason = entry.partition(": ")
            if key not in self.names:
                self.names[key] = reason
                logger.warning("%s: %s; another image takes its place", key, reason)
                self._write(key, reason)
        allowed = max(self.minimum, int(self.budget * self.seen))
        if len(self.names) > allowed:
            first = "; ".join(f"{key}: {reason}" for key, reason in list(self.names.items())[:SHOWN])
            counts = f"{len(self.names)} bad, {allowed} allowed after {self.seen} samples"
            raise InputError(f"too many images cannot be decoded ({counts}): {first}")

    def _read_others(self) -> None:
        """Take in the lines that an earlier run or other ranks have written."""
        if self.path is None or not self.path.exists():
            return
        try:
            with self.path.open("rb") as file:
                file.seek(self._read_to)
                lines = file.read()
        except OSError as error:
            raise InputError(f"{self.path} cannot be read ({error.strerror})") from None
        whole = lines[: lines.rfind(b"\n") + 1]
        self._read_to += len(whole)
        for line in whole.splitlines():
            try:
                row = json.loads(line)
                self.names.setdefault(row["key"], row["reason"])
            except (ValueError, KeyError, TypeError):  # the run was killed while it wrote this line
                continue

    def _write(self, key: str, reason: str) -> None:
        if self.path is None:
            return
        try:
            with self.path.open("a+b") as file:
                file.seek(0, 2)
                torn = file.tell() > self._read_to  # what was read ends with a whole line
                line = json.dumps({"key": key, "reason": reason}) + "\n"
                file.write(b"\n" * torn + line.encode())
                file.flush()
        except OSError as error:
            raise InputError(f"{self.path} cannot be written ({error.strerror}); free some space") from None
        self._read_others()
