"""Pages of the site about the Python API: one for each folder of the package. mkdocstrings fills them."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[2] / "imtok"


def room_pages() -> dict[str, str]:
    """A page for each room, by its path in the site; that of the package itself has the modules beside the rooms."""
    rooms = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
    pages = {"reference/api/imtok.md": _page("imtok", sorted(PACKAGE.glob("*.py")))}
    for room in rooms:
        pages[f"reference/api/{room.name}.md"] = _page(f"imtok.{room.name}", sorted(room.rglob("*.py")))
    return pages


def _page(name: str, files: list[Path]) -> str:
    about = ast.get_docstring(ast.parse(files[0].read_text(encoding="utf-8"))) or ""
    lines = [f"# {name}", "", about.partition("\n\nExample")[0].replace("``", "`"), ""]
    for path in files:
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        if parts[-1] not in ("__init__", "__main__") and _has_public(path):
            lines += [f"::: {'.'.join(parts)}", ""]
    return "\n".join(lines)


def _has_public(path: Path) -> bool:
    """Whether a module has a documented class or function that others may use."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    named = [one for one in body if isinstance(one, (ast.ClassDef, ast.FunctionDef))]
    return any(not one.name.startswith("_") and ast.get_docstring(one) for one in named)
