"""What mkdocs calls: adds the generated pages, and mends links that lead out of docs/."""

import posixpath
import re
from typing import Any

from command_pages import ROOT, command_pages, option_pages
from mkdocs.structure.files import File, Files
from pymdownx.slugs import slugify
from recipe_pages import families, page_of, recipe_pages
from room_pages import room_pages

_ROOT_PAGES = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changelog.md"}  # files that are pages of the site
_HIDDEN = {"index.md": ["navigation", "toc"], "recipes.md": ["toc"], "parity.md": ["toc"], "generation.md": ["toc"]}
_LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^()\s]+)\)")
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|obj):<code>~?([\w.]+)</code>")


def on_config(config: Any) -> Any:
    """Name anchors as GitHub does, and put the generated pages into the navigation."""
    config.mdx_configs.setdefault("toc", {})["slugify"] = slugify(case="lower")
    sections = {name: part for entry in config.nav for name, part in entry.items()}
    sections["Recipes"] += [{f"Family: {family}": page_of(family)} for family in families()]
    sections["Reference"] += [
        {"Commands and keys": [{_stem(path): path} for path in command_pages()]},
        {"Options of each group": [{_stem(path): path} for path in option_pages()]},
        {"Python API": [{_stem(path): path} for path in room_pages()]},
    ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add pages that stand in no file of docs/."""
    pages = command_pages() | option_pages() | recipe_pages() | room_pages()
    pages |= {page: (ROOT / name).read_text(encoding="utf-8") for name, page in _ROOT_PAGES.items()}
    for path, content in pages.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Files) -> str:
    """Links to files of the repository that are no pages become plain text."""
    source = page.file.src_uri
    if source in _HIDDEN:  # tables that need the room
        page.meta["hide"] = _HIDDEN[source]
    folder = "" if source in _ROOT_PAGES.values() else posixpath.join("docs", posixpath.dirname(source))

    def mended(link: re.Match[str]) -> str:
        picture, text, target = link.groups()
        path, mark, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return link[0]
        meant = posixpath.normpath(posixpath.join(folder, path))
        if meant in _ROOT_PAGES:
            meant = f"docs/{_ROOT_PAGES[meant]}"
        elif not meant.startswith("docs/"):
            return text
        inside = posixpath.relpath(meant, posixpath.join("docs", posixpath.dirname(source)))
        return f"{picture}[{text}]({inside}{mark}{anchor})"

    fences = re.split(r"(^```.*?^```$)", markdown, flags=re.MULTILINE | re.DOTALL)
    return "".join(part if part.startswith("```") else _LINK.sub(mended, part) for part in fences)


def on_page_content(html: str, page: Any, config: Any, files: Files) -> str:
    """Roles of reStructuredText in docstrings become links within the site."""
    link = '<autoref identifier="{0}" optional><code>{1}</code></autoref>'
    return _ROLE.sub(lambda role: link.format(role[1], role[1].rpartition(".")[2]), html)


def _stem(path: str) -> str:
    return posixpath.basename(path).removesuffix(".md")
