"""Which number predicts gFD: train and probe ten tokenizers on two data sets, and write docs/generation.jsonl.

python benchmarks/generation.py vq simvq               these tokenizers on Fashion-MNIST, three seeds
python benchmarks/generation.py --data patches         all ten on patches of the bundled photographs
python benchmarks/generation.py --seeds 0 --steps 20 --prior-steps 20 --samples 64 --runs DIR vq     to try it out
python benchmarks/generation.py --page                 tables and plot of docs/generation.md, from the rows so far

imtok train, eval and probe train a tokenizer, measure it on held-out images (PSNR, pFD) and probe it (rFD, bits, gFD).
Distances are computed twice: by efflite0, and by a small classifier that is trained on the data set itself.
Debian's package dataset-fashion-mnist has Fashion-MNIST. Runs that are in the file already are not measured again.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models import resnet18

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.recipe_table import between, table
from imtok.data.sources.photos import PACKAGES, photograph
from imtok.data.sources.small import Idx
from imtok.measures.generated import score
from imtok.measures.protocol import Protocol

PAGE, ROWS, PLOT = (ROOT / "docs" / name for name in ("generation.md", "generation.jsonl", "generation_ranks.png"))
START, END = "<!-- generation -->", "<!-- end of generation -->"
SETS = {"fashion": "Fashion-MNIST", "patches": "patches of photographs"}
SIDE, COUNTS = 32, {"train": 10_000, "val": 1000}
PLAIN = [
    "encoder.patch_size=4", "decoder.patch_size=4", "decoder.depth=4", "decoder.up_channels=[]",
    "decoder.shortcut=false", "decoder.deblock=0",
]  # fmt: skip
LINE = [
    "encoder=titok_s", "encoder.patch_size=4", "encoder.width=128", "encoder.depth=4", "encoder.heads=4",
    "encoder.latents=32", "decoder=titok_pixels", "decoder.patch_size=4", "decoder.width=128", "decoder.depth=4",
    "decoder.heads=4", "optimizer.lr=1e-3",
]  # fmt: skip
# Tokens have 9 bits, or two slots of 9 bits.
TOKENIZERS = {
    "vq": PLAIN,
    "simvq": [*PLAIN, "quantizer=simvq", "quantizer.codebook_size=512"],
    "fsq": [*PLAIN, "quantizer=fsq", "quantizer.levels=[8,8,8]"],
    "lfq": [*PLAIN, "quantizer=lfq_14", "quantizer.slot_bits=[9]"],
    "bsq": [*PLAIN, "quantizer=bsq_18", "quantizer.slot_bits=[9]"],
    "rq": [*PLAIN, "quantizer=rq_8", "quantizer.stages.0.codebook_size=512", "quantizer.depth=2"],
    "product": [*PLAIN, "quantizer=fqgan_dual", *(f"quantizer.parts.{part}.codebook_size=512" for part in (0, 1))],
    "perturbed": [*PLAIN, "regularizer=perturbation"],
    "one_d": LINE,
    "one_d_nested": [*LINE, "decoder.flexible=true", "regularizer=one_d_piece"],
}
SMALL = [
    "objective.prior.width=96",
    "objective.prior.depth=2",
    "objective.prior.heads=4",
]
# Two more learn with a prior. They are compared with `vq` of the same seed.
LEARNING = {
    "vq_larp": [*PLAIN, "objective=larp", *SMALL, "objective.prior.weight=0.003"],
    "vq_ett": [*PLAIN, "objective=ett", *SMALL, "objective.prior.weight=0.005"],
}
PRIOR = ["prior.trunk.width=64", "optimizer.lr=3e-3"]  # more steps help more than more width
NETS = ("efflite0", "classifier")
NUMBERS = {"rfd": "rFD", "pfd": "pFD", "psnr": "PSNR (dB)", "bits_per_image": "bits per image"}


def main() -> None:
    """Measure what the command line asks for, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help=f"tokenizers to measure (none = all): {', '.join(TOKENIZERS)}")
    parser.add_argument("--data", choices=SETS, default="fashion")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200, help="training steps of a tokenizer")
    parser.add_argument("--prior-steps", type=int, default=900, help="training steps of its prior")
    parser.add_argument("--prior", nargs="*", default=[], help="further settings of imtok probe")
    parser.add_argument("--samples", type=int, default=500, help="samples of each probe")
    parser.add_argument("--runs", type=Path, help="folder that keeps the runs")
    parser.add_argument("--page", action="store_true", help="write tables and plot, and measure nothing")
    given = parser.parse_args()
    if given.page:
        between(PAGE, (START, END), ["", *page(stored()), ""])
        return
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        runs = given.runs or Path(scratch)
        for seed in given.seeds:
            for name in given.names or TOKENIZERS:
                about = {
                    "data": given.data, "tokenizer": name, "seed": seed, "steps": given.steps,
                    "prior_steps": given.prior_steps, "n": given.samples, "prior": given.prior,
                }  # fmt: skip
                if any(about.items() <= row.items() for row in stored()):
                    continue
                row = about | measured(about, runs / given.data, f"{name}_{seed}")
                with ROWS.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)


