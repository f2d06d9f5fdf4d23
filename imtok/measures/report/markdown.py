"""A report as Markdown, for people to read; whatever comes from outside is shown as it is written."""

from imtok.measures.report.briefs import briefs
from imtok.measures.report.results import Report, summary
from imtok.measures.report.titles import is_stand_in, number, reasons
from imtok.text import markdown as escaped
from imtok.text import markdown_code, markdown_table


def markdown(report: Report) -> str:
    """Everything but plots and long tables."""
    lines = ["# Evaluation", "", f"{escaped(summary(report))}.", "", *_origin(report)]
    if report.protocol:
        changed = "".join(f"; {override}" for override in report.protocol["overrides"])
        words = f"Protocol: {report.protocol['preset']}{changed}. Weights: {report.protocol['weights']}."
        lines += ["", escaped(words)]
    own = [name for name in report.metrics if not is_stand_in(name)]
    rows = [[report.heading(name), number(report.metrics[name]), report.conventions.get(name, "")] for name in own]
    rows += [[report.heading(name), "not measured", ""] for name in report.absent]
    lines += ["", *markdown_table(["metric", "value", "convention"], rows, [1])]
    lines += [""] * bool(report.absent) + [
        f"- not measured: {escaped(line)}" for line in reasons(report.absent, report.heading)
    ]
    stand_ins = list(filter(is_stand_in, report.metrics))
    if stand_ins:
        rows = [[name, number(report.metrics[name]), report.conventions.get(name, "")] for name in stand_ins]
        lines += ["", "## Not comparable to published numbers", ""]
        lines += markdown_table(["stand-in", "value", "convention"], rows, [1])
    lines += [""] * bool(report.warnings) + [f"- {escaped(warning)}" for warning in report.warnings]
    if report.ids:
        rows = [[report.heading(name), str(report.images), facts["id"]] for name, facts in report.ids.items()]
        lines += ["", "## Protocol ids", "", *markdown_table(["metric", "images", "id"], rows, [1])]
    if len(report.slots) > 1:
        lines += ["", "## Slots", "", *_slots(report)]
    for brief in briefs(report):
        lines += [
            "",
            f"## {escaped(brief.title)}",
            "",
            *markdown_table(brief.head, brief.rows, range(1, len(brief.head))),
        ]
        lines += ["", escaped(brief.note)] if brief.note else []
    if report.pictures.keys:
        lines += ["", "## Originals over reconstructions", "", "![originals over reconstructions](grid.png)"]
    if report.bad:
        lines += ["", f"## Unreadable samples ({len(report.bad)}, in no number above)", ""]
        lines += [f"- {escaped(sample)}" for sample in report.bad]
    return "\n".join(lines) + "\n"


def _origin(report: Report) -> list[str]:
    """Which data, which tokenizer, when, and the command that makes the report again."""
    lines = [f"- {name}: {escaped(words)}" for name, words in report.about().items()]
    if report.origin.command:
        lines += ["", "The command that makes this report again:", *markdown_code(report.origin.command)[:-1]]
    return lines


def _slots(report: Report) -> list[str]:
    """The code statistics of each slot."""
    names = list(report.slots[0])
    rows = [
        [str(slot), str(size), *(number(values[name]) for name in names)]
        for slot, (size, values) in enumerate(zip(report.vocab_sizes, report.slots, strict=True))
    ]
    return markdown_table(["slot", "vocabulary", *map(report.heading, names)], rows, range(len(names) + 2))
