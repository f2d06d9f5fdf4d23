"""Encoder and decoder as ``torch.export`` programs, which run without imtok."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import override

from imtok.evaluation.inference import Size, evaluating
from imtok.quantizers import search
from imtok.tokenizer import Tokenizer

ENCODER, DECODER = "encoder.pt2", "decoder.pt2"
MOST = 2**16  # images at a time


class EncoderProgram(nn.Module):
    """Images in ``[-1, 1]`` to ids ``b t g``; with them ``keep`` from tokenizers of variable length.

    Args:
        tokenizer: Whose encoder and quantizer it is.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.encoder, self.quantizer = tokenizer.encoder, tokenizer.quantizer

    @override
    def forward(self, image: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        encoded = self.encoder(image)
        latents, keep = encoded if isinstance(encoded, tuple) else (encoded, None)
        quantized = self.quantizer(latents, keep)
        return quantized.ids if quantized.keep is None else (quantized.ids, quantized.keep)


class DecoderProgram(nn.Module):
    """Ids ``b t g`` to images in ``[-1, 1]`` of one size.

    Args:
        tokenizer: Whose quantizer and decoder it is.
        size: Height and width of the images, in pixels.
    """

    def __init__(self, tokenizer: Tokenizer, size: Size) -> None:
        super().__init__()
        self.quantizer, self.decoder, self.size = tokenizer.quantizer, tokenizer.decoder, size

    @override
    def forward(self, ids: Tensor, keep: Tensor | None = None) -> Tensor:
        latents = self.quantizer.look_up(ids).to(self.decoder.last_layer.dtype)
        if keep is not None:
            latents = latents.masked_fill(~keep[..., None], 0)
        return self.decoder(latents, self.size, keep).clamp(-1, 1)


def write_programs(tokenizer: Tokenizer, folder: Path, size: Size) -> dict[str, str]:
    """Write ``encoder.pt2`` and ``decoder.pt2``, for any number of images of one size.

    ``torch.export.load(path).module()`` gives a function of a tensor. Ids are not checked to lie in the vocabulary.

    Args:
        tokenizer: In float32, on the device that the programs are to run on.
        folder: Where to write.
        size: Height and width of the images, in pixels.

    Returns:
        Why a program is not there, by file name.
    """
    absent: dict[str, str] = {}
    image = torch.rand(3, 3, *size, device=tokenizer.decoder.last_layer.device) * 2 - 1
    with evaluating(tokenizer), torch.no_grad():
        tokens = tokenizer.encode(image)
        ids = (tokens.ids,) if tokens.keep is None else (tokens.ids, tokens.keep)
        wanted = {
            ENCODER: (EncoderProgram(tokenizer), (image,)),
            DECODER: (DecoderProgram(tokenizer, size), ids),
        }
        for name, (module, example) in wanted.items():
            reason = _write(module.eval(), example, folder / name)
            if reason is not None:
                absent[name] = reason
    return absent


def _write(module: nn.Module, example: tuple[Tensor, ...], path: Path) -> str | None:
    """Write a program; returns why it cannot be."""
    example = tuple(tensor.clone() for tensor in example)  # those of inference mode cannot be traced
    batch = torch.export.Dim("batch", min=1, max=MOST)
    shapes = tuple({0: batch} for _ in example)
    with torch.inference_mode(mode=False), torch.no_grad(), _one_block():
        example = tuple(tensor.clone() for tensor in example)
        try:
            program = torch.export.export(module, example, dynamic_shapes=shapes)
            torch.export.save(program, path)
            again = torch.export.load(path).module()
            few = tuple(tensor[:2] for tensor in example)
            same = _close(again(*few), module(*few))
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
