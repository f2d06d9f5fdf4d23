"""Quality against size: a tokenizer's by number of tokens, the codecs' by bytes, as One-D-Piece (arXiv 2501.10064)."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Real
from torch import Tensor
from typing_extensions import override

from imtok.distributed import gather_values
from imtok.measures.base import Bench, EvaluationBatch, Measure, MeasureResult
from imtok.measures.codecs import available, compress, header_bytes
from imtok.measures.frechet import FrechetDistance
from imtok.measures.inference import Size, require_finite
from imtok.measures.length import possible_lengths
from imtok.measures.net import Net
from imtok.measures.psnr import PSNR
from imtok.measures.ssim import SSIM, WINDOW
from imtok.pixels import to_levels
from imtok.tokenizer import Tokenizer
from imtok.types import Tokens


class _Point:
    """Quality at one setting."""

    def __init__(self, device: torch.device, net: Net | None) -> None:
        self.psnr, self.ssim = PSNR().to(device), SSIM().to(device)
        self.distance: FrechetDistance | None = net.frechet() if net else None
        self.net, self.device = net, device
        self.bytes = self.tokens = self.images = 0

    def update(self, pixels: Real[Tensor, "b c h w"], target: Real[Tensor, "b c h w"]) -> None:
        """Count pairs in."""
        self.psnr.update(pixels.to(self.device), target.to(self.device))
        if min(target.shape[-2:]) >= WINDOW:
            self.ssim.update(pixels.to(self.device), target.to(self.device))
        if self.net is not None and self.distance is not None:
            self.distance.update(self.net(pixels.to(self.net.at)).features.to(self.device))

    def row(self) -> dict[str, Any]:
        """What was found; on all ranks."""
        found: dict[str, Any] = {"psnr": float(self.psnr.compute().item())}
        ssim = float(self.ssim.compute().item())
        if ssim == ssim:
            found["ssim"] = ssim
        if self.net is not None and self.distance is not None:
            found[self.net.name] = float(self.distance.compute().item())
        return found


class RateMeasure(Measure):
    """Encodes at several lengths where the tokenizer allows it, and sends the originals through codecs.

    Each point has PSNR and SSIM, and where another measure looks through the protocol's net also a Fréchet distance in
    its features. Reconstructions are rounded for it.

    Args:
        lengths: Numbers of tokens; None = powers of two and all.

    Raises:
        ValueError: If a length is below 1.
    """

    needs_ids = True

    def __init__(self, lengths: Sequence[int] | None = None) -> None:
        if lengths is not None and not (lengths and all(length >= 1 for length in lengths)):
            raise ValueError(f"lengths must be some numbers of at least 1 token or null, got {list(lengths)}")
        self.lengths = lengths
        self.points = dict[tuple[str, int], _Point]()
        self.net: Net | None = None
        self.pixels = self.most = 0

    @override
    def set_up(self, bench: Bench) -> None:
        self.bench, self.bits = bench, bench.tokenizer.quantizer.bits_per_token

    @override
    def missing(self, tokenizer: Tokenizer, size: Size) -> dict[str, str]:
        return {"rate": "codecs of pictures compress no alpha"} if tokenizer.channels == 4 else {}

    @override
    def start(self, tokenizer: Tokenizer, size: Size) -> None:
        lengths, self.net = possible_lengths(tokenizer, size, self.lengths), self.bench.shared
        settings = [(codec, quality) for codec, qualities in available().items() for quality in qualities]
        settings += [("tokens", length) for length in lengths]
        self.points = {setting: _Point(self.bench.exact, self.net) for setting in settings}
        self.pixels, self.most = size[0] * size[1], lengths[-1]

    @override
    def update(self, seen: EvaluationBatch) -> None:
        if self.net is not None and self.net.stored is None:
            self.net.of_originals(seen)
        for (kind, setting), point in self.points.items():
            if kind != "tokens":
                passed = [compress(image, kind, setting) for image in seen.target.cpu()]
                point.bytes += sum(size for _, size in passed)
                point.update(torch.stack([image for image, _ in passed]), seen.target)
            elif setting == self.most and seen.whole:
                quantized = seen.reconstruction.quantized
                point.tokens += _transmitted(Tokens(quantized.ids, quantized.keep))
                point.update(seen.pixels, seen.target)
            else:
                tokens = seen.tokenizer.encode(seen.image, setting, seen.condition)
                point.tokens += _transmitted(tokens)
                image = seen.tokenizer.decode(tokens, seen.size, seen.condition)
                require_finite(image, seen.batch.key, f"reconstruction from {setting} tokens")
                point.update(to_levels(image), seen.target)
            point.images += len(seen.target)

    @override
    def finish(self) -> MeasureResult:
        rows: list[dict[str, Any]] = []
        for (kind, setting), point in sorted(self.points.items()):
            counts = gather_values((point.bytes, point.tokens, point.images))
            own_bytes, tokens, images = (sum(column) for column in zip(*counts, strict=True))
            taken = (own_bytes if kind != "tokens" else tokens * self.bits / 8) / max(images, 1)
            row: dict[str, Any] = {
                "kind": kind,
                "tokens" if kind == "tokens" else "quality": setting,
                "bytes": taken,
                "bytes_without_header": taken - (0 if kind == "tokens" else header_bytes(kind, setting)),
                "bits_per_pixel": 8 * taken / max(self.pixels, 1),
            }
            rows.append(row | point.row())
        return MeasureResult(tables={"rate": rows})


def _transmitted(tokens: Tokens) -> int:
    """How many there are: encoders with a budget (KARL) leave some of it out."""
    ids, keep = tokens.ids, tokens.keep
    return int(keep.sum()) if keep is not None and keep.shape == ids.shape[:2] else ids.shape[0] * ids.shape[1]
