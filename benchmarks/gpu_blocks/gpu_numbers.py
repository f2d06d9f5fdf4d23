"""The blocks of gpu.py that ask whether numbers are right: device, quantizers, gradients, search, whole nets."""

import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gpu import Bench

    from imtok.quantizers.base import Quantizer


def facts(bench: "Bench") -> None:
    """Which device it is, and what it can do at best."""
    name = "cpu"
    if not bench.tiny:
        name = torch.cuda.get_device_name()
        said = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False).stdout.strip()
        bench.say(devices=said, cudnn=torch.backends.cudnn.version(), cuda=torch.version.cuda)
    bench.say(device=name, torch=torch.__version__)
    side = 256 if bench.tiny else 8192
    from imtok.nn.exact import with_tf32

    for kind, dtype, tf32 in (
        ("bf16", torch.bfloat16, False),
        ("fp32", torch.float32, False),
        ("tf32", torch.float32, True),
    ):
        left, right = (torch.randn(side, side, device=bench.device, dtype=dtype) for _ in range(2))
        with with_tf32(tf32):
            speed = 2 * side**3 / bench.seconds(lambda left=left, right=right: left @ right) / 1e12
        bench.say(product=kind, teraflops=round(speed, 2))
        bench.require(kind != "bf16" or speed > 500, f"bf16 products at {speed:.0f} TFLOP/s are below 500", on_gpu=True)
    if bench.tiny:
        return
    host = torch.zeros(256 * 2**20, dtype=torch.uint8)
    pinned, there = host.pin_memory(), torch.empty_like(host, device=bench.device)
    for kind, source in (("pageable", host), ("pinned", pinned), ("device", there.clone())):
        seconds = bench.seconds(lambda source=source: there.copy_(source, non_blocking=True))
        bench.say(copy=kind, gigabytes_per_second=round(source.numel() / seconds / 1e9, 1))


