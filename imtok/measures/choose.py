"""From the metrics asked for to what computes them; what cannot be had is refused, or left out with its reason."""

from collections.abc import Sequence

import torch

from imtok.distributed import world_size
from imtok.errors import InputError, MissingWeightsError
from imtok.measures.base import Measure
from imtok.measures.bench import Bench
from imtok.measures.inference import Size
from imtok.measures.making import make
from imtok.measures.quantity import Quantity
from imtok.measures.report.titles import reasons
from imtok.measures.settings import Settings
from imtok.tokenizer import Tokenizer


def choose(
    settings: Settings, tokenizer: Tokenizer, device: torch.device, exact: torch.device
) -> tuple[list[Measure], dict[str, str]]:
    """The measures asked for, in their order, and why some are absent.

    Args:
        settings: The measures and their settings.
        tokenizer: What is measured.
        device: Where nets compute.
        exact: Where float64 sums are kept.

    Raises:
        InputError: If a measure cannot be built, a weight file that was named is missing or another one, a setting
            does not fit the tokenizer, or an extractor or a reference is given that no measure reads.
    """
    bench = Bench(
        *(tokenizer, settings.protocol, device, exact, settings.seed, max(settings.processes, world_size())),
        *(settings.reference, settings.reference_name, settings.cache, settings.data),
    )
    measures, absent = list[Measure](), dict[str, str]()
    for name, section in settings.sections.items():
        try:
            measure = make(name, section)
            if measure.needs_ids and not tokenizer.quantizer.vocab_sizes:
                absent[name] = "latents are continuous: there are no ids"
                continue
            measure.set_up(bench)
        except MissingWeightsError as error:
            absent[name] = str(error)
        else:
            measures.append(measure)
    _require_read(settings, bench)
    return measures, absent


def _require_read(settings: Settings, bench: Bench) -> None:
    """Refuse an extractor or a reference that changes no number."""
    given = {"extractor": settings.protocol.key == "extractor", "reference": settings.reference is not None}
    unread = [key for key, is_given in given.items() if is_given and not bench.asked]
    if unread:
        raise InputError(
            f"{' and '.join(unread)}: none of {', '.join(settings.sections)} looks at features; add a metric that "
            f"does, such as rfid, or leave {'it' if len(unread) == 1 else 'them'} out"
        )


def missing(settings: Settings, tokenizer: Tokenizer, size: Size | None = None) -> list[str]:
    """Which of the metrics asked for cannot be had here, and why: a line for each reason.

    A net is built to see whether its weights can be read. What only the images can tell (too few of them, none with a
    class) is not known yet.

    Args:
        settings: The measures and their settings.
        tokenizer: What is to be measured.
        size: Height and width of the images, in pixels; None = not known.

    Raises:
        InputError: As :func:`choose`.
    """
    cpu = torch.device("cpu")
    measures, absent = choose(settings, tokenizer, cpu, cpu)
    for measure in measures if size is not None else ():
        absent |= measure.missing(tokenizer, size or (0, 0))
    return reasons(absent)


def refuse(lines: Sequence[str]) -> None:
    """Raise InputError that names every metric that cannot be had, and why; see :func:`missing`."""
    if len(lines) == 1:
        raise InputError(f"metrics: {lines[0]}; leave it out, {_MEASURE}")
    if lines:
        raise InputError("\n  ".join([f"metrics that cannot be had; leave them out, {_MEASURE}:", *lines]))


_MEASURE = "or give skip_missing=true to measure the rest"


def numbers(settings: Settings, tokenizer: Tokenizer, size: Size) -> dict[str, Quantity]:
    """The numbers that an evaluation gives, by name, before there is one.

    Each measure says that (``numbers``), of its metric's class where there is one, and nothing else does.

    Args:
        settings: The measures and their settings.
        tokenizer: What is to be measured.
        size: Height and width of the images, in pixels.

    Raises:
        InputError: As :func:`choose`; if two measures give a number of the same name.
    """
    cpu = torch.device("cpu")
    measures, _ = choose(settings, tokenizer, cpu, cpu)
    return by_name(measures, size)


def by_name(measures: Sequence[Measure], size: Size) -> dict[str, Quantity]:
    """What measures give of images of a size, by name.

    Raises:
        InputError: If two of them give a number of the same name.
    """
    found, givers = dict[str, Quantity](), dict[str, str]()
    for measure in measures:
        for quantity in measure.numbers(size):
            if quantity.name in found:
                raise InputError(
                    f"measure.{givers[quantity.name]} and measure.{measure.key} both give {quantity.name}; leave one "
                    "out"
                )
            found[quantity.name], givers[quantity.name] = quantity, measure.key
    return found
