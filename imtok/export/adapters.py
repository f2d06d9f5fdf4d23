"""A tokenizer behind the interface that generators call: taming's first stage, LlamaGen's VQ model, or TiTok's."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.errors import InputError
from imtok.tokenizer import Tokenizer
from imtok.types import Condition

Map = Float[Tensor, "b d rows columns"]
_SLACK = 0.01  # of [0, 1], for images that were resized with a filter that overshoots and rounded


class LlamaGenModel(nn.Module):
    """What LlamaGen's (arXiv 2406.06525) samplers and extractors call a VQ model.

    Several slots become one number per token, the sum over slots of id times place. Latents that form no square are
    a map of one row.

    Generators know no captions. A tokenizer that is told some gets them by ``model.condition =
    model.tokenizer.condition_for(...)``, which holds for every call until another one is set.

    Args:
        tokenizer: A tokenizer, or where it is stored.
        image_size: Side of the images, in pixels; None = what the tokenizer was trained on.

    Attributes:
        condition: What the tokenizer is told of the images of a call; None = nothing.

    Raises:
        InputError: If the tokenizer has no ids, leaves tokens out, or does not say its image size; in a call, if the
            tokenizer is told something of each image and ``condition`` is None.

    Example:
        >>> part = {"patch_size": 8, "width": 16, "depth": 1}
        >>> tokenizer = Tokenizer.from_config({
        ...     "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **part},
        ...     "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5, 5]},
        ...     "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **part},
        ... })
        >>> model = LlamaGenModel(tokenizer, image_size=32)
        >>> quant, _, (_, _, indices) = model.encode(torch.zeros(2, 3, 32, 32))
        >>> model.decode_code(indices, quant.shape).shape
        torch.Size([2, 3, 32, 32])
    """

    def __init__(self, tokenizer: Tokenizer | str | Path, image_size: int | None = None) -> None:
        super().__init__()
        self.tokenizer = tokenizer if isinstance(tokenizer, Tokenizer) else Tokenizer.load(tokenizer)
        self.tokenizer.requires_grad_(False).eval()
        self.condition: Condition | None = None
        side = image_size or self.tokenizer.image_size
        quantizer = self.tokenizer.quantizer
        if side is None:
            raise InputError("image_size must be given: the tokenizer's config does not say what it was trained on")
        if not quantizer.vocab_sizes or math.prod(quantizer.vocab_sizes) >= 2**63:
            raise InputError(f"a token must be one number of 64 bits, got slots of {list(quantizer.vocab_sizes)}")
        self.side, self.tokens = side, self.tokenizer.num_tokens((side, side))
        latents = self.tokenizer.encoder.num_latents((side, side))
        rows = math.isqrt(latents)
        self.rows, self.columns = (rows, rows) if rows**2 == latents else (1, latents)
        self.quantize = self.codes()

    def codes(self) -> "CodesAdapter":
        """What stands in for the quantizer."""
        return CodesAdapter(self)

    @override
    def train(self, mode: bool = True) -> "LlamaGenModel":
        return super().train(False)

    @torch.no_grad()
    def encode(self, x: Float[Tensor, "b 3 h w"]) -> tuple[Map, Tensor, tuple[None, None, Int64[Tensor, " tokens"]]]:
        """The map of quantized latents, a loss of zero, and in the last place one number per token, flat.

        Raises:
            ValueError: As :meth:`imtok.tokenizer.Tokenizer.encode`.
        """
        tokens = self.tokenizer.encode(x, condition=self.condition)
        if tokens.keep is not None:
            raise InputError("a tokenizer that leaves tokens out has no fixed map; export its tokens instead")
        latents = self.tokenizer.quantizer.look_up(tokens.ids).to(self.tokenizer.decoder.last_layer.dtype)
        ids = (tokens.ids * tokens.ids.new_tensor(self._places)).sum(-1)
        return self.to_map(latents), x.new_zeros(()), (None, None, ids.flatten())

    @torch.no_grad()
    def decode(self, quant: Map) -> Float[Tensor, "b 3 h w"]:
        """A map of quantized latents to images."""
        latents = rearrange(quant, "b d rows columns -> b (rows columns) d")
        condition = self.tokenizer.told(self.condition, latents.shape[0])
        return self.tokenizer.decoder(latents, (self.side, self.side), None, condition).clamp(-1, 1)

    @torch.no_grad()
    def decode_code(
        self, code_b: Tensor, shape: Sequence[int] | None = None, channel_first: bool = True
    ) -> Float[Tensor, "b 3 h w"]:
        """One number per token, in any shape, to images.

        Args:
            code_b: Tokens of whole images, one image after the other.
            shape: Of the map; only there because callers give it.
            channel_first: As ``shape``.
        """
        return self.decode(self.to_map(self.latents(code_b)))

    def latents(self, indices: Tensor) -> Float[Tensor, "b n d"]:
        """The latents of whole images.

        Raises:
            ValueError: If a number is no token.
        """
        if indices.is_floating_point():
            raise ValueError(f"tokens must be whole numbers, got {indices.dtype}; give tokens.long()")
        numbers = indices.reshape(-1, self.tokens).long()
        sizes = numbers.new_tensor(self.tokenizer.quantizer.vocab_sizes)
        if (numbers < 0).any() or (numbers >= sizes.prod()).any():
            found = f"{int(numbers.min())} to {int(numbers.max())}"
            raise ValueError(f"tokens must lie in [0, {int(sizes.prod())}), got {found}")
        ids = numbers[..., None] // numbers.new_tensor(self._places) % sizes
        return self.tokenizer.quantizer.decode(ids).to(self.tokenizer.decoder.last_layer.dtype)

    def to_map(self, latents: Float[Tensor, "b n d"]) -> Map:
        """Latents row by row as a map."""
        return rearrange(latents, "b (rows columns) d -> b d rows columns", rows=self.rows)

    @property
    def _places(self) -> list[int]:
        sizes = self.tokenizer.quantizer.vocab_sizes
        return [math.prod(sizes[:slot]) for slot in range(len(sizes))]


class CodesAdapter:
    """LlamaGen's quantizer, as far as generators call it.

    Args:
        model: Whose it is.
    """

    def __init__(self, model: LlamaGenModel) -> None:
        self.model = model

    def get_codebook_entry(
        self, indices: Tensor, shape: Sequence[int] | None = None, channel_first: bool = True
    ) -> Tensor:
        """The latents of tokens of whole images.

        Args:
            indices: One number per token.
            shape: ``b d h w`` (or ``b h w d``) of the result; None = a row per latent.
            channel_first: Which of the two ``shape`` is.
        """
        latents = self.model.latents(indices)
        if shape is None:
            return rearrange(latents, "b n d -> (b n) d")
        found = self.model.to_map(latents)
        return found if channel_first else rearrange(found, "b d rows columns -> b rows columns d")


class TamingModel(LlamaGenModel):
    """What taming-transformers (arXiv 2012.09841) and its descendants call a first stage.

    In a config: ``first_stage_config: {target: imtok.export.adapters.TamingModel, params: {tokenizer: RUN}}``.
    Arguments: :class:`LlamaGenModel`.
    """

    @override
    def codes(self) -> CodesAdapter:
        return TamingCodes(self)


class TamingCodes(CodesAdapter):
    """Taming's quantizer, which takes the shape of the map as ``b h w d`` and returns ``b d h w``."""

    @override
    def get_codebook_entry(
        self, indices: Tensor, shape: Sequence[int] | None = None, channel_first: bool = True
    ) -> Tensor:
        return super().get_codebook_entry(indices, shape)


