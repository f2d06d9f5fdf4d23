"""Pages of the site about commands, their keys and their options, made of the YAML files that hold them."""

import re
from pathlib import Path

from imtok.help import help_of
from imtok.plain import PATH_OF, PLAIN

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
NOT_OPTIONS = ("experiment", "size")  # recipes have pages of their own


def command_pages() -> dict[str, str]:
    """A page for each command, by its path in the site."""
    pages = {f"reference/commands/{command}.md": _composed(command) for command in PATH_OF}
    return pages | {f"reference/commands/{command}.md": _plain(command) for command in PLAIN}


def option_pages() -> dict[str, str]:
    """A page for each group of options, such as ``quantizer``, by its path in the site."""
    folders = [path for path in sorted(CONFIGS.iterdir()) if path.is_dir() and path.name not in NOT_OPTIONS]
    return {f"reference/options/{folder.name}.md": _options(folder) for folder in folders}


def _composed(command: str) -> str:
    """What ``--help`` says, as tables."""
    usage, examples, first, _, groups, _, keys, last = _sections(help_of(command))
    rows = [_group_row(line, found) for line, found in _grouped(groups)]
    return "\n".join(
        [
            f"# imtok {command}",
            "",
            *_code([usage, "", *re.sub(r"^  ", "", examples, flags=re.MULTILINE).splitlines()], "text"),
            first,
            "",
            "## Parts and presets",
            "",
            "Write `GROUP=OPTION`.",
            "",
            "| group | default | options | meaning |",
            "|---|---|---|---|",
            *rows,
            "",
            "## Keys",
            "",
            "Write `KEY=VALUE`. A value `???` must be given.",
            "",
            "| key | default | meaning |",
            "|---|---|---|",
            *(f"| `{key}` | {_ticked(value)} | {_cell(meaning)} |" for key, value, meaning in read_keys(keys)),
            "",
            last,
            "",
        ]
    )


def _sections(text: str) -> list[str]:
    """Usage, examples, first path, a title, groups, a title, keys and the last line of a help text."""
    head, _, rest = text.partition("\n\nparts and presets")
    usage, examples, first = head.split("\n\n", 2)
    title, _, rest = rest.partition("\n\n")
    groups, _, rest = rest.partition("\n\nkeys, ")
    second, _, rest = rest.partition("\n\n")
    keys, _, last = rest.strip().rpartition("\n\n")
    return [usage, examples, first, title, groups, second, keys, f"`{last}`".replace(" shows", "` shows", 1)[:-1] + "."]


def _grouped(text: str) -> list[tuple[str, str]]:
    """Each group's line, and the names of its options."""
    found = list[tuple[str, str]]()
    for line in text.splitlines():
        if line.startswith("      ") and found:
            found[-1] = (found[-1][0], f"{found[-1][1]} {line.strip()}".strip())
        elif line.strip():
            found.append((line.strip(), ""))
    return found


def _group_row(line: str, options: str) -> str:
    named, _, comment = line.partition("#")
    group, _, default = named.strip().partition("=")
    listed = ", ".join(f"`{one.strip()}`" for one in options.split(",") if one.strip())
    if group in NOT_OPTIONS and group == "experiment":
        listed = "the recipes"
    return f"| `{group}` | {_ticked(default)} | {listed} | {_cell(comment.strip())} |"


def read_keys(text: str) -> list[tuple[str, str, str]]:
    """Dotted key, default and meaning of each line of YAML that has a value."""
    found, outer = list[tuple[str, str, str]](), list[tuple[int, str]]()
    for line in text.splitlines():
        read = re.match(r"^( *)([\w.]+):(?: +([^#]*?))? *(?:# (.*))?$", line)
        if read is None:
            continue
        indent = len(read[1])
        outer = [one for one in outer if one[0] < indent]
        name = ".".join([*(one for _, one in outer), read[2]])
        if (read[3] or "").startswith("{"):  # a mapping in one line
            pairs = re.findall(r"(\w+): ([^,}]+)", read[3])
            found += [(f"{name}.{key}", value.strip(), "") for key, value in pairs]
        elif read[3]:
            found.append((name, read[3], read[4] or ""))
        else:
            outer.append((indent, read[2]))
            if read[4]:
                found.append((name, "", read[4]))
    return _merged(found)


def _merged(found: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Each key once: a command's own default comes before that of a group, and the meaning is the first one said."""
    values, meanings = dict[str, str](), dict[str, str]()
    for key, value, meaning in found:
        values.setdefault(key, value)
        meanings[key] = meanings.get(key) or meaning
    return [(key, value, meanings[key]) for key, value in values.items()]


def _plain(command: str) -> str:
    plain = PLAIN[command]
    keys = [f"| `{key}` | {_cell(meaning)} |" for key, meaning in plain.keys.items()]
    table = ["## Keys", "", "| key | meaning |", "|---|---|", *keys, ""] if keys else []
    return "\n".join([f"# imtok {command}", "", *_code([plain.example]), _sentence(plain.takes), "", *table])


def _options(folder: Path) -> str:
    """Every file of a group: what its first comment says, and the class that it builds."""
    lines = [f"# Options of `{folder.name}`", "", "The first lines of each file in `configs` say what it is.", ""]
    for path in sorted(folder.rglob("*.yaml")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(CONFIGS).with_suffix("")
        comment = " ".join(line.removeprefix("#").strip() for line in _head(text))
        target = re.search(r"_target_: ([\w.]+)", text)
        lines += [f"## {path.relative_to(folder).with_suffix('')}", "", comment, ""] if comment else [f"## {name}", ""]
        lines += [f"It builds `{target[1]}`.", ""] if target else []
        lines += ['??? note "The file"', "", *(f"    {line}" for line in _code(text.splitlines(), "yaml"))]
    return "\n".join(lines)


def _head(text: str) -> list[str]:
    lines = text.splitlines()
    lines = lines[1:] if lines and lines[0].startswith("# @package") else lines
    return lines[: next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))]


def _code(lines: list[str], language: str = "sh") -> list[str]:
    return [f"```{language}", *lines, "```", ""]


def _ticked(value: str) -> str:
    return f"`{_cell(value.strip())}`" if value.strip() else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _sentence(text: str) -> str:
    return f"{text[0]}{text[1:]}." if not text.endswith(".") else text
