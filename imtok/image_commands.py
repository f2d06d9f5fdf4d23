"""What the commands share that send images through a tokenizer: their keys, device, tokenizer and condition."""

from dataclasses import dataclass, field
from typing import Any, cast

import torch
from omegaconf import MISSING, DictConfig, OmegaConf

from imtok.conditions.given import ConditionConfig, DecodeConditionConfig, give
from imtok.data.base import SPLITS, Images
from imtok.data.told import require_told, told, with_channels
from imtok.distributed import launched_gpu
from imtok.errors import InputError
from imtok.measures.spending import Spending
from imtok.tokenizer import Tokenizer
from imtok.whole import interpolate_positions


@dataclass
class ImagesKeys:
    """A tokenizer, a data set (None = that of the tokenizer's run) and where the results go."""

    tokenizer: str = MISSING
    data: Any = None
    out: str | None = None
    split: str | None = None
    image_size: int | None = None
    batch_size: int = 64
    workers: int = 0
    device: str = "auto"
    threads: int | None = None
    condition: ConditionConfig = field(default_factory=ConditionConfig)

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = self.condition.check()
        if self.split not in (None, *SPLITS):
            problems.append(f"split must be {', '.join(SPLITS)} or null (the data's own choice), got {self.split}")
        for name in ("batch_size", "image_size", "threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} must be at least 1, got {value}")
        if self.workers < 0:
            problems.append(f"workers must not be negative, got {self.workers}")
        return problems


@dataclass
class SpendingKeys:
    """How many tokens an image gets, of tokenizers of variable length."""

    length: int | None = None
    target: Any = None

    def check_spending(self) -> list[str]:
        """What is out of range, one line each."""
        try:
            Spending.of(self.length, self.target)
        except InputError as error:
            return [str(error)]
        return []

    @property
    def spending(self) -> Spending:
        """What they say."""
        return Spending.of(self.length, self.target)


@dataclass
class WholeKeys:
    """Which part of images, and what becomes of learned positions for other sizes than the trained one."""

    crop: str | None = None
    positions: str | None = None

    def check_whole(self, image_size: int | None) -> list[str]:
        """What is out of range, one line each."""
        problems = list[str]()
        if self.crop not in (None, "none"):
            problems.append(f"crop must be none (whole images) or null (the protocol's square), got {self.crop}")
        if self.positions not in (None, "interpolated"):
            problems.append(f"positions must be interpolated or null (as the tokenizer has it), got {self.positions}")
        if self.crop is not None and (getattr(self, "length", None), getattr(self, "target", None)) != (None, None):
            problems.append("crop=none takes all tokens of each image; leave length and target out")
        if self.crop is not None and image_size is not None:
            problems.append("crop=none takes images at their own size; leave image_size out")
        return problems


def told_images(images: Images, tokenizer: Tokenizer, given: ConditionConfig) -> Images:
    """Images with what the tokenizer's condition reads; refused if none of a list has it, unless that is allowed."""
    images = told(with_channels(images, tokenizer.channels), tokenizer.condition)
    if not given.missing:
        require_told(images, tokenizer.condition, "images")
    return images


def plain_values(config: DictConfig) -> dict[str, Any]:
    """The config as plain values, with nothing left to resolve."""
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))


def find_device(config: DictConfig) -> torch.device:
    """Where to compute, as the config says; sets the number of threads too."""
    if config.threads:
        torch.set_num_threads(config.threads)
    name = config.device if config.device != "auto" else ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device must be auto, cpu or cuda, got {name}") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device={name} needs a GPU, and torch {torch.__version__} finds none; give device=cpu")
    # processes of one launcher each take their own
    return torch.device("cuda", launched_gpu()) if device.type == "cuda" and device.index is None else device


def given_condition(config: DictConfig) -> DecodeConditionConfig:
    """What a command says of the tokenizer's condition."""
    return DecodeConditionConfig(**plain_values(config.condition)) if "condition" in config else DecodeConditionConfig()


def load_tokenizer(config: DictConfig, source: str | None = None) -> tuple[Tokenizer, torch.device, int]:
    """The tokenizer that a config (or ``source``) names, on its device, and the side of its images."""
    device = find_device(config)
    tokenizer = Tokenizer.load(source or config.tokenizer).to(device)
    given = given_condition(config)
    tokenizer.condition = give(tokenizer.condition, {*tokenizer.encoder.takes, *tokenizer.decoder.takes}, given)
    if config.get("positions") == "interpolated":
        interpolate_positions(tokenizer)
    size = config.image_size or tokenizer.image_size
    if size is None:
        raise InputError("image_size must be given: the tokenizer's config does not say what it was trained on")
    return tokenizer, device, size
