"""Run the metrics over a whole data set."""

import warnings
from collections.abc import Iterable

import torch

from imtok.distributed import gather_values
from imtok.evaluation.inference import (
    Size,
    common_size,
    evaluating,
    read_images,
    require_finite,
    require_images,
    together,
)
from imtok.evaluation.report import Pictures, Report
from imtok.metrics.bits import Rate
from imtok.metrics.codes import LARGEST_VOCABULARY, CodeUsage
from imtok.metrics.mean import ImageMean
from imtok.metrics.psnr import PSNR
from imtok.metrics.ssim import SSIM, WINDOW
from imtok.pixels import to_uint8
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

_RATE = "transmitted tokens, without what it takes to send their number"
_CONVENTIONS = {
    "psnr": PSNR.convention,
    "ssim": SSIM.convention,
    "usage": f"fraction of codes seen at least once {CodeUsage.convention}",
    "entropy_bits": f"plug-in entropy of a slot's ids {CodeUsage.convention}",
    "perplexity": f"2 to the entropy {CodeUsage.convention}",
    "relative_perplexity": f"perplexity / vocabulary {CodeUsage.convention}",
    "frequent": f"fraction of codes seen at least 0.08 times as often as in uniform use {CodeUsage.convention}",
    "tokens_per_image": _RATE,
    "bits_per_pixel": f"log2 of the vocabulary per token; {_RATE}",
    "bits_per_pixel_entropy": f"plug-in entropy of each slot per token; {_RATE}",
}


def evaluate(
    tokenizer: Tokenizer, loader: Iterable[Batch], device: str | torch.device = "cpu", pictures: int = 16
) -> Report:
    """Reconstruct every image and measure the result.

    Every number is over all images: means per image, and counts that are exact whatever the batch size. With several
    processes each brings its part of the images (none twice), and all get the numbers of the whole; the
    pictures are those of the process.

    Args:
        tokenizer: Ends on ``device``, in the modes (training or evaluation) that it came in.
        loader: Images of one size.
        device: Where to compute.
        pictures: How many images to keep with their reconstructions, evenly over the data set, for the report's grid.

    Raises:
        InputError: If there is no image, the images differ in size, the tokenizer cannot read them, or a
            reconstruction is not finite.
    """
    device = torch.device(device)
    exact = torch.device("cpu") if device.type == "mps" else device  # mps knows no float64
    metrics: dict[str, ImageMean] = {"psnr": PSNR().to(exact), "ssim": SSIM().to(exact)}
    quantizer, rate = tokenizer.quantizer, Rate().to(exact)
    countable = bool(quantizer.vocab_sizes) and max(quantizer.vocab_sizes) <= LARGEST_VOCABULARY
    codes = CodeUsage(quantizer.vocab_sizes).to(exact) if countable else None
    kept, bad, size = Pictures(pictures), list[str](), (0, 0)
    with together(), evaluating(tokenizer.to(device)):
        for batch, image, size in read_images(tokenizer, loader, device, bad):
            reconstruction = tokenizer(image)
            require_finite(reconstruction.quantized.latents, batch.key, "latents")
            require_finite(reconstruction.image, batch.key, "reconstruction")
            pixels, target = to_uint8(reconstruction.image).to(exact), batch.image.to(exact)
            for name, metric in metrics.items():
                if name != "ssim" or min(size) >= WINDOW:
                    metric.update(pixels, target)
            ids, keep = reconstruction.quantized.ids.to(exact), reconstruction.quantized.keep
            # a multi-scale tokenizer has more tokens than latents, and transmits them all
            keep = keep.to(exact) if keep is not None and keep.shape == ids.shape[:2] else None
            rate.update(ids, size, keep)
            if codes is not None:
                codes.update(ids, keep)
            kept.add(batch.key, target, pixels)
    bad = [sample for samples in gather_values(bad) for sample in samples]
    size = common_size(size)
    with warnings.catch_warnings():  # a rank may have had no image at all
        warnings.filterwarnings("ignore", message=".*called before the ``update`` method")
        rates = rate.compute()
        require_images(int(rates["images"]), bad)
        statistics = codes.compute() if codes is not None else {}
        values = {name: metric.compute().item() for name, metric in metrics.items()}
    values |= {name: sum(per_slot) / len(per_slot) for name, per_slot in statistics.items()}
    values["tokens_per_image"] = rates["tokens_per_image"]
    if quantizer.vocab_sizes:
        values["bits_per_pixel"] = rates["tokens_per_pixel"] * quantizer.bits_per_token
    if statistics:
        values["bits_per_pixel_entropy"] = rates["tokens_per_pixel"] * sum(statistics["entropy_bits"])
    absent = _absent(size, quantizer.vocab_sizes)
    values = {name: value for name, value in values.items() if name not in absent}
    return Report(
        images=int(rates["images"]),
        image_size=size,
        vocab_sizes=quantizer.vocab_sizes,
        bits_per_token=quantizer.bits_per_token,
        metrics=values,
        slots=[
            {name: per_slot[slot] for name, per_slot in statistics.items()}
            for slot in range(len(quantizer.vocab_sizes) if statistics else 0)
        ],
        conventions={name: text for name, text in _CONVENTIONS.items() if name in values},
        absent=absent,
        bad=bad,
        pictures=kept.finish(),
    )


def _absent(size: Size, vocab_sizes: tuple[int, ...]) -> dict[str, str]:
    """Why metrics cannot be computed, by name."""
    reasons: dict[str, str] = {}
    if min(size) < WINDOW:
        reasons["ssim"] = f"its window needs images of at least {WINDOW} pixels a side"
    if not vocab_sizes:
        reasons |= dict.fromkeys(("usage", "perplexity", "bits_per_pixel"), "latents are continuous: there are no ids")
    elif max(vocab_sizes) > LARGEST_VOCABULARY:
        reason = f"a vocabulary of {max(vocab_sizes)} ids is too large to count"
        reasons |= dict.fromkeys(("usage", "perplexity", "bits_per_pixel_entropy"), reason)
    return reasons
