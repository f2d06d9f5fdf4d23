"""What a run writes down: ``metrics.csv`` (a row per interval) and ``events.jsonl`` (a line per happening)."""

import contextlib
import csv
import io
import json
import logging
import time
from pathlib import Path
from typing import Any

from imtok.files import write_bytes

log = logging.getLogger(__name__)

# Columns of metrics.csv that differ from run to run.
SPEED = ("images_per_second", "data_wait", "seconds_left", "memory_gb", "reserved_gb", "mfu")


class MetricsFile:
    """A CSV file with one row per step, whole at every moment.

    A row for a step replaces rows of that step and later ones: what a killed run wrote after its last checkpoint is
    written again by the run that goes on. A new name becomes a new column.

    Args:
        path: Where the file is or will be.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []
        self._columns: list[str] = []  # of the file as it is; empty = to be written anew
        if path.exists():
            self._read(path.read_text())

    def write(self, step: int, values: dict[str, float]) -> None:
        """Add the row of ``step``."""
        self.forget_from(step)
        self.rows.append({"step": step, **values})
        columns = list(dict.fromkeys(name for row in self.rows for name in row))
        if columns == self._columns and self.path.exists():
            self._columns = []  # until the row is whole: a full disk may take a part of it
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, columns).writerow(self.rows[-1])
            self._columns = columns
        else:
            self._rewrite(columns)

    def forget_from(self, step: int) -> None:
        """Drop the rows of ``step`` and later ones."""
        kept = [row for row in self.rows if int(row["step"]) < step]
        if len(kept) < len(self.rows):
            self.rows = kept
            self._rewrite(list(dict.fromkeys(name for row in kept for name in row)))

    def _read(self, text: str) -> None:
        """Take in the whole rows; a run may have been killed, or its disk full, in the middle of one."""
        header, *rows = csv.reader(io.StringIO(text[: text.rfind("\n") + 1])) if "\n" in text else [[]]
        if "step" not in header:
            return
        whole = [dict(zip(header, row, strict=True)) for row in rows if len(row) == len(header)]
        self.rows = [{k: v for k, v in row.items() if v != ""} for row in whole if row["step"].isdigit()]
        self._columns = header if len(self.rows) == len(rows) and text.endswith("\n") else []

    def _rewrite(self, columns: list[str]) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(self.rows)
        self._columns = []
        write_bytes(self.path, text.getvalue().encode())
        self._columns = columns


class Events:
    """An append-only file of JSON lines: when what happened.

    Args:
        path: Where the file is or will be.
        main: Whether this is rank 0: of the others only errors are written.
    """

    def __init__(self, path: Path, main: bool = True) -> None:
        self.path = path
        self.main = main

    def write(self, event: str, **details: Any) -> None:
        """Add a line: ``event``, the time in UTC and plain details. A full disk costs the line, not the run."""
        if not self.main and event != "error":
            return
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        line = json.dumps({"time": moment, "event": event, **details}) + "\n"
        try:
            with self.path.open("a") as file:
                file.write(line)  # in one piece: ranks share the file
        except OSError as error:
            log.warning("%s could not be written (%s)", self.path, error.strerror or error)

    def read(self) -> list[dict[str, Any]]:
        """All whole lines."""
        try:
            lines = self.path.read_text().splitlines()
        except OSError:
            return []
        events = []
        for line in lines:
            with contextlib.suppress(ValueError):  # the disk was full, or a process was killed, in the middle of it
                events.append(json.loads(line))
        return events
