"""What codes look like: their most typical patches where tokens lie on a grid, what they change where they do not."""

import io
import math

import numpy as np
from einops import rearrange
from jaxtyping import Real
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from typing_extensions import override

from imtok.construct import arguments
from imtok.distributed import gather_values
from imtok.encoders.inside import EncoderInSpace
from imtok.measures.base import EvaluationBatch, Measure, MeasureResult
from imtok.measures.inference import Size, require_finite
from imtok.pixels import rgb_levels, to_levels
from imtok.tokenizer import Tokenizer
from imtok.types import Tokens

_CODES, _PATCHES, _TILE, _MARGIN = 16, 8, 48, 64
_TOKENS, _IMAGES = 8, 4


class LooksMeasure(Measure):
    """Both, each where tokens lie as it needs them to."""

    needs_ids = True

    def __init__(self) -> None:
        self.parts = (PatchMeasure(), SwapMeasure())

    @override
    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        for part in self.parts:
            part.start(tokenizer, size)

    @override
    def update(self, seen: EvaluationBatch) -> None:
        for part in self.parts:
            part.update(seen)

    @override
    def finish(self) -> MeasureResult:
        found = MeasureResult()
        for part in self.parts:
            found.add(part.finish())
        return found


class PatchMeasure(Measure):
    """The first patches of the most frequent codes of slot 0, each from an image of its own where it can be.

    "Top" is by frequency and first come: distances to a code mean nothing for grids and binary codes.
    """

    def __init__(self) -> None:
        self.patches: dict[int, list[np.ndarray]] = {}
        self.counts: dict[int, int] = {}
        self.side: tuple[int, int] | None = None

    @override
    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        encoder = tokenizer.encoder.net if isinstance(tokenizer.encoder, EncoderInSpace) else tokenizer.encoder
        if "latents" in arguments(type(encoder))[0]:
            return  # an encoder that is told how many latents to make lays them on no grid, were it a square number
        tokens = tokenizer.num_tokens(size)
        per_side = math.sqrt(size[0] * size[1] / tokens)  # side of the patch of a token, if they lie on a grid
        height, width = round(size[0] / per_side), round(size[1] / per_side)
        if height * width == tokens and not tokenizer.decoder.flexible and tokenizer.quantizer.vocab_sizes:
            self.side = (height, width)

    @override
    def update(self, seen: EvaluationBatch) -> None:
        if self.side is None:
            return
        ids = seen.reconstruction.quantized.ids[..., 0].cpu()
        height, width = self.side
        if seen.target.shape[-2] % height or seen.target.shape[-1] % width:
            return
        cut = rearrange(seen.target.cpu(), "b c (h p) (w q) -> b (h w) p q c", h=height, w=width).numpy()
        for row in range(len(ids)):
            for code, place, count in zip(*map(np.ndarray.tolist, _firsts(ids[row].numpy())), strict=True):
                self.counts[code] = self.counts.get(code, 0) + count
                kept = self.patches.setdefault(code, [])
                if len(kept) < _PATCHES and (len(self.patches) <= 4096 or kept):
                    kept.append(cut[row, place])

    @override
    def finish(self) -> MeasureResult:
        counts: dict[int, int] = {}
        patches: dict[int, list[np.ndarray]] = {}
        for own, kept in gather_values((self.counts, self.patches)):
            for code, count in own.items():
                counts[code] = counts.get(code, 0) + count
                patches.setdefault(code, []).extend(kept.get(code, []))
        shown = [code for code in sorted(counts, key=lambda code: (-counts[code], code)) if patches[code]][:_CODES]
        if not shown:
            return MeasureResult(absent={"patches": "tokens do not stand for patches of a grid"})
        return MeasureResult(
            tables={"frequent_codes": [{"code": code, "count": counts[code]} for code in shown]},
            pictures={"Patches of the most frequent codes": draw_sheet([(str(code), patches[code]) for code in shown])},
        )


class SwapMeasure(Measure):
    """What a token decides where tokens lie on no grid: the image with this token of the next image in its place."""

    def __init__(self) -> None:
        self.effects: list[float] = []
        self.rows: list[tuple[str, list[np.ndarray]]] = []

    @override
    def update(self, seen: EvaluationBatch) -> None:
        quantized = seen.reconstruction.quantized
        images = min(_IMAGES, len(seen.image))
        if self.rows or images < 2 or not seen.tokenizer.quantizer.vocab_sizes:
            return
        ids = quantized.ids[:images]
        keep = quantized.keep[:images] if quantized.keep is not None else None
        places = np.unique(np.linspace(0, ids.shape[1] - 1, min(_TOKENS, ids.shape[1])).astype(int)).tolist()
        base, condition = seen.pixels[:images], seen.condition and seen.condition.rows(slice(images))
        changed: list[Real[Tensor, "b c h w"]] = []
        for place in places:
            swapped = ids.clone()
            swapped[:, place] = ids.roll(1, 0)[:, place]
            image = seen.tokenizer.decode(Tokens(swapped, keep), seen.size, condition)
            require_finite(image, seen.batch.key[:images], "reconstruction from swapped tokens")
            changed.append(to_levels(image))
            self.effects.append((changed[-1].float() - base.float()).square().mean().item())
        self.places = places
        for row in range(images):
            shown = [base[row], *(image[row] for image in changed)]
            self.rows.append((seen.batch.key[row][-8:], [pixels_of(image) for image in shown]))

    @override
    def finish(self) -> MeasureResult:
        if not self.rows:
            return MeasureResult(absent={"swaps": "two images of a batch are needed, and ids"})
        table = [{"token": t, "squared_error": round(e, 4)} for t, e in zip(self.places, self.effects, strict=True)]
        title = f"Reconstruction, and with tokens {', '.join(map(str, self.places))} of another image"
        return MeasureResult(tables={"swaps": table}, pictures={title: draw_sheet(self.rows)})


def _firsts(row: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return np.unique(row, return_index=True, return_counts=True)


def pixels_of(image: Real[Tensor, "c h w"]) -> np.ndarray:
    """An image as :func:`draw_sheet` takes it: height, width, 3."""
    return rearrange(rgb_levels(image.cpu()), "c h w -> h w c").numpy()


def draw_sheet(rows: list[tuple[str, list[np.ndarray]]]) -> bytes:
    """Labelled rows of small pictures, as PNG."""
    columns = max(len(pictures) for _, pictures in rows)
    sheet = Image.new("RGB", (_MARGIN + columns * (_TILE + 2), len(rows) * (_TILE + 2)), (255, 255, 255))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=12)
    for line, (label, pictures) in enumerate(rows):
        draw.text((_MARGIN - 6, line * (_TILE + 2) + _TILE / 2), label, (32, 32, 32), font, anchor="rm")
        for column, pixels in enumerate(pictures[:columns]):
            tile = Image.fromarray(pixels).resize((_TILE, _TILE), Image.Resampling.NEAREST)
            sheet.paste(tile, (_MARGIN + column * (_TILE + 2), line * (_TILE + 2)))
    buffer = io.BytesIO()
    sheet.save(buffer, "png")
    return buffer.getvalue()
