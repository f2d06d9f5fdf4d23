"""What a prior makes of the tokens of a store, as codes that a decoder is trained further on."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imtok.bars import bar
from imtok.errors import InputError
from imtok.export.store import TokenStore
from imtok.files import claim_output, new_folder, write_json
from imtok.priors.generator import Generator
from imtok.priors.rows import TokenRows
from imtok.priors.samples import MARKER
from imtok.priors.sampling import Given, Sampling, preserved


def write_codes(
    generator: Generator,
    store: TokenStore,
    folder: Path,
    settings: Sampling,
    preserve: float,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
) -> dict[str, Any]:
    """Draw the tokens of a store's images anew, for post-training of the decoder (arXiv 2509.12474).

    Each token stays what it is with the probability ``preserve``; the others are drawn by the prior, which sees those
    that stay. Written are ``ids-00000.npy`` and ``keys-00000.json`` for each shard, as ``data=pairs`` reads them.

    Args:
        generator: The prior; ends on ``device``.
        store: Whose images, with one view each.
        folder: Appears whole or not at all; earlier codes in it are replaced.
        settings: How to draw.
        preserve: Share of the tokens that stay, in [0, 1).
        batch_size: Images at a time.
        device: Where to compute.

    Returns:
        What ``samples.json`` says.

    Raises:
        InputError: If the prior has learnt other tokens, or the store has several views or tokens that vary in number.
    """
    if generator.tokens.get("tokenizer_sha256") != store.manifest["tokenizer_sha256"]:
        raise InputError(f"{store.folder} was exported by another tokenizer than the prior's; export it again")
    if store.views > 1 or store.manifest["variable_length"]:
        raise InputError(f"{store.folder} must hold one view and as many tokens of each image to be drawn anew")
    store.check_contents()
    claim_output(folder, MARKER)
    device, done = torch.device(device), 0
    generator.to(device).eval()
    facts = {"samples": len(store), "preserve": preserve, "sampling": asdict(settings)}
    with new_folder(folder) as aside, bar("sample") as advance:
        for number in range(store.manifest["shards"]):
            shard = store.shard(number)
            rows = TokenRows(store, np.arange(done, done + len(shard.keys)))
            drawn = list[np.ndarray]()
            for batch in rows.batches(batch_size):
                numbers = list(range(done, done + len(batch)))
                stays = preserved(settings.seed, numbers, batch.tokens.ids.shape[1], preserve)
                given = Given(batch.tokens.ids.to(device), stays.to(device))
                labels = batch.label.tolist()
                try:
                    found = generator.sample(numbers, settings, batch.caption, labels, given)
                except ValueError as error:
                    raise InputError(f"prior: {error}") from None
                drawn.append(found.ids.cpu().numpy().astype(shard.ids.dtype))
                done += len(batch)
                advance(len(batch), len(store))
            if drawn:
                np.save(aside / f"ids-{number:05d}.npy", np.concatenate(drawn))
                write_json(aside / f"keys-{number:05d}.json", list(shard.keys))
        write_json(aside / MARKER, facts)
    return facts
