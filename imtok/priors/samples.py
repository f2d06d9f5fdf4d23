"""What a prior draws, as pictures: PNGs, their ids, and one npz as ADM's evaluator reads it."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from imtok.bars import watched
from imtok.conditions.base import NO_LABEL
from imtok.errors import InputError
from imtok.export.tokens import id_type
from imtok.files import claim_output, new_folder, write_json
from imtok.grid import to_picture
from imtok.measures.inference import Size, evaluating
from imtok.measures.length import decode_kept
from imtok.pixels import rgb_levels, to_uint8
from imtok.priors.asked import Asked
from imtok.priors.generator import Generator
from imtok.priors.sampling import Sampling
from imtok.tokenizer import Tokenizer
from imtok.types import Tokens

MARKER = "samples.json"
NPZ = "samples.npz"


def require_its_tokens(generator: Generator, tokenizer: Tokenizer) -> str:
    """The tokenizer's fingerprint; InputError if a prior has learnt the tokens of another one.

    A tokenizer of which the decoder alone is another has the same tokens.
    """
    fingerprint = tokenizer.fingerprint()
    same = generator.tokens.get("codes_sha256") == tokenizer.codes_fingerprint()
    if not same and generator.tokens["tokenizer_sha256"] != fingerprint:
        raise InputError("the prior has learnt the tokens of another tokenizer; give the one that exported its store")
    return fingerprint


def write_samples(
    generator: Generator,
    tokenizer: Tokenizer,
    count: int,
    folder: Path,
    size: Size,
    settings: Sampling,
    asked: Asked | None = None,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
    length: int | None = None,
    other: Int64[Tensor, "b t g"] | None = None,
) -> dict[str, Any]:
    """Draw tokens, decode them, and write ``000000.png``, ..., ``ids.npy``, ``samples.npz`` and ``samples.json``.

    A sample is a function of the seed and of its number. ``samples.npz`` holds ``arr_0`` (images height width 3, uint8)
    and ``arr_1`` (their labels) in the layout of ADM's evaluator.

    Args:
        generator: The prior; ends on ``device``.
        tokenizer: The one whose tokens it has learnt, or one of which the decoder alone is another; ends on ``device``.
        count: Number of samples.
        folder: Appears whole or not at all; earlier samples in it are replaced.
        size: Height and width of the pictures, in pixels.
        settings: How to draw.
        asked: What the samples are of; None = nothing is told.
        batch_size: Samples drawn at a time.
        device: Where to compute.
        length: Only the first so many tokens of each; None = all that are drawn.
        other: Ids of another tokenizer as the condition of each sample; None = no ids.

    Returns:
        What ``samples.json`` says.

    Raises:
        InputError: If the prior has learnt the tokens of another tokenizer, or cannot be sampled by these settings, or
            its tokenizer needs all tokens.
    """
    _check_length(generator, length)
    asked = asked or Asked()
    fingerprint = require_its_tokens(generator, tokenizer)
    claim_output(folder, MARKER)
    device = torch.device(device)
    generator.to(device).eval()
    facts: dict[str, Any] = {"length": length} if length is not None else {}
    facts |= {"samples": count, "sampling": asdict(settings), "tokenizer_sha256": fingerprint}
    # Draw batch after batch, and write pictures as they come.
    with new_folder(folder) as aside, evaluating(tokenizer.to(device)):
        pictures = np.lib.format.open_memmap(aside / "pixels.npy", "w+", np.uint8, (count, *size, 3))
        ids, keeps, labels = list[np.ndarray](), list[np.ndarray](), np.full(count, NO_LABEL, np.int64)
        starts = range(0, count, batch_size)
        for start in watched(starts, count, "sample", lambda start: min(batch_size, count - start)):
            numbers = list(range(start, min(start + batch_size, count)))
            own = [asked.labels[number] for number in numbers] if asked.labels else [NO_LABEL] * len(numbers)
            said = [asked.captions[number] for number in numbers] if asked.captions else [""] * len(numbers)
            try:
                drawn = generator.sample(numbers, settings, said, own, other=None if other is None else other[numbers])
            except ValueError as error:
                raise InputError(f"prior: {error}") from None
            drawn = drawn if length is None else drawn.first(length)
            condition = tokenizer.condition_for(len(numbers), said, torch.tensor(own))
            try:
                images = to_uint8(decode_kept(tokenizer, drawn, size, condition))
            except ValueError as error:
                raise InputError(f"image_size: {error}") from None
            for number, image in zip(numbers, images, strict=True):
                to_picture(image).save(aside / f"{number:06d}.png")
                pictures[number] = rgb_levels(image).permute(1, 2, 0).cpu().numpy()
            _gather(drawn, ids, keeps)
            labels[numbers] = own
        # What all samples have in common: ids, kept tokens, and the file that other code scores.
        np.save(aside / "ids.npy", np.concatenate(ids).astype(id_type(tokenizer.quantizer.vocab_sizes)))
        if keeps:
            np.save(aside / "keep.npy", np.concatenate(keeps))
        np.savez(aside / NPZ, arr_0=pictures, arr_1=labels)
        del pictures
        (aside / "pixels.npy").unlink()
        write_json(aside / MARKER, facts)
    return facts


def _check_length(generator: Generator, length: int | None) -> None:
    """Refuse to cut tokens of which the first ones do not stand alone, or of which there are not so many."""
    if length is None:
        return
    if not generator.tokens.get("prefixes"):
        raise InputError(f"length={length}: of the prior's tokenizer the first tokens do not stand alone; leave it out")
    if length > generator.prior.layout.tokens:
        raise InputError(f"length={length}: the prior has learnt {generator.prior.layout.tokens} tokens of each image")


def _gather(drawn: Tokens, ids: list[np.ndarray], keeps: list[np.ndarray]) -> None:
    ids.append(drawn.ids.cpu().numpy())
    if drawn.keep is not None:
        keeps.append(drawn.keep.cpu().numpy())
