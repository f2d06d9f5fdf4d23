"""Nets of timm with weights from a file or from the cache of the hub; nothing is fetched."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError

from imtok.errors import InputError, MissingWeightsError
from imtok.locate import fetch_file, on_hub
from imtok.nn.frozen import drawn
from imtok.pretrained import RANDOM

FILES = ("model.safetensors", "open_clip_model.safetensors")


def timm_net(name: str, weights: str | Path | None, **settings: Any) -> Any:
    """A net of timm.

    Args:
        name: Name in timm, with the tag of its weights: ``vit_small_patch16_224.dino``.
        weights: Weight file (safetensors or torch), or ``hf:org/name[@revision]`` for one that is fetched from the
            Hugging Face Hub; None = the one that timm left in the cache of the hub. "random" = no file: always the same
            random weights.
        **settings: Of ``timm.create_model``.

    Raises:
        InputError: If timm or the weight file is missing, or the file is of another net.
        ValueError: If timm has no such net.

    Example:
        >>> timm_net("test_vit", "random", img_size=32).embed_dim
        64
    """
    timm, config = _known(name, weights)
    if weights == RANDOM:
        return drawn(lambda: timm.create_model(name, **settings), name)
    path = _find(name, config.hf_hub_id if config else None, weights)
    try:  # the classifier stays in, as only then does timm insist on every weight
        return timm.create_model(name, pretrained=True, pretrained_cfg_overlay={"file": str(path)}, **settings)
    except (RuntimeError, ValueError, KeyError, TypeError, OSError, UnpicklingError, SafetensorError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(f"{path} does not hold the weights of {name} ({reason})") from None


def timm_blank(name: str, **settings: Any) -> Any:
    """A net of timm as it begins, of which only shapes are looked at.

    Raises:
        MissingWeightsError: If timm is missing.
        ValueError: If timm has no such net.
    """
    return _known(name, None)[0].create_model(name, **settings)


def timm_config(name: str, weights: str | Path | None = None) -> Any:
    """What timm says of a net: ``input_size``, ``mean``, ``std``, ``hf_hub_id``, ...; None = nothing.

    Raises:
        InputError: As :func:`timm_net`.
        ValueError: As :func:`timm_net`.
    """
    return _known(name, weights)[1]


def timm_file(name: str, weights: str | Path | None) -> Path:
    """The weight file of a net, which :func:`timm_net` then takes as ``weights``; InputError if there is none."""
    config = timm_config(name, weights)
    return _find(name, config.hf_hub_id if config else None, weights)


def _known(name: str, weights: str | Path | None) -> tuple[Any, Any]:
    """The library, and what it says of a net that it knows."""
    if find_spec("timm") is None:
        kind = MissingWeightsError if weights is None else InputError
        raise kind(f"timm is missing, which {name} needs; pip install timm (imtok's extra `timm`)")
    timm: Any = import_module("timm")
    if not timm.is_model(name):
        raise ValueError(f"net must be a name that timm knows, got {name!r}")
    return timm, timm.get_pretrained_cfg(name)


def _find(name: str, repository: str | None, weights: str | Path | None) -> Path:
    remedy = "give the path of its file as weights=PATH, or weights=random to try things out"
    if on_hub(weights):
        return fetch_file(str(weights), FILES)
    if weights is not None:
        if Path(weights).expanduser().is_file():
            return Path(weights).expanduser()
        raise InputError(f"weights={weights} is not a file; {remedy}")
    if repository is None:
        raise MissingWeightsError(f"the weights of {name} are not on the hub; {remedy}")
    cached = (try_to_load_from_cache(repository, file) for file in FILES)
    found = next((path for path in cached if isinstance(path, str)), None)
    if found is None:
        raise MissingWeightsError(
            f"the weights of {name} are not on this machine; download https://huggingface.co/{repository} "
            f"(hf download {repository} {FILES[0]}), or {remedy}"
        )
    return Path(found)
