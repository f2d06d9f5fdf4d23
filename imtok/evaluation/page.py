"""A report as one HTML file that needs nothing else, and the files for machines beside it."""

import csv
import html
import io
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imtok.evaluation.briefs import Brief, briefs
from imtok.evaluation.plots import draw_plots, error_map, picture_bytes
from imtok.evaluation.results import Report, summary
from imtok.evaluation.titles import is_stand_in, number, reasons, title
from imtok.files import write_bytes
from imtok.text import plain

_STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:1060px;margin:2em auto;padding:0 1em;color:#202020}
table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}code{color:#666}figure{display:inline-block;margin:.4em}
figcaption{color:#666;font-size:13px;overflow-wrap:anywhere}.grid img{width:150px;image-rendering:pixelated}
figure img{max-width:100%}.plots{display:grid;grid-template-columns:repeat(auto-fit,minmax(440px,1fr))}
.note{color:#8a4b00}"""


def write_page(report: Report, folder: Path) -> None:
    """Write ``report.html``, ``codes.npz`` and, where there is a rate-distortion table, ``rd.csv``.

    Args:
        report: What ``evaluate`` returned.
        folder: Exists.
    """
    write_bytes(folder / "report.html", page(report).encode())
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **dict(report.arrays))  # type: ignore[arg-type]
    write_bytes(folder / "codes.npz", buffer.getvalue())
    rows = report.tables.get("rate")
    if rows:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)
        write_bytes(folder / "rd.csv", text.getvalue().encode())


def page(report: Report) -> str:
    """The whole report; pictures are inside it, and nothing is fetched from anywhere."""
    name = report.name or "Evaluation"
    parts = [f"<h1>{_text(name)}</h1>", f"<p>{_text(summary(report))}.</p>"]
    about = {**report.about(), "Command": report.origin.command}
    rows = "".join(f"<tr><th>{_text(k)}</th><td>{_text(words)}</td></tr>" for k, words in about.items() if words)
    parts.append(f"<table>{rows}</table>")
    if report.protocol:
        settings = ", ".join(f"{key} {value}" for key, value in report.protocol.items() if value not in ([], None))
        parts.append(f"<p>Protocol: {_text(settings)}.</p>")
    parts += [f'<p class="note">{_text(note)}</p>' for note in report.warnings]
    own = [name for name in report.metrics if not is_stand_in(name)]
    parts += _numbers("Metrics", report, own, list(report.absent))
    parts += _numbers("Not comparable to published numbers", report, list(filter(is_stand_in, report.metrics)))
    if report.absent:
        rows = "".join(f"<li>{_text(line)}</li>" for line in reasons(report.absent))
        parts.append(f"<p>Not measured:</p><ul>{rows}</ul>")
    plots = draw_plots(report)
    if plots:
        figures = (f"<figure>{_image(d, t)}<figcaption>{_text(t)}</figcaption></figure>" for t, d in plots.items())
        parts.append(f'<h2>Plots</h2><div class="plots">{"".join(figures)}</div>')
    for caption, data in report.drawings.items():
        parts.append(f"<h2>{_text(caption)}</h2><figure>{_image(data, caption)}</figure>")
    parts += _grid(report)
    for brief in briefs(report):
        parts += _rows(brief)
    if report.bad:
        rows = "".join(f"<li>{_text(sample)}</li>" for sample in report.bad[:200])
        parts.append(f"<h2>Unreadable samples ({len(report.bad)}, in no number above)</h2><ul>{rows}</ul>")
    head = f'<meta charset="utf-8"><title>{_text(name)}</title><style>{_STYLE}</style>'
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _numbers(heading: str, report: Report, names: list[str], absent: Sequence[str] = ()) -> list[str]:
    if not names and not absent:
        return []
    rows = [
        f'<tr><td>{_text(title(name))}</td><td class="n">{number(report.metrics[name])}</td>'
        f"<td class='n'>{report.images}</td><td><code>{report.ids.get(name, {}).get('id', '')}</code></td>"
        f"<td>{_text(report.conventions.get(name, ''))}</td></tr>"
        for name in names
    ]
    rows += [f'<tr><td>{_text(title(name))}</td><td class="n">not measured</td></tr>' for name in absent]
    head = "<tr><th>metric</th><th>value</th><th>images</th><th>protocol id</th><th>convention</th></tr>"
    return [f"<h2>{_text(heading)}</h2>", f"<table>{head}{''.join(rows)}</table>"]


def _grid(report: Report) -> list[str]:
    pictures = report.pictures
    if not pictures.keys:
        return []
    parts = ['<h2>Originals, reconstructions, errors</h2><table class="grid"><tr><th>original</th>']
    parts.append("<th>reconstruction</th><th>error, white = 64 levels</th><th></th></tr>")
    for key, original, image in zip(pictures.keys, pictures.originals, pictures.reconstructions, strict=True):
        cells = (picture_bytes(original), picture_bytes(image), error_map(original, image))
        parts.append(
            "<tr>" + "".join(f"<td>{_image(cell, key)}</td>" for cell in cells) + f"<td>{_text(key)}</td></tr>"
        )
    return [*parts, "</table>"]


def _rows(brief: Brief) -> list[str]:
    head = "".join(f"<th>{_text(name)}</th>" for name in brief.head)
    body = "".join(
        "<tr>" + "".join(f'<td class="n">{_text(cell)}</td>' for cell in row) + "</tr>" for row in brief.rows
    )
    note = [f"<p>{_text(brief.note)}</p>"] if brief.note else []
    return [f"<h2>{_text(brief.title)}</h2><table><tr>{head}</tr>{body}</table>", *note]


def _image(data: bytes, text: str) -> str:
    return f'<img alt="{_text(text)}" src="data:image/png;base64,{b64encode(data).decode()}">'


def _text(value: str) -> str:
    """As it is written: no markup, and nothing that turns the direction of reading or does not print."""
    return html.escape(plain(value))
