"""Do more tokens help? Trains the flexible tokenizers at size=tiny; writes docs/flexible.md and docs/flexible.png.

python benchmarks/flexible.py                     one_d_piece, flextok, semanticist, retok: three minutes each
python benchmarks/flexible.py --seconds 20 retok  this one, to try it out; the rows of others stay

Measured on the held-out photographs, for 1, 2, 4, ..., all tokens: mean PSNR of deterministic decoders, which must not
fall, and of decoders that draw the loss of what they predict, at the same noise for every number of tokens, which must
not rise. Exit code 1 otherwise.
"""

import argparse
import csv
import json
import logging
import re
import sys
import tempfile
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import torch
from hydra import compose, initialize_config_dir

from imtok.commands.train import build_run
from imtok.config import check_command, register_schemas
from imtok.data.loader import evaluation_loader
from imtok.decoders.base import GenerativeDecoder
from imtok.folders import config_folder
from imtok.measures.psnr import PSNR
from imtok.pixels import to_float, to_uint8
from imtok.tokenizer import Tokenizer
from imtok.training.run import Run, train

ROOT = Path(__file__).parents[1]
# The recipe of each, and how its run differs. Judges and critics are left out, since at this size they are random nets.
# One-D-Piece has the pixel head of TiTok's one-stage recipe: its own head starts from a published net's codes. ReTok's
# tiny codebook collapses in the first steps without the entropy term that GigaTok's largest recipe has.
RECIPES: dict[str, tuple[str, ...]] = {
    "one_d_piece": (
        "titok_bl64",
        "regularizer=one_d_piece",
        "decoder.flexible=true",
        "quantizer.kmeans_start=true",
        "quantizer.restart_below=0.1",
        "~objective.losses.lpips",
        "~objective.losses.convnext",
        "~objective.adversary",
    ),
    "retok": (
        "retok",
        "quantizer.entropy_weight=0.1",
        "optimizer.lr=1e-3",
        "trainer.batch_size=16",
        "~objective.losses.lpips",
        "~objective.adversary",
        "~objective.alignments",
    ),
    "flextok": ("flextok_d12", "~objective.alignments"),
    "semanticist": ("semanticist", "optimizer.lr=1e-3", "~objective.alignments"),
}
START, END = "<!-- flexible -->", "<!-- end of flexible -->"
PACE = 20  # steps from which the number of steps for the time is told
NOISES = 16  # draws of noise and time for each image


