"""What can be set about ``imtok pack``; the config's schema is made of this."""

from dataclasses import dataclass
from typing import Any

REQUIRED: Any = "???"
SPLITS = ("train", "val", "test", "all")  # that any data can have


@dataclass
class PackConfig:
    """A data set, where its shards go, and how they are made.

    Attributes:
        data: The data set.
        out: The folder of the shards.
        split: "train", "val", "all", or "test" where the data has it; None = all, of data that holds out no images of
            its own.
        image_size: Of data that is cut into tiles (``photos``), their side in pixels.
        shard_images: At most so many images in a shard.
        shard_megabytes: At most so large a shard, in 10^6 bytes.
        resize: Images whose short side is longer are scaled to so many pixels; None = as they are.
        encode: "jpeg", "png" or "webp"; None = as they came.
        quality: Of JPEG and WebP that are written anew, 1 to 100.
        shuffle: Seed of the order; None = as in the data.
        workers: Processes that read, decode and encode.
    """

    data: Any = REQUIRED
    out: str = REQUIRED
    split: str | None = None
    image_size: int = 64
    shard_images: int = 10_000
    shard_megabytes: float = 1000.0
    resize: int | None = None
    encode: str | None = None
    quality: int = 95
    shuffle: int | None = 0
    workers: int = 0

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = []
        if self.split not in (None, *SPLITS):
            problems.append(f"split must be {', '.join(SPLITS)} or null, got {self.split}")
        if self.encode not in (None, "jpeg", "png", "webp"):
            problems.append(f"encode must be jpeg, png, webp or null (as they came), got {self.encode}")
        for name in ("shard_images", "image_size", "resize"):
            value = getattr(self, name)
            if value is not None and value < 1:
                problems.append(f"{name} must be at least 1, got {value}")
        if self.shard_megabytes <= 0:
            problems.append(f"shard_megabytes must be positive, got {self.shard_megabytes}")
        if not 1 <= self.quality <= 100:
            problems.append(f"quality must lie in [1, 100], got {self.quality}")
        if self.shuffle is not None and not 0 <= self.shuffle < 2**63:
            problems.append(f"shuffle must be a seed of at least 0 or null, got {self.shuffle}")
        if self.workers < 0:
            problems.append(f"workers must not be negative, got {self.workers}")
        return problems
