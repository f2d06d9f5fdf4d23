"""``imtok export``: writes the ids of images into a store."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from rich.console import Console

from imtok.build import build_data
from imtok.command_line import output_folder
from imtok.data.reading.transforms import WholeImage
from imtok.data.remarks import say_remarks
from imtok.data.told import with_channels
from imtok.distributed import launched_rank
from imtok.export.feed import make_feed
from imtok.export.store import MANIFEST
from imtok.export.tokens import export_tokens
from imtok.export.views import AUGMENTS, Views
from imtok.image_commands import ImagesKeys, SpendingKeys, WholeKeys, given_condition, load_tokenizer, plain_values
from imtok.measures.report.origin import Origin
from imtok.measures.spending import Spending
from imtok.paste import imtok_line
from imtok.run_data import take_data
from imtok.text import terminal

SHOWN = 10  # unreadable images that are named on the terminal


@dataclass
class Keys(WholeKeys, SpendingKeys, ImagesKeys):
    """A tokenizer, a data set and where its tokens go. configs/export.yaml explains each."""

    shard_size: int = 10_000
    input_shards: int = 1
    augment: str = "centre"

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = [*ImagesKeys.check(self), *self.check_spending(), *self.check_whole(self.image_size)]
        if self.crop is not None and self.augment != "centre":
            problems.append(f"crop=none has one view of each image; leave augment={self.augment} out")
        if self.shard_size < 1:
            problems.append(f"shard_size must be at least 1 image, got {self.shard_size}")
        if self.input_shards < 1:
            problems.append(f"input_shards must be at least 1 shard, got {self.input_shards}")
        if self.augment not in AUGMENTS:
            problems.append(f"augment must be one of {', '.join(AUGMENTS)}, got {self.augment}")
        if self.out is None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
            problems.append("out=DIR must be given with several processes, so that all of them write to one folder")
        return problems


def run(config: DictConfig) -> None:
    """Write the tokens of images, and say how many there are.

    Raises:
        InputError: If tokenizer, images or the folder cannot be used.
    """
    folder, console = output_folder(config, "export"), Console(highlight=False, quiet=launched_rank() != 0)
    tokenizer, device, size = load_tokenizer(config)
    console.print(take_data(config, [config.tokenizer]), soft_wrap=True, markup=False)
    plain = plain_values(config)
    data = build_data(plain)
    views = Views(config.augment)
    images = with_channels(data.evaluation(views.square(size), config.split), tokenizer.channels)
    say_remarks(images.remarks)
    whole = config.crop is not None
    if whole:
        images.transform = WholeImage(size)
    batch_size = 1 if whole else max(1, config.batch_size // len(views))
    feed = make_feed(images, config.shard_size, batch_size, config.workers, config.input_shards)
    if whole:
        feed.side = None
    about = Origin(plain["data"], config.split or data.default_split).about_data() | {"image_size": images.image_size}
    spending = Spending.of(config.length, config.target)
    shape = {name: config[name] for name in ("crop", "positions") if config[name] is not None}
    manifest = export_tokens(tokenizer, feed, folder, views, device, about, given_condition(config), spending, shape)
    _show(manifest, folder, config.tokenizer, console)


def _show(manifest: Mapping[str, Any], folder: Path, tokenizer: str, console: Console) -> None:
    """Say how many images there are, which could not be read, where the ids lie, and how they become pictures."""
    count, tokens, bad = manifest["images"], manifest["tokens"], manifest["bad"]
    split = manifest["data"]["split"]
    most = "up to " if "crop" in manifest else ""
    console.print(f"{count} images of {most}{tokens} tokens in {folder}, split={split}", soft_wrap=True, markup=False)
    if bad:
        _show_bad(bad, count, folder, console)
    axes = " x ".join(manifest["ids"]["shape"])
    console.print(f"  {folder}/ids-*.npy  {axes}, {manifest['ids']['dtype']}", soft_wrap=True, markup=False)
    console.print(f"  {folder}/shard-*.json  the names of the images, in the same order", soft_wrap=True, markup=False)
    pictures = folder.with_name(f"{folder.name}_pictures")
    following = imtok_line("decode", tokenizer=tokenizer, ids=folder, out=pictures)
    console.print(f"decode:   {following}", soft_wrap=True, markup=False)


def _show_bad(bad: Sequence[str], count: int, folder: Path, console: Console) -> None:
    console.print(f"{len(bad)} of {count + len(bad)} images could not be read and are left out:", soft_wrap=True)
    for line in bad[:SHOWN]:
        console.print(f"  {terminal(line)}", soft_wrap=True)
    if len(bad) > SHOWN:
        console.print(f"  and {len(bad) - SHOWN} more, all in {folder / MANIFEST}", soft_wrap=True, markup=False)
