"""Numbers of several reports side by side, in one row only where they were measured alike."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from imtok.errors import InputError
from imtok.files import read_json
from imtok.measures.report.differences import difference
from imtok.measures.report.results import SCHEMA
from imtok.measures.report.terms import Term, term
from imtok.measures.report.titles import number
from imtok.measures.report.writing import REPORT
from imtok.text import markdown, markdown_table, terminal

READABLE = (2, SCHEMA)  # reports of schema 2 do not say what data they are of
BEST = "*"


@dataclass(frozen=True)
class MetricRow:
    """A metric of the runs that measured it alike.

    Attributes:
        metric: Its name.
        values: One for each run; None = it has none, or none of this protocol.
        term: What it is called and means.
        higher_is_better: As its measure says; None = neither is.
    """

    metric: str
    values: list[float | None]
    term: Term
    higher_is_better: bool | None

    def cells(self) -> list[str]:
        """The values as text; behind the best of several that differ stands a mark."""
        known = [value for value in self.values if value is not None]
        best = None
        if self.higher_is_better is not None and len(set(known)) > 1:
            best = max(known) if self.higher_is_better else min(known)
        return ["" if one is None else number(one) + f" {BEST}" * (one == best) for one in self.values]


@dataclass(frozen=True)
class Comparison:
    """What can be compared, and what cannot.

    Attributes:
        names: Of the runs.
        rows: For each metric and each way in which it was measured by more than one run, or by one alone.
        refused: What was measured in different ways, in words, a line each.
    """

    names: list[str]
    rows: list[MetricRow]
    refused: list[str]

    @property
    def comparable(self) -> bool:
        """Whether any row has two values."""
        return any(len(row.values) - row.values.count(None) > 1 for row in self.rows)

    def table(self) -> Table:
        """For the terminal."""
        rows = Table(caption=self.legend() or None, caption_justify="left")
        rows.add_column("metric")
        for name in self.names:
            rows.add_column(terminal(name), justify="right")
        for row in self.rows:
            rows.add_row(terminal(row.term.heading), *row.cells())
        return rows

    def markdown(self) -> str:
        """For a file."""
        cells = [[row.term.heading, *row.cells()] for row in self.rows]
        lines = ["# Comparison", "", *markdown_table(["metric", *self.names], cells, range(1, len(self.names) + 1))]
        lines += ["", markdown(self.legend())] if self.legend() else []
        lines += [""] * bool(self.refused) + [f"- {markdown(line)}" for line in self.refused]
        return "\n".join(lines) + "\n"

    def legend(self) -> str:
        """What a mark means; empty if there is none."""
        marked = any(cell.endswith(BEST) for row in self.rows for cell in row.cells())
        return f"{BEST} best of its row" if marked else ""


def find_report(source: str | Path) -> Path:
    """A ``report.json``, given itself or its folder, or that of a run.

    Raises:
        InputError: If there is none.
    """
    path = Path(source)
    candidates = [path] if path.suffix == ".json" else [path / REPORT, path / "evaluation" / REPORT]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise InputError(f"{source} holds no {REPORT}; give the folder that imtok eval wrote")
    return found


def read_report(source: str | Path) -> dict[str, Any]:
    """What a ``report.json`` holds; see :func:`find_report`.

    Raises:
        InputError: If there is none, or it is none of this version.
    """
    found = find_report(source)
    report = read_json(found)
    if not isinstance(report, dict) or "metrics" not in report:
        raise InputError(f"{found} is not a report of imtok eval")
    if report.get("schema") not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise InputError(
            f"{found} has schema {report.get('schema')}, and this version of imtok reads {known}: evaluate again"
        )
    wrong = _damage(report)
    if wrong:
        raise InputError(f"{found} is damaged ({wrong}); evaluate again")
    return report


# What is read of a report, and what it must be where it is there; reports of schema 2 lack some of it.
_KINDS: dict[str, Callable[[Any], bool]] = {
    "metrics": lambda value: isinstance(value, dict) and all(map(_is_finite, value.values())),
    "protocol_ids": lambda value: isinstance(value, dict) and all(isinstance(one, dict) for one in value.values()),
    "image_size": lambda value: isinstance(value, list) and len(value) == 2 and all(map(_is_count, value)),
    **dict.fromkeys(("images", "parameters"), lambda value: _is_count(value)),
    "bits_per_token": lambda value: _is_finite(value),
    "vocab_sizes": lambda value: isinstance(value, list) and all(map(_is_count, value)),
    **dict.fromkeys(("conventions", "data", "higher_is_better", "protocol"), lambda value: isinstance(value, dict)),
    "speed": lambda value: isinstance(value, dict) and _is_finite(value.get("images_per_second", 0)),
    "terms": lambda value: isinstance(value, dict) and all(isinstance(one, dict) for one in value.values()),
    **dict.fromkeys(("tokenizer", "when"), lambda value: isinstance(value, str)),
}


def _damage(report: Mapping[str, Any]) -> str:
    """What of a report cannot be read; empty = nothing."""
    if "protocol_ids" not in report:
        return "it lacks protocol_ids"
    wrong = next((name for name, fits in _KINDS.items() if name in report and not fits(report[name])), "")
    return wrong and f"its {wrong} cannot be read"


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and value >= 0


def compare(reports: Sequence[dict[str, Any]], names: Sequence[str]) -> Comparison:
    """Put numbers of one protocol id into one row, and say in words why others stand in none.

    Args:
        reports: Contents of ``report.json`` files, at least two.
        names: What to call them.

    Raises:
        InputError: If there are fewer than two.
    """
    if len(reports) < 2:
        raise InputError(f"a comparison needs at least two reports, got {len(reports)}")
    rows: list[MetricRow] = []
    refused: dict[str, list[str]] = {}
    for metric in dict.fromkeys(metric for report in reports for metric in report["metrics"]):
        groups = _groups(reports, metric)
        for places in groups:
            if len(places) > 1 or len(groups) == 1:
                values = [reports[p]["metrics"][metric] if p in places else None for p in range(len(reports))]
                rows.append(MetricRow(metric, values, _term(reports, metric), _direction(reports[places[0]], metric)))
        if len(groups) > 1:
            called = [" and ".join(names[place] for place in places) for places in groups]
            telling = [
                next((reports[p] for p in places if "data" in reports[p]), reports[places[0]]) for places in groups
            ]
            why = difference(metric, telling, called)
            refused.setdefault(why, []).append(_term(reports, metric).heading)
    lines = [f"{', '.join(metrics)}: not comparable: {why}" for why, metrics in refused.items()]
    return Comparison(list(names), rows, lines)


def _term(reports: Sequence[Mapping[str, Any]], metric: str) -> Term:
    """What a number is called, as the first report says that says it."""
    told = next((report["terms"] for report in reports if metric in report.get("terms", {})), None)
    return term(metric, told)


def _groups(reports: Sequence[Mapping[str, Any]], metric: str) -> list[list[int]]:
    """Which reports have a metric of the same protocol id, the largest group first."""
    groups: dict[Any, list[int]] = {}
    for place, report in enumerate(reports):
        if metric in report["metrics"]:
            groups.setdefault(report["protocol_ids"].get(metric, {}).get("id"), []).append(place)
    return sorted(groups.values(), key=lambda places: (-len(places), places))


def _direction(report: Mapping[str, Any], metric: str) -> bool | None:
    better = report.get("higher_is_better", {}).get(metric)
    return better if isinstance(better, bool) else None
