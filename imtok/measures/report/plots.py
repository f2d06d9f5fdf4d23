"""Plots of a report, as PNG."""

import io
from typing import Any

import numpy as np
from jaxtyping import UInt8
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter
from torch import Tensor

from imtok.grid import to_picture
from imtok.measures.report.results import Report
from imtok.measures.report.terms import term

_COLORS = {"tokens": "#1f4e79", "jpeg": "#707070", "webp": "#d08030", "avif": "#508050"}


def draw_plots(report: Report) -> dict[str, bytes]:
    """The plots for what a report holds, by title."""
    plots: dict[str, bytes] = {}
    tables = report.tables
    if "rate" in tables:
        rows = tables["rate"]
        for quality in [name for name in rows[0] if name not in _SIZES and name not in ("kind", "tokens", "quality")]:
            plots[f"{term(quality).heading} against bytes"] = _figure(lambda axes, q=quality: _rate(axes, rows, q))
    if "pfid" in tables:
        plots["Perturbed tokens"] = _figure(lambda axes: _pfid(axes, tables["pfid"]))
    if "positions" in tables:
        plots["Entropy at each position"] = _figure(lambda axes: _positions(axes, tables["positions"]))
    if "language" in tables:
        plots["Code frequencies"] = _figure(lambda axes: _zipf(axes, tables["language"]))
        plots["Growth of the vocabulary"] = _figure(lambda axes: _heaps(axes, tables["language"]))
    if "length" in tables:
        plots["Tokens that images need"] = _figure(lambda axes: _lengths(axes, tables["length"]))
    counts = {name: table for name, table in report.arrays.items() if name.startswith("counts_")}
    if counts and "language" not in tables:
        plots["Code counts"] = _figure(lambda axes: _counts(axes, counts))
    return plots


def error_map(original: UInt8[Tensor, "3 h w"], reconstruction: UInt8[Tensor, "3 h w"]) -> bytes:
    """The mean absolute error of each pixel over channels, black = 0, white = 64 levels or more, as PNG."""
    error = (original.float() - reconstruction.float()).abs().mean(0, keepdim=True).expand(3, -1, -1)
    return picture_bytes((error * 4).clamp(0, 255).byte())


def picture_bytes(image: UInt8[Tensor, "3 h w"]) -> bytes:
    """An image as PNG."""
    buffer = io.BytesIO()
    to_picture(image).save(buffer, "png")
    return buffer.getvalue()


_SIZES = ("bytes", "bytes_without_header", "bits_per_pixel")


def _figure(draw: Any) -> bytes:
    figure = Figure(figsize=(6, 3.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    draw(axes)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _rate(axes: Axes, rows: list[dict[str, Any]], quality: str) -> None:
    for kind in _COLORS:
        points = sorted((row["bytes"], row[quality]) for row in rows if row["kind"] == kind and quality in row)
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", color=_COLORS[kind], label=kind)
    axes.set(xscale="log", xlabel="bytes per image", ylabel=term(quality).heading)
    for level in ("major", "minor"):  # 200 and not 2 x 10^2; between powers of ten only where there are few of them
        getattr(axes.xaxis, f"set_{level}_formatter")(LogFormatter(minor_thresholds=(2, 0.5)))
    axes.legend(frameon=False)


def _pfid(axes: Axes, table: dict[str, Any]) -> None:
    for delta in sorted({row["delta"] for row in table["grid"]}):
        points = sorted((row["alpha"], row["value"]) for row in table["grid"] if row["delta"] == delta)
        axes.plot(*zip(*points, strict=True), marker="o", label=f"{delta} neighbours")
    axes.set(xlabel="part of the tokens that is drawn anew", ylabel=table["name"])
    axes.legend(frameon=False)


def _positions(axes: Axes, table: dict[str, Any]) -> None:
    for name, style in (("entropy_bits", "--"), ("entropy_bits_corrected", "-")):
        for slot, values in enumerate(np.array(table[name]).T):
            label = name.replace("_", " ") + (f", slot {slot}" if len(table[name][0]) > 1 else "")
            axes.plot(values, style, color=f"C{slot}", label=label)
    axes.set(xlabel="position", ylabel="bits")
    axes.legend(frameon=False)


def _zipf(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for slot, row in enumerate(rows):
        ranks = np.unique(np.geomspace(1, max(row["seen"], 1), 60).astype(int))
        zipf = row["zipf"]
        counts = np.array(row["ranked_counts"], dtype=float)
        axes.plot(ranks, counts, ".", color=f"C{slot}", label=f"slot {slot}: exponent {zipf['exponent']:.2f}")
        law = (ranks + zipf["shift"]) ** -zipf["exponent"]
        axes.plot(ranks, law * counts.sum() / law.sum(), color=f"C{slot}", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="rank", ylabel="tokens")
    axes.legend(frameon=False)


def _heaps(axes: Axes, rows: list[dict[str, Any]]) -> None:
    for slot, row in enumerate(rows):
        heaps = row["heaps"]
        axes.plot(heaps["images"], heaps["codes"], marker=".", label=f"slot {slot}: exponent {heaps['beta']:.2f}")
    axes.set(xscale="log", xlabel="images", ylabel="different codes")
    axes.legend(frameon=False)


def _lengths(axes: Axes, table: dict[str, Any]) -> None:
    labels, counts = [str(length) for length in table["lengths"]], list(table["images"])
    if table["missed"]:  # all tokens are not enough for these
        labels, counts = [*labels, "not reached"], [*counts, table["missed"]]
    axes.bar(range(len(counts)), counts, color=_COLORS["tokens"])
    axes.set_xticks(range(len(counts)), labels)
    axes.set(xlabel=f"tokens for {table['target_psnr']:g} dB", ylabel="images")


def _counts(axes: Axes, counts: dict[str, np.ndarray]) -> None:
    for name, table in counts.items():
        axes.plot(np.arange(1, len(table) + 1), np.sort(table)[::-1], label=name.replace("counts_", "slot "))
    axes.set(yscale="symlog", xlabel="rank of the code", ylabel="tokens")
    axes.legend(frameon=False)
