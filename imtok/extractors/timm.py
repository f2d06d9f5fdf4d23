"""Any net of timm, such as DINOv2 for FDD, the Fréchet distance that agrees best with people (arXiv 2306.04675)."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from huggingface_hub import try_to_load_from_cache
from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.errors import InputError
from imtok.extractors.base import Extractor, Features
from imtok.files import sha256 as hash_file
from imtok.weights import identity


class TimmExtractor(Extractor):
    """Pooled features of a net of timm, and its logits where it has a classifier.

    Images are resized by an antialiased bicubic filter, whatever their shape, and normalised by the mean and
    standard deviation of the net. ``vit_large_patch14_dinov2.lvd142m`` at 224 pixels gives the class token that FDD
    is defined by.

    Args:
        model: Name in timm, with the tag of its weights.
        weights: Weight file (safetensors or torch); None = the one that timm left in the cache of the Hugging Face
            hub. Nothing is downloaded.
        image_size: Side of the square that images are resized to, in pixels; None = that of the net.
        sha256: Hash of the weight file, or its first digits; None = whatever is there.
        dtype: "float32" or "float64".

    Raises:
        InputError: If timm or the weight file is missing, or the file is of another net.
        ValueError: If timm has no such model.
    """

    net: Any
    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        model: str = "vit_large_patch14_dinov2.lvd142m",
        weights: str | Path | None = None,
        image_size: int | None = 224,
        sha256: str | None = None,
        dtype: str = "float32",
    ) -> None:
        super().__init__(dtype)
        if find_spec("timm") is None:
            raise InputError(f"timm is missing, which {model} needs; pip install timm (imtok's extra `timm`)")
        timm: Any = import_module("timm")
        if not timm.is_model(model):
            raise ValueError(f"model must be a name that timm knows, got {model!r}")
        config = timm.get_pretrained_cfg(model)
        path = _find(model, config.hf_hub_id, weights)
        digest = hash_file(path)
        if sha256 is not None and not digest.startswith(sha256):
            raise InputError(f"{path} is not the expected weight file: its sha256 must begin with {sha256[:16]}")
        self.side = image_size or int(config.input_size[-1])
        # the classifier stays in, as only then does timm insist on every weight
        settings: dict[str, Any] = {"img_size": self.side} if config.fixed_input_size else {}
        try:
            self.net = timm.create_model(model, True, pretrained_cfg_overlay={"file": str(path)}, **settings)
        except (RuntimeError, ValueError, KeyError, TypeError, OSError) as error:
            reason = str(error).split("\n")[0]
            raise InputError(f"{path} does not hold the weights of {model} ({reason})") from None
        self.dim = int(
            self.net.num_features if not hasattr(self.net, "head_hidden_size") else self.net.head_hidden_size
        )
        self.register_buffer("mean", torch.tensor(config.mean).view(3, 1, 1) * 255, persistent=False)
        self.register_buffer("deviation", torch.tensor(config.std).view(3, 1, 1) * 255, persistent=False)
        self.name = f"timm_{model}_{self.side}"
        self.hash = identity(net=model, weights=digest, size=self.side, resize="bicubic antialiased", dtype=dtype)
        self.freeze()

    @override
    def extract(self, levels: Float[Tensor, "b 3 h w"]) -> Features:
        size = (self.side, self.side)
        image = F.interpolate(levels, size, mode="bicubic", align_corners=False, antialias=True).clamp(0, 255)
        maps = self.net.forward_features((image - self.mean) / self.deviation)
        features = self.net.forward_head(maps, pre_logits=True)
        return Features(features, self.net.forward_head(maps) if self.net.num_classes else None)


def _find(model: str, repository: str | None, weights: str | Path | None) -> Path:
    remedy = "give the path of its weight file as weights=PATH"
    if weights is not None:
        if Path(weights).is_file():
            return Path(weights)
        raise InputError(f"weights={weights} is not a file; {remedy}")
    if repository is None:
        raise InputError(f"the weights of {model} are not on the hub; {remedy}")
    cached = try_to_load_from_cache(repository, "model.safetensors")
    if isinstance(cached, str):
        return Path(cached)
    raise InputError(
        f"the weights of {model} are not on this machine; download https://huggingface.co/{repository} "
        f"(huggingface-cli download {repository} model.safetensors), or {remedy}"
    )
