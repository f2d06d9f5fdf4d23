"""Encoder and decoder as ``torch.export`` programs, which run without imtok."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import override

from imtok.bars import watched
from imtok.encoders.base import encoded
from imtok.measures.inference import Size, evaluating
from imtok.quantizers import search
from imtok.tokenizer import Tokenizer
from imtok.types import Condition

ENCODER, DECODER = "encoder.pt2", "decoder.pt2"
MOST = 2**16  # images at a time


class EncoderProgram(nn.Module):
    """Images in ``[-1, 1]`` to ids ``b t g``; with them ``keep`` from tokenizers of variable length.

    A tokenizer that is told a condition takes its parts by name: ``text`` and ``mask``, ``label``, ``quality``. What
    makes them of captions stays outside.

    Args:
        tokenizer: Whose encoder and quantizer it is.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.encoder, self.quantizer = tokenizer.encoder, tokenizer.quantizer

    @override
    def forward(
        self,
        image: Tensor,
        text: Tensor | None = None,
        mask: Tensor | None = None,
        label: Tensor | None = None,
        quality: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        latents = encoded(self.encoder, image, None, _condition(text, mask, label, quality))
        quantized = self.quantizer(latents.values, latents.keep)
        return quantized.ids if quantized.keep is None else (quantized.ids, quantized.keep)


class DecoderProgram(nn.Module):
    """Ids ``b t g`` to images in ``[-1, 1]`` of one size; the condition as of :class:`EncoderProgram`.

    Args:
        tokenizer: Whose quantizer and decoder it is.
        size: Height and width of the images, in pixels.
    """

    def __init__(self, tokenizer: Tokenizer, size: Size) -> None:
        super().__init__()
        self.quantizer, self.decoder, self.size = tokenizer.quantizer, tokenizer.decoder, size

    @override
    def forward(
        self,
        ids: Tensor,
        keep: Tensor | None = None,
        text: Tensor | None = None,
        mask: Tensor | None = None,
        label: Tensor | None = None,
        quality: Tensor | None = None,
    ) -> Tensor:
        latents = self.quantizer.look_up(ids).to(self.decoder.last_layer.dtype)
        if keep is not None:
            latents = latents.masked_fill(~keep[..., None], 0)
        return self.decoder(latents, self.size, keep, _condition(text, mask, label, quality)).clamp(-1, 1)


def _condition(
    text: Tensor | None, mask: Tensor | None, label: Tensor | None, quality: Tensor | None
) -> Condition | None:
    nothing = text is None and label is None and quality is None
    return None if nothing else Condition(text, mask, label, quality)


def write_programs(tokenizer: Tokenizer, folder: Path, size: Size) -> dict[str, str]:
    """Write ``encoder.pt2`` and ``decoder.pt2``, for any number of images of one size.

    ``torch.export.load(path).module()`` gives a function of tensors. Ids are not checked to lie in the vocabulary.

    Args:
        tokenizer: In float32, on the device that the programs are to run on.
        folder: Where to write.
        size: Height and width of the images, in pixels.

    Returns:
        Why a program is not there, by file name.
    """
    absent: dict[str, str] = {}
    device = tokenizer.decoder.last_layer.device
    image = torch.rand(3, tokenizer.channels, *size, device=device) * 2 - 1
    with evaluating(tokenizer), torch.no_grad():
        condition = None if tokenizer.condition is None else tokenizer.condition.example(3, device)
        told = {} if condition is None else {name: part for name, part in vars(condition).items() if part is not None}
        tokens = tokenizer.encode(image, condition=condition)
        ids = {"ids": tokens.ids} | ({} if tokens.keep is None else {"keep": tokens.keep})
        wanted = {
            ENCODER: (EncoderProgram(tokenizer), {"image": image}),
            DECODER: (DecoderProgram(tokenizer, size), ids),
        }
        for name, (module, given) in watched(wanted.items(), len(wanted), "programs", lambda _: 1):
            reason = _write(module.eval(), given, told, folder / name)
            if reason is not None:
                absent[name] = reason
    return absent


def _write(module: nn.Module, given: dict[str, Tensor], told: dict[str, Tensor], path: Path) -> str | None:
    """Write a program of what is given in order and what is told by name; returns why it cannot be."""
    with torch.inference_mode(mode=False), torch.no_grad(), _one_block():
        # those of inference mode cannot be traced
        given, told = ({name: value.clone() for name, value in some.items()} for some in (given, told))
        batch = torch.export.Dim("batch", min=1, max=MOST)
        shapes = {name: {0: batch} for name in (*given, *told)}
        try:
            program = torch.export.export(module, tuple(given.values()), told, dynamic_shapes=shapes)
            torch.export.save(program, path)
            again = torch.export.load(path).module()
            few = [value[:2] for value in given.values()]
            of_few = {name: value[:2] for name, value in told.items()}
            same = _close(again(*few, **of_few), module(*few, **of_few))
        except Exception as error:  # tracing raises many kinds
            path.unlink(missing_ok=True)
            return f"it cannot be traced ({(str(error).strip() or type(error).__name__).splitlines()[0][:200]})"
    if not same:
        path.unlink()
        return "the traced program computes something else"
    return None


@contextmanager
def _one_block() -> Iterator[None]:
    """Let the search for the nearest code take all tokens at once: how many blocks there are cannot be traced."""
    before = search.TOKENS, search.DEVICE_TOKENS
    search.TOKENS = search.DEVICE_TOKENS = 2**40
    try:
        yield
    finally:
        search.TOKENS, search.DEVICE_TOKENS = before


def _close(one: Tensor | tuple[Tensor, ...], other: Tensor | tuple[Tensor, ...]) -> bool:
    ones, others = (value if isinstance(value, tuple) else (value,) for value in (one, other))
    return all(
        torch.equal(a, b) if not a.is_floating_point() else torch.allclose(a, b, atol=1e-4)
        for a, b in zip(ones, others, strict=True)
    )
