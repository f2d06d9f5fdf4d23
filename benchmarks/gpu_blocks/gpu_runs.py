"""The blocks of gpu.py that run imtok's own commands: going on bit for bit, export, evaluation, saving."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from gpu import Bench

ROOT = Path(__file__).parents[2]


def command(bench: "Bench", *words: str, allowed: tuple[int, ...] = (0,)) -> str:
    """What an imtok command prints."""
    done = subprocess.run(
        [sys.executable, "-m", "imtok", *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "CUBLAS_WORKSPACE_CONFIG": ":4096:8"},
    )  # fmt: skip
    if done.returncode not in allowed:
        raise RuntimeError(f"imtok {words[0]} ended with {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout + done.stderr


def resume(bench: "Bench") -> None:
    """A run of twenty steps against one that is stopped in the middle, with and without deterministic operations."""
    steps = 4 if bench.tiny else 20
    given = (
        "size=tiny", f"trainer.max_steps={steps}", "trainer.pictures_every=0", "data.crops_per_photo=4",
        f"trainer.accelerator={'cpu' if bench.tiny else 'gpu'}", "trainer.workers=0",
    )  # fmt: skip
    for name in ("llamagen_vq16",) if bench.tiny else ("llamagen_vq16", "bsq_vit"):
        for exact in ("true",) if bench.tiny else ("true", "false"):
            places = [bench.out / f"{name}_{exact}_{part}" for part in ("whole", "parts")]
            common = (f"experiment={name}", *given, f"trainer.deterministic={exact}", "trainer.precision=bf16")
            command(bench, "train", *common, f"out={places[0]}")
            command(bench, "train", *common, f"trainer.stop_at={steps // 2}", f"out={places[1]}")
            command(bench, "train", *common, "ckpt=last", f"out={places[1]}")
            same = len({_hash(place / "tokenizer/model.safetensors") for place in places}) == 1
            bench.say(recipe=name, deterministic=exact, same=same)
            bench.require(same or exact == "false", f"{name}: going on gives other bits")


def export(bench: "Bench") -> None:
    """Export and evaluation of a full-size tokenizer: images a second, and the same ids again and in other batches."""
    from gpu_nets import photographs, recipe
    from PIL import Image

    tokenizer, _, side = recipe(bench, "llamagen_vq16")
    tokenizer.save(bench.out / "tokenizer")
    folder, number = bench.out / "images", 8 if bench.tiny else 2048
    folder.mkdir(exist_ok=True)
    pixels = ((photographs(3, side) + 1) * 127.5).byte().permute(0, 2, 3, 1).numpy()
    for index in range(number):
        Image.fromarray(np.roll(pixels[index % 3], index, axis=1)).save(folder / f"{index:05}.jpg", quality=90)
    common = (
        f"tokenizer={bench.out / 'tokenizer'}",
        "data=folder",
        f"data.path={folder}",
        f"device={bench.device.type}",
    )
    found: dict[tuple[int, int], str] = {}
    for workers, batch in ((0, 4), (1, 2)) if bench.tiny else ((0, 64), (12, 64), (12, 256)):
        out = bench.out / f"store_{workers}_{batch}"
        start = time.perf_counter()
        command(bench, "export", *common, f"workers={workers}", f"batch_size={batch}", f"out={out}", "split=all")
        seconds = time.perf_counter() - start
        found[workers, batch] = _hash(*sorted(out.rglob("*.npy")))
        bench.say(
            workers=workers, batch=batch, images_per_second=round(number / seconds, 1), with_start_s=round(seconds, 1)
        )
    bench.require(len(set(found.values())) == 1, "ids depend on workers or batch")
    start = time.perf_counter()
    command(bench, "eval", *common, "metrics=[psnr]", f"out={bench.out / 'eval'}", "protocol=offline", "split=all")
    bench.say(evaluation_images_per_second=round(number / (time.perf_counter() - start), 1))


def saving(bench: "Bench") -> None:
    """A checkpoint of a tokenizer of 390 M parameters: seconds to write it and to read it."""
    from gpu_nets import recipe

    from imtok.training.checkpoints import Checkpoint, find, load, save

    tokenizer, _, _ = recipe(bench, "titok_bl64")
    start = time.perf_counter()
    state = {name: value.cpu() for name, value in tokenizer.to(bench.device).state_dict().items()}
    copied = time.perf_counter() - start
    about: dict[str, Any] = {"config": {}, "data": {}}
    start = time.perf_counter()
    rest: dict[str, Any] = {"ema_updates": 1, "meters": [], "optimizers": [], "skipped": [0, 0]}
    save(Checkpoint(1, state, state, rest, about), bench.out / "checkpoints", 1)
    written = time.perf_counter() - start
    start = time.perf_counter()
    path = find(bench.out / "checkpoints")
    assert path is not None
    checkpoint = load(path)
    read = time.perf_counter() - start
    size = sum(value.nbytes for value in state.values()) * 2 / 1e9
    bench.say(gigabytes=round(size, 2), copied_s=round(copied, 2), written_s=round(written, 2), read_s=round(read, 2))
    bench.require(all(torch.equal(value, checkpoint.model[name]) for name, value in state.items()), "other weights")
    bench.require(written < 30, f"a checkpoint takes {written:.0f} s", on_gpu=True)


def _hash(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        digest.update(path.read_bytes())
    return digest.hexdigest()


BLOCKS = {
    "resume": (resume, 45),
    "export": (export, 35),
    "saving": (saving, 15),
}
