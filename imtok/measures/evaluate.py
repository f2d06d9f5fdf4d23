"""Run the metrics over a whole data set."""

import logging
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
import xxhash
from torch import Tensor

from imtok.data.told import require_each
from imtok.distributed import gather_values
from imtok.errors import InputError
from imtok.measures.base import EvaluationBatch, Measure, MeasureResult
from imtok.measures.choose import by_name, choose, refuse
from imtok.measures.inference import (
    Size,
    common_size,
    evaluating,
    name_size,
    read_images,
    require_finite,
    require_images,
    together,
)
from imtok.measures.keys import without_cache
from imtok.measures.pictures import SHOWN, Pictures
from imtok.measures.protocol import WHOLE, protocol_id
from imtok.measures.quantity import announced, declared, of_channels
from imtok.measures.report.origin import now
from imtok.measures.report.results import Report
from imtok.measures.report.titles import reasons
from imtok.measures.settings import Settings
from imtok.measures.speed import Stopwatch
from imtok.measures.spending import Spender
from imtok.pixels import rgb_levels
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Condition, Reconstruction
from imtok.whole import cut, grown, readable_size

log = logging.getLogger(__name__)
_WRAP = 2**64


def evaluate(
    tokenizer: Tokenizer,
    loader: Iterable[Batch],
    device: str | torch.device = "cpu",
    pictures: int | Sequence[str] = SHOWN,
    settings: Settings | None = None,
) -> Report:
    """Reconstruct every image and measure the result.

    Every number is over all images: means per image, and counts that are exact whatever the batch size. With several
    processes each brings its part of the images (none twice), and all get the numbers of the whole. So it is with
    pictures that are named; others are those of the process.

    Args:
        tokenizer: Ends on ``device``, in the modes (training or evaluation) that it came in.
        loader: Images of one size.
        device: Where to compute.
        pictures: The keys of the images to keep with their reconstructions, as ``choose_shown`` gives them; or how
            many, evenly over the data set.
        settings: What to measure; None = PSNR, SSIM and code statistics.

    Raises:
        InputError: If there is no image, the images differ in size, the tokenizer cannot read them, a
            reconstruction is not finite, or a metric cannot be computed as asked.
    """
    device, settings = torch.device(device), settings or Settings()
    exact = torch.device("cpu") if device.type == "mps" else device  # mps knows no float64
    kept, bad, size, sizes = Pictures.wanted(pictures), list[str](), (0, 0), set[Size]()
    images, digest, untold = 0, 0, 0
    whole = settings.protocol.crop == WHOLE
    # every image once, on this rank
    with together(), evaluating(tokenizer.to(device)):
        measures, absent = choose(settings, tokenizer, device, exact)
        if not settings.skip_missing:
            refuse(reasons(absent))
        spender: Spender | None = None
        stopwatch = Stopwatch(device)
        if whole:
            _require_any_size(measures)
        taps = sorted({name for measure in measures for name in measure.taps})
        for batch, image, size in read_images(tokenizer, loader, device, bad, whole):
            if not images:
                _start(measures, tokenizer, size, settings)
            untold += require_each(batch, tokenizer.condition, settings.untold)
            condition = tokenizer.condition_of(batch)
            if not whole:
                spender = spender or Spender(tokenizer, size, settings.spending)
            with stopwatch.of(len(image)):
                if spender is not None:
                    reconstruction = spender.reconstruct(image, taps, condition)
                else:
                    reconstruction = _whole(tokenizer, image, taps, condition, batch.key)
            require_finite(reconstruction.quantized.latents, batch.key, "latents")
            require_finite(reconstruction.image, batch.key, "reconstruction")
            seen = EvaluationBatch(tokenizer, batch, image, reconstruction, condition, not settings.spending.facts)
            for measure in measures:
                measure.update(seen)
            # a sum does not depend on the order, nor on how ranks share the images
            digest = sum((xxhash.xxh3_64_intdigest(one.cpu().numpy().tobytes()) for one in batch.image), digest) % _WRAP
            images += len(batch.image)
            sizes.add(size)
            kept.add(batch.key, rgb_levels(seen.target), rgb_levels(seen.pixels))
    # what all ranks have seen
    bad = [sample for samples in gather_values(bad) for sample in samples]
    size = _common(sizes) if whole else common_size(size)
    counts = gather_values((images, digest))
    own = images
    images, digest = sum(count for count, _ in counts), sum(part for _, part in counts) % _WRAP
    require_images(images, bad)
    with together(), evaluating(tokenizer):
        if not own:  # a rank without an image takes part in every sum all the same
            _start(measures, tokenizer, size, settings)
    # what each measure found, and what of its warnings stays
    found, quantities, facts = MeasureResult(absent=absent), by_name(measures, size), dict[str, dict[str, Any]]()
    for measure in measures:
        quantities |= {one.name: one for one in declared(measure) if one.name not in quantities}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for measure in measures:
            part = measure.finish()
            facts |= {name: {**number.facts, **measure.about} for name, number in part.numbers.items()}
            found.add(part)
    notes = list(dict.fromkeys(str(one.message) for one in caught if "before the ``update``" not in str(one.message)))
    for note in notes:
        log.warning("%s", note)
    untold = sum(gather_values(untold))
    if untold:
        reads = " or ".join(tokenizer.condition.reads) if tokenizer.condition is not None else ""
        notes.append(f"{untold} of {images} images have no {reads}: the tokenizer was told that there is none")
    # what numbers depend on, and what a report says of them
    common: dict[str, Any] = {
        "n": images,
        "size": name_size(size),
        **({} if tokenizer.channels == 3 else {"channels": tokenizer.channels}),
        "crop": settings.protocol.crop,
        "data": f"{digest:016x}",
        "weights": settings.weights,
        **({"condition": dict(settings.condition)} if settings.condition else {}),
        **({"lengths": settings.spending.facts} if settings.spending.facts else {}),
    }
    values = {name: number.value for name, number in found.numbers.items()}
    quantities |= {name: announced(name, quantities) for name in found.numbers}
    conventions = {
        name: of_channels(number.convention or quantities[name].convention, tokenizer.channels)
        for name, number in found.numbers.items()
    }
    facts = {name: {"metric": name, "convention": conventions[name], **common, **facts[name]} for name in values}
    return Report(
        images=images,
        image_size=size,
        vocab_sizes=tokenizer.quantizer.vocab_sizes,
        bits_per_token=tokenizer.quantizer.bits_per_token,
        metrics=values,
        slots=found.slots,
        conventions=conventions,
        terms={name: one.words for name, one in quantities.items() if "{" not in name},
        higher_is_better={name: quantities[name].higher_is_better for name in values},
        absent={name: without_cache(reason) for name, reason in found.absent.items() if name not in values},
        bad=bad,
        pictures=kept.finish(),
        protocol={**settings.protocol.settings, "overrides": settings.protocol.overrides, **common},
        ids={name: {"id": protocol_id(about), **about} for name, about in facts.items()},
        tables=found.tables,
        arrays=found.arrays,
        drawings=found.pictures,
        warnings=notes,
        tokenizer=tokenizer.fingerprint(),
        parameters=sum(parameter.numel() for parameter in tokenizer.parameters()),
        when=now(),
        speed=stopwatch.found,
    )


