"""The strip at the top of the README: a face, an eye and a texture, at several budgets of tokens and as JPEG.

    python benchmarks/strip.py                             three tokenizers, 1500 steps each: 20 minutes on one core
    python benchmarks/strip.py --runs strips --steps 20    keeps the runs, and takes those that are there; to try it out

The tokenizers are the default one, one with patches of twice the side and one with four codes in each token. They are
trained on 128-pixel crops of photographs other than those that are shown. Beside it stands the best JPEG that takes no
more bytes, not counting its header. There is none beside the fewest codes: JPEG of the lowest quality takes more.
Writes docs/strip.png and prints what it shows as a table.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path

import torch
from hydra import compose, initialize_config_dir
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from imtok.commands.train import build_run
from imtok.config import check_command, register_schemas
from imtok.data.sources.photos import Photos
from imtok.folders import config_folder
from imtok.grid import to_picture
from imtok.measures.codecs import compress, header_bytes
from imtok.pixels import to_float, to_uint8
from imtok.tokenizer import Tokenizer
from imtok.training.run import train

SIDE = 128
SHOWN = {"face": ("astronaut.png", 60, 168), "eye": ("chelsea.png", 64, 112), "texture": ("flower.jpg", 150, 250)}
BUDGETS = {
    "patches_of_16": ["encoder.patch_size=16", "decoder.patch_size=16"],
    "patches_of_8": [],
    "four_codes": ["quantizer=residual_fsq", "quantizer.depth=4"],
}
ALL = ["data.held_out=[astronaut,chelsea,flower,rocket]", f"image_size={SIDE}", "trainer.batch_size=8"]
PAPER, INK, FAINT, GAP, TEXT = (255, 255, 255), (32, 32, 32), (100, 100, 100), 6, 13

Shown = list[UInt8[Tensor, "3 h w"]]


def main() -> None:
    """Train what is not there, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="folder of the runs; a temporary one if it is not given")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--picture", type=Path, default=ROOT / "docs" / "strip.png")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    originals = [cut(*place) for place in SHOWN.values()]
    columns: dict[str, Shown] = {"original": originals}
    with tempfile.TemporaryDirectory() as scratch:
        for name, overrides in BUDGETS.items():
            folder = (arguments.runs or Path(scratch)) / name
            tokenizer = trained(folder, [*overrides, *ALL, f"trainer.max_steps={arguments.steps}"])
            tokens = tokenizer.num_tokens((SIDE, SIDE))
            size = int(tokens * tokenizer.quantizer.bits_per_token / 8)
            codes = tokens * len(tokenizer.quantizer.vocab_sizes)
            columns[f"{codes} codes, {size} bytes"] = [rebuilt(tokenizer, image) for image in originals]
            small = [best_jpeg(image, size) for image in originals]
            if all(image is not None for image in small):
                columns[f"JPEG, {size} bytes"] = [image for image in small if image is not None]
    draw(columns).save(arguments.picture, optimize=True)
    table(columns)


def cut(file: str, top: int, left: int) -> UInt8[Tensor, "3 h w"]:
    """A square of a bundled photograph, at native scale."""
    source = Photos().evaluation(SIDE, "all").source
    photo = next(photo for path, photo in zip(source.files, source.photos, strict=True) if path.name == file)  # pyright: ignore
    return photo[:, top : top + SIDE, left : left + SIDE]


def trained(folder: Path, overrides: list[str]) -> Tokenizer:
    """The tokenizer of a run, which is trained unless it is there."""
    if not (folder / "tokenizer").exists():
        overrides = [*overrides, f"out={folder}"]
        check_command("train", overrides)
        register_schemas()
        with initialize_config_dir(str(config_folder()), version_base="1.3"):
            train(build_run(compose("train", overrides=overrides), folder))
    return Tokenizer.load(folder)


@torch.no_grad()
def rebuilt(tokenizer: Tokenizer, image: UInt8[Tensor, "3 h w"]) -> UInt8[Tensor, "3 h w"]:
    """An image to tokens and back."""
    tokens = tokenizer.encode(to_float(image)[None])
    return to_uint8(tokenizer.decode(tokens, (SIDE, SIDE)))[0]


def best_jpeg(image: UInt8[Tensor, "3 h w"], size: int) -> UInt8[Tensor, "3 h w"] | None:
    """The best JPEG of at most so many bytes, or None if there is none."""
    tried = (jpeg(image, quality) for quality in range(95, 0, -1))
    return next((decoded for decoded, taken in tried if taken <= size), None)


def jpeg(image: UInt8[Tensor, "3 h w"], quality: int) -> tuple[UInt8[Tensor, "3 h w"], int]:
    """An image through JPEG, and its bytes after the header."""
    decoded, taken = compress(image, "jpeg", quality)
    return decoded, taken - header_bytes("jpeg", quality)


def draw(columns: dict[str, Shown]) -> Image.Image:
    """A column per budget, a row per image."""
    font = ImageFont.load_default(size=TEXT)
    rows = len(SHOWN)
    head = 2 * TEXT + 2 * GAP
    picture = Image.new("RGB", (len(columns) * (SIDE + GAP) + GAP, head + rows * (SIDE + TEXT + 2 * GAP)), PAPER)
    pen = ImageDraw.Draw(picture)
    for column, (label, images) in enumerate(columns.items()):
        left = GAP + column * (SIDE + GAP)
        for line, text in enumerate(label.split(", ")):
            pen.text((left + SIDE / 2, GAP + line * (TEXT + 2)), text, INK, font, anchor="ma")
        for row, image in enumerate(images):
            top = head + row * (SIDE + TEXT + 2 * GAP)
            picture.paste(to_picture(image), (left, top))
            if column:
                text = f"{psnr(columns['original'][row], image):.1f} dB"
                pen.text((left + SIDE / 2, top + SIDE + 2), text, FAINT, font, anchor="ma")
    return picture


def psnr(original: UInt8[Tensor, "3 h w"], image: UInt8[Tensor, "3 h w"]) -> float:
    """Of one image, in dB."""
    return 10 * torch.log10(255**2 / (original.double() - image.double()).square().mean()).item()


def table(columns: dict[str, Shown]) -> None:
    """PSNR of every picture."""
    print(f"| | {' | '.join(SHOWN)} |")
    print("|---|" + "---:|" * len(SHOWN))
    for label, images in list(columns.items())[1:]:
        values = (f"{psnr(*pair):.1f}" for pair in zip(columns["original"], images, strict=True))
        print(f"| {label} | {' | '.join(values)} |")


if __name__ == "__main__":
    main()
