"""Text from outside (names of files, reasons, paths) made safe for a terminal and for Markdown."""

import logging
import re
import sys
from collections.abc import Sequence

from rich.markup import escape
from typing_extensions import override

# backslash and entities: what CommonMark and GitHub's tables, links, HTML, emphasis and formulas begin with
_MARKS = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", **{mark: f"\\{mark}" for mark in "\\`*[]|~$#"}})
_EDGE = re.compile(r"(?<![^\W_])_+|_+(?![^\W_])")  # inside of a word they are no emphasis


def plain(text: str) -> str:
    r"""One line, in which whatever does not print (line ends, colours of a terminal, ...) is written as an escape.

    Example:
        >>> print(plain("a\x1b[31m\n.jpg"))
        a\x1b[31m\n.jpg
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def plain_lines(text: str) -> str:
    """The same for a message of several lines, which stay lines."""
    return "\n".join(map(plain, text.split("\n")))


class _Messages(logging.Formatter):
    @override
    def format(self, record: logging.LogRecord) -> str:
        return plain_lines(super().format(record))


def log_to_terminal() -> None:
    """Show what is logged on stderr, where names of files and what servers answer cannot move the cursor."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Messages("imtok: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def terminal(text: str) -> str:
    r"""Text for rich, in which nothing is markup and nothing moves the cursor.

    Example:
        >>> terminal("[bold]a.jpg")
        '\\[bold]a.jpg'
    """
    return escape(plain(text))


def markdown(text: str) -> str:
    r"""Text for one line or one cell of Markdown, in which nothing is code, HTML, a link, a picture or a new cell.

    Example:
        >>> print(markdown("`<img src=x>`|[a].jpg"))
        \`&lt;img src=x&gt;\`\|\[a\].jpg
    """
    return _EDGE.sub(lambda run: "\\_" * len(run[0]), plain(text).translate(_MARKS))


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]], numbers: Sequence[int] = ()) -> list[str]:
    r"""The lines of a table of plain text.

    Args:
        head: Of each column.
        rows: A text for each column.
        numbers: Columns that are set to the right.

    Example:
        >>> markdown_table(["metric", "value"], [["a|b", "1"]], numbers=[1])
        ['| metric | value |', '|---|---:|', '| a\\|b | 1 |']
    """
    rule = "".join("---:|" if column in numbers else "---|" for column in range(len(head)))
    lines = ["| " + " | ".join(markdown(cell) for cell in row) + " |" for row in (head, *rows)]
    return [lines[0], f"|{rule}", *lines[1:]]


def markdown_code(line: str) -> list[str]:
    """The lines of a block that shows one line as it is, whatever is in it."""
    return ["", f"    {plain(line)}", ""]
