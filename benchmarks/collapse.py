"""Which codebooks collapse as they grow? Quantizers in one small net; writes docs/evidence/collapse.*.

python benchmarks/collapse.py                          everything that is missing: some 160 runs of half a minute
python benchmarks/collapse.py --kinds vq fsq --bits 8 14 --seeds 0     some of it
python benchmarks/collapse.py --kinds lfq fsq fvq --bits 14 --seconds 60               longer runs, a table of their own
python benchmarks/collapse.py --seconds 5 --rows try.jsonl            a short try; writes no page
python benchmarks/collapse.py --page                   the page alone, from the rows so far

Each run trains encoder, quantizer and decoder on crops of the bundled photographs for the same processor time on one
thread, whatever a step costs. Then it counts the codes of random crops of the held-out photographs. A finite sample
cannot use every code of a large table. So the number of codes in use is compared with what as many uniform draws would
use: K (1 - (1 - 1/K)^n) of K codes for n tokens. PSNR is that of the held-out tiles.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import matplotlib
import torch
import torch.nn.functional as F
from torch import Tensor

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

from recipe_table import between, table

from imtok.construct import construct
from imtok.data.order.loader import evaluation_loader
from imtok.data.sources.photos import PACKAGES
from imtok.measures.psnr import PSNR
from imtok.options import option
from imtok.pixels import to_float, to_uint8
from imtok.tokenizer import Tokenizer

FOLDER = ROOT / "docs" / "evidence"
PAGE, ROWS, PLOT = FOLDER / "collapse.md", FOLDER / "collapse.jsonl", FOLDER / "collapse.png"
RUNS, CURES, LONG = ((f"<!-- {name} -->", f"<!-- end of {name} -->") for name in ("runs", "cures", "longer runs"))
SIDE, PATCH, WIDTH, BATCH, CHANNELS = 32, 4, 32, 32, 32
CROPS, HELD_OUT = 512, 1024  # crops of each training photograph, of each held-out one
SECONDS, RATE, WARMUP = 15.0, 2e-3, 50
LEVELS = {8: [8, 6, 5], 10: [8, 5, 5, 5], 12: [7, 5, 5, 5, 5], 14: [8, 8, 8, 6, 5], 16: [8, 8, 8, 5, 5, 5]}
BITS = list(LEVELS)
CURED = 14  # bits of the table that the cures are tried on
LEECH = 196_560
PLAIN = {"dim": CHANNELS, "normalize": False, "restart_below": 0.0, "kmeans_start": False}
TABLE = {"dim": CHANNELS}

# Preset of configs/quantizer, and what a run of so many bits changes in it.
KINDS: dict[str, tuple[str, Any]] = {
    "vq": ("vq", lambda bits: PLAIN | {"codebook_size": 2**bits}),
    "ema": ("ema_vq", lambda bits: PLAIN | {"codebook_size": 2**bits}),
    "cosine": ("vq_llamagen", lambda bits: {"codebook_size": 2**bits}),
    "simvq": ("simvq", lambda bits: TABLE | {"codebook_size": 2**bits}),
    "fvq": ("fvq", lambda bits: TABLE | {"codebook_size": 2**bits, "patch_size": 8 if bits > 14 else 4}),
    "ibq": ("ibq", lambda bits: TABLE | {"codebook_size": 2**bits}),
    "lfq": ("lfq_14", lambda bits: {"slot_bits": [bits]}),
    "bsq": ("bsq_18", lambda bits: {"slot_bits": [bits], "entropy_bits": bits}),
    "fsq": ("fsq", lambda bits: {"levels": LEVELS[bits]}),
}
NAMES = {
    "vq": "VQ",
    "ema": "EMA-VQ",
    "cosine": "cosine VQ, 8 channels",
    "simvq": "SimVQ",
    "fvq": "FVQ",
    "ibq": "IBQ",
    "lfq": "LFQ",
    "bsq": "BSQ",
    "fsq": "FSQ",
    "leech": "Leech",
}
# Changes of plain VQ.
MENDED: dict[str, dict[str, Any]] = {
    "k-means start": {"kmeans_start": True},
    "restarts": {"restart_below": 0.1, "usage_decay": 0.95},
    "k-means start and restarts": {"kmeans_start": True, "restart_below": 0.1, "usage_decay": 0.95},
    "entropy term": {"entropy_weight": 0.1, "temperature": 0.1},
    "8 channels": {"dim": 8},
    "8 channels of unit length": {"dim": 8, "normalize": True},
    "8 channels of unit length, k-means start and restarts": {
        "dim": 8,
        "normalize": True,
        "kmeans_start": True,
        "restart_below": 0.1,
        "usage_decay": 0.95,
    },
}


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = [*KINDS, "leech", "cures"]
    parser.add_argument("--kinds", nargs="+", choices=known, default=known, metavar="KIND", help=", ".join(known))
    parser.add_argument("--bits", nargs="+", type=int, choices=BITS, default=BITS)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--seconds", type=float, default=SECONDS, help="processor time of each training")
    parser.add_argument("--rows", type=Path, default=ROWS, help="a line is added for each run")
    parser.add_argument("--page", action="store_true", help="measure nothing")
    given = parser.parse_args()
    torch.set_num_threads(1)
    for about, config in [] if given.page else runs(given.kinds, given.bits, given.seeds):
        about["seconds"] = given.seconds
        if any(about.items() <= row.items() for row in stored(given.rows)):
            continue
        row = about | measured(config, about["seed"], given.seconds)
        with given.rows.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)
    if given.rows == ROWS:
        write(stored(ROWS))


def runs(kinds: Sequence[str], bits: Sequence[int], seeds: Sequence[int]) -> list[tuple[dict[str, Any], Any]]:
    """What each run is called, and the config of its quantizer; those of one seed together."""
    found = []
    for seed in seeds:
        for kind in kinds:
            if kind == "leech":
                found.append(({"kind": kind, "codes": LEECH, "seed": seed}, option("quantizer", "leech")))
            elif kind == "cures":
                plain = option("quantizer", "vq") | KINDS["vq"][1](CURED)
                for cure, changes in MENDED.items():
                    found.append(({"kind": "vq", "codes": 2**CURED, "cure": cure, "seed": seed}, plain | changes))
            else:
                preset, changes = KINDS[kind]
                for number in bits:
                    codes = math.prod(LEVELS[number]) if kind == "fsq" else 2**number
                    config = option("quantizer", preset) | changes(number)
                    found.append(({"kind": kind, "codes": codes, "cure": None, "seed": seed}, config))
    return found


def stored(path: Path) -> list[dict[str, Any]]:
    """The rows so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@cache
