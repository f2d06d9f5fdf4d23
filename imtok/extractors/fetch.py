"""Weight files in the caches of libraries: found there, and fetched to there only where that is asked for."""

from pathlib import Path

import torch

from imtok.errors import InputError
from imtok.weights import WeightFile

DOWNLOAD = "download"  # in place of a path


def find_or_fetch(file: WeightFile, weights: str | Path | None) -> Path:
    """The file at ``weights``; None = that in the cache of ``torch.hub``, "download" = fetched into it if need be.

    Raises:
        InputError: If there is no such file, or it cannot be fetched; says where to get it.
    """
    cached = Path(torch.hub.get_dir()) / "checkpoints" / file.names[0]
    if str(weights) != DOWNLOAD:
        return file.find(weights)
    if not any((cached.parent / name).is_file() for name in file.names):
        try:
            cached.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(file.source, str(cached), file.sha256 or None, progress=False)
        except (OSError, RuntimeError) as error:
            raise _not_fetched(file.source, error) from None
    return file.find()


def _not_fetched(source: str, error: Exception) -> InputError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return InputError(f"{source} cannot be downloaded ({reason}); give the path of the file as weights=PATH")
