"""image -> encoder -> latents -> quantizer -> latents -> decoder -> image."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int64, Shaped
from PIL import Image
from torch import Tensor, nn
from typing_extensions import override

from imtok.conditions.base import NO_LABEL, Conditioner, pinned
from imtok.construct import Config, arguments, check_stored, construct, import_class
from imtok.decoders.base import Decoder
from imtok.decoders.inside import DecoderInSpace
from imtok.encoders.base import Encoder, encoded
from imtok.encoders.inside import EncoderInSpace
from imtok.hub import OnHub
from imtok.nn.taps import tapped
from imtok.pictures import Picture, Range, postprocess, preprocess
from imtok.pixels import check_channels, check_image
from imtok.pretrained import as_stored
from imtok.quantizers.base import Quantizer
from imtok.regularizers.base import Regularizer
from imtok.spaces.base import Space
from imtok.spaces.inside import check_inside, said_of_maps, told_inside
from imtok.stored import Own
from imtok.types import Batch, Condition, Quantized, Reconstruction, Tokens

_NEEDED = ("encoder", "quantizer", "decoder")
_PARTS: dict[str, type] = {
    "encoder": Encoder, "quantizer": Quantizer, "decoder": Decoder, "regularizer": Regularizer, "space": Space,
    "condition": Conditioner,
}  # fmt: skip


class Tokenizer(OnHub):
    """Turns images into discrete tokens and tokens into images. Plain torch: no losses, optimisers or Lightning.

    Args:
        encoder: Images to latents.
        quantizer: Latents to ids and back.
        decoder: Latents to images.
        regularizer: Drops or changes tokens in training; None = nothing does.
        space: The frozen autoencoder in whose latents encoder or decoder work; None = they work on pixels.
        config: The plain values that :meth:`from_config` would build it from; ``save`` needs them.
        condition: What encoder and decoder are told of each image besides its pixels; None = nothing.

    Example:
        >>> tokenizer = Tokenizer.from_config({
        ...     "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 16, "depth": 1},
        ...     "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5, 5]},
        ...     "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 16, "depth": 1},
        ...     "image_size": 32,
        ... })
        >>> tokens = tokenizer.encode(torch.zeros(1, 3, 32, 32))
        >>> tokens.ids.shape, tokenizer.decode(tokens, size=(32, 32)).shape
        (torch.Size([1, 16, 1]), torch.Size([1, 3, 32, 32]))
    """

    def __init__(
        self,
        encoder: Encoder,
        quantizer: Quantizer,
        decoder: Decoder,
        regularizer: Regularizer | None = None,
        space: Space | None = None,
        config: Config | None = None,
        condition: Conditioner | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.quantizer = quantizer
        self.decoder = decoder
        self.regularizer = regularizer
        self.space = space.requires_grad_(False).eval() if space is not None else None
        self.condition = condition
        self.config = config
        self.metadata = dict[str, Any]()
        self._frozen: tuple[str, ...] = ()

    @override
    def forward(
        self,
        image: Float[Tensor, "b c h w"],
        taps: Sequence[str] = (),
        length: int | None = None,
        condition: Condition | None = None,
        step: int = 0,
        generator: torch.Generator | None = None,
    ) -> Reconstruction:
        """Reconstruct ``image``: the whole way, as training sees it.

        Args:
            image: In ``[-1, 1]``.
            taps: Names of sub-modules ("decoder.trunk.blocks.2") whose outputs are wanted.
            length: Latents per image, for tokenizers of variable length: the first so many of all, or as many as an
                encoder with a budget makes of it. Others ignore it.
            condition: What :meth:`condition_of` makes of the images' batch.
            step: Optimiser step, for the regulariser's schedule.
            generator: The regulariser's randomness; without it the regulariser stays out.
        """
        condition = self.told(condition, image.shape[0])
        with tapped(self, taps) as outputs:
            # image -> encoder -> latents -> quantizer -> latents -> regulariser, in training
            quantized = self.quantize(image, length, condition, step, generator)
            size = (image.shape[-2], image.shape[-1])
            return Reconstruction(self.decoder(quantized.latents, size, quantized.keep, condition), quantized, outputs)

    def quantize(
        self,
        image: Float[Tensor, "b c h w"],
        length: int | None = None,
        condition: Condition | None = None,
        step: int = 0,
        generator: torch.Generator | None = None,
    ) -> Quantized:
        """Image to quantized latents, with everything that training needs of them; arguments as of ``forward``."""
        latents = encoded(self.encoder, image, length, self.told(condition, image.shape[0]))
        quantized = self.quantizer(latents.values, latents.keep)
        if length is not None and self.decoder.flexible:  # of encoders that make all of them whatever is asked for
            quantized = quantized.first(length)
        return quantized if generator is None else self.regularized(quantized, step, generator)

    def regularized(self, quantized: Quantized, step: int, generator: torch.Generator) -> Quantized:
        """What the regulariser makes of codes in training, drawn by ``generator``; the same codes otherwise."""
        if not self.training or self.regularizer is None:
            return quantized
        return self.regularizer(quantized, self.quantizer, step, generator)

    @torch.no_grad()
    def encode(
        self, image: Shaped[Tensor, "b c h w"], length: int | None = None, condition: Condition | None = None
    ) -> Tokens:
        """Image to tokens.

        Args:
            image: In ``[-1, 1]``.
            length: How many tokens to spend on each image, for tokenizers of variable length: the first so many of
                all tokens, or as many as an encoder with a budget makes of it. None = all of them.
            condition: What is known of the images besides, by :meth:`condition_for`, for a tokenizer that is told it.

        Raises:
            InputError: If the tokenizer is told something of each image, and ``condition`` is None.
            ValueError: If the image is not one of floats around ``[-1, 1]``, or it or its latents hold NaN or infinity:
                ids made of them would look valid; or if ``length`` is out of range.
        """
        check_image(image)
        if length is not None:
            most = self.num_tokens((image.shape[-2], image.shape[-1]))
            if not self.decoder.flexible:
                raise ValueError(f"length must be None for a tokenizer that always takes {most} tokens, got {length}")
            if not 1 <= length <= most:
                raise ValueError(f"length must lie in [1, {most}] tokens, got {length}")
        quantized = self.quantize(image, length, condition)
        if not torch.isfinite(quantized.latents).all():
            raise ValueError(
                "latents must be finite to become ids, got NaN or infinity; check the image or the weights"
            )
        return Tokens(quantized.ids, quantized.keep)

    @torch.no_grad()
    def decode(
        self,
        tokens: Tokens | Shaped[Tensor, "..."] | np.ndarray,
        size: tuple[int, int] | int | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """Tokens to images of height and width ``size``, clamped to ``[-1, 1]``.

        A tokenizer of variable length also decodes the first few tokens of each image.

        Args:
            tokens: What :meth:`encode` gives, or ids alone: ``b t g``, or ``b t`` of a tokenizer with one slot, in any
                type of whole numbers.
            size: Height and width in pixels, or one number for both; None = what the tokenizer was trained on.
            condition: What is known of the images besides, by :meth:`condition_for`, for a tokenizer that is told it.

        Raises:
            InputError: If the tokenizer is told something of each image, and ``condition`` is None.
            ValueError: If an id lies outside its slot's vocabulary, or is no whole number, or ids have another shape,
                or no size is known.
        """
        tokens = tokens if isinstance(tokens, Tokens) else self._tokens(tokens)
        if size is None or isinstance(size, int):
            size = (self._side(size), self._side(size))
        condition = self.told(condition, tokens.ids.shape[0])
        latents = self.quantizer.decode(tokens.ids).to(self.decoder.last_layer.dtype)
        if tokens.keep is not None:
            latents = latents.masked_fill(~tokens.keep[..., None], 0)
        return self.decoder(latents, size, tokens.keep, condition).clamp(-1, 1)

    def preprocess(
        self,
        images: Picture | Sequence[Picture],
        size: int | None = None,
        value_range: Range | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """PIL images, arrays or tensors as :meth:`encode` takes them, where and as precise as the tokenizer is.

        Args:
            images: One, a batch or a list of them; see :func:`imtok.pictures.preprocess`.
            size: Side of the centre square that is taken, in pixels; None = what the tokenizer was trained on.
            value_range: Black and white of images that are not uint8, such as (0, 1) or (0, 255).

        Raises:
            InputError: If an image or its range cannot be used.
            ValueError: If no size is known.
        """
        return preprocess(images, self._side(size), value_range, self.channels).to(self.decoder.last_layer)

    def postprocess(self, images: Float[Tensor, "b c h w"]) -> list[Image.Image]:
        """What :meth:`decode` gives, as PIL images."""
        return postprocess(images)

    def _side(self, size: int | None) -> int:
        side = size or self.image_size
        if side is None:
            raise ValueError("size must be given: the tokenizer's config does not say what it was trained on")
        return side

    def _tokens(self, ids: Tensor | np.ndarray) -> Tokens:
        """Ids alone as tokens."""
        found = ids.detach().cpu().numpy() if isinstance(ids, Tensor) else np.asarray(ids)
        if found.dtype.kind not in "iu":
            raise ValueError(f"ids must be whole numbers, got {found.dtype}")
        slots = len(self.quantizer.vocab_sizes)
        if found.ndim == 2 and slots == 1:
            found = found[..., None]
        if found.ndim != 3 or found.shape[-1] != slots:
            axes = "images x tokens, or images x tokens x 1" if slots == 1 else f"images x tokens x {slots} slots"
            raise ValueError(f"ids must be {axes}, got shape {list(found.shape)}")
        return Tokens(torch.from_numpy(found.astype(np.int64)).to(self.decoder.last_layer.device))

    def condition_of(self, batch: Batch) -> Condition | None:
        """What encoder and decoder are told of a batch; None for a tokenizer that is told nothing but pixels."""
        return self.condition_for(len(batch.image), batch.caption, batch.label)

    def condition_for(
        self, images: int, captions: Sequence[str] = (), labels: Int64[Tensor, " b"] | None = None
    ) -> Condition | None:
        """What encoder and decoder are told of images with such captions and labels; None as for ``condition_of``.

        Args:
            images: How many there are.
            captions: Text about each, "" where there is none; () = there is none about any.
            labels: Class of each, -1 where there is none; None = none has one.
        """
        if self.condition is None:
            return None
        labels = torch.full((images,), NO_LABEL) if labels is None else labels
        return self.condition.make(captions or [""] * images, labels.to(self.decoder.last_layer.device))

    def told(self, condition: Condition | None, images: int) -> Condition | None:
        """A condition as it was given; InputError if it is missing, unless it is the same for all images."""
        if condition is None and self.condition is not None:
            self.condition.require_nothing()
            return self.condition_for(images)
        return condition

    def num_tokens(self, size: tuple[int, int]) -> int:
        """Tokens for an image of height and width ``size``, in pixels."""
        return self.quantizer.num_tokens(self.encoder.num_latents(size))

    @classmethod
    @override
    def from_config(cls: type[Own], config: Config, packages: Sequence[str] | None = ("imtok",)) -> Own:
        """Build from plain values: a dict for each part, ``image_size``, ``channels`` and ``in_space``.

        The quantizer decides the width of the latents and of what the encoder gives, the encoder their number,
        ``image_size`` the size that learned positions are for: encoder and decoder are given what they ask for by an
        argument (``out_dim``, ``in_dim``, ``num_latents``, ``image_size``, ``image_channels``, ``space``, and
        ``text_dim``, ``text_length``, ``classes`` of the condition), so that nothing is written twice.

        Args:
            config: A dict per part with ``_target_``, the full path of its class, and its arguments.
            packages: Only classes of these packages are built; None = of any. A stored config is a stranger's:
                leave this as it is unless you trust its author.

        Raises:
            ValueError: If a class is not of ``packages`` or not of the part's kind, or refuses its arguments; or if
                ``channels`` is not 3 and a part takes no ``image_channels``; or if ``in_space`` names a part that
                cannot work on maps.
        """
        for name, base in _PARTS.items() if packages is not None else ():  # all, before one of them is built
            if config.get(name) or name in _NEEDED:
                check_stored(config.get(name), packages or (), base)
        quantizer = cast(Quantizer, construct(config["quantizer"], packages))
        side, channels, inside = config.get("image_size"), config.get("channels", 3), config.get("in_space", ())
        _check_channels(config, channels)
        shape = {"image_channels": channels}
        space = cast(Space, construct(config["space"], packages, shape)) if config.get("space") else None
        condition: Any = construct(config["condition"], packages) if config.get("condition") else None
        known = {"image_size": side, "space": space, **shape}
        known |= condition.sizes if condition is not None else {}
        check_inside(config, inside, space)
        encoder: Encoder = _part(config, "encoder", packages, known | {"out_dim": quantizer.in_dim})
        known |= {"in_dim": quantizer.dim, "num_latents": encoder.num_latents((side, side)) if side else None}
        decoder: Decoder = _part(config, "decoder", packages, known)
        regularizer = construct(config["regularizer"], packages) if config.get("regularizer") else None
        parts: dict[str, nn.Module] = {"encoder": encoder, "decoder": decoder}
        parts |= {} if space is None else {"space": space}
        return cls(
            encoder,
            quantizer,
            decoder,
            cast(Regularizer | None, regularizer),
            space,
            as_stored(pinned(config, condition), **parts),
            condition,
        )

    def freeze(self, names: Sequence[str]) -> None:
        """Let parts ("encoder", "decoder.codebook") stay as they are: no gradients, no updates, evaluation mode.

        Raises:
            ValueError: If a name is not that of a sub-module.
        """
        for name, part in self._parts(names):
            part.requires_grad_(False).eval()
            self._frozen = (*self._frozen, name)

    def is_frozen(self, name: str) -> bool:
        """Whether a sub-module was frozen, alone or with the part that it belongs to."""
        return any(name == frozen or name.startswith(f"{frozen}.") for frozen in self._frozen)

    @override
    def train(self, mode: bool = True) -> "Tokenizer":
        super().train(mode)
        for _, part in self._parts(self._frozen):
            part.eval()
        return self

    def _parts(self, names: Sequence[str]) -> Iterator[tuple[str, nn.Module]]:
        modules = dict(self.named_modules()) if names else {}
        for name in names:
            if name not in modules:
                known = ", ".join(part for part in modules if part and "." not in part)
                raise ValueError(f"freeze must name parts of the tokenizer ({known}, ...), got {name!r}")
            yield name, modules[name]


def _part(config: Config, name: str, packages: Sequence[str] | None, known: dict[str, Any]) -> Any:
    """Encoder or decoder, built for images, or for maps of the space if ``in_space`` names it."""
    space = known["space"]
    if space is None or name not in config.get("in_space", ()):
        return construct(config[name], packages, known)
    with said_of_maps(space):
        net = construct(config[name], packages, told_inside(known, space))
    return EncoderInSpace(net, space) if name == "encoder" else DecoderInSpace(net, space)


def _check_channels(config: Config, channels: Any) -> None:
    """Raise ValueError unless all parts that see pixels can have so many channels."""
    check_channels(channels)
    for name in ("encoder", "decoder", "space") if channels != 3 else ():
        if not config.get(name) or name in config.get("in_space", ()):
            continue
        kind = import_class(config[name]["_target_"])
        if "image_channels" not in arguments(kind)[0]:
            cure = "space=none" if name == "space" else f"another {name}, such as {name}=cnn or {name}=vit"
            raise ValueError(
                f"channels={channels}: {name} ({kind.__name__}) is made for RGB images; give channels=3, or {cure}"
            )