def pictures() -> tuple[Tensor, Tensor, Tensor]:
    """Random crops of the nine training photographs and of the three held-out ones, tiles of the latter: n 3 32 32."""
    photos = option("data", "photos")
    data = construct(photos | {"crops_per_photo": CROPS})
    held_out = photos["held_out"]
    others = {Path(file).stem for *_, files in PACKAGES for file in files.split()} - set(held_out)
    swapped = construct(photos | {"crops_per_photo": HELD_OUT, "held_out": sorted(others)})
    sets = data.train(SIDE, 0), swapped.train(SIDE, 1), data.validation(SIDE)
    train, crops, tiles = (torch.cat([batch.image for batch in evaluation_loader(images, 64, 0)]) for images in sets)
    return train, crops, tiles


def measured(config: dict[str, Any], seed: int, seconds: float) -> dict[str, Any]:
    """Train one tokenizer; what its codes are on held-out photographs."""
    images, crops, tiles = pictures()
    torch.manual_seed(seed)
    net = {"patch_size": PATCH, "width": WIDTH, "depth": 1}
    plain = {"up_channels": [], "shortcut": False, "deblock": 0.0}
    parts = {
        "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **net},
        "quantizer": config,
        "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **net, **plain},
        "image_size": SIDE,
    }
    tokenizer = Tokenizer.from_config(parts)
    quantizer = tokenizer.quantizer

    # The rate falls from RATE to 0 along a cosine of the processor time that has passed.
    optimizer = torch.optim.AdamW(tokenizer.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0.0)
    generator = torch.Generator().manual_seed(seed)
    step, begin = 0, time.process_time()
    while (share := (time.process_time() - begin) / seconds) < 1:
        batch = to_float(images[torch.randint(len(images), (BATCH,), generator=generator)])
        if step == 0:
            with torch.no_grad():  # for tables that start from the first latents
                quantizer.start(tokenizer.encoder(batch).values.flatten(0, 1))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * share))
        made = tokenizer(batch)
        losses = made.quantized.losses.values()
        (F.mse_loss(made.image, batch) + sum(loss.value * loss.weight for loss in losses)).backward()
        optimizer.step()
        optimizer.zero_grad()
        quantizer.update(made.quantized.stats)
        step += 1

    # ids of the tokens of all held-out crops, and the error of the tiles
    tokenizer.eval()
    with torch.no_grad():
        ids = [tokenizer.quantize(to_float(batch)).ids.flatten() for batch in crops.split(128)]
        psnr = PSNR()
        for batch in tiles.split(128):
            psnr.update(to_uint8(tokenizer(to_float(batch)).image), batch)
    counts = torch.cat(ids).bincount().double()
    share = counts[counts > 0] / counts.sum()
    return {
        "steps": step,
        "tokens": int(counts.sum()),
        "used": len(share),
        "perplexity": math.exp(-(share * share.log()).sum()),
        "psnr": psnr.compute().item(),
    }


