"""Give a tokenizer ids after its training (TokenBridge, Gaussian quantization) or before it (k-means).

arXiv 2503.16430, 2512.06609 and 2410.12490.
"""

import copy
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from imtok.bars import watched
from imtok.construct import construct
from imtok.data.told import require_each
from imtok.distributed import from_main, rank
from imtok.encoders.base import encoded
from imtok.errors import InputError
from imtok.export.clusters import Clusters, partial_folder
from imtok.files import claim_output, new_folder, write_json
from imtok.measures.inference import evaluating, read_images, require_finite, require_images
from imtok.measures.psnr import PSNR
from imtok.pixels import to_levels
from imtok.quantizers.base import Quantizer
from imtok.quantizers.clusters import KMeans
from imtok.quantizers.continuous import Continuous
from imtok.quantizers.gaussian import Gaussian
from imtok.quantizers.gaussian_codebook import GaussianCodebook
from imtok.quantizers.target_divergence import TargetDivergence
from imtok.quantizers.tokenbridge import TokenBridge
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

REPORT = "quantize.json"


def with_ids(tokenizer: Tokenizer, section: dict[str, Any]) -> Tokenizer:
    """A copy of a continuous tokenizer, around a quantizer that has ids.

    Args:
        tokenizer: Its quantizer is :class:`Continuous`, or :class:`Gaussian`, whose means get ids.
        section: Config of a :class:`TokenBridge` or :class:`KMeans`, which is still to be fitted, or of a
            :class:`GaussianCodebook`.

    Raises:
        InputError: If the tokenizer has ids already, or the quantizer does not suit it.
    """
    if not isinstance(tokenizer.quantizer, Continuous):
        raise InputError(
            "tokenizer must be continuous (trained with quantizer=continuous or gaussian), got one with ids already, "
            f"by {type(tokenizer.quantizer).__name__}; it needs no other quantizer"
        )
    # Which quantizers go with which latents.
    try:
        quantizer = construct(section)
    except (TypeError, ValueError) as error:
        raise InputError(f"quantizer: {error}") from None
    if not isinstance(quantizer, TokenBridge | KMeans | GaussianCodebook):
        raise InputError(
            f"quantizer must be one for finished latents (quantizer=tokenbridge_6, gaussian_codebook or kmeans), got "
            f"{type(quantizer).__name__}; train with that one"
        )
    width = tokenizer.quantizer.dim
    if quantizer.dim != width:
        raise InputError(
            f"quantizer.dim must be {width}, the width of the tokenizer's latents, got {quantizer.dim}; "
            f"give quantizer.dim={width}"
        )
    moments = isinstance(tokenizer.quantizer, Gaussian)
    if moments and isinstance(quantizer, KMeans):
        raise InputError(
            "quantizer must be tokenbridge_6 or gaussian_codebook for a tokenizer trained with quantizer=gaussian, "
            "whose encoder gives a mean and a log variance, got kmeans; train with quantizer=continuous"
        )
    if not moments and isinstance(quantizer, GaussianCodebook):
        raise InputError(
            "quantizer must be tokenbridge_6 or kmeans for a tokenizer trained with quantizer=continuous, whose "
            "encoder gives no variance, got gaussian_codebook; train with quantizer=gaussian_target"
        )
    # The same tokenizer with another quantizer: all other weights stay.
    if isinstance(quantizer, TokenBridge):
        section = section | {"reads": "moments" if moments else "latents"}
    quantized = Tokenizer.from_config({**(tokenizer.config or {}), "quantizer": section})
    kept = {name: value for name, value in tokenizer.state_dict().items() if not name.startswith("quantizer.")}
    own = {f"quantizer.{name}": value for name, value in quantizer.state_dict().items()}
    quantized.load_state_dict(kept | own)
    return quantized.to(tokenizer.decoder.last_layer.device).eval()


def words_for_ids(quantizer: Quantizer) -> dict[str, Any]:
    """The words of ``imtok quantize`` that suit a quantizer without ids: its own sizes, and its target's codebook."""
    if not isinstance(quantizer, TargetDivergence):
        return {"quantizer.dim": quantizer.dim}
    sizes = {f"quantizer.{name}": getattr(quantizer, name) for name in ("dim", "code_dim", "codebook_size")}
    return {"quantizer": "gaussian_codebook", **sizes}


def fit_and_save(
    tokenizer: Tokenizer,
    quantized: Tokenizer,
    fitting: Iterable[Batch],
    measuring: Iterable[Batch],
    folder: Path,
    most: int,
    device: torch.device,
    missing: bool = False,
) -> dict[str, Any]:
    """Fit what is fitted, measure and write ``tokenizer/`` and ``quantize.json``.

    Args:
        tokenizer: The continuous tokenizer, on ``device``.
        quantized: What :func:`with_ids` made of it; a :class:`TokenBridge` is fitted.
        fitting: Images to fit to.
        measuring: Images to measure on.
        folder: Appears whole or not at all; an earlier result in it is replaced.
        most: Fit to at most so many images.
        device: Where to compute.
        missing: Whether images may lack what the tokenizer's condition reads.

    Returns:
        What ``quantize.json`` holds.

    Raises:
        InputError: If the folder holds something else, there is no image to read, or the latents cannot be fitted.
    """
    claim_output(folder, REPORT)
    quantizer, images = quantized.quantizer, 0
    steps: dict[str, Quantizer] = {"continuous": tokenizer.quantizer}
    if isinstance(quantizer, TokenBridge):
        latents, images = latents_of(tokenizer, fitting, device, most, missing)
        steps |= {"quantized, as given": copy.deepcopy(quantizer), "quantized, fitted": quantizer}
        try:
            quantizer.fit(latents)
        except ValueError as error:
            raise InputError(f"the quantizer cannot be fitted: {error}; is the tokenizer trained?") from None
    else:
        steps["quantized"] = quantizer
    psnr, measured = compare_psnr(tokenizer, steps, measuring, device, missing)
    report = {
        "continuous_tokenizer_sha256": tokenizer.fingerprint(),
        "quantizer": (quantized.config or {})["quantizer"],
        "images_fitted": images,
        "images_measured": measured,
        "psnr": psnr,
    }
    with new_folder(folder) as aside:
        quantized.save(aside / "tokenizer")
        write_json(aside / REPORT, report)
    return report


