"""What griffe reads docstrings through: examples are code, and tables of reStructuredText are code, too."""

import re
from typing import Any

import griffe

_TABLE = re.compile(r"^ *=+(?: +=+)+ *\n(?:.+\n)+ *=+(?: +=+)+ *$", re.MULTILINE)


class Plainer(griffe.Extension):
    """Changes docstrings so that Markdown shows them as they are meant."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Change the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            text = re.sub(r"^Example:$", "Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = _TABLE.sub(lambda table: f"```text\n{table[0]}\n```", text)
