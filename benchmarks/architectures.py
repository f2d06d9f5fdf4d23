"""Speed of whole nets: TiTok-S-128 and VQ-16 encode, VQ-16 trains, One-D-Piece decodes; beside official modules.

    python benchmarks/architectures.py                               # ours alone
    python benchmarks/architectures.py --titok 1d-tokenizer/modeling/modules/blocks.py
    python benchmarks/architectures.py --vq16 LlamaGen/tokenizer/tokenizer_image/vq_model.py

The peers' files are read from checkouts of github.com/bytedance/1d-tokenizer and github.com/FoundationVision/LlamaGen;
nothing else of them is needed. Sides take turns. Each number is a median of wall seconds and, behind a slash, of
processor seconds, which other load on the machine disturbs less; the last column has our seconds over the row's, the
median over turns. Memory is kept as the commands of imtok keep it, for both sides.
"""

import argparse
import importlib.util
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from imtok.construct import construct
from imtok.options import option
from imtok.system import keep_memory

CASES = ["encode", "encode16", "train", "prefix"]
Run = Callable[[], Any]
Seconds = tuple[float, float]
Times = dict[str, list[Seconds]]


def part(group: str, name: str, provided: Mapping[str, Any], **changes: Any) -> nn.Module:
    """A part of a preset."""
    config = option(group, name)
    return construct(config | changes, provided=provided)


def official(path: Path) -> Any:
    """A file of a peer as a module."""
    spec = importlib.util.spec_from_file_location("peer", path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_turns(sides: Mapping[str, Run], runs: int) -> Times:
    """Wall and processor seconds of each side, in turns, after one run each that does not count."""
    times: Times = {name: [] for name in sides}
    for index in range(runs + 1):
        for name, run in sides.items():
            wall, processor = time.perf_counter(), time.process_time()
            run()
            if index:
                times[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return times


def encode_sides(titok: Path | None) -> dict[str, Run]:
    """TiTok-S-128 from eight images of 256 pixels to its latents, before the look-up of codes."""
    image = torch.rand(8, 3, 256, 256) * 2 - 1
    ours = part("encoder", "titok_s", {"out_dim": 12, "image_size": 256}).eval()
    sides: dict[str, Run] = {"imtok": inference(lambda: ours(image))}
    if titok is not None:
        peer = official(titok).TiTokEncoder(Settings(TITOK)).eval()
        queries, pixels = torch.randn(128, 512), (image + 1) / 2
        sides["official"] = inference(lambda: peer(pixels, queries))
    return sides


def vq16_encode_sides(vq16: Path | None) -> dict[str, Run]:
    """VQ-16 from two images of 256 pixels to ids."""
    image = torch.rand(2, 3, 256, 256) * 2 - 1
    encoder, quantizer = part("encoder", "cnn", {"out_dim": 8}).eval(), part("quantizer", "vq_llamagen", {}).eval()
    sides: dict[str, Run] = {"imtok": inference(lambda: quantizer(encoder(image).values).ids)}
    if vq16 is not None:
        peer = official(vq16).VQ_16(codebook_size=16384, codebook_embed_dim=8).eval()
        sides["official"] = inference(lambda: peer.encode(image)[2][2])
    return sides


def train_sides(vq16: Path | None) -> dict[str, Run]:
    """VQ-16 forward and backward on four images of 128 pixels, mean squared error and quantizer losses."""
    image = torch.rand(4, 3, 128, 128) * 2 - 1
    quantizer = part("quantizer", "vq_llamagen", {})
    encoder, decoder = part("encoder", "cnn", {"out_dim": 8}), part("decoder", "cnn", {"in_dim": 8})

    def ours() -> None:
        quantized = quantizer(encoder(image).values)
        error = (decoder(quantized.latents, (128, 128)) - image).square().mean()
        losses = [loss.value * loss.weight for loss in quantized.losses.values()]
        (error + torch.stack(losses).sum()).backward()

    sides: dict[str, Run] = {"imtok": ours}
    if vq16 is not None:
        peer = official(vq16).VQ_16(codebook_size=16384, codebook_embed_dim=8)
        peer.quantize.show_usage = False  # its count of used codes stops at gradients outside its own trainer

        def theirs() -> None:
            decoded, losses = peer(image)
            ((decoded - image).square().mean() + losses[0] + losses[1]).backward()

        sides["official"] = theirs
    return sides


def prefix_sides() -> dict[str, Run]:
    """One-D-Piece S-256 from the first few of its latents to scores of codes, eight images of 256 pixels."""
    decoder = part("decoder", "one_d_piece", {"in_dim": 12, "image_size": 256, "num_latents": 256}, weights="random")
    latents = torch.randn(8, 256, 12)
    scores = decoder.eval().logits
    return {
        f"{length} tokens": inference(lambda length=length: scores(latents[:, :length], (256, 256)))
        for length in (256, 128, 64, 32, 1)
    }


class Settings(dict[str, Any]):
    """A nested dict whose keys are attributes, as the peer reads its settings."""

    def __getattr__(self, name: str) -> Any:
        value = self[name]
        return Settings(value) if isinstance(value, dict) else value


TITOK = {
    "dataset": {"preprocessing": {"crop_size": 256}},
    "model": {
        "vq_model": {
            "vit_enc_patch_size": 16,
            "vit_enc_model_size": "small",
            "num_latent_tokens": 128,
            "token_size": 12,
        }
    },
}


def inference(run: Callable[[], Tensor]) -> Run:
    """The same without gradients."""
    return torch.inference_mode()(run)


def table(title: str, measured: Times) -> str:
    """Rows of a case."""
    first = next(iter(measured.values()))
    lines = [f"| {title} | seconds wall / processor | imtok over it |", "|---|---|---|"]
    for name, seconds in measured.items():
        own = [f"{statistics.median(clock):.3f}" for clock in zip(*seconds, strict=True)]
        turns = zip(first, seconds, strict=True)
        ratios = zip(*([a / b for a, b in zip(ours, theirs, strict=True)] for ours, theirs in turns), strict=True)
        over = [f"{statistics.median(clock):.2f}" for clock in ratios]
        lines.append(f"| {name} | {' / '.join(own)} | {' / '.join(over)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--titok", type=Path, help="blocks.py of the official TiTok")
    parser.add_argument("--vq16", type=Path, help="vq_model.py of the official LlamaGen")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES)
    args = parser.parse_args()
    keep_memory()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    cases: dict[str, tuple[str, Callable[[], dict[str, Run]]]] = {
        "encode": ("TiTok-S-128 encode, 256 px, batch 8", lambda: encode_sides(args.titok)),
        "encode16": ("VQ-16 encode to ids, 256 px, batch 2", lambda: vq16_encode_sides(args.vq16)),
        "train": ("VQ-16 forward and backward, 128 px, batch 4", lambda: train_sides(args.vq16)),
        "prefix": ("One-D-Piece S-256, scores from a prefix, batch 8", prefix_sides),
    }
    for name in args.cases:
        title, sides = cases[name]
        print(table(title, in_turns(sides(), args.runs)), end="\n\n")


if __name__ == "__main__":
    main()