def cluster_and_save(
    clusters: Clusters,
    before: Tokenizer | None,
    measuring: Iterable[Batch],
    folder: Path,
    device: torch.device,
) -> dict[str, Any]:
    """Fit k-means, measure and write ``tokenizer/`` and ``quantize.json``; every rank calls it.

    Args:
        clusters: Of the tokenizer that gets the ids.
        before: The continuous tokenizer that it was; None = one whose decoder has not learnt: nothing is decoded.
        measuring: Images to measure on.
        folder: As for :func:`fit_and_save`; beside it lies ``NAME.partial`` until then.
        device: Where to compute.

    Returns:
        What ``quantize.json`` holds; on other ranks than 0 without what is measured on images.

    Raises:
        InputError: As :func:`fit_and_save` and :meth:`Clusters.fit` do.
    """
    from_main(partial(claim_output, folder, REPORT))
    with partial_folder(folder) as aside:
        found = clusters.fit(aside)
        report = {
            "quantizer": (clusters.tokenizer.config or {})["quantizer"],
            "latents_fitted": found.points,
            "passes": found.passes,
            "squared_distances": found.distances,
            "codes_in_use": found.used,
        }
        if rank() > 0:
            return report
        if before is not None:
            steps = {"continuous": before.quantizer, "quantized, fitted": clusters.quantizer}
            psnr, measured = compare_psnr(before, steps, measuring, device, clusters.missing)
            report |= {"continuous_tokenizer_sha256": before.fingerprint(), "images_measured": measured, "psnr": psnr}
        with new_folder(folder) as new:
            clusters.tokenizer.save(new / "tokenizer")
            write_json(new / REPORT, report)
    return report


def latents_of(
    tokenizer: Tokenizer, loader: Iterable[Batch], device: torch.device, most: int, missing: bool = False
) -> tuple[Float[Tensor, "m d"], int]:
    """Latents of the first ``most`` images, on the CPU, and how many images they are of.

    Raises:
        InputError: If there is no image, the tokenizer cannot read one, or a latent is not finite.
    """
    found, bad, count = list[Tensor](), list[str](), 0
    with evaluating(tokenizer):
        shown = watched(loader, most, "latents", lambda batch: len(batch.image))
        for batch, image, _ in read_images(tokenizer, shown, device, bad):
            require_each(batch, tokenizer.condition, missing)
            condition, some = tokenizer.condition_of(batch), slice(most - count)
            quantized = tokenizer.quantize(image[some], condition=condition and condition.rows(some))
            require_finite(quantized.latents, batch.key, "latents")
            kept = quantized.latents.flatten(0, 1) if quantized.keep is None else quantized.latents[quantized.keep]
            found.append(kept.cpu())
            count += len(quantized.latents)
            if count >= most:
                break
    require_images(count, bad)
    return torch.cat(found), count


def compare_psnr(
    tokenizer: Tokenizer,
    quantizers: Mapping[str, Quantizer],
    loader: Iterable[Batch],
    device: torch.device,
    missing: bool = False,
) -> tuple[dict[str, float], int]:
    """PSNR in dB of the reconstructions with each of some quantizers, by name, and the number of images.

    Args:
        tokenizer: Encodes and decodes.
        quantizers: What its encoder's latents go through in between, on ``device``.
        loader: The images.
        device: Where the tokenizer is.
        missing: Whether images may lack what the tokenizer's condition reads.

    Raises:
        InputError: If there is no image, the tokenizer cannot read one, or a reconstruction is not finite.
    """
    exact = torch.device("cpu") if device.type == "mps" else device  # mps knows no float64
    metrics = {name: PSNR().to(exact) for name in quantizers}
    bad, count = list[str](), 0
    with evaluating(tokenizer):
        for batch, image, size in read_images(tokenizer, loader, device, bad):
            require_each(batch, tokenizer.condition, missing)
            condition = tokenizer.condition_of(batch)
            latents = encoded(tokenizer.encoder, image, condition=condition)
            for name, quantizer in quantizers.items():
                codes = quantizer(latents.values, latents.keep)
                shown = tokenizer.decoder(codes.latents, size, codes.keep, condition)
                require_finite(shown, batch.key, "reconstruction")
                metrics[name].update(to_levels(shown).to(exact), batch.image.to(exact))
            count += len(image)
    require_images(count, bad)
    return {name: metric.compute().item() for name, metric in metrics.items()}, count
