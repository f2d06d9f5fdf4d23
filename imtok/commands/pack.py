"""``imtok pack``: writes shards of a data set."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from imtok.bars import watched
from imtok.build import build_data, build_part
from imtok.conditions.base import Conditioner
from imtok.conditions.cache import write_features
from imtok.conditions.text import TextTower
from imtok.data.archives.pack import BAD, ShardLayout, pack
from imtok.data.archives.packing import Encoding
from imtok.data.base import SPLITS, Data, require_list
from imtok.data.images import Source
from imtok.data.order.loader import evaluation_loader
from imtok.data.remarks import say_remarks
from imtok.data.sources.collection import Collection
from imtok.data.sources.webdataset import WebDataset
from imtok.errors import InputError
from imtok.image_commands import plain_values
from imtok.paste import imtok_line, override, shell_line
from imtok.pretrained import RANDOM, fetch_weights
from imtok.spaces.base import Space
from imtok.spaces.cache import AT_A_TIME, write_maps
from imtok.tables import print_whole

_NO_STREAM = (
    "data is a stream, which cannot be packed; leave out data.access=stream, and copy remote shards, which are shards "
    "already, here to pack them anew"
)


@dataclass
class Keys:
    """A data set, where its shards go, and how they are made.

    Attributes:
        data: The data set.
        out: The folder of the shards.
        split: "train", "val", "all", or "test" where the data has it; None = all, of data that holds out no images of
            its own.
        image_size: Of data that is cut into tiles (``photos``), their side in pixels; with ``cache=[space]`` that of
            the centre crops that are encoded.
        shard_images: At most so many images in a shard.
        shard_megabytes: At most so large a shard, in 10^6 bytes.
        resize: Images whose short side is longer are scaled to so many pixels; None = as they are.
        encode: "jpeg", "png" or "webp"; None = as they came.
        quality: Of JPEG and WebP that are written anew, 1 to 100.
        shuffle: Seed of the order; None = as in the data.
        workers: Processes that read, decode and encode.
        cache: What is computed once and stored beside the shards: "text", the features of all captions, and "space",
            the maps of all images.
        condition: The text tower that computes the features.
        space: The frozen autoencoder that computes the maps.
        flip: Store the maps of the mirrored images, too.
    """

    data: Any = MISSING
    out: str = MISSING
    split: str | None = None
    image_size: int = 64
    shard_images: int = 10_000
    shard_megabytes: float = 1000.0
    resize: int | None = None
    encode: str | None = None
    quality: int = 95
    shuffle: int | None = 0
    workers: int = 0
    cache: list[str] = field(default_factory=list)
    condition: Any = None
    space: Any = None
    flip: bool = True

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
        if other := sorted({*self.cache} - {"text", "space"}):
            problems.append(f"cache must be [text], [space], [text,space] or [], got {other[0]}")
        if ("text" in self.cache) != bool(self.condition):
            problems.append("cache=[text] needs the tower: condition=t5_xl, clip_l or siglip2, and the other way round")
        if ("space" in self.cache) != bool(self.space):
            problems.append("cache=[space] needs the net: space=kl_f8c4, maskgit, ..., and the other way round")
        if self.workers < 0:
            problems.append(f"workers must not be negative, got {self.workers}")
        return problems


def run(config: DictConfig) -> None:
    """Write shards of a data set."""
    plain: dict[str, Any] = {"condition": None, "space": None, **plain_values(config)}
    settings = Keys(**{name: plain[name] for name in vars(Keys())})
    parts = [build_part(plain, name) if plain[name] else None for name in ("condition", "space")]
    run_pack(settings, build_data(plain), *parts)


def run_pack(config: Keys, data: Data, condition: Conditioner | None = None, space: Space | None = None) -> None:
    """Pack what a config names, and say what was packed.

    Args:
        config: What the command line says.
        data: Where the images come from.
        condition: The tower whose features are stored beside the shards; None = no features are.
        space: The frozen autoencoder whose maps are stored beside the shards; None = no maps are.

    Raises:
        InputError: As :func:`imtok.data.archives.pack.pack`; or if the data is a stream, or does not say which split to
            take, or the condition is no text tower, or the space has no maps of its own.
    """
    if condition is not None:
        if not isinstance(condition, TextTower):
            raise InputError("cache=[text] needs a frozen text tower; give condition=t5_xl, clip_l or siglip2")
        condition.prepare()
    about = None if space is None else _prepared(space)
    if config.split is None and data.holds_out:
        known = f"{', '.join(data.splits[:-1])} or {data.splits[-1]}"
        raise InputError(f"split must be {known}: this data holds out images of its own; pack one after another")
    # What is packed: any list of images.
    images = require_list(data.evaluation(config.image_size, config.split or "all"), _NO_STREAM)
    say_remarks(images.remarks)
    # Pack, to be taken up again if it is stopped.
    layout = ShardLayout(config.shard_images, round(config.shard_megabytes * 1e6), config.shuffle)
    encoding = Encoding(config.resize, config.encode, config.quality)
    manifest = pack(images.source, Path(config.out), layout, encoding, config.workers)
    # Then the caches of text and of maps.
    console = Console(highlight=False)
    print_whole(_packed(manifest), console)
    if condition is not None:
        _cache(images.source, condition, Path(config.out) / "text", console)
    following = imtok_line("train", "data=webdataset", override("data.path", config.out))
    if space is not None and about is not None:
        _cache_maps(config, data, space, about, console)
    console.print(f"train:    {following}", soft_wrap=True, markup=False)


def _cache(source: Source, tower: TextTower, folder: Path, console: Console) -> None:
    """Store the features of all captions, and say how they are used."""
    captions = [text for index in range(len(source)) for text in source.texts(index)]
    count = write_features(folder, captions, tower.rows, tower.about)
    console.print(f"captions: {count} in {folder}; train with {override('condition.cache', folder)}", soft_wrap=True)


def _prepared(space: Space) -> dict[str, Any]:
    """Read the weights of a space; what decides its maps.

    Raises:
        InputError: If it has none, or its maps differ from call to call.
    """
    fetch_weights(space, "space")
    if space.weights == RANDOM and next(space.parameters(), None) is not None:
        raise InputError("space.weights=random is another net in each process; give the path of its file")
    return space.about


def _cache_maps(config: Keys, data: Data, space: Space, about: dict[str, Any], console: Console) -> None:
    """Store the maps of all images as a run sees those of the shards, and say how they are used."""
    out, folder = Path(config.out), Path(config.out) / "space"
    shards = WebDataset(out)
    shards.reading = data.reading if isinstance(data, Collection) else shards.reading
    images = require_list(shards.evaluation(config.image_size, "all"), _NO_STREAM)
    about = {**about, "images": images.digest, "image_size": config.image_size, "flip": config.flip}
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    net = space.to(device).eval()
    batches = evaluation_loader(images, AT_A_TIME, config.workers)
    pictures = (batch.image for batch in watched(batches, len(images), "maps", lambda batch: len(batch.image)))
    with torch.no_grad():
        maps = write_maps(folder, pictures, lambda image: net.computed(image.to(device)), about)
    words = [override("space.cache", folder), "data.crop=centre", f"image_size={config.image_size}"]
    words += [] if config.flip else ["data.flip=false"]
    console.print(f"maps: {maps} in {folder}; train with {shell_line(*words)}", soft_wrap=True)


def _packed(manifest: dict[str, Any]) -> Table:
    rows = Table(show_header=False)
    rows.add_column()
    rows.add_column(justify="right")
    size = sum(shard["bytes"] for shard in manifest["shards"])
    rows.add_row("shards", str(len(manifest["shards"])))
    rows.add_row("images", str(manifest["images"]))
    rows.add_row("classes", str(manifest["classes"]))
    rows.add_row("captions", str(manifest["captions"]))
    rows.add_row("megabytes", f"{size / 1e6:.1f}")
    rows.add_row(f"left out ({BAD})", str(manifest["bad"]))
    return rows
