"""Where the weights of a vision transformer are: a file, or what timm or transformers left in the hub's cache."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

FILES = ("model.safetensors", "open_clip_model.safetensors", "pytorch_model.bin")
_ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".npz", ".ckpt")


def find_vit(weights: str) -> Path | None:
    """The file that ``weights`` names; None if it is nowhere on this machine. Nothing is fetched.

    Args:
        weights: Path of a file, or of a folder as transformers writes it; a name of timm
            (``vit_base_patch14_dinov2.lvd142m``) or of a model on the Hugging Face hub (``facebook/dinov2-base``).
    """
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        return next((path / name for name in FILES if (path / name).is_file()), None)
    repository = repository_of(weights)
    if repository is None:
        return None
    try:
        cached = [try_to_load_from_cache(repository, file) for file in FILES]
    except HFValidationError:
        return None
    return next((Path(file) for file in cached if isinstance(file, str)), None)


def repository_of(weights: str) -> str | None:
    """The model on the hub that ``weights`` names; None if it is a path."""
    if weights.endswith(_ENDINGS) or weights.startswith(("/", ".", "~")):
        return None
    if weights.count("/") == 1:
        return weights
    if "/" in weights or find_spec("timm") is None:
        return None
    timm: Any = import_module("timm")
    config = timm.get_pretrained_cfg(weights) if timm.is_model(weights) else None
    return config.hf_hub_id if config else None
