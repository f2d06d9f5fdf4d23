"""One of several processes that evaluate together; ``test_many_ranks.py`` compares them with one."""

import json
from pathlib import Path

import torch
import torch.distributed as dist
from measures.tiny import Tiny, batches, tokenizer

from imtok.errors import InputError
from imtok.measures import codecs
from imtok.measures.evaluate import evaluate
from imtok.measures.named import sections
from imtok.measures.protocol import Protocol
from imtok.measures.settings import Settings

COUNTS = (1, 7, 11, 12)
METRICS = (
    "psnr",
    "ssim",
    "codes",
    "positions",
    "rfid",
    "kid",
    "is",
    "pfid",
    "rate",
    "language",
    "length",
    "linear_probe",
    "agreement",
)
TORCHMETRICS = {
    "their_psnr": {"_target_": "torchmetrics.image.PeakSignalNoiseRatio"},
    "their_ssim": {"_target_": "torchmetrics.image.StructuralSimilarityIndexMeasure"},
    "their_index": {"_target_": "torchmetrics.image.UniversalImageQualityIndex"},
    "their_error": {"_target_": "torchmetrics.image.RootMeanSquaredErrorUsingSlidingWindow"},
    "their_fid": {
        "_target_": "torchmetrics.image.fid.FrechetInceptionDistance",
        "feature": {"_target_": "measures.tiny.Quarters"},
    },
}


def outcome(count: int, rank: int = 0, world: int = 1) -> dict:
    """What the evaluation of this rank's part of ``count`` images finds."""
    Protocol.build = lambda self: Tiny()
    codecs.QUALITIES = {"jpeg": (20,)}
    chosen = {**sections(METRICS, pfid={"alphas": [0.5], "deltas": [8]}), **TORCHMETRICS}
    settings = Settings(chosen, skip_missing=True, processes=world)
    try:
        given, shown = batches(range(rank, count, world), 2), ["image 3", "image 0", "image 6"]
        report = evaluate(tokenizer().double(), given, pictures=shown, settings=settings)
    except InputError as error:
        return {"error": str(error)}
    values = report.values()
    found = {name: values[name] for name in ("images", "metrics", "slots", "absent", "tables", "protocol_ids")}
    pictures = [int(image.sum()) for image in (*report.pictures.originals, *report.pictures.reconstructions)]
    counts = report.arrays["counts_0"].tolist()
    return {**found, "pictures": {"keys": report.pictures.keys, "sums": pictures}, "counts": counts}


def run(rank: int, world: int, folder: str) -> None:
    """Write down what this rank found for each number of images."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world)
    found = {str(count): outcome(count, rank, world) for count in COUNTS}
    Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()