def quantizers(bench: "Bench") -> None:
    """Every preset: ids, latents, losses and gradients on the device against those of the processor, in fp32."""
    from quantizers.contract import PRESETS, config, smaller

    from imtok.construct import construct
    from imtok.nn.exact import with_tf32

    for name in PRESETS:
        settings = config(name)
        settings = smaller(settings) if bench.tiny else settings
        torch.manual_seed(0)
        here: Quantizer = construct(settings).eval()  # nothing is drawn
        there: Quantizer = construct(settings).eval()
        there.load_state_dict(here.state_dict())
        there.to(bench.device)
        number = here.num_latents or 256
        latents = torch.randn(max(1, 4096 // number) if not bench.tiny else 1, number, here.in_dim)
        with with_tf32(False):
            one, other = _quantized(here, latents), _quantized(there, latents.to(bench.device))
        same = (one["ids"] == other["ids"]).double().mean().item()
        error = {key: _error(other[key], one[key]) for key in one if key != "ids"}
        bench.say(quantizer=name, same_ids=same, **{key: f"{value:.1e}" for key, value in error.items()})
        bench.require(same > 0.9995, f"{name}: {1 - same:.2%} of ids differ")
        if same == 1:  # a latent between two codes may go either way, and has another gradient then
            bench.require(max(error.values()) < 1e-4, f"{name}: {max(error.values()):.1e} apart")


def backward(bench: "Bench") -> None:
    """Gradients of a quantizer's losses in bf16 autocast, backward pass inside, against those in fp32."""
    from quantizers.contract import config, smaller

    from imtok.construct import construct

    for name in ("lfq_18", "bsq_18", "ibq", "vq_entropy", "gq_32"):
        settings = config(name)
        quantizer: Quantizer = construct(smaller(settings) if bench.tiny else settings).to(bench.device)
        latents = torch.randn(4, quantizer.num_latents or 256, quantizer.in_dim, device=bench.device)
        found = []
        for lowered in (False, True):
            seen = latents.clone().requires_grad_()
            torch.manual_seed(1)
            with torch.autocast(bench.device.type, torch.bfloat16, enabled=lowered):
                torch.stack([loss.value for loss in quantizer(seen).losses.values()]).sum().backward()
            assert seen.grad is not None
            found.append(seen.grad)
        error = _error(found[1], found[0])
        bench.say(quantizer=name, gradient_error=f"{error:.1e}")
        bench.require(error < 1e-3, f"{name}: the gradient is {error:.1e} off under autocast")


def search(bench: "Bench") -> None:
    """The search of codes beside one product with all codes: the same ids, its time and its memory."""
    from imtok.quantizers.search import nearest

    tokens = 256 if bench.tiny else 8192
    for size in (2**8, 2**10) if bench.tiny else (2**14, 2**18):
        for dim in (8, 32, 256):
            latents, table = torch.randn(tokens, dim, device=bench.device), torch.randn(size, dim, device=bench.device)

            def dense(latents: Tensor = latents, table: Tensor = table) -> Tensor:
                return torch.addmm(table.square().sum(1) / -2, latents, table.T).argmax(1)

            bench.peak()
            ours = bench.seconds(lambda latents=latents, table=table: nearest(latents, table))
            memory = bench.peak()
            theirs = bench.seconds(dense)
            same = (nearest(latents, table) == dense()).double().mean().item()
            bench.say(codes=size, dim=dim, ms=ours * 1e3, dense_ms=theirs * 1e3, same=same, gigabytes=memory)
            bench.require(same > 0.999, f"{size} codes of {dim}: {1 - same:.2%} of ids differ")
            bench.require(memory < 1.2, f"{size} codes of {dim}: {memory:.2f} GB", on_gpu=True)
            bench.require(size > 2**14 or ours < 1.2 * theirs, f"{size} codes of {dim}: slower than dense", on_gpu=True)


def drift(bench: "Bench") -> None:
    """Whole nets on photographs: the device in fp32, TF32 and bf16 against the processor in fp32."""
    from gpu_nets import photographs, recipe

    from imtok.nn.exact import with_tf32

    for name in ("llamagen_vq16", "titok_bl64", "flextok_d12", "bsq_vit"):
        tokenizer, _, side = recipe(bench, name)
        tokenizer.eval()
        image = photographs(2, side)
        with torch.no_grad(), with_tf32(False):
            latents, ids = _encoded(tokenizer, image)
            tokenizer.to(bench.device)
            for kind, tf32, lowered in (("fp32", False, False), ("tf32", True, False), ("bf16", False, True)):
                with with_tf32(tf32), torch.autocast(bench.device.type, torch.bfloat16, enabled=lowered):
                    found, other = _encoded(tokenizer, image.to(bench.device))
                error, flips = _error(found, latents), (other.cpu() != ids).double().mean().item()
                bench.say(recipe=name, precision=kind, latents=f"{error:.1e}", other_ids=flips)
                bench.require(kind != "fp32" or error < 1e-4, f"{name}: latents are {error:.1e} off in fp32")


def _encoded(tokenizer: Any, image: Tensor) -> tuple[Tensor, Tensor]:
    from imtok.encoders.base import encoded

    latents = encoded(tokenizer.encoder, image, None, tokenizer.condition_for(len(image)))
    return latents.values.float(), tokenizer.quantizer(latents.values, latents.keep).ids


def _quantized(quantizer: "Quantizer", latents: Tensor) -> Mapping[str, Tensor]:
    seen = latents.clone().requires_grad_()
    quantized = quantizer(seen)
    losses = [loss.value for loss in quantized.losses.values()]
    total = quantized.latents.mean() + (torch.stack(losses).sum() if losses else 0)
    if total.requires_grad:
        total.backward()
    gradient = torch.zeros_like(seen) if seen.grad is None else seen.grad
    found = {"ids": quantized.ids, "latents": quantized.latents, "loss": total, "gradient": gradient}
    return {key: value.detach().cpu() for key, value in found.items()}


def _error(found: Tensor, exact: Tensor) -> float:
    """The length of the difference over that of what is right."""
    difference = (found.detach().cpu().double() - exact.detach().cpu().double()).norm().item()
    return difference / max(exact.detach().double().norm().item(), 1e-12)


BLOCKS = {
    "facts": (facts, 15),
    "quantizers": (quantizers, 40),
    "backward": (backward, 20),
    "search": (search, 25),
    "drift": (drift, 40),
}
