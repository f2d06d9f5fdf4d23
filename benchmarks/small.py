"""Write what docs/small.md says of every recipe at size=small, and draw the curves of runs.

python benchmarks/small.py                           the table, from the configs alone
python benchmarks/small.py --curves RUN [RUN ...]    docs/small.png: curves of what was evaluated, and pictures
"""

import argparse
import csv
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from hydra import compose, initialize_config_dir
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).parent))

from recipe_table import names, on_meta, table

from imtok.config import register_schemas
from imtok.folders import config_folder

PAGE, PICTURE = ROOT / "docs" / "small.md", ROOT / "docs" / "small.png"
NETS = {
    "vgg": "LPIPS (VGG16)",
    "convnext_small": "ConvNeXt-S",
    "resnet50": "ResNet-50",
}  # as their config has them
MARKS = ("<!-- small -->\n", "<!-- end of small -->\n")


def main() -> None:
    """Write the table, or draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--curves", nargs="+", type=Path, metavar="RUN")
    runs = parser.parse_args().curves
    if runs:
        draw(runs)
        return
    text = PAGE.read_text()
    before, after = text.split(MARKS[0])[0], text.split(MARKS[1])[1]
    rows = "\n".join(table([facts(name) for name in names()]))
    PAGE.write_text(f"{before}{MARKS[0]}{rows}\n{MARKS[1]}{after}")


def facts(name: str) -> dict[str, str]:
    """A row of the table."""
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=[f"experiment={name}", "size=small"])
    for key in OmegaConf.missing_keys(config):
        OmegaConf.update(config, key, f"the file for {key}")
    plain: Any = OmegaConf.to_container(config, resolve=True)
    every = plain | ({"freeze": []} if plain["stages"] else {})  # an earlier stage learns what this one freezes
    tokenizer, side = on_meta(every), plain["image_size"]
    quantizer, tokens = tokenizer.quantizer, tokenizer.num_tokens((side, side))
    parts = (tokenizer.encoder, quantizer, tokenizer.decoder)
    learning = sum(value.numel() for part in parts for value in part.parameters() if value.requires_grad)
    sizes = Counter(quantizer.vocab_sizes)
    codes = " + ".join(f"{number} x {size}" if number > 1 else str(size) for size, number in sizes.items())
    sections = {key: plain[key] for key in ("encoder", "decoder", "space", "objective") if plain.get(key)}
    weights = list(_weights(sections))
    files = {value: key for key, value in _files(sections)}  # one file for two keys: the last one, the space's
    return {
        "recipe": f"`{name}`",
        "pixels": str(side),
        "tokens": str(tokens),
        "codes": codes or f"{quantizer.dim} channels",
        "bits": f"{tokens * quantizer.bits_per_token:,.0f}" if codes else "-",
        "parameters": f"{learning / 1e6:.1f}M",
        "steps": f"{plain['trainer']['max_steps']:,} x {plain['trainer']['batch_size']}",
        "rate": f"{plain['optimizer']['lr']:g}",
        "judges, where found": ", ".join(dict.fromkeys(NETS.get(net, net) for net, value in weights if value is None))
        or "-",
        "files it needs": ", ".join(f"`{key}`" for key in files.values()) or "-",
    }


def _weights(node: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """What a part that takes weights is called, and the weights that its config names."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if key == "weights":
            yield str(node.get("name") or node.get("net") or name), value
        yield from _weights(value, key)


def _files(node: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """The files that a recipe cannot do without: key and path."""
    for key, value in node.items() if isinstance(node, dict) else ():
        if key == "weights" and isinstance(value, str) and value != "random":
            yield f"{path}.{key}", value
        yield from _files(value, f"{path}.{key}".lstrip("."))


def draw(runs: list[Path]) -> None:
    """Curves of runs over their last pictures."""
    figure = Figure((9, 3 + 1.6 * len(runs)), dpi=90, layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(1 + len(runs), 3, height_ratios=[2.2] + [1.25] * len(runs))
    shown = {"psnr": "PSNR (dB)", "fd_efflite0_224": "fd_efflite0_224", "usage": "codebook usage, evaluated images"}
    for column, (name, label) in enumerate(shown.items()):
        axes = figure.add_subplot(grid[0, column])
        for run in runs:
            rows = list(csv.DictReader((run / "evaluation.csv").read_text().splitlines()))
            steps = [int(row["step"]) for row in rows]
            axes.plot(steps, [float(row[name]) for row in rows], marker=".", label=run.name)
        axes.set_title(label, fontsize=9)
        axes.tick_params(labelsize=8)
        axes.set_xlabel("step", fontsize=8)
        axes.legend(fontsize=7)
    for row, run in enumerate(runs, 1):
        last = max((run / "images").glob("step_*.png"), key=lambda path: int(path.stem.split("_")[1]))
        axes = figure.add_subplot(grid[row, :])
        with Image.open(last) as image:
            axes.imshow(np.asarray(image.convert("RGB")))
        axes.set_title(f"{run.name}, {last.stem.replace('_', ' ')}", fontsize=9)
        axes.axis("off")
    figure.savefig(PICTURE)


if __name__ == "__main__":
    main()
