"""``imtok sample``: draws images from a prior."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from omegaconf import MISSING, DictConfig
from rich.console import Console

from imtok.bars import bar
from imtok.command_line import output_folder
from imtok.conditions.base import Conditioner
from imtok.conditions.given import DecodeConditionConfig, give, read_captions
from imtok.conditions.named import NamedText
from imtok.conditions.text import TextTower
from imtok.config import read_keys
from imtok.errors import InputError
from imtok.export.store import TokenStore
from imtok.image_commands import find_device
from imtok.paste import imtok_line
from imtok.priors.generator import Generator
from imtok.priors.samples import NPZ, Asked, balanced, require_its_tokens, write_codes, write_samples
from imtok.priors.sampling import Sampling
from imtok.tokenizer import Tokenizer


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
    image_size: int | None = None
    batch_size: int = 64
    device: str = "auto"
    threads: int | None = None
    condition: DecodeConditionConfig = field(default_factory=DecodeConditionConfig)

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        given = {name: getattr(self, name) for name in ("n", "batch_size", "image_size", "threads")}
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
    if keys.store is not None:
        _refuse_labels(keys.condition)
    generator = Generator.load(keys.generator)
    device, given = find_device(config), keys.condition
    tokenizer = Tokenizer.load(keys.tokenizer).to(device)
    _require_read(generator, tokenizer, given)
    takes = {*tokenizer.encoder.takes, *tokenizer.decoder.takes}
    tokenizer.condition = give(tokenizer.condition, takes, _read_by(tokenizer.condition, given))
    if keys.store is not None:
        require_its_tokens(generator, tokenizer)
        _tell(generator, given)
        _write_codes(generator, keys, folder, device, console)
        return
    height, width = (keys.image_size, keys.image_size) if keys.image_size else generator.tokens["image_size"]
    asked = asked_of(generator, tokenizer, keys.n, given)
    with bar("sample") as advance:
        write_samples(
            generator,
            tokenizer,
            keys.n,
            folder,
            (height, width),
            keys.sampling(),
            asked,
            keys.batch_size,
            device,
            lambda done: advance(done, keys.n),
        )
    console.print(f"{keys.n} samples in {folder}: 000000.png ..., ids.npy, {NPZ}", soft_wrap=True, markup=False)
    following = imtok_line("score", images=folder / NPZ, reference="IMAGES", protocol="offline")
    console.print(f"score:    {following}", soft_wrap=True, markup=False)


def _tell(generator: Generator, given: DecodeConditionConfig) -> None:
    """Let the prior's condition find its nets."""
    if (own := generator.condition) is not None:
        generator.condition = give(own, own.gives, replace(_read_by(own, given), quality=None))


def _read_by(condition: Conditioner | None, given: DecodeConditionConfig) -> DecodeConditionConfig:
    """What one of prior and tokenizer reads of what is said for both; labels are said sample by sample."""
    weights = given.weights if isinstance(condition, NamedText) else None
    return replace(given, label=None, weights=weights, cache=given.cache if isinstance(condition, TextTower) else None)


def _require_read(generator: Generator, tokenizer: Tokenizer, given: DecodeConditionConfig) -> None:
    """Refuse what neither prior nor tokenizer reads."""
    both = [_read_by(one, given) for one in (generator.condition, tokenizer.condition)]
    for name, what in (("weights", "frozen net"), ("cache", "text tower")):
        if (value := getattr(given, name)) is not None and not any(getattr(one, name) for one in both):
            raise InputError(f"condition.{name}={value}: neither prior nor tokenizer names a {what}")


def _refuse_labels(given: DecodeConditionConfig) -> None:
    """Codes are of a store's own images, with their own labels and captions."""
    for name in ("label", "captions"):
        if (value := getattr(given, name)) is not None:
            raise InputError(f"condition.{name}={value} cannot be given with store=, whose images have their own")


def _write_codes(generator: Generator, keys: Keys, folder: Path, device: torch.device, console: Console) -> None:
    """Draw the tokens of a store's images anew, and say how a decoder is trained on them."""
    store = TokenStore(str(keys.store))
    with bar("sample") as advance:
        write_codes(
            generator,
            store,
            folder,
            keys.sampling(),
            keys.preserve,
            keys.batch_size,
            device,
            lambda done: advance(done, len(store)),
        )
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


def asked_of(generator: Generator, tokenizer: Tokenizer, count: int, given: DecodeConditionConfig) -> Asked:
    """What so many samples are of: the label or the captions that are given, or all classes in turn.

    Raises:
        InputError: If prior or tokenizer are told captions or labels and there are none, or nothing reads what is
            given.
    """
    own, others = generator.condition, tokenizer.condition
    reads = {*(own.reads if own is not None else ()), *(others.reads if others is not None else ())}
    if given.captions is not None and "caption" not in reads:
        raise InputError(f"condition.captions={given.captions}: neither prior nor tokenizer reads captions")
    if given.label is not None and "label" not in reads:
        raise InputError(f"condition.label={given.label}: neither prior nor tokenizer reads labels")
    if "caption" in reads and given.captions is None and not given.missing:
        raise InputError(
            "condition.captions=FILE must be given, a line for each sample, since prior or tokenizer reads captions; "
            "condition.missing=true takes samples as ones of which nothing is said"
        )
    captions = read_captions(given.captions, count) if given.captions is not None else []
    _tell(generator, given)
    classes = min((one.classes for one in (own, others) if one is not None and one.classes is not None), default=None)
    if classes is None:
        return Asked(captions=captions)
    if given.label is not None and given.label >= classes:
        raise InputError(f"condition.label must be below {classes}, got {given.label}")
    return Asked([given.label] * count if given.label is not None else balanced(count, classes), captions)
