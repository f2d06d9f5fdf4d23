"""``imtok quantize``: gives a tokenizer of continuous latents ids, or a recipe its clusters."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch.distributed as dist
from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Column, Table

from imtok.build import build_data, build_tokenizer
from imtok.command_line import compose_training, job_words, output_folder
from imtok.data.order.loader import evaluation_loader
from imtok.data.remarks import say_remarks
from imtok.distributed import launched, launched_rank, require_one_process
from imtok.errors import InputError
from imtok.export.clusters import Clusters, Passes
from imtok.export.quantize import cluster_and_save, fit_and_save, with_ids
from imtok.image_commands import ImagesKeys, find_device, given_condition, load_tokenizer, plain_values, told_images
from imtok.paste import imtok_line, shell_line
from imtok.quantizers.clusters import KMeans
from imtok.run_data import data_words, take_data
from imtok.tables import print_whole
from imtok.tokenizer import Tokenizer

_RECIPE = "recipe:"
_FITTED = 1000  # images, where nobody says how many and all their latents are held at once


@dataclass
class Keys(ImagesKeys):
    """A tokenizer, the quantizer that gives it ids, and images; configs/quantize.yaml explains each."""

    quantizer: Any = MISSING
    overrides: list[str] = field(default_factory=list)
    images: int | None = None
    split: str | None = "val"
    passes: int = 20
    tolerance: float = 1e-4
    merge_every: int = 64
    seed: int = 0

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = super().check()
        for name in ("images", "passes", "merge_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                of = "images to fit the quantizer to" if name == "images" else name
                problems.append(f"{of} must be at least 1, got {value}")
        if not 0 <= self.tolerance < 1 or self.seed < 0:
            problems.append(f"tolerance must be in [0, 1) and seed at least 0, got {self.tolerance} and {self.seed}")
        if self.overrides and not self.tokenizer.startswith(_RECIPE):
            problems.append(
                f"overrides are words of a recipe (tokenizer={_RECIPE}NAME), got tokenizer={self.tokenizer}"
            )
        by = launched()
        if self.out is None and by is not None and by.processes > 1:
            problems.append("out=DIR must be given with several processes, so that all of them write to one folder")
        return problems


def run(config: DictConfig) -> None:
    """Give a tokenizer ids, and say what that costs.

    Raises:
        InputError: If tokenizer, quantizer, images or the folder cannot be used.
    """
    folder, console = output_folder(config, "quantize"), Console(highlight=False, quiet=launched_rank() != 0)
    # The tokenizer before, and the same with the wanted quantizer.
    if config.tokenizer.startswith(_RECIPE):
        before, quantized, size = None, *_of_recipe(config, console)
    else:
        before, _, size = load_tokenizer(config)
        console.print(take_data(config, [config.tokenizer], split="val"), soft_wrap=True, markup=False)
        quantized = with_ids(before, plain_values(config)["quantizer"])
    # Images to fit to, and images to measure on.
    plain, device = plain_values(config), find_device(config)
    data, given = build_data(plain), given_condition(config)
    trained, held_out = (
        told_images(data.evaluation(size, split), quantized, given) for split in ("train", config.split)
    )
    # Fit: clusters in passes over all ranks, or codes and latents in one process.
    if isinstance(quantized.quantizer, KMeans):
        settings = Passes(config.passes, config.tolerance, config.merge_every, config.seed)
        fitting = trained.shuffled(config.images, config.seed)
        say_remarks(remark for images in (fitting, held_out) for remark in images.remarks)
        clusters = Clusters(quantized, fitting, config.batch_size, config.workers, device, settings, given.missing)
        measuring = evaluation_loader(held_out, config.batch_size, config.workers)
        with _all_ranks():
            report = cluster_and_save(clusters, before, measuring, folder, device)
        fitted = f"{report['latents_fitted']:,} latents in {report['passes']} passes, {report['codes_in_use']:,} in use"
    else:
        if before is None:
            name = type(quantized.quantizer).__name__
            raise InputError(f"tokenizer={config.tokenizer} must be a recipe with quantizer=kmeans, got {name}")
        require_one_process("quantize with this quantizer")
        both = (trained.spread(config.images or _FITTED), held_out)
        say_remarks(remark for images in both for remark in images.remarks)
        loaders = [evaluation_loader(images, config.batch_size, config.workers) for images in both]
        most = config.images or _FITTED
        report = fit_and_save(before, quantized, loaders[0], loaders[1], folder, most, device, given.missing)
        fitted = report["images_fitted"] and f"the latents of {report['images_fitted']}"
    # Say what came of it, and what may follow.
    _show(
        report,
        f"{size}x{size} pixels, {quantized.quantizer.bits_per_token:g} bits per token, fitted to {fitted or 'nothing'}",
        console,
    )
    console.print(f"  {folder / 'tokenizer'}", soft_wrap=True, markup=False)
    words = data_words(plain["data"])
    if before is None:
        recipe = config.tokenizer.removeprefix(_RECIPE)
        following = imtok_line("train", f"experiment={recipe}", *config.overrides, *(words or ()), init_from=folder)
        console.print(f"train:    {following}", soft_wrap=True, markup=False)
    elif words is not None:
        following = imtok_line("export", *words, tokenizer=folder, split="train", out=folder / "tokens")
        console.print(f"export:   {following}", soft_wrap=True, markup=False)


def _show(report: dict[str, Any], title: str, console: Console) -> None:
    """What came of it."""
    if "psnr" in report:
        title = f"{report['images_measured']} images of {title}"
    console.print(f"[bold]{title}[/bold]", soft_wrap=True)
    rows = Table("latents", Column("PSNR (dB)", justify="right"))
    for name, value in report.get("psnr", {}).items():
        rows.add_row(name, f"{value:.2f}")
    if rows.rows:
        print_whole(rows, console)
    if "squared_distances" in report:
        first, last = report["squared_distances"][0], report["squared_distances"][-1]
        line = f"squared distance of a latent to its centre: {first:.5g} in the first pass, {last:.5g} in the last"
        console.print(line, soft_wrap=True)


def _of_recipe(config: DictConfig, console: Console) -> tuple[Tokenizer, int]:
    """The tokenizer of a recipe, as a run would begin with it, and the side of its images; its data, if none are given.

    Raises:
        InputError: If there is no such recipe, a word is mistaken, or a quantizer is given beside it.
    """
    chosen = [word for word in job_words() if word.lstrip("+").startswith("quantizer")]
    if chosen:
        raise InputError(f"{chosen[0]}: a recipe has its own quantizer; give overrides=[{chosen[0]}]")
    words = [f"experiment={config.tokenizer.removeprefix(_RECIPE)}", *config.overrides]
    plain = compose_training(words)
    if config.data is None:
        config.data = {key: value for key, value in plain["data"].items() if key != "augment"}
        if "???" in map(str, plain["data"].values()):
            raise InputError("data must be given: the recipe names none; give data=folder data.path=DIR")
    console.print(f"data: {shell_line(*(data_words(config.data) or []))}", soft_wrap=True, markup=False)
    tokenizer = build_tokenizer(plain).to(find_device(config)).eval()
    return tokenizer, config.image_size or plain["image_size"]


@contextmanager
def _all_ranks() -> Iterator[None]:
    """Let the processes of torchrun meet; nothing for one alone."""
    by = launched()
    if by is None or by.processes < 2:
        yield
        return
    if by.launcher != "torchrun":
        raise InputError(f"{by.launcher} started {by.processes} processes of imtok quantize; start them by torchrun")
    dist.init_process_group("gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()
