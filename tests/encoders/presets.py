"""Every preset of a config group, whole or with small numbers in place of the published ones."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import jaxtyping
import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from imtok.construct import construct
from imtok.options import option
from imtok.spaces.base import Space
from imtok.types import Latents

CONFIGS = Path(__file__).parents[2] / "configs"
SMALL = {
    "channels": 16, "latent_channels": 12, "width": 16, "blocks": 1, "depth": 1, "heads": 2, "latents": 5,
    "redundant": 2, "patch_dim": 6, "steps": 2, "budgets": [1, 3, 5],
    "stages": [1, 1, 1], "layers": [0, 0, 0], "depths": [1, 1, 1, 1],
}  # fmt: skip
SIDE = 64  # pixels: the size that small presets are for
ENCODER_OF = {
    "rectifier": "space",
    "low_rank": "space",
    "alitok_causal": "alitok",
    "tokenflow_enhanced": "tokenflow",
}  # decoders whose encoder has another name
# Arguments that presets may leave out: their defaults are what all published nets have, and files of others differ.
OF_FILES = {"groups", "latent_kernel"}
DIM = 6


class StubSpace(Space):
    """Stands for a published autoencoder: eight pixels per position, four channels."""

    dim, factor = 4, 8

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 4, 8, 8)
        larger = (nn.Conv2d(4, 4, 3, padding=1), nn.Upsample(scale_factor=8), nn.Conv2d(4, 3, 3, padding=1))
        self.decoder = nn.Sequential(*larger)

    def encode(self, image):
        return self.down(image)

    def decode(self, features):
        return self.decoder(features)

    def read_weights(self, path):
        raise NotImplementedError


def names(group: str) -> list[str]:
    """Names of the YAML files in a config group."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def one_of_each_class(group: str) -> list[str]:
    """Names of as many of them as there are classes, for what takes long and does not depend on numbers."""
    return sorted({preset(group, name)["_target_"]: name for name in names(group)}.values())


def slow_but_one_of_each_class(group: str, of: Sequence[str] | None = None) -> list:
    """Names, those of a class that has another name slow: for what takes long and hardly depends on numbers."""
    first, chosen = one_of_each_class(group), names(group) if of is None else of
    return [name if name in first else pytest.param(name, marks=pytest.mark.slow) for name in chosen]


def preset(group: str, name: str) -> dict:
    """The values of a YAML file."""
    return OmegaConf.to_container(OmegaConf.create(option(group, name)), resolve=True)


def small(group: str, name: str) -> dict:
    """The same architecture, cheap enough to run in a test."""
    return _small(preset(group, name))


def _small(config: dict) -> dict:
    nets = {key: _small(value) for key, value in config.items() if isinstance(value, dict) and is_net(value)}
    sides = {key: 16 for key in ("patch_size", "factor") if config.get(key) == 14}  # 64 is no multiple of 14
    stack = {"layers": ["residual"], "channels": 32} if _is_stack(config) else {}
    return {key: SMALL.get(key, value) if value else value for key, value in config.items()} | nets | sides | stack


def _is_stack(config: dict) -> bool:
    """Whether it has layers by name, of channels in groups of 32."""
    return str(config.get("_target_")).endswith((".SpaceEncoder", ".Rectifier"))


def is_net(config: dict) -> bool:
    """Whether a section describes an encoder or a decoder, be it inside another one."""
    return str(config.get("_target_")).startswith(("imtok.encoders.", "imtok.decoders."))


def published_side(name: str) -> int:
    """An image size that the published numbers of a preset divide."""
    parts = [preset(group, name) for group in ("encoder", "decoder") if name in names(group)]
    parts += [part["net"] for part in parts if isinstance(part.get("net"), dict)]
    return 448 if any(14 in (part.get("patch_size"), part.get("factor")) for part in parts) else 256


def encoder_of(decoder: str) -> str | None:
    """The encoder that a decoder is published with; None = it reads any number of latents."""
    name = ENCODER_OF.get(decoder, decoder)
    return name if name in names("encoder") else None


def known(dim: int = DIM, side: int = SIDE, num_latents: int = 5) -> dict:
    """What the builder tells a part."""
    space = StubSpace().requires_grad_(False)
    return {"out_dim": dim, "in_dim": dim, "image_size": side, "num_latents": num_latents, "space": space}


def build_encoder(name: str):
    """A small encoder."""
    return construct(small("encoder", name), provided=known())


def build_decoder(name: str):
    """A small decoder, and how many latents it is for: those of the encoder of its name, if there is one."""
    encoder = encoder_of(name)
    number = 5 if encoder is None else build_encoder(encoder).num_latents((SIDE, SIDE))
    return construct(small("decoder", name), provided=known(num_latents=number)), number


def as_program(part: nn.Module, example: tuple) -> nn.Module:
    """What ``torch.export`` makes of a part, for any number of images of one size; ``len(image)`` in it is an error."""
    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = tuple({0: batch} if isinstance(value, torch.Tensor) else (None,) * len(value) for value in example)
    return torch.export.export(part, example, dynamic_shapes=shapes).module()


@contextmanager
def unchecked() -> Iterator[None]:
    """What users run: without the type checks of the tests, which torch.compile cannot trace."""
    jaxtyping.config.update("jaxtyping_disable", True)
    checked = Latents.__init__
    Latents.__init__ = getattr(checked, "__wrapped__", checked)  # torch.compile goes into the check all the same
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)
        Latents.__init__ = checked
