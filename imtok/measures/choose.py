"""From names of metrics to what computes them; what cannot be had is refused, or left out with its reason."""

from collections.abc import Mapping, Sequence

import torch

from imtok.errors import InputError
from imtok.extractors.timm import DINOV2, TimmExtractor
from imtok.measures.base import ImageMeasure, Measure
from imtok.measures.chosen import require_statistics
from imtok.measures.codes import CodeMeasure, PositionMeasure
from imtok.measures.corpus import LanguageMeasure
from imtok.measures.features import FeatureMeasure, Net
from imtok.measures.flat import FlatMeasure
from imtok.measures.inference import Size
from imtok.measures.keys import BACKBONE, DINO, with_keys
from imtok.measures.lengths import LengthMeasure
from imtok.measures.linear_probe import ProbeMeasure
from imtok.measures.looks import PatchMeasure, SwapMeasure
from imtok.measures.lpips import LPIPS
from imtok.measures.msssim import MSSSIM, SMALLEST
from imtok.measures.pfid import PerturbedMeasure
from imtok.measures.protocol import Protocol
from imtok.measures.psnr import PSNR
from imtok.measures.rate import RateMeasure
from imtok.measures.references import ReferenceKey
from imtok.measures.report.titles import reasons
from imtok.measures.settings import METRICS, Settings
from imtok.measures.ssim import SSIM, WINDOW
from imtok.tokenizer import Tokenizer


def choose(
    settings: Settings, tokenizer: Tokenizer, device: torch.device, exact: torch.device
) -> tuple[list[Measure], dict[str, str]]:
    """The measures for the metrics asked for, and why some are absent.

    Args:
        settings: The metrics and their settings.
        tokenizer: What is measured.
        device: Where nets compute.
        exact: Where float64 sums are kept.

    Raises:
        InputError: If a weight file that was named is missing or another one, or a setting does not fit the tokenizer.
    """
    wanted, absent = [name for name in METRICS if name in settings.metrics], dict[str, str]()
    measures: list[Measure] = []
    quantizer = tokenizer.quantizer
    if not quantizer.vocab_sizes:
        for name in ("positions", "pfid", "language", "looks", "rate", "length"):
            if name in wanted:
                wanted.remove(name)
                absent[name] = "latents are continuous: there are no ids"
    if "psnr" in wanted:
        measures += [ImageMeasure("psnr", PSNR().to(exact)), FlatMeasure()]
    if "ssim" in wanted:
        measures.append(ImageMeasure("ssim", SSIM().to(exact), WINDOW))
    if "msssim" in wanted:
        measures.append(ImageMeasure("msssim", MSSSIM().to(exact), SMALLEST))
    for name, network in (("lpips", "alex"), ("lpips_vgg", "vgg")):
        if name in wanted:
            try:
                metric = LPIPS(network, settings.backbone).to(device)
                measures.append(ImageMeasure(metric.name, metric, 32, {"extractor_hash": metric.hash[:16]}))
            except InputError as error:
                _absent(absent, [name], with_keys(error, BACKBONE), named=settings.backbone is not None)
    net = None
    over_net = [name for name in ("rfid", "kid", "is", "pfid") if name in wanted]
    if over_net:
        try:
            net = _net(settings, device, exact)
        except InputError as error:
            damaged = settings.cache is not None and str(settings.cache) in str(error)
            named = settings.protocol.refuses(error) or settings.reference is not None or damaged
            _absent(absent, over_net, error, named)
    if net is not None and over_net:
        measures.append(FeatureMeasure(net, over_net))
    if "fdd" in wanted:
        try:
            extractor = TimmExtractor(DINOV2, settings.dino, image_size=224).to(device)
            measures.append(FeatureMeasure(Net(extractor, _rounding(settings.protocol), exact), ["rfid"]))
        except InputError as error:
            _absent(absent, ["fdd"], with_keys(error, DINO), named=settings.dino is not None)
    if net is not None and "pfid" in wanted:
        measures.append(PerturbedMeasure(net, tokenizer, settings.pfid_alphas, settings.pfid_deltas, settings.seed))
    if "codes" in wanted:
        measures.append(CodeMeasure(quantizer.vocab_sizes, quantizer.bits_per_token, exact))
    if "positions" in wanted:
        measures.append(PositionMeasure(exact))
    if "rate" in wanted:
        measures.append(RateMeasure(tokenizer, exact, settings.lengths, net if over_net else None))
    if "length" in wanted:
        measures.append(LengthMeasure(settings.length_target))
    if "language" in wanted:
        measures.append(LanguageMeasure(quantizer.vocab_sizes, seed=settings.seed))
    if "looks" in wanted:
        measures += [PatchMeasure(), SwapMeasure()]
    if "probe" in wanted:
        measures.append(ProbeMeasure())
    return measures, absent


