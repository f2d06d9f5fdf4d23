"""A probe of a tokenizer: what a small generator makes of its tokens, stage by stage, each of which is done once."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from PIL import Image
from torchvision.utils import make_grid

from imtok.errors import InputError
from imtok.export.store import TokenStore
from imtok.files import canonical_json, new_folder, read_json, write_json
from imtok.grid import to_picture
from imtok.measures.generated import score
from imtok.measures.inference import Size, evaluating
from imtok.measures.length import decode_kept
from imtok.measures.protocol import Protocol
from imtok.pixels import rgb_levels, to_rgb, to_uint8
from imtok.priors.rows import TokenRows
from imtok.priors.sampling import draws
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Tokens

PLAN, NPZ = "probe.json", "pixels.npz"


def claim_probe(folder: Path, plan: Mapping[str, Any]) -> None:
    """Take a folder for a probe, or go on with the same one.

    Raises:
        InputError: If it holds another probe, or something else.
    """
    path = folder / PLAN
    if path.is_file():
        before = read_json(path)
        if canonical_json(before) != canonical_json(plan):
            changed = sorted(key for key in {*before, *plan} if before.get(key) != plan.get(key))
            raise InputError(f"out={folder} holds a probe with another {', '.join(changed)}; give another folder")
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"out={folder} holds other files; give a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, dict(plan))


def write_originals(batches: Iterable[Batch], folder: Path, chosen: Int64[np.ndarray, " n"]) -> None:
    """Write some images as ``pixels.npz``, unless they are there.

    Args:
        batches: Batches of all images, in order.
        folder: The folder of the file.
        chosen: The number of each image that is written, in ascending order.
    """
    if not (folder / NPZ).is_file():
        rows, before = list[np.ndarray](), 0
        for batch in batches:
            own = chosen[(chosen >= before) & (chosen < before + len(batch.image))] - before
            rows.append(rgb_levels(batch.image[torch.from_numpy(own)]).permute(0, 2, 3, 1).numpy())
            before += len(batch.image)
            if before > chosen[-1]:
                break
        _write(folder, np.concatenate(rows))


def write_reconstructions(tokenizer: Tokenizer, store: TokenStore, folder: Path, size: Size, most: int) -> None:
    """Write reconstructions of at most ``most`` images from all over a store, unless the file exists."""
    if not (folder / NPZ).is_file():
        rows, device = list[np.ndarray](), next(tokenizer.parameters()).device
        with evaluating(tokenizer):
            for batch in TokenRows(store).some(most).batches(64):
                moved = batch.to(device)
                condition = tokenizer.condition_for(len(batch), batch.caption, batch.label)
                rows.append(_pixels(decode_kept(tokenizer, moved.tokens, size, condition)))
        _write(folder, np.concatenate(rows))


def write_unigram(tokenizer: Tokenizer, store: TokenStore, folder: Path, size: Size, count: int, seed: int) -> None:
    """Write so many images whose tokens are drawn one by one, each as often as in a store, unless they are there."""
    if (folder / NPZ).is_file():
        return
    sizes, rows = store.manifest["vocab_sizes"], list[np.ndarray]()
    found = [batch.tokens for batch in TokenRows(store).batches(1024)]
    ids = torch.cat([tokens.ids for tokens in found])
    keep = None if found[0].keep is None else torch.cat([tokens.keep for tokens in found if tokens.keep is not None])
    there = torch.ones(ids.shape[:2], dtype=torch.bool) if keep is None else keep
    counts = [torch.bincount(ids[..., slot][there], minlength=most) for slot, most in enumerate(sizes)]
    reached = [(count.double() / count.sum()).cumsum(0) for count in counts]
    with evaluating(tokenizer):
        for start in range(0, count, 64):
            numbers = list(range(start, min(start + 64, count)))
            uniform = draws(seed, numbers, ids.shape[1], ids.shape[2])
            slots = [
                torch.searchsorted(line, uniform[..., slot].contiguous(), right=True).clamp(max=len(line) - 1)
                for slot, line in enumerate(reached)
            ]
            kept = None if keep is None else keep[[number % len(keep) for number in numbers]]
            drawn = torch.stack(slots, -1)
            drawn = drawn if kept is None else drawn * kept[..., None]
            device = next(tokenizer.parameters()).device
            tokens = Tokens(drawn.to(device), None if kept is None else kept.to(device))
            condition = tokenizer.condition_for(len(numbers), [""] * len(numbers), torch.full((len(numbers),), -1))
            rows.append(_pixels(decode_kept(tokenizer, tokens, size, condition)))
    _write(folder, np.concatenate(rows))


@dataclass(frozen=True)
class ProbeResult:
    """What a probe's pictures say.

    Attributes:
        metrics: By name.
        absent: Why a number is missing, by name.
        warnings: What to bear in mind.
        facts: Of the protocol of the generated images.
    """

    metrics: dict[str, float]
    absent: dict[str, str]
    warnings: list[str]
    facts: dict[str, Any]


def measure(folder: Path, protocol: Protocol, device: torch.device, say: Callable[[str], None]) -> ProbeResult:
    """Distances of samples, of reconstructions and of unigram samples to the reference, by one extractor.

    They are stored as ``score.json``, and measured anew by another protocol.

    Raises:
        InputError: If the extractor's weights cannot be had.
    """
    path = folder / "score.json"
    if path.is_file():
        before, wanted = ProbeResult(**read_json(path)), protocol.settings
        if canonical_json({name: before.facts.get(name) for name in wanted}) == canonical_json(wanted):
            return before
    say("score")
    others = {"r": folder / "reconstructions" / NPZ, "unigram_g": folder / "unigram" / NPZ}
    samples, reference = folder / "samples" / "samples.npz", folder / "reference" / NPZ
    found = score(samples, reference, protocol, device, further=others)
    facts = {name: value for name, value in found["protocol"].items() if name != "id"}
    result = ProbeResult(found["metrics"], found["absent"], found["warnings"], facts)
    write_json(path, vars(result))
    return result


def draw_sheet(folder: Path, columns: int = 12, rows: int = 6) -> None:
    """Write the first samples as one picture, ``samples.png``."""
    with np.load(folder / "samples" / "samples.npz", allow_pickle=False) as stored:
        pixels = stored["arr_0"][: columns * rows]
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    sheet = to_picture(make_grid(images, nrow=columns, padding=1, pad_value=255))
    scale = max(1, round(64 / max(images.shape[-2:])))
    sheet.resize((sheet.width * scale, sheet.height * scale), Image.Resampling.NEAREST).save(folder / "samples.png")


def _pixels(images: torch.Tensor) -> np.ndarray:
    return to_uint8(to_rgb(images)).permute(0, 2, 3, 1).cpu().numpy()


def _write(folder: Path, pixels: np.ndarray) -> None:
    with new_folder(folder) as aside:
        np.savez(aside / NPZ, arr_0=pixels)