def measured(about: dict[str, Any], folder: Path, name: str) -> dict[str, Any]:
    """Train, measure and probe one tokenizer."""
    pictures, classifier = prepared(about["data"], folder)
    data = ["data=folder", f"data.path={pictures / 'train'}", f"data.val_path={pictures / 'val'}"]
    data += ["data.scale=[1.0,1.0]", "data.flip=false", f"image_size={SIDE}"]
    seed, count, base = about["seed"], about["n"], folder / name
    run, probe = base / "run", base / f"probe{len(about['prior'])}"
    budget = ["trainer.batch_size=64", "trainer.workers=0", f"trainer.max_steps={about['steps']}", f"seed={seed}"]
    budget += ["trainer.pictures_every=0", f"optimizer.warmup_steps={about['steps'] // 10}"]
    if not (run / "summary.json").is_file():
        imtok("train", *data, *(TOKENIZERS | LEARNING)[about["tokenizer"]], *budget, f"out={run}")
    of_set = ["extractor=torchvision", "extractor.net=resnet18", f"extractor.image_size={SIDE}"]
    of_set.append(f"extractor.weights={classifier}")
    asked = [f"tokenizer={run}", f"n={count}", "metrics=[pfid]", "protocol=offline", "threads=1"]
    asked.append(f"cache={folder / 'cache'}")
    asked += ["measure.pfid.alphas=[0.7]", "measure.pfid.deltas=[8]"]
    reports = dict[str, dict[str, float]]()
    for net, words in zip(NETS, ([], of_set), strict=True):
        report = base / f"report_{net}"
        if not report.is_dir():
            imtok("eval", *asked, *words, f"out={report}")
        reports[net] = json.loads((report / "report.json").read_text())["metrics"]
    words = [f"n={count}", f"seed={seed}", f"trainer.max_steps={about['prior_steps']}", "threads=1"]
    words += [*PRIOR, *about["prior"]]
    imtok("probe", f"tokenizer={run}", *words, f"out={probe}")
    found = json.loads((probe / "report.json").read_text())["metrics"]
    by_classifier = distances(probe, classifier)
    trained = json.loads((run / "summary.json").read_text())
    return {
        **{name: trained[name] for name in ("psnr", "perplexity")},
        **{name: found[name] for name in ("bits_per_image", "bits_per_token", "bigram_bits_per_token")},
        "efflite0": {name: first(found, f"{name}_") for name in ("rfd", "gfd", "unigram_gfd")}
        | {"pfd": first(reports["efflite0"], "pfd_")},
        "classifier": by_classifier | {"pfd": first(reports["classifier"], "pfd_")},
        "accuracy": json.loads(classifier.with_suffix(".json").read_text())["accuracy"],
    }


def prepared(data: str, folder: Path) -> tuple[Path, Path]:
    """The folder of a data set's images, and the file of its classifier; both are made if they are missing."""
    pictures, classifier = folder / "pictures", folder / "classifier.pth"
    if not classifier.is_file():
        parts = dict[str, tuple[Tensor, Tensor]]()
        for split, most in COUNTS.items():
            rows, labels = list[Tensor](), list[int]()
            for number, (image, label) in enumerate(FROM[data](split, most)):
                path = pictures / split / f"{label:02d}" / f"{number:05d}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
                rows.append(image)
                labels.append(label)
            parts[split] = torch.stack(rows), torch.tensor(labels)
        train_classifier(parts, classifier)
    return pictures, classifier


def fashion(split: str, most: int) -> Iterator[tuple[Tensor, int]]:
    """The first images of a split of Fashion-MNIST, 3 x 32 x 32 uint8, and their classes."""
    data = Idx([str(number) for number in range(10)], pad=2, places=["/usr/share/datasets/fashion-mnist"])
    source = data.open(split)
    for index in range(most):
        yield source.image(index), source.label(index)


