"""Numbers of several reports side by side, in one column only where they were measured alike."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from imtok.errors import InputError
from imtok.evaluation.report import REPORT
from imtok.evaluation.results import SCHEMA
from imtok.evaluation.titles import number, title
from imtok.files import read_json

READABLE = (2, SCHEMA)  # reports of schema 2 do not say what data they are of


@dataclass(frozen=True)
class Comparison:
    """What can be compared, and what cannot.

    Attributes:
        names: Of the tokenizers.
        columns: For each metric that all reports with it measured alike, a value per tokenizer; None = it has none.
        refused: For each other metric, what differs.
    """

    names: list[str]
    columns: dict[str, list[float | None]]
    refused: dict[str, str]

    def table(self) -> Table:
        """For the terminal."""
        rows = Table()
        rows.add_column("tokenizer")
        for metric in self.columns:
            rows.add_column(title(metric), justify="right")
        for place, name in enumerate(self.names):
            cells = (values[place] for values in self.columns.values())
            rows.add_row(escape(name), *("" if value is None else number(value) for value in cells))
        return rows

    def markdown(self) -> str:
        """For a file."""
        lines = ["# Comparison", "", "| tokenizer | " + " | ".join(map(title, self.columns)) + " |"]
        lines.append("|---|" + "---:|" * len(self.columns))
        for place, name in enumerate(self.names):
            cells = (values[place] for values in self.columns.values())
            lines.append(f"| {name} | " + " | ".join("" if v is None else number(v) for v in cells) + " |")
        lines += [""] * bool(self.refused) + [
            f"- {title(k)} is not comparable: {why}" for k, why in self.refused.items()
        ]
        return "\n".join(lines) + "\n"


def read_report(source: str | Path) -> dict[str, Any]:
    """A ``report.json``, given itself or its folder, or that of a run.

    Raises:
        InputError: If there is none, or it is none of this version.
    """
    path = Path(source)
    candidates = [path] if path.suffix == ".json" else [path / REPORT, path / "evaluation" / REPORT]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        raise InputError(f"{source} holds no {REPORT}; give the folder that imtok eval wrote")
    report = read_json(found)
    if not isinstance(report, dict) or not isinstance(report.get("metrics"), dict):
        raise InputError(f"{found} is not a report of imtok eval")
    if report.get("schema") not in READABLE:
        known = " and ".join(map(str, READABLE))
        raise InputError(
            f"{found} has schema {report.get('schema')}, and this version of imtok reads {known}: evaluate again"
        )
    if not isinstance(report.get("protocol_ids"), dict):
        raise InputError(f"{found} is damaged (it lacks protocol_ids); evaluate again")
    return report


def compare(reports: Sequence[dict[str, Any]], names: Sequence[str]) -> Comparison:
    """Put numbers of one protocol id into one column, and refuse the others.

    Args:
        reports: Contents of ``report.json`` files, at least two.
        names: What to call them.

    Raises:
        InputError: If there are fewer than two, or no number of theirs is comparable.
    """
    if len(reports) < 2:
        raise InputError(f"a comparison needs at least two reports, got {len(reports)}")
    metrics = dict.fromkeys(metric for report in reports for metric in report["metrics"])
    columns: dict[str, list[float | None]] = {}
    refused: dict[str, str] = {}
    for metric in metrics:
        facts = [report["protocol_ids"].get(metric, {}) for report in reports if metric in report["metrics"]]
        if len({fact.get("id") for fact in facts}) == 1:
            columns[metric] = [report["metrics"].get(metric) for report in reports]
        else:
            refused[metric] = _difference(facts)
    if refused and not any(len(values) - values.count(None) > 1 for values in columns.values()):
        metric, why = next(iter(refused.items()))
        raise InputError(f"no number of these reports is comparable; of {title(metric)}, {why}")
    return Comparison(list(names), columns, refused)


def _difference(facts: list[dict[str, Any]]) -> str:
    keys = [key for key in dict.fromkeys(key for fact in facts for key in fact) if key != "id"]
    differing = [(key, list(dict.fromkeys(str(fact.get(key)) for fact in facts))) for key in keys]
    return "; ".join(f"{key} is {' or '.join(values)}" for key, values in differing if len(values) > 1)
