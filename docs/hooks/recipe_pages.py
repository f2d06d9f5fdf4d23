"""Pages of the site about recipes: one for each family of the README, made of the configs."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "configs/experiment"
_ROW = re.compile(r"^\| ([a-zA-Z0-9, ]+) \| (`\w+`.*?) \|", re.MULTILINE)


def families() -> dict[str, list[str]]:
    """Recipes by family. A recipe that the README does not name is of the family of its nearest relative there."""
    named = dict[str, str]()
    for family, recipes in _ROW.findall((ROOT / "README.md").read_text(encoding="utf-8")):
        named |= dict.fromkeys(re.findall(r"`([a-z]\w+)`", recipes), family)
    found = dict[str, list[str]]()
    for name in sorted(path.stem for path in RECIPES.glob("*.yaml")):
        relative = max(named, key=lambda other: (_shared(name, other), other == name))
        family = named[relative] if _shared(name, relative) else "other"
        found.setdefault(family, []).append(name)
    return found


def recipe_pages() -> dict[str, str]:
    """A page for each family, by its path in the site."""
    return {page_of(family): _page(family, names) for family, names in families().items()}


def page_of(family: str) -> str:
    """The path of a family's page."""
    return f"recipes/{re.sub(r'[^a-z0-9]+', '_', family.lower())}.md"


def _shared(one: str, other: str) -> int:
    """How many words at their beginning two names share."""
    pairs = zip(one.split("_"), other.split("_"), strict=False)
    count = 0
    for left, right in pairs:
        if left != right:
            break
        count += 1
    return count


def _page(family: str, names: list[str]) -> str:
    table = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    columns = [cell.strip() for cell in re.findall(r"^\| recipe .*", table, re.MULTILINE)[0].strip("|").split("|")]
    lines = [
        f"# Recipes: {family}",
        "",
        "Each recipe is a file in `configs/experiment`. This page is made of these files.",
        "",
    ]
    for name in names:
        text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
        row = re.search(rf"^\| `{name}` \|.*", table, re.MULTILINE)
        cells = [cell.strip() for cell in re.split(r" \| ", row[0].strip("| "))] if row else []
        facts = dict(zip(columns, cells, strict=False))
        lines += [f"## {name}", "", *_comment(text), ""]
        rows = [f"| {key} | {value} |" for key, value in facts.items() if key != "recipe"]
        lines += ["| fact | value |", "|---|---|", *rows, ""]
        lines += ["```sh", f"imtok train experiment={name} data.path=DIR", "```", ""]
        lines += [f'??? note "configs/experiment/{name}.yaml"', "", "    ```yaml"]
        lines += [*(f"    {line}" for line in text.splitlines()), "    ```", ""]
    return "\n".join(lines)


def _comment(text: str) -> list[str]:
    """The lines at the top; those that begin with a word and a colon stand apart."""
    lines = list[str]()
    for line in text.splitlines()[1:]:
        if not line.startswith("#"):
            break
        said = line.removeprefix("#").strip()
        lines += ["", said] if re.match(r"(Differs|Published|Two stages?):", said) else [said]
    return lines
