"""imtok: train, evaluate and export discrete image tokenizers.

What Python code needs of it stands here: ``imtok.Tokenizer``, ``imtok.TokenStore`` and the values that they give. Each
name is imported when it is first used, so that ``import imtok`` alone does not import torch.

Example:
    >>> import imtok
    >>> sorted(imtok.__all__)[:3], imtok.Tokens.__module__
    (['Condition', 'InputError', 'TokenStore'], 'imtok.types')
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from imtok.errors import InputError
    from imtok.export.store import TokenStore
    from imtok.pictures import load_picture, save_picture
    from imtok.tokenizer import Tokenizer
    from imtok.types import Condition, Tokens

__version__ = "0.1.0"
__all__ = ["Condition", "InputError", "TokenStore", "Tokenizer", "Tokens", "load_picture", "save_picture"]
_MODULES = {
    "Condition": "types",
    "InputError": "errors",
    "TokenStore": "export.store",
    "Tokenizer": "tokenizer",
    "Tokens": "types",
    "load_picture": "pictures",
    "save_picture": "pictures",
}


def __getattr__(name: str) -> Any:
    """Import a public name where it is first used (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module 'imtok' has no attribute {name!r}; its names are {', '.join(__all__)}")
    found = getattr(import_module(f"imtok.{_MODULES[name]}"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
