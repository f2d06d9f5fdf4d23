"""Reads what TensorBoard and wandb have written, without either."""

import json
import struct
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event
from wandb.proto import wandb_internal_pb2


def tensorboard_rows(folder: Path) -> list[tuple[int, str]]:
    """Step and tag of each value, as TensorBoard shows them: a process that starts takes back later steps."""
    rows: list[tuple[int, str]] = []
    for path in sorted(folder.glob("events*"), key=lambda path: path.stat().st_mtime_ns):
        raw, at = path.read_bytes(), 0
        while at < len(raw):
            (size,) = struct.unpack("<Q", raw[at : at + 8])
            event = Event.FromString(raw[at + 12 : at + 12 + size])
            at += 16 + size
            if event.HasField("session_log") and event.session_log.status == 1:
                rows = [row for row in rows if row[0] < event.step]
            rows += [(event.step, value.tag) for value in event.summary.value]
    return rows


def wandb_records(folder: Path) -> list[wandb_internal_pb2.Record]:
    """All records of the offline runs in a folder, in their order."""
    return [record for path in sorted(folder.glob("offline-run-*/run-*.wandb")) for record in _records(path)]


def wandb_rows(folder: Path) -> list[dict[str, object]]:
    """The rows of these runs."""
    histories = [record.history for record in wandb_records(folder) if record.WhichOneof("record_type") == "history"]
    return [
        {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in history.item}
        for history in histories
    ]


def _records(path: Path) -> list[wandb_internal_pb2.Record]:
    """Of one file: blocks of 32 kB, in which each piece of a record has seven bytes before it, as in LevelDB's log."""
    raw, at, whole, found = path.read_bytes(), 7, b"", []
    while at + 7 <= len(raw):
        left = 32768 - at % 32768
        if left < 7:
            at += left
            continue
        _, size, kind = struct.unpack("<IHB", raw[at : at + 7])
        whole += raw[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # a whole record, or the last piece of one
            found.append(wandb_internal_pb2.Record.FromString(whole))
            whole = b""
    return found
