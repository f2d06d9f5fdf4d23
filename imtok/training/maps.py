"""Whether the stored maps of a frozen space are those of the pictures that a run trains on."""

from imtok.data.base import Images
from imtok.data.reading.transforms import CentreCrop
from imtok.errors import InputError
from imtok.spaces.base import CURE, Space

_LOOKED_AT = 16  # images, evenly over a list


def check_maps(space: Space | None, images: Images) -> None:
    """Refuse maps that cannot stand for what the space would compute; nothing is done where there is no cache.

    Args:
        space: Its weights have been read.
        images: To train on. Of a stream only the crops are looked at here; its first batch is when it comes.

    Raises:
        InputError: If the maps are of another net or of other pictures, or the crops of the run are not fixed.
    """
    if space is None or space.cache is None:
        return
    maps, key = space.require_cache(), f"space.cache={space.cache}"
    for part in images.parts:
        crop = part.transform
        if not isinstance(crop, CentreCrop):
            raise InputError(
                f"{key} holds the maps of fixed crops, and {type(crop).__name__} makes others in each epoch; give "
                "data.crop=centre and no data.augment, or no cache"
            )
        if crop.size != maps.about["image_size"]:
            raise InputError(
                f"{key} holds the maps of images of {maps.about['image_size']} pixels, not of image_size={crop.size}; "
                "pack the images again"
            )
        if crop.flip and not maps.about["flip"]:
            raise InputError(f"{key} holds no maps of mirrored images; give data.flip=false, or pack with flip=true")
    samples = images.samples(_LOOKED_AT)
    absent = [sample.key for sample in samples if sample.image is not None and maps.find(sample.image) is None]
    if absent:
        raise InputError(f"{key} does not hold {len(absent)} of {len(samples)} {CURE}, such as {absent[0]}")
