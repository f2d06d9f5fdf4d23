"""Check which parts can work on the maps of a frozen space in place of pixels, and give them the maps' sizes."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from imtok.construct import Config, arguments, import_class
from imtok.errors import InputError
from imtok.spaces.base import Space

PARTS = ("encoder", "decoder")


def check_inside(config: Config, names: Sequence[str], space: Space | None) -> None:
    """Refuse parts that cannot work on the maps of a space.

    Args:
        config: The tokenizer's config.
        names: The value of ``in_space``.
        space: The tokenizer's space; None = it has none.

    Raises:
        ValueError: If a part cannot; it names the part, the reason and the fix.
    """
    if isinstance(names, str) or [name for name in names if name not in PARTS] or len({*names}) != len(names):
        raise ValueError(f"in_space must be a list of the parts {' and '.join(PARTS)}, each at most once, got {names}")
    if not names:
        return
    given = f"in_space=[{','.join(names)}]"
    if space is None:
        raise ValueError(
            f"{given} needs a space, and there is none; give space=kl_f8c16 or another one, or in_space=[]"
        )
    for name in names:
        kind = import_class(config[name]["_target_"])
        takes = arguments(kind)[0]
        if "space" in takes:
            raise ValueError(
                f"{given}: {name} ({kind.__name__}) deals with the space by itself; leave it out of in_space"
            )
        if "image_channels" not in takes:
            raise ValueError(
                f"{given}: {name} ({kind.__name__}) is made for RGB images and cannot read or write maps; give another "
                f"{name}, such as {name}=cnn or {name}=vit"
            )
    if "decoder" in names and not space.decodes:
        raise ValueError(
            f"{given}: {type(space).__name__} has features only and no way back to images; give in_space=[encoder], "
            "with a decoder that writes pixels"
        )


def told_inside(known: Mapping[str, Any], space: Space) -> dict[str, Any]:
    """The builder's facts for a part that works on maps, where size and channels are those of the maps."""
    side = known["image_size"]
    inner = None if side is None else space.map_size((side, side))[0]
    return {**{name: value for name, value in known.items() if name != "space"}, "image_size": inner} | {
        "image_channels": space.dim
    }


@contextmanager
def said_of_maps(space: Space) -> Iterator[None]:
    """Add to an error message that its sizes are those of maps, which the part takes for images."""
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise ValueError(
            f"on maps of the space, with {space.factor} x {space.factor} pixels at each position: {error}"
        ) from None
