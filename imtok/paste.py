"""Commands to paste: quoted for the shell, and for Hydra where it would read something else."""

import re
import shlex
from typing import Any

_PLAIN = re.compile(r"(?!(null|true|false|nan|inf)$)([^\W\d]|/|\.{1,2}/)[\w./-]*", re.IGNORECASE)


def imtok_line(name: str, *words: str, **keys: Any) -> str:
    """A command of imtok for the shell, with more keys.

    Example:
        >>> print(imtok_line("export", "data=photos", tokenizer="runs/mine", out="C:/my tokens"))
        imtok export data=photos tokenizer=runs/mine "out='C:/my tokens'"
    """
    return shell_line("imtok", name, *words, *(override(key, value) for key, value in keys.items()))


def shell_line(*words: str) -> str:
    r"""Words as they can be pasted into a shell, always in one line.

    Example:
        >>> print(shell_line("imtok", "eval", override("tokenizer", "runs/my run (1)"), override("metrics", ["psnr"])))
        imtok eval "tokenizer='runs/my run (1)'" "metrics=[psnr]"
        >>> print(shell_line("imtok", "eval", "out=a\nb"))
        imtok eval $'out=a\nb'
    """
    return " ".join(map(_shell, words))


def override(key: str, value: Any) -> str:
    """``key=value`` as Hydra reads it."""
    return f"{key}={_hydra(value)}"


def _hydra(value: Any, inside: bool = False) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(_hydra(item, inside=True) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_hydra(item, inside=True)}' for key, item in value.items())}}}"
    text = str(value)
    plain = _PLAIN.fullmatch(text) and (text.isascii() or not inside)  # other letters are mended in values of keys only
    if isinstance(value, (int, float)) or plain:
        return text
    # a quote, and backslashes before a quote or at the end, take a backslash each
    escaped = re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text)
    return f"'{escaped}'"


def _shell(word: str) -> str:
    if not word.isprintable():
        return f"$'{''.join(map(_escaped, word))}'"
    readable = shlex.quote(word) != word and not re.search(r"[\"$`\\!\n]", word)
    return f'"{word}"' if readable else shlex.quote(word)


def _escaped(character: str) -> str:
    """A character between $' and ', as bash and zsh write it."""
    named = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", "'": "\\'"}
    if character in named or character.isprintable():
        return named.get(character, character)
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))
