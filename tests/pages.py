"""The Markdown pages of the repository: their blocks of code, commands and links."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]


class Block(NamedTuple):
    """Lines of code; of language ``""`` are indented ones."""

    language: str
    lines: list[str]


def blocks(page: Path) -> list[Block]:
    """Fenced and indented code of a page, in its order."""
    found, language = list[Block](), None
    for line in page.read_text().splitlines():
        if line.startswith("```"):
            language = line.removeprefix("```") if language is None else None
            if language is not None:
                found.append(Block(language, []))
        elif language is not None:
            found[-1].lines.append(line)
        elif line.startswith("    "):
            if not found or found[-1].language:
                found.append(Block("", []))
            found[-1].lines.append(line.removeprefix("    "))
    return found


def words(line: str) -> list[list[str]]:
    """The commands of a line, each as the shell would split it; without its comment."""
    found: list[list[str]] = [[]]
    for word in shlex.split(line, comments=True):
        if word == "&&":
            found.append([])
        else:
            found[-1].append(word)
    return [command for command in found if command]


def joined(lines: list[str]) -> list[str]:
    """Lines of which each ends where its command does, and not at a backslash."""
    return "\n".join(lines).replace("\\\n", " ").splitlines()


def links(page: Path) -> list[str]:
    """Targets of links and pictures that are files of the repository."""
    text = re.sub(r"`[^`]*`", "", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL))
    return [target for target in re.findall(r"\]\(([^()\s]+)\)", text) if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """Names of the headings, as GitHub makes them."""
    headings = re.findall(r"^#+ +(.*?) *$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def sentences(page: Path) -> list[str]:
    """Sentences of a page's prose; code in them is one word."""
    text = re.sub(r"<!--.*?-->|^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    lines = ["" if re.match(r"    |\||#|!\[", line) else line for line in text.splitlines()]
    text = re.sub(r"^\s*(?:[*-]|\d+\.) ", "\n", "\n".join(lines), flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "X", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", text)).replace("*", "")
    parts = [part for paragraph in text.split("\n\n") for part in re.split(r"(?<=[.!?])\s+(?=[A-Z0-9(\"])", paragraph)]
    return [" ".join(part.split()) for part in parts if len(part.split()) >= 3]
