"""The blocks of gpu.py that train: speed eager and compiled, what each variant saves, waits, a trace, memory."""

import gzip
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from gpu import Bench

    from imtok.objectives.base import Objective
    from imtok.tokenizer import Tokenizer

BATCHES = {"llamagen_vq16": 32, "titok_bl64": 64, "flextok_d12": 64, "bsq_vit": 32, "gigatok_ss": 32}
PEAK = 790.0  # TFLOP/s in bf16 of one H200


def recipe(bench: "Bench", name: str, *overrides: str) -> tuple["Tokenizer", "Objective", int]:
    """Tokenizer, objective and image size of a recipe, with random weights in all frozen nets and the critic on."""
    from omegaconf import OmegaConf
    from recipes import composed

    from imtok.commands.train import build_run

    config = composed(name, *(["size=tiny"] if bench.tiny else []), "data=photos", "init_from=null", *overrides)
    for node in (*_sections(config.objective), *_sections(config.space)):
        if "weights" in node and (node["weights"] is None or isinstance(node["weights"], str)):
            node["weights"] = "random"
    if config.objective.get("adversary"):
        config.objective.adversary.update(critic_start=0, generator_start=0, ramp_steps=0)
    OmegaConf.update(config, "trainer.accelerator", "cpu")
    run = build_run(config, bench.out / name)
    return run.tokenizer, run.objective, run.image_size


def _sections(node: Any) -> Iterator[Any]:
    if hasattr(node, "values"):
        yield node
        for value in node.values():
            yield from _sections(value)


def photographs(number: int, side: int) -> Tensor:
    """Crops of the photographs in scikit-image, in [-1, 1]."""
    from skimage import data

    images = [torch.from_numpy(image) for image in (data.astronaut(), data.coffee(), data.chelsea())]
    crops = [image[: min(image.shape[:2]), : min(image.shape[:2]), :3] for image in images]
    resized = [
        nn.functional.interpolate(crop.permute(2, 0, 1)[None].float(), (side, side), mode="bilinear", antialias=True)
        for crop in crops
    ]
    return torch.cat([resized[index % 3] for index in range(number)]) / 127.5 - 1


