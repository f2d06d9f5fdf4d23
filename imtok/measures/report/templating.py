"""From templates to HTML in which every text is text, and which holds its pictures and fetches nothing."""

from base64 import b64encode
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from imtok.text import plain

_SMALL = 192  # pictures up to so many pixels a side are enlarged on the page, pixel by pixel
_SCRIPT = "page.js"


@dataclass(frozen=True)
class Inlined:
    """A PNG inside a page.

    Attributes:
        data: The file.
        alt: What it shows, for those who do not see it.
        caption: What stands beside it.
    """

    data: bytes
    alt: str
    caption: str = ""

    @property
    def width(self) -> int:
        """In pixels, as the head of the file says."""
        return int.from_bytes(self.data[16:20], "big")

    @property
    def height(self) -> int:
        """In pixels, as the head of the file says."""
        return int.from_bytes(self.data[20:24], "big")

    @property
    def small(self) -> bool:
        """Whether the page enlarges it."""
        return max(self.width, self.height) <= _SMALL

    @property
    def base64(self) -> str:
        """The file as text."""
        return b64encode(self.data).decode()


def render(template: str, **values: Any) -> str:
    """A page of ``imtok/measures/report/templates``.

    Every text among the values is escaped, and what does not print or turns the direction of reading around is written
    as an escape. A policy in the page forbids the browser to fetch anything and to run any script but the page's own.

    Args:
        template: Name of the file.
        **values: What it shows.
    """
    environment = _environment()
    assert environment.loader is not None
    script, _, _ = environment.loader.get_source(environment, _SCRIPT)
    digest = b64encode(sha256(script.encode()).digest()).decode()
    return environment.get_template(template).render(script=Markup(script), script_hash=f"sha256-{digest}", **values)


@cache
def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("imtok.measures.report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=lambda value: plain(value) if type(value) is str else value,
        trim_blocks=True,
        lstrip_blocks=True,
    )
