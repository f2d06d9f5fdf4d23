"""Any net of torchvision that classifies images."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn
from torchvision import models
from typing_extensions import override

from imtok.extractors.base import Features
from imtok.extractors.fetch import find_or_fetch
from imtok.extractors.library import Input, LibraryExtractor, digest_of
from imtok.nn.frozen import drawn
from imtok.pretrained import RANDOM
from imtok.weights import WeightFile, Weights, fill, read_weights


class TorchvisionExtractor(LibraryExtractor):
    """Features of a net of torchvision as its last layer takes them, and what that layer makes of them.

    What is not given is the net's own, as the transforms of its weights have it.

    Args:
        net: Name in torchvision, "resnet50", or with the weights in "resnet50.IMAGENET1K_V1"; without them those that
            torchvision takes by default.
        weights: Weight file; None = the one in the cache of ``torch.hub``, "download" = fetched into that cache,
            "random" = no file: always the same random weights.
        image_size: Side of the square that images are resized to, in pixels.
        resize: How; see :data:`imtok.extractors.resize.RESIZERS`.
        mean: Of the channels, in [0, 1].
        std: Their standard deviations.
        sha256: Hash of the weight file, or its first digits; None = in the cache the digits in the file's name, else
            whatever is there.
        dtype: "float32" or "float64".

    Raises:
        InputError: If the weight file is missing, another one or damaged.
        ValueError: If torchvision has no such net or weights, or a value is out of range.

    Example:
        >>> import torch
        >>> extractor = TorchvisionExtractor("squeezenet1_1", "random", image_size=64)
        >>> extractor(torch.zeros(2, 3, 64, 64, dtype=torch.uint8)).features.shape
        torch.Size([2, 512])
        >>> extractor.distance
        'fd_torchvision_squeezenet1_1.IMAGENET1K_V1_64_random'
    """

    family = "torchvision"

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
        published = _published(net)
        architecture, random = net.partition(".")[0], str(weights) == RANDOM
        taken = published.transforms()
        bicubic = taken.interpolation.value == "bicubic"
        own = Input(taken.crop_size[0], "bicubic" if bicubic else "antialiased", tuple(taken.mean), tuple(taken.std))
        used = own.changed(image_size, resize, mean, std)
        stored = None if random else _read(published.url, weights, sha256)
        tagged = f"{architecture}.{published.name}"
        super().__init__("torchvision", tagged, RANDOM if stored is None else stored.sha256, own, used, dtype)
        # as torchvision builds the two whose file has further heads
        settings = {"transform_input": True, "init_weights": False} if _HEADS.match(architecture) else {}

        def make() -> nn.Module:
            return models.get_model(architecture, weights=None, **settings)

        made: Any = make() if stored is not None else drawn(make, net)
        if stored is not None:
            fill(made, stored)
        self.head, self.dim = _without_head(made)
        self.net: Any = made
        self.freeze()

    @override
    def extract(self, levels: Float[Tensor, "b 3 h w"]) -> Features:
        features = self.net(self.square(levels))
        return Features(features, self.head(features) if self.head is not None else None)


_HEADS = re.compile("googlenet|inception_v3")


def _published(net: str) -> Any:
    """The weights that a name means."""
    architecture, _, tag = net.partition(".")
    known = models.list_models(module=models)
    if architecture not in known:
        close = get_close_matches(architecture, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else f"; there are {', '.join(known)}"
        raise ValueError(f"net must be a net of torchvision that classifies images, got {net!r}{hint}")
    choices: Any = models.get_model_weights(architecture)
    tags = [one.name for one in choices]
    if tag and tag not in tags:
        raise ValueError(f"net must name weights of {architecture} among {', '.join(tags)}, got {net!r}")
    return choices[tag or "DEFAULT"]


def _read(address: str, weights: str | Path | None, expected: str | None) -> Weights:
    """The tensors of a weight file, by the names that the nets have today."""
    file = address.rpartition("/")[2]
    digits = re.search(r"-([0-9a-f]{8})\.", file)
    published = WeightFile(names=(file,), sha256=digits[1] if digits else "", source=address)
    path = find_or_fetch(published, weights)
    digest_of(path, expected or (published.sha256 or None if path.name == file else None))
    found = read_weights(path, None)
    # DenseNet's files are of a time when names could hold dots
    renamed = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)", r"\1\2", k): v for k, v in found.tensors.items()}
    return Weights(found.path, found.sha256, renamed)


def _without_head(net: nn.Module) -> tuple[nn.Module | None, int]:
    """Take the last layer out; returns it (None if more than a linear layer makes logits) and what it takes."""
    path, last = list(net.named_modules())[-1]
    if isinstance(last, nn.Linear):
        head, dim = last, last.in_features
    else:  # SqueezeNet's classifier is a convolution, rectified and pooled
        path, convolution = [one for one in net.named_modules() if isinstance(one[1], nn.Conv2d)][-1]
        head, dim = None, cast(nn.Conv2d, convolution).in_channels
    parent, _, name = path.rpartition(".")
    setattr(net.get_submodule(parent), name, nn.Identity())
    return head, dim
