"""What ``imtok COMMAND --help`` says, read off the command's own YAML file, with no library loaded."""

import re
import textwrap

from imtok.folders import config_folder
from imtok.plain import PATH_OF


def help_of(command: str) -> str:
    """The keys of a command whose config Hydra composes, each with its comment, and the options of its groups.

    Args:
        command: Such as "train".
    """
    head, defaults, keys = _parted((config_folder() / f"{command}.yaml").read_text(encoding="utf-8"))
    examples = "\n".join(f"  {line}" for line in head)
    groups = "\n".join(_group(line) for line in defaults)
    keys += "".join(_settings(line) for line in defaults)
    return (
        f"imtok {command} [PATH] KEY=VALUE ...\n\n{examples}\n\nA PATH that stands first is {PATH_OF[command]}PATH.\n\n"
        f"parts and presets, GROUP=OPTION:\n\n{groups}\n\n"
        f"keys, KEY=VALUE; those below another are OUTER.INNER=VALUE; ??? must be given:\n\n{keys}\n\n"
        f"imtok {command} KEY=VALUE ... --cfg job shows the whole config that these words compose\n"
    )


def _parted(text: str) -> tuple[list[str], list[str], str]:
    """The comment at the top, the lines of the defaults list, and the keys."""
    head = [line.removeprefix("# ") for line in re.findall(r"\A(?:#.*\n)+", text)[0].splitlines()]
    _, _, rest = text.partition("defaults:\n")
    defaults, _, keys = rest.partition("\n\n")
    keys = re.sub(r"\n?^hydra:\n(?:^ .*\n?)*", "", keys, flags=re.MULTILINE)
    return head, [line for line in defaults.splitlines() if _NAMED.match(line)], keys.strip()


_NAMED = re.compile(r"  - (?!override |optional )(\w+): *([^#]*?) *(?:# (.*))?$")


def _group(line: str) -> str:
    """A group: its default, what its file says of it, and its options."""
    found = _NAMED.match(line)
    assert found is not None
    name, default, comment = found.groups()
    options = ", ".join(sorted(path.stem for path in (config_folder() / name).glob("*.yaml")))
    listed = textwrap.fill(options, 110, initial_indent=_INDENT, subsequent_indent=_INDENT, break_on_hyphens=False)
    return f"  {name}={default}" + (f"  # {comment}" if comment else "") + f"\n{listed}"


def _settings(line: str) -> str:
    """The keys of a group that builds no part, such as ``trainer``; empty = it builds one."""
    found = _NAMED.match(line)
    assert found is not None
    path = config_folder() / found[1] / f"{found[2]}.yaml"
    text = path.read_text(encoding="utf-8") if path.is_file() else "_target_"
    keys = re.sub(r"\A(#.*\n)+", "", text).strip()
    if not keys or "_target_" in keys or found[1] in _PRESETS:
        return ""
    return f"\n{found[1]}:\n{textwrap.indent(keys, '  ')}"


_INDENT = " " * 6
_PRESETS = ("experiment", "size")