class Loop:
    """Training as a run does it: two backward passes under autocast, clipping, the optimisers, the average.

    Args:
        bench: The device.
        name: The recipe.
        images: In a batch.
        fused: Whether AdamW is one kernel.
        compiled: Whether its parts are compiled.
    """

    def __init__(self, bench: "Bench", name: str, images: int, fused: bool = True, compiled: bool = False) -> None:
        from imtok.training.compiling import parts_of
        from imtok.types import Batch

        self.bench = bench
        self.tokenizer, self.objective, side = recipe(bench, name)
        self.tokenizer.to(bench.device).train()
        self.objective.to(bench.device).train()
        self.objective.begin(self.tokenizer)
        self.nets = self.objective.nets()
        nets: list[nn.Module] = [self.tokenizer, *self.nets.values()]
        learning = [[p for p in net.parameters() if p.requires_grad] for net in nets]
        self.optimizers = [torch.optim.AdamW(one, lr=1e-4, fused=fused and not bench.tiny) for one in learning if one]
        self.learning = learning[0]
        self.average = [parameter.detach().clone() for parameter in self.learning]
        pixels = ((photographs(images, side) + 1) * 127.5).round().to(torch.uint8)
        labels, names = torch.zeros(images, dtype=torch.long), [str(index) for index in range(images)]
        self.batch = Batch(
            pixels.to(bench.device), labels.to(bench.device), labels, names, caption=["a picture"] * images
        )
        self.step = 0
        if compiled:
            for part in parts_of(self.tokenizer, self.objective):
                part.compile(backend="aot_eager" if bench.tiny else "inductor")  # minutes on a processor

    def __call__(self) -> Tensor:
        """One step; returns the tokenizer's loss."""
        from imtok.training.task import fixed

        torch.manual_seed(self.step)
        generator = torch.Generator().manual_seed(self.step)
        lowered = torch.autocast(self.bench.device.type, torch.bfloat16)
        with fixed(self.nets.values()):
            with lowered:
                losses = self.objective(self.tokenizer, self.batch, self.step, generator)
            losses.total.backward()
        for name in self.nets:
            with lowered:
                own = self.objective.net_losses(name, losses.shown, self.step)
            if own is not None:
                own.total.backward()
        nn.utils.clip_grad_norm_(self.learning, 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(self.average, cast(Any, self.learning), 0.001)
        self.step += 1
        return losses.total.detach()


def speed(bench: "Bench") -> None:
    """Five recipes at their published size: images a second, share of the GPU's peak, memory; eager and compiled."""
    from imtok.training.compiling import compiled
    from imtok.training.flops import Flops

    for name, images in BATCHES.items():
        flops, eager = 0, 0.0
        for fast in (False, True):
            if fast and name not in ("llamagen_vq16", "titok_bl64", "gigatok_ss"):
                continue
            if fast and bench.tiny and name != "titok_bl64":
                continue
            bench.peak()
            loop = Loop(bench, name, 2 if bench.tiny else images, compiled=fast)
            start = time.perf_counter()
            with compiled([]) if fast else nullcontext():
                with Flops() if not fast else nullcontext() as counter:
                    loss = loop()
                first = time.perf_counter() - start
                flops = counter.total if counter is not None else flops
                seconds = bench.seconds(loop, times=8)
            count = len(loop.batch.image)
            share = flops / seconds / 1e12 / PEAK
            eager = eager or seconds
            bench.say(
                recipe=name, compiled=fast, images=count, images_per_second=round(count / seconds, 1), ms=seconds * 1e3,
                gflop_per_image=round(flops / count / 1e9), mfu=round(share, 4), gigabytes=round(bench.peak(), 2),
                first_step_s=round(first, 1), times_eager=round(seconds / eager, 3),
            )  # fmt: skip
            bench.require(bool(torch.isfinite(loss)), f"{name}: the loss is not finite")
            least = 0.25 if fast else 0.15
            bench.require(share > least, f"{name}: {share:.1%} of the peak, compiled={fast}", on_gpu=True)
            del loop


def variants(bench: "Bench") -> None:
    """One change at a time to a step of LlamaGen's: milliseconds that it costs or saves."""
    from imtok.nn.exact import with_tf32

    images = 2 if bench.tiny else 32
    plain = Loop(bench, "llamagen_vq16", images)
    with with_tf32(True):
        base = bench.seconds(plain)
    bench.say(variant="as recipes have it", ms=base * 1e3)
    changes: dict[str, tuple[Any, Callable[[], Loop]]] = {
        "without TF32": (with_tf32(False), lambda: plain),
        "AdamW not fused": (with_tf32(True), lambda: Loop(bench, "llamagen_vq16", images, fused=False)),
        "channels last": (with_tf32(True), lambda: _channels_last(plain)),
        "cudnn.benchmark": (_benchmark(), lambda: plain),
    }
    for name, (setting, loop) in changes.items():
        with setting:
            seconds = bench.seconds(loop())
        bench.say(variant=name, ms=seconds * 1e3, saved_ms=(base - seconds) * 1e3)


def _channels_last(loop: Loop) -> Loop:
    for net in (loop.tokenizer.encoder, loop.tokenizer.decoder):
        cast(Any, net).to(memory_format=torch.channels_last)
    return loop


@contextmanager
def _benchmark() -> Iterator[None]:
    from imtok.nn.exact import with_tf32

    torch.backends.cudnn.benchmark = True
    with with_tf32(True):
        yield
    torch.backends.cudnn.benchmark = False


def syncs(bench: "Bench") -> None:
    """Where one step of tiny recipes waits for the device."""
    import warnings

    if bench.tiny:
        bench.say(note="a processor waits for nothing")
        return
    for name in ("llamagen_vq16", "titok_bl64", "bsq_vit", "gigatok_ss"):
        loop = Loop(bench, name, 8)
        loop()
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                loop()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = Counter(f"{Path(one.filename).name}:{one.lineno}" for one in seen if "synchroniz" in str(one.message))
        bench.say(recipe=name, waits=dict(places))
        bench.require(places.total() <= 2, f"{name}: {places.total()} waits in a step")


def trace(bench: "Bench") -> None:
    """Two steps of LlamaGen's: kernels, the share of time in which the GPU idles, and a trace for a browser."""
    from torch.profiler import ProfilerActivity, profile

    loop = Loop(bench, "llamagen_vq16", 2 if bench.tiny else 32)
    loop()
    kinds = [ProfilerActivity.CPU, *([] if bench.tiny else [ProfilerActivity.CUDA])]
    bench.wait()
    start = time.perf_counter()
    with profile(activities=kinds) as seen:
        loop()
        loop()
        bench.wait()
    wall = time.perf_counter() - start
    events = seen.key_averages()
    spent = {event.key: getattr(event, "self_device_time_total", 0) or event.self_cpu_time_total for event in events}
    busy = sum(event.self_device_time_total for event in events if not bench.tiny) / 1e6
    kernels = sum(event.count for event in events if getattr(event, "self_device_time_total", 0))
    top = sorted(spent.items(), key=lambda item: -item[1])[:15]
    bench.say(
        kernels_per_step=kernels // 2, idle=round(1 - busy / wall, 3), top={name[:80]: time for name, time in top}
    )
    path = bench.out / "trace.json"
    seen.export_chrome_trace(str(path))
    with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    path.unlink()


def memory(bench: "Bench") -> None:
    """The largest micro-batch of four recipes, by doubling."""
    for name in ("llamagen_vq16", "titok_bl64", "bsq_vit", "flextok_d12"):
        images, most = (1, 2) if bench.tiny else (32, 512)
        fitted = 0
        while images <= most:
            try:
                bench.peak()
                Loop(bench, name, images)()
                fitted = images
                bench.say(recipe=name, images=images, gigabytes=round(bench.peak(), 2))
            except torch.OutOfMemoryError:
                break
            images *= 2
        bench.say(recipe=name, largest=fitted)
        bench.require(fitted > 0, f"{name}: not even the smallest batch fits")


BLOCKS = {
    "speed": (speed, 150),
    "variants": (variants, 20),
    "syncs": (syncs, 15),
    "trace": (trace, 25),
    "memory": (memory, 35),
}
