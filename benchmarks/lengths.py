"""Train AdaTok at size=tiny, compare its lengths with a fixed length, and write docs/evidence/lengths.*.

python benchmarks/lengths.py                          three seeds, about three minutes of one CPU core each
python benchmarks/lengths.py --seeds 0                one seed; the rows of other seeds stay
python benchmarks/lengths.py --with objective.cost=0.05 trainer.max_steps=200     other settings; writes nothing
python benchmarks/lengths.py --page                   table and plot alone, from the rows so far

Both stages of the recipe are trained. The lengths that the policy predicts on the held-out photographs are compared
with a fixed length of the same mean, by the same tokenizer. If the mean is no whole number, or if it is better, the
value is on a line between those of two fixed lengths. That is what a draw between the two gives on average, without a
look at the image. The table also has the lengths of a search that knows the error of each budget and pays the same cost
for tokens.

There are two gains. One is that of the PSNR of the mean squared error, which the rewards are made of. The other is that
of the mean over images of each image's PSNR.

Exit code 1 if for some seed the gain in PSNR of the mean error is below 0.3 dB, or Spearman's correlation of predicted
lengths with JPEG bytes at quality 50 is below 0.6.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import matplotlib
import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor
from torch.nn.functional import interpolate

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

from recipe_table import between, composed, table

from imtok.build import build_data, build_part, build_tokenizer
from imtok.data.order.loader import evaluation_loader
from imtok.data.reading.colours import RandomColours
from imtok.data.reading.transforms import CentreCrop
from imtok.data.sources.photos import PACKAGES, photograph
from imtok.encoders.adatok import AdaTokEncoder
from imtok.measures.allocation import spearman
from imtok.measures.codecs import compress, header_bytes
from imtok.objectives.base import Objective
from imtok.pixels import to_float, to_uint8
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

FOLDER = ROOT / "docs" / "evidence"
PAGE, ROWS, PLOT = FOLDER / "lengths.md", FOLDER / "lengths.jsonl", FOLDER / "lengths.png"
START, END = "<!-- lengths -->", "<!-- end of lengths -->"
GAIN, CORRELATION = 0.3, 0.6
SCALES = (1.0, 0.7, 0.5, 0.35)
IMAGES = ("predicted", "jpeg_bytes")  # what a row holds of each image
QUALITY = 50  # of the JPEG that lengths are compared with
GROUPS = 8  # of images, by their size as a JPEG, whose mean length the plot shows
BATCH = "trainer.batch_size=64"


class Errors(NamedTuple):
    """Squared errors of the held-out images by length, for pixels in [0, 1]; predicted lengths; and bytes as a JPEG."""

    by_length: Tensor
    predicted: Tensor
    jpeg: np.ndarray


def main() -> None:
    """Train and measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument(
        "--with", nargs="+", default=[], dest="changes", metavar="KEY=VALUE", help="settings of the recipe to change"
    )
    parser.add_argument("--rows", type=Path, default=ROWS, help="file that gets a line for each seed")
    parser.add_argument("--page", action="store_true", help="write table and plot alone, and measure nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    failed = []
    for seed in [] if arguments.page else arguments.seeds:
        row = measure(seed, arguments.changes)
        print(json.dumps({key: value for key, value in row.items() if key not in IMAGES}), flush=True)
        if not arguments.changes:
            with arguments.rows.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if row["gain_pooled"] < GAIN or row["spearman"] < CORRELATION:
            failed.append(str(seed))
    if not arguments.changes:
        rows = {row["seed"]: row for row in map(json.loads, arguments.rows.read_text().splitlines())}
        found = [rows[seed] for seed in sorted(rows)]
        between(PAGE, (START, END), ["", *table([cells(row) for row in found]), ""])
        draw(found)
    if failed:
        sys.exit(f"below {GAIN} dB, or below a correlation of {CORRELATION}, with seed {', '.join(failed)}")


def measure(seed: int, changes: list[str]) -> dict[str, Any]:
    """Train with one seed, and return the numbers of its row."""
    config = composed("adatok", "size=tiny", BATCH, f"seed={seed}", *changes)
    began = time.process_time()
    tokenizer = None
    for name in config.stages:
        tokenizer = trained(settings(composed(name, "size=tiny", BATCH, f"seed={seed}")), tokenizer)
    plain = settings(config)
    tokenizer = trained(plain, tokenizer)
    seconds = time.process_time() - began
    found, encoder = errors(tokenizer, plain), tokenizer.encoder
    assert isinstance(encoder, AdaTokEncoder), "the recipe's"
    cost = 0.25 * plain["objective"]["cost"] / found.by_length.shape[1]  # of a token, for pixels in [0, 1]
    budgets = torch.tensor(encoder.choices)
    paid = found.by_length[:, budgets - 1] + cost * budgets
    return {
        "seed": seed,
        "steps": [settings(composed(name, "size=tiny"))["trainer"]["max_steps"] for name in config.stages]
        + [plain["trainer"]["max_steps"]],
        "seconds": seconds,
        "images": len(found.jpeg),
        **outcome(found, found.predicted),
        "search": outcome(found, budgets[paid.argmin(1)]),
        "predicted": found.predicted.tolist(),
        "jpeg_bytes": [int(size) for size in found.jpeg],
    }


def settings(config: DictConfig) -> dict[str, Any]:
    """A composed config as plain values."""
    plain: Any = OmegaConf.to_container(config, resolve=True)
    return plain


def trained(plain: dict[str, Any], before: Tokenizer | None) -> Tokenizer:
    """Train a stage from the one before, with its objective and rate, on :class:`Windows`, without averaged weights."""
    torch.manual_seed(plain["seed"])
    tokenizer, objective = build_tokenizer(plain).train(), cast(Objective, build_part(plain, "objective"))
    if before is not None:
        tokenizer.load_state_dict(before.state_dict())
    steps, windows, asked = plain["trainer"]["max_steps"], Windows(plain), plain["optimizer"]
    rate, share = asked["lr"], asked["warmup_steps"] / steps
    learning = [parameter for parameter in tokenizer.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learning, lr=rate, betas=tuple(asked["betas"]), weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=share, cycle_momentum=False)
    for step in range(steps):
        batch = windows.draw(plain["trainer"]["batch_size"])
        losses = objective(tokenizer, batch, step, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        losses.total.backward()
        torch.nn.utils.clip_grad_norm_(learning, 1.0)
        optimizer.step()
        schedule.step()
    return tokenizer.eval()


class Windows:
    """Random windows of the training photographs, at full size and smaller sizes; every second one is mirrored.

    Their colours change as the recipe's data say.

    Args:
        plain: The recipe's config.
    """

    def __init__(self, plain: dict[str, Any]) -> None:
        self.side, self.pictures = plain["image_size"], list[Tensor]()
        self.generator = torch.Generator().manual_seed(plain["seed"])
        self.colours = np.random.default_rng(plain["seed"])
        self.change = RandomColours(CentreCrop(self.side), plain["data"]["colours"])
        for _, _, _, files in PACKAGES:
            for name in sorted({Path(file).stem for file in files.split()} - set(plain["data"]["held_out"])):
                self.pictures += [smaller(photograph(name), scale) for scale in SCALES]

    def draw(self, number: int) -> Batch:
        """A batch of new windows."""
        found = list[Tensor]()
        for place in range(number):
            which = int(torch.randint(len(self.pictures), (), generator=self.generator))
            pixels = self.pictures[which]
            free = torch.tensor(pixels.shape[1:]) - self.side + 1
            row, column = (torch.rand(2, generator=self.generator) * free).long().tolist()
            window = pixels[:, row : row + self.side, column : column + self.side]
            found.append(self.change(window.flip(-1) if place % 2 else window, self.colours))
        labels = torch.full((number,), -1)
        return Batch(torch.stack(found), labels, torch.arange(number), [""] * number)


def smaller(pixels: Tensor, scale: float) -> Tensor:
    """A photograph at a fraction of its size."""
    if scale == 1:
        return pixels
    sides = [round(side * scale) for side in pixels.shape[1:]]
    return interpolate(pixels[None].float(), sides, mode="bicubic", antialias=True)[0].round().clamp(0, 255).byte()


@torch.no_grad()
def errors(tokenizer: Tokenizer, plain: dict[str, Any]) -> Errors:
    """Measure the held-out images."""
    side = plain["image_size"]
    most = tokenizer.num_tokens((side, side))
    by_length, predicted, sizes = list[Tensor](), list[Tensor](), list[int]()
    for batch in evaluation_loader(build_data(plain).validation(side), 64, 0):
        image = to_float(batch.image)
        made = [to_uint8(tokenizer(image, length=length).image) for length in range(1, most + 1)]
        wrong = [(one.double() - batch.image).square().flatten(1).mean(1) / 255**2 for one in made]
        by_length.append(torch.stack(wrong, 1))
        keep = tokenizer.encode(image).keep
        assert keep is not None, "lengths are predicted"
        predicted.append(keep.sum(1))
        sizes += [compress(one, "jpeg", QUALITY)[1] - header_bytes("jpeg", QUALITY) for one in batch.image]
    return Errors(torch.cat(by_length), torch.cat(predicted), np.array(sizes, np.float64))


def outcome(found: Errors, lengths: Tensor) -> dict[str, float]:
    """Compare the lengths with one fixed length: mean PSNR, PSNR of the mean error (dB), and Spearman's correlation."""
    at, mean = found.by_length.gather(1, lengths[:, None] - 1)[:, 0], float(lengths.double().mean())
    best = fixed(decibels(found.by_length).mean(0), mean)
    pooled = float(decibels(torch.tensor(-fixed(-found.by_length.mean(0), mean))))
    return {
        "tokens": mean,
        "psnr": float(decibels(at).mean()),
        "psnr_pooled": float(decibels(at.mean())),
        "gain": float(decibels(at).mean()) - best,
        "gain_pooled": float(decibels(at.mean())) - pooled,
        "spearman": spearman(lengths.numpy().astype(np.float64), found.jpeg),
    }


def fixed(by_length: Tensor, mean: float) -> float:
    """The largest value at a mean length, on any line between the values of two lengths or at a length itself."""
    values, found = by_length.tolist(), list[float]()
    for low in range(1, int(mean) + 1):
        for high in range(math.ceil(mean), len(values) + 1):
            share = (mean - low) / (high - low) if high > low else 0.0
            found.append((1 - share) * values[low - 1] + share * values[high - 1])
    return max(found)


def decibels(error: Tensor) -> Tensor:
    """PSNR of squared errors of pixels in [0, 1]."""
    return -10 * error.clamp_min(1e-10).log10()


def cells(row: dict[str, Any]) -> dict[str, str]:
    """The cells of a row of the table."""
    search = row["search"]
    return {
        "seed": str(row["seed"]),
        "steps": " + ".join(map(str, row["steps"])),
        "tokens": f"{row['tokens']:.2f}",
        "PSNR of the mean error (dB)": f"{row['psnr_pooled']:.2f}",
        "gain in PSNR of the mean error (dB)": f"{row['gain_pooled']:+.2f}",
        "mean PSNR (dB)": f"{row['psnr']:.2f}",
        "gain in mean PSNR (dB)": f"{row['gain']:+.2f}",
        "Spearman with JPEG bytes": f"{row['spearman']:.2f}",
        "search: tokens": f"{search['tokens']:.2f}",
        "search: gain in PSNR of the mean error (dB)": f"{search['gain_pooled']:+.2f}",
        "search: gain in mean PSNR (dB)": f"{search['gain']:+.2f}",
        "search: Spearman": f"{search['spearman']:.2f}",
        "processor time (s)": f"{row['seconds']:.0f}",
    }


def draw(rows: Sequence[dict[str, Any]]) -> None:
    """Predicted lengths over bytes as a JPEG, an image a point, and mean lengths of images of similar size."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(rows), figsize=(13, 4.6), sharey=True, squeeze=False)
    for axis, row in zip(axes[0], rows, strict=True):
        sizes, lengths = np.array(row["jpeg_bytes"]), np.array(row["predicted"])
        spread = np.random.default_rng(0).uniform(-0.35, 0.35, len(lengths))  # else points hide each other
        style = {"color": "tab:blue", "alpha": 0.35, "markersize": 3, "markeredgewidth": 0, "label": "an image"}
        axis.plot(sizes, lengths + spread, "o", **style)
        parts = np.array_split(np.argsort(sizes, kind="stable"), GROUPS)
        means = [(np.exp(np.log(sizes[part]).mean()), lengths[part].mean()) for part in parts]
        label = "mean of an eighth of the images"
        axis.plot(*zip(*means, strict=True), "o-", color="tab:red", markersize=4, linewidth=1.2, label=label)
        axis.axhline(row["tokens"], color="tab:gray", linestyle="--", linewidth=1.2, label="mean of all images")
        axis.set_xscale("log", base=2)
        axis.set_xlabel(f"bytes as a JPEG of quality {QUALITY}, without its header")
        axis.set_title(f"seed {row['seed']}: Spearman's correlation {row['spearman']:.2f}", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].set_yticks(sorted({length for row in rows for length in row["predicted"]}))
    axes[0][0].set_ylabel("predicted number of tokens")
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.legend(*axes[0][0].get_legend_handles_labels(), loc="lower center", ncols=3, frameon=False, fontsize=8)
    figure.savefig(PLOT, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
