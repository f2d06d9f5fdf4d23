"""``imtok quantize``: gives a tokenizer of continuous latents ids."""

from dataclasses import dataclass
from typing import Any

from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Column, Table

from imtok.build import build_data
from imtok.command_line import output_folder
from imtok.data.loader import evaluation_loader
from imtok.data.remarks import say_remarks
from imtok.export.quantize import fit_and_save, spread, with_ids
from imtok.image_commands import ImagesKeys, given_condition, load_tokenizer, plain_values, told_images
from imtok.paste import imtok_line
from imtok.run_data import data_words, take_data
from imtok.tables import print_whole


@dataclass
class Keys(ImagesKeys):
    """A continuous tokenizer, the quantizer that gives it ids, and images; configs/quantize.yaml explains each."""

    quantizer: Any = MISSING
    images: int = 1000
    split: str | None = "val"

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = super().check()
        if self.images < 1:
            problems.append(f"images to fit the quantizer to must be at least 1, got {self.images}")
        return problems


def run(config: DictConfig) -> None:
    """Give a continuous tokenizer ids, and say what that costs.

    Raises:
        InputError: If tokenizer, quantizer, images or the folder cannot be used.
    """
    folder, console = output_folder(config, "quantize"), Console(highlight=False)
    tokenizer, device, size = load_tokenizer(config)
    console.print(take_data(config, [config.tokenizer], split="val"), soft_wrap=True, markup=False)
    plain = plain_values(config)
    quantized = with_ids(tokenizer, plain["quantizer"])
    data = build_data(plain)
    given = given_condition(config)
    trained, held_out = (
        told_images(data.evaluation(size, split), tokenizer, given) for split in ("train", config.split)
    )
    both = (spread(trained, config.images), held_out)
    say_remarks(remark for images in both for remark in images.remarks)
    fitting, measuring = (evaluation_loader(images, config.batch_size, config.workers) for images in both)
    report = fit_and_save(tokenizer, quantized, fitting, measuring, folder, config.images, device, given.missing)
    # What came of it, and what to do next.
    rows = Table("latents", Column("PSNR (dB)", justify="right"))
    for name, value in report["psnr"].items():
        rows.add_row(name, f"{value:.2f}")
    bits = f"{quantized.quantizer.bits_per_token:g} bits per token, fitted to the latents of"
    title = f"{report['images_measured']} images of {size}x{size} pixels, {bits} {report['images_fitted']}"
    console.print(f"[bold]{title}[/bold]", soft_wrap=True)
    print_whole(rows, console)
    console.print(f"  {folder / 'tokenizer'}", soft_wrap=True, markup=False)
    words = data_words(plain["data"])
    if words is not None:
        following = imtok_line("export", *words, tokenizer=folder, split="train", out=folder / "tokens")
        console.print(f"export:   {following}", soft_wrap=True, markup=False)
