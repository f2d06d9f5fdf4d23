"""How many tokens a command spends on each image: all, so many, or as few as reach a quality."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Float
from torch import Tensor

from imtok.errors import InputError
from imtok.measures.base import ImageMeasure
from imtok.measures.inference import Size
from imtok.measures.length import choose_lengths, decode_kept, padded, possible_lengths
from imtok.measures.making import make
from imtok.measures.mean import ImageMean
from imtok.measures.named import names, sections
from imtok.nn.taps import tapped
from imtok.tokenizer import Tokenizer
from imtok.types import Condition, Quantized, Reconstruction, Tokens

_DECIBELS = re.compile(r"^\s*([^\s:]+?)\s*(?:db)?\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class Target:
    """A quality that every image is to reach.

    Attributes:
        metric: Name of a file in ``configs/measure`` whose class is a mean over images.
        value: At least so much, or at most so much of a distance.

    Example:
        >>> read_target("25dB"), read_target("lpips:0.2").facts
        (Target(metric='psnr', value=25.0), 'lpips:0.2')
    """

    metric: str
    value: float

    @property
    def facts(self) -> str:
        """As a command takes it."""
        return f"{self.metric}:{self.value:g}"

    def measure(self) -> ImageMean:
        """What is to reach it.

        Raises:
            InputError: If the metric lacks weights, or is no mean over images.
        """
        made = make(self.metric, sections([self.metric])[self.metric])
        if not isinstance(made, ImageMeasure):
            raise InputError(f"target={self.facts}: {self.metric} says nothing of a single image; give psnr or ssim")
        return made.metric.eval()


def read_target(said: Any) -> Target:
    """A target as a command line says it: ``25dB`` or ``25`` of PSNR, or ``ssim:0.9``, ``lpips:0.2``, ...

    Raises:
        InputError: If it is none.
    """
    name, colon, value = str(said).partition(":")
    name, value = (name.strip().lower(), value.strip()) if colon else ("psnr", str(said))
    found = _DECIBELS.match(value) if name == "psnr" else re.match(r"^\s*(\S+)\s*$", value)
    try:
        number = float(found[1]) if found else math.nan
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"target must be a PSNR as 25dB, or another metric as ssim:0.9 or lpips:0.2, got {said}")
    if name not in names():
        raise InputError(f"target={said}: there is no metric {name}; give psnr, ssim, msssim, lpips or lpips_vgg")
    return Target(name, number)


@dataclass(frozen=True)
class Spending:
    """What a command says of it.

    Attributes:
        length: Tokens of each image; None = all of them.
        target: What each image is to reach with as few tokens as it can; None = nothing.

    Raises:
        InputError: If both are given, or one is out of range.
    """

    length: int | None = None
    target: Target | None = None

    def __post_init__(self) -> None:
        if self.length is not None and self.target is not None:
            raise InputError(f"length={self.length} and target={self.target.facts} cannot both be; give one of them")
        if self.length is not None and self.length < 1:
            raise InputError(f"length must be at least 1 token, got {self.length}")

    @classmethod
    def of(cls, length: int | None = None, target: Any = None) -> "Spending":
        """That of a command's words."""
        return cls(length, None if target is None else read_target(target))

    @property
    def facts(self) -> dict[str, Any]:
        """What decides results, as plain values; empty if all tokens are taken."""
        if self.target is not None:
            return {"target": self.target.facts}
        return {} if self.length is None else {"length": self.length}

    def require_square(self, whole: bool) -> None:
        """Refuse tokens of whole images, of each of which all are taken.

        Raises:
            InputError: If fewer are asked for.
        """
        if whole and self.facts:
            raise InputError(
                "the tokens are of whole images (crop=none), of which each keeps all; leave length and target out"
            )

    def require(self, tokenizer: Tokenizer, size: Size) -> None:
        """Refuse a tokenizer that cannot spend its tokens so.

        Raises:
            InputError: If it always takes the same number of tokens, or not so many.
        """
        if not self.facts:
            return
        most, said = tokenizer.num_tokens(size), "".join(f"{name}={value}" for name, value in self.facts.items())
        if not tokenizer.decoder.flexible:
            raise InputError(f"{said}: this tokenizer always takes {most} tokens; leave it out")
        if self.length is not None:
            if self.length > most:
                raise InputError(f"{said}: this tokenizer has {most} tokens at most")
            try:
                possible_lengths(tokenizer, size, [self.length])
            except InputError as error:
                raise InputError(f"{said}: {str(error).removeprefix('lengths: ')}") from None