def _whole(
    tokenizer: Tokenizer, image: Tensor, taps: Sequence[str], condition: Condition | None, keys: Sequence[str]
) -> Reconstruction:
    """What becomes of whole images: grown to a size that can be read, and cut again."""
    size = (image.shape[-2], image.shape[-1])
    try:
        made = tokenizer(grown(image, readable_size(tokenizer, size)), taps, condition=condition)
    except (ValueError, InputError) as error:
        raise InputError(f"{keys[0]}: {error}") from None
    return replace(made, image=cut(made.image, size))


def _require_any_size(measures: Sequence[Measure]) -> None:
    refused = [measure.key or measure.name for measure in measures if not measure.any_size]
    if refused:
        raise InputError(
            f"metrics=[{','.join(refused)}] cannot be measured on whole images of many sizes; give crop=null, or leave "
            f"{'them' if len(refused) > 1 else 'it'} out"
        )


def _common(sizes: set[Size]) -> Size:
    """The size of all images of all ranks; (0, 0) = they differ."""
    found = {size for own in gather_values(sizes) for size in own}
    return found.pop() if len(found) == 1 else (0, 0)


def _start(measures: Sequence[Measure], tokenizer: Tokenizer, size: Size, settings: Settings) -> None:
    """Refuse what cannot be had of images of this size, and let every measure begin."""
    absent = {name: why for measure in measures for name, why in measure.missing(tokenizer, size).items()}
    if not settings.skip_missing:
        refuse(reasons(absent))
    by_name(measures, size)
    for measure in measures:
        measure.start(tokenizer, size)