def missing(
    settings: Settings, tokenizer: Tokenizer, size: Size | None = None, keys: Mapping[str, str] | None = None
) -> list[str]:
    """Which of the metrics asked for cannot be had here, and why: a line for each reason.

    A net is built to see whether its weights can be read. What only the images can tell (too few of them, none with a
    class) is not known yet.

    Args:
        settings: The metrics and their settings.
        tokenizer: What is to be measured.
        size: Height and width of the images, in pixels; None = not known.
        keys: The config's keys for files of weights, by the arguments of the nets; None = those of ``imtok eval``.

    Raises:
        InputError: As :func:`choose`.
    """
    cpu = torch.device("cpu")
    measures, absent = choose(settings, tokenizer, cpu, cpu)
    for measure in measures if size is not None else ():
        absent |= measure.missing(tokenizer, size or (0, 0))
    if keys is not None:
        absent = {name: str(with_keys(InputError(reason), keys)) for name, reason in absent.items()}
    return reasons(absent, str)


def refuse(lines: Sequence[str]) -> None:
    """Raise InputError that names every metric that cannot be had, and why; see :func:`missing`."""
    if len(lines) == 1:
        raise InputError(f"metrics: {lines[0]}; leave it out, {_MEASURE}")
    if lines:
        raise InputError("\n  ".join([f"metrics that cannot be had; leave them out, {_MEASURE}:", *lines]))


_MEASURE = "or give skip_missing=true to measure the rest"


def numbers(settings: Settings, tokenizer: Tokenizer, size: Size) -> dict[str, bool | None]:
    """The numbers that an evaluation gives, before there is one, and whether a larger one is better; None = neither.

    Each measure says that (``numbers``), of its metric's class where there is one, and nothing else does.

    Args:
        settings: The metrics and their settings.
        tokenizer: What is to be measured.
        size: Height and width of the images, in pixels.

    Raises:
        InputError: As :func:`choose`.
    """
    cpu = torch.device("cpu")
    measures, _ = choose(settings, tokenizer, cpu, cpu)
    return {name: better for part in measures for name, better in part.numbers(size).items()}


def _net(settings: Settings, device: torch.device, exact: torch.device) -> Net:
    extractor, protocol = settings.protocol.build().to(device), settings.protocol
    if settings.reference is not None:
        require_statistics(extractor, len(settings.reference.mean), "reference")
    net = Net(extractor, protocol, exact, settings.reference, settings.reference_name)
    if settings.reference is None and settings.cache is not None and settings.data:
        net.use_cache(settings.cache, ReferenceKey(settings.data, str(protocol.crop), extractor.hash))
    return net


def _rounding(protocol: Protocol) -> Protocol:
    """FDD has one way of resizing: of the protocol, crop and rounding count."""
    return Protocol("adm", crop=protocol.crop, rounding=protocol.rounding)


def _absent(absent: dict[str, str], names: list[str], error: InputError, named: bool) -> None:
    """Note why metrics are missing; a file that was named must be right, though."""
    if named:
        raise error
    absent |= dict.fromkeys(names, str(error))