def main() -> None:
    """Train and measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(RECIPES)}; none = all")
    parser.add_argument(
        "--seconds", type=float, default=180, help="training time of each, by the pace of its first steps"
    )
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "flexible.md", help="the plot goes beside it")
    parser.add_argument("--tolerance", type=float, default=0.005, help="fraction by which a step may be wrong")
    arguments = parser.parse_args()
    unknown = sorted(set(arguments.names) - set(RECIPES))
    if unknown:
        parser.error(f"no such tokenizer: {', '.join(unknown)}; there are {', '.join(RECIPES)}")
    logging.getLogger("lightning").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    wrong = []
    for name in arguments.names or RECIPES:
        curve = measure(name, arguments.seconds)
        if not ordered(curve, arguments.tolerance):
            wrong.append(name)
        write(arguments.page, name, curve)
        print(json.dumps({name: curve}), flush=True)
    if wrong:
        sys.exit(f"more tokens are worse somewhere: {', '.join(wrong)}")


def measure(name: str, seconds: float) -> dict[str, Any]:
    """Train one tokenizer for about so many seconds, and measure its prefixes."""
    with tempfile.TemporaryDirectory() as folder:
        first = prepared(name, PACE, Path(folder) / "first")
        train(first)
        *_, row = csv.DictReader((Path(folder) / "first" / "metrics.csv").read_text().splitlines())
        steps = max(PACE, int(seconds * float(row["images_per_second"]) / first.trainer.batch_size))
        started = time.perf_counter()
        run = prepared(name, steps, Path(folder) / "run")
        train(run)
        spent = time.perf_counter() - started
        tokenizer = Tokenizer.load(Path(folder) / "run")
        lengths, values = curve_of(tokenizer, run)
    drawn = isinstance(tokenizer.decoder, GenerativeDecoder)
    return {
        "recipe": RECIPES[name][0],
        "measure": "loss" if drawn else "PSNR (dB)",
        "lengths": lengths,
        "values": values,
        "steps": steps,
        "seconds": round(spent),
    }


def prepared(name: str, steps: int, out: Path) -> Run:
    """A run at size=tiny."""
    recipe, *changes = RECIPES[name]
    overrides = [f"experiment={recipe}", "size=tiny", *changes, f"trainer.max_steps={steps}", f"out={out}"]
    overrides += [f"trainer.save_every={steps}", "trainer.pictures_every=0", "ema.decay=0.99"]
    overrides += [f"trainer.log_every={PACE // 2}"]
    check_command("train", overrides)
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return build_run(compose("train", overrides=overrides), out)


@torch.no_grad()
def curve_of(tokenizer: Tokenizer, run: Run) -> tuple[list[int], list[float]]:
    """Numbers of tokens, and what they reach on the held-out photographs."""
    side = run.image_size
    most = tokenizer.num_tokens((side, side))
    lengths = sorted({*(2**exponent for exponent in range(most.bit_length()) if 2**exponent <= most), most})
    sums, images = [0.0] * len(lengths), 0
    for index, batch in enumerate(evaluation_loader(run.data.validation(side), 32, 0)):
        image = to_float(batch.image)
        latents = tokenizer.quantize(image).latents
        images += len(image)
        for position, length in enumerate(lengths):
            value = quality(tokenizer, batch.image, image, latents[:, :length], index)
            sums[position] += value * len(image)
    return lengths, [total / images for total in sums]


def quality(
    tokenizer: Tokenizer, pixels: torch.Tensor, image: torch.Tensor, latents: torch.Tensor, batch: int
) -> float:
    """Mean PSNR of a batch, or the mean loss at noise that depends on nothing but the batch."""
    decoder = tokenizer.decoder
    if not isinstance(decoder, GenerativeDecoder):
        decoded = decoder(latents, (image.shape[-2], image.shape[-1])).clamp(-1, 1)
        return PSNR().per_image(to_uint8(decoded), pixels).mean().item()
    values = []
    for draw in range(NOISES):
        generator = torch.Generator().manual_seed(1000 * batch + draw)
        losses = decoder.loss(image, latents, generator=generator)
        values.append(sum(value.item() * weight for value, weight in losses.values()))
    return sum(values) / len(values)


def ordered(curve: dict[str, Any], tolerance: float) -> bool:
    """Whether no number of tokens is worse than the one before, within a fraction of the value."""
    sign = -1 if curve["measure"] == "loss" else 1
    values = curve["values"]
    return all(sign * (b - a) >= -tolerance * abs(a) for a, b in pairwise(values))


def write(page: Path, name: str, curve: dict[str, Any]) -> None:
    """Put a curve into the page and draw all that the page holds."""
    text = page.read_text() if page.exists() else f"# More tokens, better images\n\n{START}\n{END}\n"
    found = re.search(r"<!-- curves (.*) -->", text)
    curves: dict[str, Any] = (json.loads(found[1]) if found else {}) | {name: curve}
    curves = {key: curves[key] for key in RECIPES if key in curves}
    lines = [
        START,
        f"<!-- curves {json.dumps(curves)} -->",
        "`python benchmarks/flexible.py`: recipes at `size=tiny`, trained on the bundled photographs for the time of "
        "the last column (with its evaluation) on one thread, measured on the held-out ones for the first 1, 2, 4, "
        "..., all tokens. PSNR is to rise, the loss of decoders that draw (of the velocity or the noise that they "
        "predict, at the same noise for every number of tokens) to fall.",
        "",
        f"![quality over the number of tokens]({page.with_suffix('.png').name})",
        "",
    ]
    lengths = sorted({length for row in curves.values() for length in row["lengths"]})
    lines += ["| system | recipe | measure | " + " | ".join(map(str, lengths)) + " | steps | seconds |"]
    lines += ["|---|---|---|" + "---:|" * (len(lengths) + 2)]
    for name, row in curves.items():
        digits = 4 if row["measure"] == "loss" else 2
        by_length = {k: f"{value:.{digits}f}" for k, value in zip(row["lengths"], row["values"], strict=True)}
        cells = [name, f"`{row['recipe']}`", row["measure"], *(by_length.get(length, "") for length in lengths)]
        lines.append("| " + " | ".join([*cells, str(row["steps"]), str(row["seconds"])]) + " |")
    block = "\n".join([*lines, END])
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(re.sub(f"{START}.*{END}", lambda _: block, text, flags=re.DOTALL))
    draw(page.with_suffix(".png"), curves)


def draw(path: Path, curves: dict[str, Any]) -> None:
    """One panel per tokenizer: what the first so many tokens reach."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(curves), figsize=(3.2 * len(curves), 3), squeeze=False)
    for axis, (name, curve) in zip(axes[0], curves.items(), strict=True):
        axis.plot(curve["lengths"], curve["values"], marker="o", color="black", linewidth=1)
        axis.set_xscale("log", base=2)
        axis.set_xticks(curve["lengths"], [str(length) for length in curve["lengths"]])
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("tokens")
        axis.set_ylabel(curve["measure"])
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
