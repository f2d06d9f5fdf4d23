"""What a condition reads of images besides their pixels: asked for, and looked for before any work is spent."""

from collections.abc import Collection, Mapping, Sequence

from imtok.conditions.base import Conditioner
from imtok.data.base import Images
from imtok.errors import InputError
from imtok.pixels import check_channels
from imtok.types import Batch

_LOOKED_AT = 64  # images, evenly over a list
DATA_WITH = {
    "caption": "give data that has some (a .txt file beside each image, or data.caption=NAME)",
    "label": "give data that has some (folders of classes, or data.label=NAME)",
}


def with_channels(images: Images, channels: int) -> Images:
    """The same images, with 1, 3 or 4 channels; fresh ones of :class:`~imtok.data.base.Data`, which nobody else reads.

    Raises:
        ValueError: If there is no such number of channels.
    """
    check_channels(channels)
    images.ask_channels(channels)
    return images


def told(images: Images, condition: Conditioner | None, others: Collection[str] = ()) -> Images:
    """The same images, whose samples have captions if the condition reads them, or something else does.

    Args:
        images: Fresh ones of :class:`~imtok.data.base.Data`, which nobody else reads.
        condition: The tokenizer's; None = nothing is read.
        others: What the objective reads.
    """
    images.ask_captions("caption" in others or (condition is not None and "caption" in condition.reads))
    return images


def require_told(images: Images, condition: Conditioner | None, what: str) -> str | None:
    """Look whether a list of images has what the condition reads, at some of them evenly over the list.

    Args:
        images: What :func:`told` gave. Of a stream nothing is known before it is read.
        condition: The tokenizer's; None = nothing is read.
        what: The images are, for messages: "images to train on".

    Returns:
        A sentence if some of those lack it; None if none does.

    Raises:
        InputError: If none of them has it.
    """
    if condition is None:
        return None
    remedy = {kind: f"{data}, or condition=none" for kind, data in DATA_WITH.items()}
    reader = f"the condition ({type(condition).__name__})"
    says = f"{reader} says of them that there is none"
    return require_read(images, condition.reads, reader, what, remedy, says)


def require_read(
    images: Images, kinds: Collection[str], reader: str, what: str, remedy: Mapping[str, str], otherwise: str
) -> str | None:
    """As :func:`require_told`, for anything that reads captions or labels.

    Args:
        images: Whose samples have them.
        kinds: "caption", "label".
        reader: Who reads them, for messages.
        what: The images are, for messages.
        remedy: What to do, by kind.
        otherwise: What becomes of images that have none.
    """
    for kind in kinds:
        lacking, number = images.lacking(kind, _LOOKED_AT)
        if lacking and lacking == number:
            raise InputError(
                f"the {what} have no {kind}, which {reader} reads (none of {number} that were looked at has one); "
                f"{remedy[kind]}"
            )
        if lacking:
            return f"{lacking} of {number} {what} that were looked at have no {kind}; {otherwise}"
    return None


def shown_captions(batch: Batch, rows: Sequence[int]) -> list[str]:
    """The captions of some images of a batch; none where it has none."""
    return [batch.caption[row] for row in rows] if batch.caption else []


def require_each(batch: Batch, condition: Conditioner | None, missing: bool) -> int:
    """Refuse an image that lacks what the condition reads, unless that is allowed.

    Args:
        batch: The images.
        condition: The tokenizer's; None = nothing is read.
        missing: Whether such images are allowed.

    Returns:
        How many there are.

    Raises:
        InputError: That names the first of them.
    """
    if condition is None or not condition.reads:
        return 0
    lacking = condition.lacking(batch.caption or [""] * len(batch.key), batch.label)
    for row, kind in sorted(lacking.items())[:1] if not missing else ():
        raise InputError(
            f"{batch.key[row]} has no {kind}, which the condition of the tokenizer ({type(condition).__name__}) reads; "
            "give it one, or condition.missing=true to take such images as ones of which nothing is said"
        )
    return len(lacking)