def of_uniform(row: dict[str, Any]) -> float:
    """Codes in use, as a share of what uniform draws of as many tokens would use."""
    codes = row["codes"]
    return row["used"] / (codes * -math.expm1(row["tokens"] * math.log1p(-1 / codes)))


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Tables and plot, from the rows."""
    order = {kind: place for place, kind in enumerate(NAMES)}
    short, long = (
        [row for row in rows if (row["seconds"] > SECONDS) is longer and not row.get("cure")]
        for longer in (False, True)
    )
    for marks, own in ((RUNS, short), (LONG, long)):
        groups = grouped(own)
        keys = sorted(groups, key=lambda key: (order[key[0]], key[1]))
        lines = [{"quantizer": NAMES[key[0]], **cells(groups[key])} for key in keys]
        between(PAGE, marks, ["", *table(lines), ""] if lines else [""])
    plain = [row for row in short if (row["kind"], row["codes"]) == ("vq", 2**CURED)]
    cured = {cure: [row for row in rows if row.get("cure") == cure] for cure in MENDED}
    lines = [{"change of VQ": name, **cells(own)} for name, own in {"none": plain, **cured}.items() if own]
    between(PAGE, CURES, ["", *table(lines), ""] if lines else [""])
    draw(grouped(short))


def grouped(rows: Sequence[dict[str, Any]]) -> dict[tuple[str, int], list[dict[str, Any]]]:
    """Rows by quantizer and number of codes."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault((row["kind"], row["codes"]), []).append(row)
    return found


def cells(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """The cells of one setting: means over seeds, with the smallest and the largest value."""

    def spread(values: Sequence[float], form: str) -> str:
        mean, low, high = (format(one, form) for one in (statistics.mean(values), min(values), max(values)))
        return mean if len(values) == 1 else f"{mean} ({low} to {high})"

    return {
        "codes": f"{rows[0]['codes']:,}",
        "seeds": str(len(rows)),
        "steps": f"{statistics.mean(row['steps'] for row in rows):,.0f}",
        "codes in use": f"{statistics.mean(row['used'] for row in rows):,.0f}",
        "of uniform draws": spread([of_uniform(row) for row in rows], ".1%").replace("%", " %"),
        "perplexity": spread([row["perplexity"] for row in rows], ",.0f"),
        "PSNR (dB)": spread([row["psnr"] for row in rows], ".2f"),
    }


def draw(groups: dict[tuple[str, int], list[dict[str, Any]]]) -> None:
    """Usage, perplexity and PSNR over the number of codes; a bar from the smallest to the largest seed."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    wanted = {
        "codes in use, of what uniform draws would use": of_uniform,
        "perplexity": lambda row: row["perplexity"],
        "PSNR (dB)": lambda row: row["psnr"],
    }
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4.6))
    colours = pyplot.get_cmap("tab10").colors
    for place, (kind, name) in enumerate(NAMES.items()):
        points = sorted((codes, rows) for (of, codes), rows in groups.items() if of == kind)
        for axis, value in zip(axes, wanted.values(), strict=True):
            ends = [[value(row) for row in rows] for _, rows in points]
            means = [statistics.mean(one) for one in ends]
            bars = [[mean - min(one) for mean, one in zip(means, ends, strict=True)]]
            bars += [[max(one) - mean for mean, one in zip(means, ends, strict=True)]]
            style = {"marker": "D" if kind == "leech" else "o", "markersize": 4, "capsize": 2, "linewidth": 1.2}
            axis.errorbar([codes for codes, _ in points], means, bars, color=colours[place], label=name, **style)
    for axis, title in zip(axes, wanted, strict=True):
        axis.set_xscale("log", base=2)
        axis.set_xlabel("codes")
        axis.set_title(title, fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0, 1.05)
    axes[1].set_yscale("log")
    figure.tight_layout(rect=(0, 0.1, 1, 1))
    figure.legend(*axes[0].get_legend_handles_labels(), loc="lower center", ncols=10, frameon=False, fontsize=8)
    figure.savefig(PLOT, dpi=120)
    pyplot.close(figure)


if __name__ == "__main__":
    main()