def patches(split: str, most: int) -> Iterator[tuple[Tensor, int]]:
    """Patches of eleven bundled photographs at half their size, one class each; the right fifth of each is held out."""
    names = sorted(Path(file).stem for *_, files in PACKAGES for file in files.split())
    names.remove("motorcycle_right")  # the scene of motorcycle_left
    generator = np.random.default_rng(0 if split == "train" else 1)
    halves = [nn.functional.avg_pool2d(photograph(name)[None].float(), 2)[0].round().byte() for name in names]
    for number in range(most):
        label = number % len(names)
        photo = halves[label]
        cut = photo.shape[2] * 4 // 5
        left, right = (0, cut) if split == "train" else (cut, photo.shape[2])
        top, start = generator.integers(0, photo.shape[1] - SIDE + 1), generator.integers(left, right - SIDE + 1)
        yield photo[:, top : top + SIDE, start : start + SIDE], label


FROM = {"fashion": fashion, "patches": patches}


def train_classifier(parts: dict[str, tuple[Tensor, Tensor]], path: Path) -> None:
    """ResNet-18 of torchvision on the classes of a set, in three epochs; its accuracy is written beside it."""
    torch.manual_seed(0)
    net = resnet18()
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])

    def logits(images: Tensor) -> Tensor:
        return net((images / 255 - mean[:, None, None]) / std[:, None, None])

    images, labels = parts["train"]
    for _ in range(3):
        for rows in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits(images[rows]), labels[rows]).backward()
            optimizer.step()
    net.eval()
    images, labels = parts["val"]
    with torch.no_grad():
        right = torch.cat([logits(part).argmax(1) for part in images.split(250)]) == labels
    path.with_suffix(".json").write_text(json.dumps({"accuracy": right.float().mean().item()}))
    torch.save(net.state_dict(), path)


def distances(probe: Path, classifier: Path) -> dict[str, float]:
    """Fréchet distances of the probe's pictures to the held-out ones, by the classifier."""
    further = {"r": probe / "reconstructions" / "pixels.npz", "unigram_g": probe / "unigram" / "pixels.npz"}
    samples, reference = probe / "samples" / "samples.npz", probe / "reference" / "pixels.npz"
    found = score(samples, reference, Protocol("offline", extractor=classifier_part(classifier)), further=further)[
        "metrics"
    ]
    return {name: first(found, f"{name}_") for name in ("rfd", "gfd", "unigram_gfd")}


def classifier_part(weights: Path) -> dict[str, Any]:
    """The section of the classifier as an extractor."""
    part = "imtok.extractors.torchvision.TorchvisionExtractor"
    return {"_target_": part, "net": "resnet18", "image_size": SIDE, "weights": str(weights)}


