"""The longer results of a report as short tables, the same on the terminal, in Markdown and in HTML."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from imtok.measures.report.results import Report
from imtok.measures.report.terms import term
from imtok.measures.report.titles import number

_POSITIONS = 16  # positions that are shown, evenly over the sequence
_SLOTS = 6  # slots up to which each has a column


@dataclass(frozen=True)
class Brief:
    """A table to print.

    Attributes:
        title: What the table shows.
        head: The title of each column.
        rows: Rows of one text per column.
        note: A sentence below the table; empty = none.
    """

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""


def briefs(report: Report) -> list[Brief]:
    """The tables of what was measured, in the order in which metrics are listed."""
    return [make(report.tables[name]) for name, make in _MAKERS.items() if report.tables.get(name)]


def _cell(value: Any) -> str:
    """A value of a table as text: floats with four digits, nothing for what is not there."""
    if value is None:
        return ""
    return number(value) if isinstance(value, float) else str(value)


def _rate(rows: list[dict[str, Any]]) -> Brief:
    names = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in _SETTINGS]
    head = ["kind", "tokens or quality", *(_SIZES.get(name) or term(name).heading for name in names)]
    cells = [
        [row["kind"], _cell(row.get("tokens", row.get("quality"))), *(_cell(row.get(name)) for name in names)]
        for row in rows
    ]
    return Brief(
        "Quality against size",
        head,
        cells,
        "The second column is the number of tokens, or the quality setting of a codec.",
    )


_SETTINGS = ("kind", "tokens", "quality", "bytes_without_header")
_SIZES = {"bytes": "bytes per image", "bits_per_pixel": "bits per pixel"}


def _length(table: dict[str, Any]) -> Brief:
    counts = [
        [f"{length} token{'s' * (length != 1)}", str(count)]
        for length, count in zip(table["lengths"], table["images"], strict=True)
    ]
    rows = [
        ["share of images that reach it", _cell(table["reached"])],
        ["mean tokens of those that reach it", _cell(table["mean_of_reached"]) or "none reaches it"],
        ["median tokens of those that reach it", _cell(table["median_of_reached"]) or "none reaches it"],
        ["mean tokens, all tokens where it is not reached", _cell(table["mean_with_all_where_missed"])],
        *([f"images that need {length}", count] for length, count in counts),
        ["images that do not reach it", _cell(table["missed"])],
    ]
    return Brief(f"Tokens for {table['target_psnr']:g} dB", ["what", "value"], rows)


def _language(slots: list[dict[str, Any]]) -> Brief:
    found = {
        "codes seen": [slot["seen"] for slot in slots],
        "entropy (bits)": [slot["entropy_bits"] for slot in slots],
        "entropy given the token before (bits)": [_at(slot["entropy_rates"], 1) for slot in slots],
        "entropy given the two before (bits)": [_at(slot["entropy_rates"], 2) for slot in slots],
        "Huffman code (bits)": [slot["huffman_bits"] for slot in slots],
        "compression by it": [slot["compression"] for slot in slots],
        "Zipf exponent": [slot["zipf"]["exponent"] for slot in slots],
        "straightness of the plot (R squared)": [slot["zipf"]["r_squared"] for slot in slots],
        "Heaps exponent": [slot["heaps"]["beta"] for slot in slots],
        "images until 90 % of these codes": [slot["heaps"]["images_to_90_percent"] for slot in slots],
    }
    rows = [[name, *map(_cell, values)] for name, values in found.items()]
    head = ["what", *(f"slot {slot}" for slot in range(len(slots)))]
    note = f"Over {slots[0]['images']:,} images; entropies are plug-in estimates."
    return Brief("Tokens as a language", head, rows, note)


def _at(values: list[float], place: int) -> float | None:
    """A value of a list that may be too short."""
    return values[place] if place < len(values) else None


def _positions(table: dict[str, list[list[float]]]) -> Brief:
    values = np.array(table["entropy_bits_corrected"])
    tokens, slots = values.shape
    shown = np.unique(np.linspace(0, tokens - 1, min(tokens, _POSITIONS)).round().astype(int)).tolist()
    if slots > _SLOTS:
        values = values.mean(1, keepdims=True)
    head = ["entropy (bits)"] if values.shape[1] == 1 else [f"slot {slot} (bits)" for slot in range(slots)]
    rows = [[str(place), *(number(float(value)) for value in values[place])] for place in shown]
    note = f"Corrected by Miller and Madow; {len(shown)} of {tokens} positions"
    note += f", mean over {slots} slots." if slots > _SLOTS else "."
    return Brief("Entropy at each position", ["position", *head], rows, note)


def _plain(name: str) -> Callable[[list[dict[str, Any]]], Brief]:
    """A maker for rows that all have the same few keys."""

    def make(rows: list[dict[str, Any]]) -> Brief:
        head = list(rows[0])
        return Brief(name, [one.replace("_", " ") for one in head], [[_cell(row[one]) for one in head] for row in rows])

    return make


def _pfid(table: dict[str, Any]) -> Brief:
    return _plain(f"{table['name']} by part of the tokens drawn anew and number of neighbours")(table["grid"])


def _probe(table: dict[str, Any]) -> Brief:
    return _plain("Linear probe")([table])


_MAKERS: dict[str, Callable[[Any], Brief]] = {
    "positions": _positions,
    "pfid": _pfid,
    "rate": _rate,
    "length": _length,
    "allocation": _plain("Tokens by how much an image needs"),
    "explained_variance": _plain("Explained variance by number of tokens"),
    "language": _language,
    "frequent_codes": _plain("Most frequent codes of slot 0"),
    "swaps": _plain("What a token of another image changes"),
    "probe": _probe,
}