class Spender:
    """Makes codes of images with as many tokens as a command says.

    Evaluation, export and decoding all choose here.

    Args:
        tokenizer: On its device, in evaluation mode.
        size: Height and width of the images, in pixels.
        spending: What the command says.

    Attributes:
        tokens: Tokens of each image, those that some leave out among them.

    Raises:
        InputError: If the tokenizer cannot spend its tokens so.
    """

    def __init__(self, tokenizer: Tokenizer, size: Size, spending: Spending) -> None:
        spending.require(tokenizer, size)
        self.tokenizer, self.size, self.spending = tokenizer, size, spending
        self.most = tokenizer.num_tokens(size)
        self.tokens = self.most if spending.length is None else spending.length

    @cached_property
    def tried(self) -> list[int]:
        """The lengths among which that of each image is chosen: powers of two and all, as far as they can be."""
        return possible_lengths(self.tokenizer, self.size)

    @cached_property
    def _metric(self) -> ImageMean | None:
        target = self.spending.target
        return None if target is None else target.measure().to(self.tokenizer.decoder.last_layer.device)

    def encode(self, image: Float[Tensor, "b c h w"], condition: Condition | None = None) -> Quantized:
        """Codes of ``tokens`` places, ``keep`` saying which an image has where images differ.

        Args:
            image: In ``[-1, 1]``.
            condition: What the tokenizer is told of the images.
        """
        target = self.spending.target
        if target is None:
            return self.tokenizer.quantize(image, self.spending.length, condition)
        return choose_lengths(self.tokenizer, image, target.value, self._metric, self.tried, None, condition).quantized

    def shorten(self, tokens: Tokens, condition: Condition | None = None) -> Tokens:
        """Fewer of the tokens that there are, for a tokenizer whose first tokens stand alone.

        There is no original: a target is what the image of fewer tokens is to reach against that of all.

        Args:
            tokens: Of a batch.
            condition: What the tokenizer is told of the images.
        """
        length, target = self.spending.length, self.spending.target
        if length is None and target is None:
            return tokens
        if self.tokenizer.encoder.budgeted:
            said = "".join(f"{name}={value}" for name, value in self.spending.facts.items())
            raise InputError(
                f"{said}: of this tokenizer the first tokens are no code of fewer tokens; export the images with {said}"
            )
        if target is None:
            if self.tokens > tokens.ids.shape[1]:
                raise InputError(f"length={self.tokens}: there are {tokens.ids.shape[1]} tokens of each image")
            return tokens.first(self.tokens)
        image = decode_kept(self.tokenizer, tokens, self.size, condition)
        latents = self.tokenizer.quantizer.decode(tokens.ids).to(image.dtype)
        most = tokens.ids.shape[1]
        tried = sorted({*(length for length in self.tried if length < most), most})
        whole = Quantized(latents, tokens.ids, tokens.keep)
        chosen = choose_lengths(
            self.tokenizer, image, target.value, self._metric, tried, None, condition, whole
        ).quantized
        return Tokens(chosen.ids, chosen.keep)

    def reconstruct(
        self, image: Float[Tensor, "b c h w"], taps: Sequence[str] = (), condition: Condition | None = None
    ) -> Reconstruction:
        """The whole way of images. Codes have places for all tokens, so that measures need not know of lengths.

        Args:
            image: In ``[-1, 1]``.
            taps: Names of sub-modules whose outputs are wanted.
            condition: What the tokenizer is told of the images.

        Raises:
            InputError: If a sub-module is passed several times on the way.
        """
        if not self.spending.facts:
            return self.tokenizer(image, taps, condition=condition)
        if self.spending.target is None:
            made = self.tokenizer(image, taps, self.tokens, condition)
            return Reconstruction(made.image, padded(made.quantized, self.most), made.taps)
        once = ("encoder", "quantizer") if not self.tokenizer.encoder.budgeted else ()
        several = next((name for name in taps if not name.startswith(once)), None)
        if several is not None:
            raise InputError(
                f"target={self.spending.target.facts}: a metric looks at what {several} makes of an image, which it "
                "makes several times; give length=NUMBER, or other metrics"
            )
        with tapped(self.tokenizer, taps) as outputs:
            quantized = self.encode(image, condition)
            tokens = Tokens(quantized.ids, quantized.keep)
            return Reconstruction(decode_kept(self.tokenizer, tokens, self.size, condition), quantized, outputs)