def imtok(*words: str) -> None:
    """Run a command of imtok."""
    subprocess.run([sys.executable, "-m", "imtok", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def first(metrics: dict[str, float], prefix: str) -> float:
    """The number whose name begins with ``prefix``; the extractor's name follows it."""
    return next(value for name, value in metrics.items() if name.startswith(prefix))


def stored() -> list[dict[str, Any]]:
    """The rows that were measured so far."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


def page(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The lines of the page: means over seeds, and rank correlations with gFD, for each data set and prior."""
    groups = list(dict.fromkeys((row["data"], tuple(row["prior"])) for row in rows))
    lines, ranks = list[str](), list[dict[str, str]]()
    for data, prior in groups:
        of_group = [row for row in rows if (row["data"], tuple(row["prior"])) == (data, prior)]
        title = f"{SETS[data]}{' with ' + ' '.join(prior) if prior else ''}"
        accuracy = f"{of_group[0]['accuracy']:.1%}"
        lines += [f"**{title}** (the classifier is right on {accuracy} of held-out images)", ""]
        lines += [*table(means(of_group)), ""]
        compared = [row for row in of_group if row["tokenizer"] in TOKENIZERS]
        for net in NETS if seeds(compared) else ():
            found = {title: spread([rank_correlation(compared, key, net, seed) for seed in seeds(compared)])
                     for key, title in NUMBERS.items()}  # fmt: skip
            ranks.append({"set": title, "distances by": net, **found})
    draw([row for row in rows if not row["prior"] and row["tokenizer"] in TOKENIZERS])
    say = "Spearman's correlation with gFD over the ten tokenizers, mean and range over seeds:"
    beside = learning([row for row in rows if not row["prior"]])
    lines += [say, "", *table(ranks), ""] if ranks else []
    lines += ["What learning with a prior changes, beside `vq` of the same seed:", "", *table(beside)] if beside else []
    return lines


def learning(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """A row for each run that learnt with a prior: its numbers beside those of the plain tokenizer."""
    lines = list[dict[str, str]]()
    for row in rows:
        if row["tokenizer"] not in LEARNING:
            continue
        alike = ("data", "seed", "steps", "prior_steps", "n")
        plain = next(one for one in rows if one["tokenizer"] == "vq" and all(one[key] == row[key] for key in alike))
        line = {"set": SETS[row["data"]], "tokenizer": f"`{row['tokenizer']}`", "seed": str(row["seed"])}
        bits, decibels = (f"{plain[key]:.2f} → {row[key]:.2f}" for key in ("bits_per_token", "psnr"))
        line |= {"bits per token": f"{bits} ({row['bits_per_token'] / plain['bits_per_token'] - 1:+.1%})"}
        line |= {"PSNR": f"{decibels} dB", "perplexity": f"{plain['perplexity']:.0f} → {row['perplexity']:.0f}"}
        lines.append(line | {f"gFD, {net}": f"{plain[net]['gfd']:.1f} → {row[net]['gfd']:.1f}" for net in NETS})
    return lines


def means(rows: Sequence[dict[str, Any]]) -> list[dict[str, str]]:
    """A row for each tokenizer, the lowest gFD first."""
    lines = list[tuple[float, dict[str, str]]]()
    for name in dict.fromkeys(row["tokenizer"] for row in rows):
        own = [row for row in rows if row["tokenizer"] == name]
        line = {"tokenizer": f"`{name}`", "seeds": str(len(own)), "PSNR (dB)": spread([row["psnr"] for row in own])}
        line["bits per image"] = spread([row["bits_per_image"] for row in own])
        for net in NETS:
            for key, title in {"rfd": "rFD", "pfd": "pFD", "gfd": "gFD", "unigram_gfd": "unigram gFD"}.items():
                line[f"{title}, {net}"] = spread([row[net][key] for row in own])
        lines.append((float(np.mean([row["classifier"]["gfd"] for row in own])), line))
    return [line for _, line in sorted(lines, key=lambda pair: pair[0])]


def spread(values: Sequence[float]) -> str:
    """The mean, with the smallest and the largest value if there are several."""
    mean, *ends = (f"{one:,.0f}" if one >= 100 else f"{one:.3g}" for one in (np.mean(values), min(values), max(values)))
    return mean if len(values) == 1 else f"{mean} ({ends[0]} to {ends[1]})"


def seeds(rows: Sequence[dict[str, Any]]) -> list[int]:
    """The seeds with which all ten tokenizers were measured."""
    by_seed = {
        seed: {row["tokenizer"] for row in rows if row["seed"] == seed} for seed in {row["seed"] for row in rows}
    }
    return sorted(seed for seed, measured in by_seed.items() if measured >= set(TOKENIZERS))


def value(row: dict[str, Any], key: str, net: str) -> float:
    """A number of a row; distances are by the extractor ``net``."""
    return row[key] if key in row else row[net][key]


def rank_correlation(rows: Sequence[dict[str, Any]], key: str, net: str, seed: int) -> float:
    """Spearman's correlation with gFD over the tokenizers of one seed, without a rule for ties."""
    own = [row for row in rows if row["seed"] == seed]
    ranks = [np.argsort(np.argsort([value(row, name, net) for row in own])) for name in (key, "gfd")]
    return float(np.corrcoef(*ranks)[0, 1])


def draw(rows: Sequence[dict[str, Any]]) -> None:
    """Plot gFD by the classifier against each number, with a row of plots for each data set and a mark for each run."""
    matplotlib.use("Agg")
    from matplotlib import pyplot, ticker

    sets = [name for name in SETS if any(row["data"] == name for row in rows)]
    figure, axes = pyplot.subplots(len(sets), len(NUMBERS), figsize=(13, 3.3 * len(sets)), squeeze=False)
    for line, data in zip(axes, sets, strict=True):
        of_set = [row for row in rows if row["data"] == data]
        for plot, (key, title) in zip(line, NUMBERS.items(), strict=True):
            for number, name in enumerate(TOKENIZERS):
                own = [row for row in of_set if row["tokenizer"] == name]
                across = [value(row, key, "classifier") for row in own]
                up = [row["classifier"]["gfd"] for row in own]
                plot.plot(across, up, "os^Dv"[number % 5], color=f"C{number}", label=name, markersize=5, alpha=0.8)
            plot.set_xlabel(title)
            plot.set_yscale("log")
            plot.set_xscale("linear" if key == "psnr" else "log")
            for axis in [plot.yaxis] + [plot.xaxis] * (key != "psnr"):
                axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
                axis.set_major_formatter("{x:g}")
                axis.set_minor_formatter(ticker.NullFormatter())
        line[0].set_ylabel(f"gFD, {SETS[data]}")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="upper center", ncols=len(TOKENIZERS), fontsize=8)
    figure.tight_layout(rect=(0, 0, 1, 0.94))
    figure.savefig(PLOT, dpi=100)


if __name__ == "__main__":
    main()
