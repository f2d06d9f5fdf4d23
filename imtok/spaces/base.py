"""The contract that every frozen space keeps."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.errors import InputError
from imtok.nn.grid import grid_size
from imtok.pixels import to_float, to_uint8
from imtok.pretrained import RANDOM, Pretrained
from imtok.spaces.cache import Maps, net_hash


class Space(nn.Module, Pretrained, ABC):
    """A frozen autoencoder: images to feature maps and back. It is built once, and saved with the tokenizer.

    It never trains and is always in evaluation mode, whatever is asked of the module that holds it. Gradients pass
    through it.

    Args:
        weights: Path of its weights, or "random"; None = they are in the tokenizer's own file.
        cache: A folder of maps that ``imtok pack`` wrote; None = every image is encoded. A picture that is not in it is
            encoded, but for those that are asked for first, which must be there. The path is stored nowhere.

    Attributes:
        dim: Channels of its maps.
        factor: Pixels per position of its maps, along each side.
        draws: Whether the map of an image differs from call to call.
        decodes: Whether the space also decodes maps to images; other spaces have only features.
    """

    dim: int
    factor: int
    draws = False
    decodes = True

    def __init__(self, weights: str | None = RANDOM, cache: str | None = None) -> None:
        super().__init__()
        self.weights, self.cache = weights, cache
        self._kept = _Kept()
        self._known: list[tuple[Tensor, Tensor]] | None = None

    @abstractmethod
    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """Images in ``[-1, 1]`` to maps."""

    @abstractmethod
    def decode(self, features: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b c h w"]:
        """Maps to images in ``[-1, 1]`` up to overshoot."""

    def map_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Rows and columns of the map of an image of height and width ``size``; ValueError if there is none."""
        return grid_size(size, self.factor)

    def maps(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h2 w2"]:
        """What :meth:`encode` makes of images, from the cache where it is there: what parts ask for."""
        return self.remembered(image)

    def computed(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """What a cache holds of each image."""
        return self.encode(image)

    def remembered(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        """What :meth:`computed` makes of images, from the cache where it is there; see :meth:`once`."""
        if self._known is None:
            return self._found(image)
        for known, features in self._known:
            if known is image:
                return features
        self._known.append((image, self._found(image)))
        return self._known[-1][1]

    @contextmanager
    def once(self) -> Iterator[None]:
        """Within it, the same image tensor is encoded once, though encoder and decoder each ask for its map.

        With a space that samples, both so see the same sample, as a step of latent diffusion wants it.
        """
        self._known = []
        try:
            yield
        finally:
            self._known = None

    def _found(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        if self.cache is None or image.requires_grad:
            return self.computed(image)
        uncompiled: Any = torch.compiler.disable(self._look_up)  # what reads a file is no graph
        return uncompiled(image)

    def require_cache(self) -> Maps:
        """The maps of the cache, opened and verified once.

        Raises:
            InputError: If they cannot be read, or are of another net, or cannot stand for this one's.
        """
        if self._kept.maps is None:
            maps, own = Maps(Path(str(self.cache)).expanduser()), self.about
            for name, value in own.items():
                if name != "net" and maps.about.get(name) != value:
                    raise InputError(
                        f"space.cache={self.cache} was made with space.{name}={maps.about.get(name)}, not {value}; "
                        "pack the images again"
                    )
            if maps.about["net"] != own["net"]:
                raise InputError(
                    f"space.cache={self.cache} is of another net: the sha256 of its weights must be "
                    f"{own['net'][:16]}..., got {maps.about['net'][:16]}...; pack the images again"
                )
            self._kept.maps = maps
        return self._kept.maps

    @property
    def about(self) -> dict[str, Any]:
        """What decides the maps, as the folder of a cache says it: class, settings and the hash of the weights.

        Raises:
            InputError: If the maps of an image differ from call to call.
        """
        if self.draws:
            raise InputError(
                "space.cache holds one map of each picture, and this space draws another one each time; give "
                "space.sample_posterior=false, or no cache"
            )
        kind = f"{type(self).__module__}.{type(self).__qualname__}"
        settings = {name: value for name, value in vars(self).items() if isinstance(value, int | float | str)}
        told = {name: value for name, value in settings.items() if name[0] != "_" and name not in _NO_SETTING}
        return {"space": kind, **told, "net": net_hash(self.state_dict())}

    @property
    @override
    def stored(self) -> dict[str, Any]:
        return super().stored | ({} if self.cache is None else {"cache": None})

    @override
    def train(self, mode: bool = True) -> "Space":
        return super().train(False)

    @torch.no_grad()
    def _look_up(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b ..."]:
        maps, pixels = self.require_cache(), to_uint8(image)
        exact = (to_float(pixels) == image).flatten(1).all(1).tolist()  # others are no pictures from a file
        found = [maps.find(one) if whole else None for one, whole in zip(pixels.cpu(), exact, strict=True)]
        missing = [row for row, known in enumerate(found) if known is None]
        if missing and not self._kept.used:
            raise InputError(f"space.cache={self.cache} does not hold {len(missing)} of the first {len(found)} {CURE}")
        self._kept.used = True
        made = iter(self.computed(image[missing]).float() if missing else ())
        return torch.stack([next(made) if known is None else known.to(image.device) for known in found])


_NO_SETTING = ("weights", "cache", "training", "sample_posterior")
CURE = "pictures that are trained on; pack these pictures, or give another folder"


class _Kept:
    """Stored maps once they have been opened, and whether some were found. Copies of the space share them."""

    def __init__(self) -> None:
        self.maps: Maps | None = None
        self.used = False

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Kept":
        return self


def hold(part: nn.Module, space: nn.Module) -> None:
    """Give ``part`` the attribute ``space`` without its weights: these belong to the tokenizer, which has them once."""
    object.__setattr__(part, "space", space)


def hold_patches(part: nn.Module, space: Space | None, patch_size: int, what: str) -> int:
    """Give ``part`` a space as :func:`hold` does, for a part that works on square patches of maps.

    Args:
        part: A part of a tokenizer.
        space: The space that its builder passes.
        patch_size: Side of a patch, in positions of the map.
        what: The part is, for messages: "encoder".

    Returns:
        The width of a patch: channels times positions.

    Raises:
        ValueError: If there is no space, or no such patch.
    """
    if space is None:
        raise ValueError(f"space must be a frozen autoencoder for this {what}, got none; give space=kl_f16c16")
    if patch_size < 1:
        raise ValueError(f"patch_size must be at least 1, got {patch_size}")
    hold(part, space)
    return space.dim * patch_size**2