class TiTokModel(nn.Module):
    """What the code of TiTok (arXiv 2406.07550), MaskGIT and RAR in 1d-tokenizer calls a tokenizer.

    Images lie in [0, 1] there, and not in [-1, 1] as everywhere else in imtok. Latents are a map of one row. Several
    slots become one number per token, as for :class:`LlamaGenModel`, whose arguments and errors these are. TA-TiTok's
    ``text_guidance`` are the features of each image's text, as ``model.condition`` would hold them.

    Args:
        tokenizer: A tokenizer, or where it is stored.
        image_size: Side of the images, in pixels; None = what the tokenizer was trained on.

    Example:
        >>> part = {"patch_size": 8, "width": 16, "depth": 1}
        >>> tokenizer = Tokenizer.from_config({
        ...     "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **part},
        ...     "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5, 5]},
        ...     "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **part},
        ... })
        >>> model = TiTokModel(tokenizer, image_size=32)
        >>> tokens = model.encode(torch.rand(2, 3, 32, 32))[1]["min_encoding_indices"]
        >>> tokens.shape, model.decode_tokens(tokens).shape
        (torch.Size([2, 1, 16]), torch.Size([2, 3, 32, 32]))
    """

    def __init__(self, tokenizer: Tokenizer | str | Path, image_size: int | None = None) -> None:
        super().__init__()
        self.model = LlamaGenModel(tokenizer, image_size)
        self.num_latent_tokens = self.model.tokens
        self.codebook_size = math.prod(self.model.tokenizer.quantizer.vocab_sizes)

    @override
    def train(self, mode: bool = True) -> "TiTokModel":
        return super().train(False)

    @torch.no_grad()
    def encode(
        self, x: Float[Tensor, "b 3 h w"], text_guidance: Float[Tensor, "b l c"] | None = None
    ) -> tuple[Float[Tensor, "b d 1 n"], dict[str, Tensor]]:
        """Latents as a map of one row; ``min_encoding_indices`` of shape ``b 1 t``, and losses of zero.

        Raises:
            ValueError: If the images do not lie in [0, 1].
        """
        if x.numel() and (x.amin() < -_SLACK or x.amax() > 1 + _SLACK):
            raise ValueError(f"images must lie in [0, 1] here, got {x.amin().item():.3g} to {x.amax().item():.3g}")
        with self._told(text_guidance):
            quant, zero, (_, _, indices) = self.model.encode(x * 2 - 1)
        losses = dict.fromkeys(("quantizer_loss", "commitment_loss", "codebook_loss"), zero)
        tokens = rearrange(indices, "(b one t) -> b one t", b=len(x), one=1)
        return rearrange(quant, "b d rows columns -> b d 1 (rows columns)"), {**losses, "min_encoding_indices": tokens}

    @torch.no_grad()
    def decode(
        self, z_quantized: Float[Tensor, "b d 1 n"], text_guidance: Float[Tensor, "b l c"] | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """Latents as ``encode`` returns them to images in [0, 1]."""
        latents = self.model.to_map(rearrange(z_quantized, "b d 1 n -> b n d"))
        with self._told(text_guidance):
            return (self.model.decode(latents) + 1) / 2

    @torch.no_grad()
    def decode_tokens(
        self, tokens: Tensor, text_guidance: Float[Tensor, "b l c"] | None = None
    ) -> Float[Tensor, "b 3 h w"]:
        """Tokens of shape ``b t`` or ``b 1 t`` to images in [0, 1].

        Raises:
            ValueError: If an image has another number of tokens, or a number is no token.
        """
        if tokens.shape[-1] != self.num_latent_tokens or tokens.numel() != len(tokens) * self.num_latent_tokens:
            raise ValueError(
                f"tokens must be b {self.num_latent_tokens}, or b 1 {self.num_latent_tokens}, got {list(tokens.shape)}"
            )
        with self._told(text_guidance):
            return (self.model.decode_code(tokens) + 1) / 2

    @override
    def forward(
        self, x: Float[Tensor, "b 3 h w"], text_guidance: Float[Tensor, "b l c"] | None = None
    ) -> tuple[Float[Tensor, "b 3 h w"], dict[str, Tensor]]:
        z_quantized, found = self.encode(x, text_guidance)
        return self.decode(z_quantized, text_guidance), found

    @property
    def condition(self) -> Condition | None:
        """What the tokenizer is told of the images of a call; None = nothing."""
        return self.model.condition

    @condition.setter
    def condition(self, condition: Condition | None) -> None:
        self.model.condition = condition

    @contextmanager
    def _told(self, text_guidance: Tensor | None) -> Iterator[None]:
        """Within it, the images of a call have these text features, if there are any."""
        before = self.model.condition
        self.model.condition = before if text_guidance is None else Condition(text=text_guidance)
        try:
            yield
        finally:
            self.model.condition = before
