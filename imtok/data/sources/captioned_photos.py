"""The bundled photographs with a sentence about each: what text does can be seen without a download."""

from pathlib import Path

import numpy as np
from typing_extensions import override

from imtok.data.images import ImageSet, Source, Subset
from imtok.data.sources.photos import Photos

CAPTIONS = {
    "astronaut": "an astronaut in an orange suit in front of a flag",
    "chelsea": "the face of a ginger cat",
    "china": "a temple in China with red columns and curved roofs",
    "coffee": "a cup of coffee with a spoon on a wooden table",
    "flower": "an orange flower with dark leaves behind it",
    "grace_hopper": "a woman in the uniform of the navy with a cap and glasses",
    "hubble_deep_field": "galaxies and stars in a black sky",
    "ihc": "stained tissue under a microscope, blue and brown",
    "motorcycle_left": "a motorcycle in a garage",
    "motorcycle_right": "a motorcycle in a garage",
    "retina": "the retina of an eye with red vessels",
    "rocket": "a white rocket on its pad at night",
}


class CaptionedPhotos(Photos):
    """As :class:`Photos`, and every crop and tile has the caption of its photograph."""

    @override
    def train(self, image_size: int, seed: int) -> ImageSet:
        return _described(super().train(image_size, seed))

    @override
    def evaluation(self, image_size: int, split: str | None = None) -> ImageSet:
        return _described(super().evaluation(image_size, split))


class _Described(Subset):
    """All samples of the photographs, with captions."""

    def __init__(self, source: Source) -> None:
        super().__init__(source, np.arange(len(source), dtype=np.int64))

    @override
    def caption(self, index: int) -> str | None:
        return CAPTIONS[Path(self.key(index).partition("#")[0]).stem]

    @override
    def texts(self, index: int) -> tuple[str, ...]:
        return (str(self.caption(index)),)


def _described(images: ImageSet) -> ImageSet:
    images.source = _Described(images.source)
    return images
