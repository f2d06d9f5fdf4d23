"""Measure whether training a decoder on a prior's codes makes samples better, and write docs/post_training.jsonl.

python benchmarks/generation.py vq --runs DIR     first: trains and probes the tokenizers
python benchmarks/post_training.py --runs DIR     three seeds, a few minutes each
python benchmarks/post_training.py --page         the table of docs/generation.md, from the rows so far

The prior draws the codes of the training images anew, where each token stays with the probability 0.7. A copy of the
decoder learns to make the images of these codes (arXiv 2509.12474). Another copy learns as long from the images' own
codes. The decoder before training and both copies decode the ids of the probe's samples.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.generation import NETS, SETS, SIDE, classifier_part, first, imtok, spread
from benchmarks.recipe_table import between, table
from imtok.data.order.sampler import places
from imtok.measures.generated import score
from imtok.measures.protocol import Protocol
from imtok.pixels import to_uint8
from imtok.tokenizer import Tokenizer
from imtok.types import Tokens

PAGE, ROWS = ROOT / "docs" / "generation.md", ROOT / "docs" / "post_training.jsonl"
START, END = "<!-- post-training -->", "<!-- end of post-training -->"
DECODERS = {"before": "as it was", "own": "trained further on its own codes", "drawn": "post-trained on drawn codes"}
LOSSES = ["+objective.losses.efflite0={_target_: imtok.losses.efflite0.EffLite0Loss, weights: null, weight: 0.01}"]


def main() -> None:
    """Measure what the command line asks for, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, help="the folder that benchmarks/generation.py got as --runs")
    parser.add_argument("--data", choices=SETS, default="fashion")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--page", action="store_true", help="write the table, and measure nothing")
    given = parser.parse_args()
    if given.page:
        rows = [json.loads(line) for line in ROWS.read_text().splitlines()]
        between(PAGE, (START, END), ["", *table(page(rows)), ""])
        return
    torch.set_num_threads(1)
    for seed in given.seeds:
        about = {"data": given.data, "seed": seed, "steps": given.steps}
        row = about | measured(given.runs / given.data, seed, given.steps)
        with ROWS.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)


def measured(folder: Path, seed: int, steps: int) -> dict[str, Any]:
    """Train the decoder of one tokenizer in both ways, and measure the same samples by all three decoders."""
    base, pictures = folder / f"vq_{seed}", folder / "pictures"
    probe, run, codes = base / "probe0", base / "run", base / "codes"
    if not codes.is_dir():
        imtok("sample", f"prior={probe / 'prior'}", f"tokenizer={run}", f"store={probe / 'tokens'}", f"out={codes}",
              f"seed={seed}", "threads=1")  # fmt: skip
    words = ["objective=post_training", *LOSSES, f"init_from={run}", "freeze=[encoder,quantizer]", f"image_size={SIDE}"]
    words += ["encoder.patch_size=4", "decoder.patch_size=4", "decoder.depth=4", "decoder.up_channels=[]"]
    words += ["decoder.shortcut=false", "decoder.deblock=0", f"trainer.max_steps={steps}", "trainer.batch_size=64"]
    words += ["trainer.workers=0", "trainer.pictures_every=0", "optimizer.warmup_steps=20", f"seed={seed}"]
    pairs = [f"data.targets.path={pictures / 'train'}", f"data.targets.val_path={pictures / 'val'}"]
    pairs += ["data.targets.scale=[1.0,1.0]", "data.targets.flip=false"]
    sources = {"own": probe / "tokens", "drawn": codes}
    runs = {"before": run} | {name: base / name for name in sources}
    for name, source in sources.items():
        if not (base / name / "summary.json").is_file():
            imtok("train", "data=pairs", *pairs, f"data.sources={source}", *words, f"out={base / name}")
    found = dict[str, Any]()
    for name, place in runs.items():
        tokenizer = Tokenizer.load(place)
        held_out = np.load(probe / "held_out" / "ids-00000.npy")
        stored = {"g": np.load(probe / "samples" / "ids.npy")}
        stored["r"] = held_out[places(len(stored["g"]), len(held_out))]  # the images that the probe's reference has
        sets = {short: base / f"{name}_{short}.npz" for short in stored}
        count = len(stored["g"])
        for short, ids in stored.items():
            np.savez(sets[short], arr_0=decoded(tokenizer, ids[:count].reshape(count, -1, 1)))
        for net, extractor in zip(NETS, (None, classifier_part(folder / "classifier.pth")), strict=True):
            protocol = Protocol("offline") if extractor is None else Protocol("offline", extractor=extractor)
            numbers = score(sets["g"], probe / "reference" / "pixels.npz", protocol, further={"r": sets["r"]})
            found |= {f"{short}fd_{name}_{net}": first(numbers["metrics"], f"{short}fd_") for short in sets}
    return found


@torch.no_grad()
def decoded(tokenizer: Tokenizer, ids: np.ndarray) -> np.ndarray:
    """Pictures of ids ``n t g``, as uint8 ``n h w c``."""
    parts = [
        to_uint8(tokenizer.decode(Tokens(part.long()), (SIDE, SIDE))).permute(0, 2, 3, 1)
        for part in torch.from_numpy(ids.astype(np.int64)).split(64)
    ]
    return torch.cat(parts).numpy()


def page(rows: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A row for each decoder: distances over seeds."""
    lines = list[dict[str, str]]()
    for data in dict.fromkeys(row["data"] for row in rows):
        own = [row for row in rows if row["data"] == data]
        for name, title in DECODERS.items():
            line = {"set": SETS[data], "decoder": title}
            for net in NETS:
                for short in "gr":
                    if values := [row[key] for row in own if (key := f"{short}fd_{name}_{net}") in row]:
                        line[f"{short}FD, {net}"] = spread(values)
            lines.append(line)
    return lines


if __name__ == "__main__":
    main()
