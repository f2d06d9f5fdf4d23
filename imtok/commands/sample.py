"""``imtok sample``: draws images from a prior."""

from dataclasses import dataclass, field
from pathlib import Path

import torch
from omegaconf import MISSING, DictConfig
from rich.console import Console

from imtok.command_line import output_folder
from imtok.conditions.given import DecodeConditionConfig, give
from imtok.config import read_keys
from imtok.errors import InputError
from imtok.export.store import TokenStore
from imtok.image_commands import find_device
from imtok.paste import imtok_line
from imtok.priors.asked import asked_of, read_by, require_read, tell
from imtok.priors.codes import write_codes
from imtok.priors.generator import Generator
from imtok.priors.samples import NPZ, require_its_tokens, write_samples
from imtok.priors.sampling import Sampling
from imtok.priors.source import told_ids
from imtok.tokenizer import Tokenizer


@dataclass
class SampleConditionConfig(DecodeConditionConfig):
    """The same, with the tokens of another tokenizer as the condition of samples.

    Attributes:
        store: A store of these tokens, or samples of a prior of them; None = no tokens.
    """

    store: str | None = None


@dataclass
class Keys:
    """A prior, the tokenizer of its tokens, and how to draw. configs/sample.yaml explains each."""

    generator: str = MISSING
    tokenizer: str = MISSING
    n: int = 64
    store: str | None = None
    preserve: float = 0.7
    out: str | None = None
    seed: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    guidance: float = 1.0
    steps: int = 12
    choice_temperature: float = 4.5
    length: int | None = None
    image_size: int | None = None
    batch_size: int = 64
    device: str = "auto"
    threads: int | None = None
    condition: SampleConditionConfig = field(default_factory=SampleConditionConfig)

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        given = {name: getattr(self, name) for name in ("n", "batch_size", "image_size", "threads", "length")}
        problems = [f"{name} must be at least 1, got {v}" for name, v in given.items() if v is not None and v < 1]
        if not 0 <= self.preserve < 1:
            problems.append(f"preserve must lie in [0, 1), got {self.preserve}")
        try:
            self.sampling()
        except ValueError as error:
            problems.append(str(error))
        return problems + self.condition.check()

    def sampling(self) -> Sampling:
        """How to draw."""
        return Sampling(**{name: getattr(self, name) for name in vars(Sampling())})


def run(config: DictConfig) -> None:
    """Draw images, and say where they are.

    Raises:
        InputError: If prior and tokenizer do not belong together, or the prior is told what nobody says.
    """
    keys, folder, console = read_keys(config, Keys), output_folder(config, "samples"), Console(highlight=False)
    # Words that exclude each other.
    if keys.store is not None:
        _refuse_labels(keys.condition)
        if keys.length is not None:
            raise InputError(f"length={keys.length} cannot be given with store=, whose images are drawn whole")
        if keys.condition.store is not None:
            raise InputError(
                f"condition.store={keys.condition.store} cannot be given with store=, whose tokens are drawn anew"
            )
    # The generator, the tokenizer, and what both are told.
    generator = Generator.load(keys.generator)
    device, given = find_device(config), keys.condition
    tokenizer = Tokenizer.load(keys.tokenizer).to(device)
    require_read(generator, tokenizer, given)
    takes = {*tokenizer.encoder.takes, *tokenizer.decoder.takes}
    tokenizer.condition = give(tokenizer.condition, takes, read_by(tokenizer.condition, given))
    if keys.store is not None:
        require_its_tokens(generator, tokenizer)
        tell(generator, given)
        _write_codes(generator, keys, folder, device, console)
        return
    height, width = (keys.image_size, keys.image_size) if keys.image_size else generator.tokens["image_size"]
    other = told_ids(generator, given.store, keys.n)
    asked = asked_of(generator, tokenizer, keys.n, given)
    size, settings = (height, width), keys.sampling()
    write_samples(
        generator, tokenizer, keys.n, folder, size, settings, asked, keys.batch_size, device, keys.length, other
    )
    console.print(f"{keys.n} samples in {folder}: 000000.png ..., ids.npy, {NPZ}", soft_wrap=True, markup=False)
    following = imtok_line("score", images=folder / NPZ, reference="IMAGES", protocol="offline")
    console.print(f"score:    {following}", soft_wrap=True, markup=False)


def _refuse_labels(given: DecodeConditionConfig) -> None:
    """Codes are of a store's own images, with their own labels and captions."""
    for name in ("label", "captions"):
        if (value := getattr(given, name)) is not None:
            raise InputError(f"condition.{name}={value} cannot be given with store=, whose images have their own")


def _write_codes(generator: Generator, keys: Keys, folder: Path, device: torch.device, console: Console) -> None:
    """Draw the tokens of a store's images anew, and say how a decoder is trained on them."""
    store = TokenStore(str(keys.store))
    write_codes(generator, store, folder, keys.sampling(), keys.preserve, keys.batch_size, device)
    line = f"codes of {len(store)} images in {folder}, of which {keys.preserve:.0%} of the tokens are their own"
    console.print(line, soft_wrap=True, markup=False)
    following = imtok_line(
        "train",
        "objective=post_training",
        "data=pairs",
        "data.targets.path=PHOTOS",
        **{"data.sources": folder, "init_from": keys.tokenizer, "freeze": ["encoder", "quantizer"]},
    )
    console.print(f"train:    {following}", soft_wrap=True, markup=False)
