"""Any net of timm, such as DINOv2 for FDD, the Fréchet distance that agrees best with people (arXiv 2306.04675)."""

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.extractors.base import Features
from imtok.extractors.fetch import DOWNLOAD
from imtok.extractors.library import Input, LibraryExtractor, digest_of
from imtok.locate import fetch_file
from imtok.nn.timm_net import FILES, timm_config, timm_file, timm_net
from imtok.pretrained import RANDOM

DINOV2 = "vit_large_patch14_dinov2.lvd142m"  # at 224 pixels its class token is what FDD is defined by


class TimmExtractor(LibraryExtractor):
    """Pooled features of a net of timm, as its classifier takes them, and its logits if it knows ImageNet's classes.

    What is not given is the net's own, as timm has it.

    Args:
        net: Name in timm, with the tag of its weights.
        weights: Weight file (safetensors or torch); None = the one in the cache of the Hugging Face hub, "download" =
            fetched into that cache, "random" = no file: always the same random weights.
        image_size: Side of the square that images are resized to, in pixels.
        resize: How; see :data:`imtok.extractors.resize.RESIZERS`.
        mean: Of the channels, in [0, 1].
        std: Their standard deviations.
        sha256: Hash of the weight file, or its first digits; None = whatever is there.
        dtype: "float32" or "float64".

    Raises:
        InputError: If timm or the weight file is missing, or the file is of another net.
        ValueError: If timm has no such net, or a value is out of range.

    Example:
        >>> import torch
        >>> extractor = TimmExtractor("test_resnet.r160_in1k", "random")
        >>> extractor(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).features.shape == (2, extractor.dim)
        True
        >>> extractor.distance
        'fd_timm_test_resnet.r160_in1k_160_random'
    """

    family = "timm"

    def __init__(
        self,
        net: str,
        weights: str | Path | None = None,
        image_size: int | None = None,
        resize: str | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        sha256: str | None = None,
        dtype: str = "float32",
    ) -> None:
        asked = str(weights) if weights is not None else None
        known = timm_config(net, asked)
        own = _own(known)
        used = own.changed(image_size, resize, mean, std)
        if asked == DOWNLOAD and known is not None and known.hf_hub_id:
            asked = str(fetch_file(f"hf:{known.hf_hub_id}", FILES))
        path = timm_file(net, asked) if asked != RANDOM else None
        digest = digest_of(path, sha256) if path is not None else RANDOM
        super().__init__("timm", net, digest, own, used, dtype)
        # the classifier stays in, as only then does timm insist on every weight
        settings: dict[str, Any] = {"img_size": used.side} if known is not None and known.fixed_input_size else {}
        self.net: Any = timm_net(net, path or RANDOM, **settings)
        self.dim = int(getattr(self.net, "head_hidden_size", self.net.num_features))
        infer: Any = import_module("timm.data").infer_imagenet_subset
        self.classifies = bool(self.net.num_classes) and infer(self.net) is not None  # CLIP's projection does not
        self.freeze()

    @override
    def extract(self, levels: Float[Tensor, "b 3 h w"]) -> Features:
        maps = self.net.forward_features(self.square(levels))
        features = self.net.forward_head(maps, pre_logits=True)
        return Features(features, self.net.forward_head(maps) if self.classifies else None)


def _own(known: Any) -> Input:
    """What a net takes, as far as timm says it."""
    if known is None:
        return Input(224, "bicubic", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    resize = "antialiased" if known.interpolation == "bilinear" else "bicubic"
    return Input(int(known.input_size[-1]), resize, tuple(known.mean), tuple(known.std))
