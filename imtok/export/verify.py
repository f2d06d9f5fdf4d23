"""Read an export again: every byte against its manifest, and a few images to look at."""

from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from imtok.errors import InputError
from imtok.export.convert import REPORT, verify_converted
from imtok.export.decoding import Decoding
from imtok.export.pictures import require_bits, tell_as_stored
from imtok.export.sequences import Sequencing
from imtok.export.store import MANIFEST, Shard, TokenStore
from imtok.files import claim_output, new_folder, write_json
from imtok.grid import as_picture
from imtok.measures.inference import evaluating
from imtok.measures.report.origin import describe_data
from imtok.measures.spending import Spending
from imtok.text import terminal
from imtok.tokenizer import Tokenizer
from imtok.types import Tokens

SAMPLE = "sample.json"


def verify(folder: Path) -> Table:
    """Read everything in a token store, or in a folder that ``imtok convert`` wrote.

    Returns:
        What it holds, for the terminal.

    Raises:
        InputError: That names the first file that is missing, altered, wrong or not of it.
    """
    if (folder / REPORT).is_file():
        report = verify_converted(folder)
        rows = {"format": report["format"], "images": report["images"], "views": len(report["views"])}
        if "slots" in report.get("sequence", ()):
            rows["numbers"] = Sequencing.stored(report["sequence"]).words
        return _table(folder, {**rows, "files": f"{report['files']}, all as they were written"})
    store = TokenStore(folder, whole=True)
    store.verify()
    manifest = store.manifest
    labels = np.concatenate([np.asarray(shard.labels) for shard in store.shards()])
    size = sum(about["bytes"] for about in manifest["files"].values())
    data = manifest.get("data", {})  # which stores of earlier versions lack
    return _table(
        folder,
        {
            **({"data": describe_data(data)} if "split" in data else {}),
            "images": manifest["images"],
            "views": f"{store.views} ({manifest['augment']})",
            "tokens": f"{_count(store)} per view, slots of {', '.join(map(str, manifest['vocab_sizes']))} ids",
            "classes": f"{len(np.unique(labels[labels >= 0]))} used, {len(store.classes)} named, "
            f"{int((labels < 0).sum())} images without",
            "unreadable": len(manifest["bad"]),
            "files": f"{len(manifest['files'])}, {size:,} bytes, all as they were written",
        },
    )


def decode_sample(
    folder: Path,
    tokenizer: Tokenizer,
    out: Path,
    number: int = 16,
    spending: Spending | None = None,
    bits: int = 8,
) -> int:
    """Decode a few images of a store, evenly over it, to ``out/000123.png`` by their place in the store.

    Args:
        folder: The store; what was converted from it is not enough.
        tokenizer: The one that made it, on its device.
        out: Appears whole or not at all; an earlier sample in it is replaced.
        number: How many images.
        spending: How many of the tokens of an image are decoded; None = all that there are.
        bits: Bits per channel of a picture: 8, or 16 for images of one channel.

    Returns:
        How many pictures there are: one for each view.

    Raises:
        InputError: If the tokenizer is another one or ``out`` holds something else, or pictures cannot have these bits.
    """
    require_bits(tokenizer, bits)
    if not (folder / MANIFEST).is_file():
        raise InputError(f"{folder} is not a token store, and only such can be decoded; give the one it came from")
    # The store must be of this tokenizer.
    store, device = TokenStore(folder, whole=True), tokenizer.decoder.last_layer.device
    if store.manifest["tokenizer_sha256"] != tokenizer.fingerprint():
        raise InputError(f"{folder} was exported with another tokenizer; give the one that wrote it")
    tell_as_stored(tokenizer, store)
    claim_output(out, SAMPLE)
    # Images are spread over the whole store.
    count, size = min(number, len(store)), (store.manifest["image_size"][0], store.manifest["image_size"][1])
    spending, varies = spending or Spending(), "target" in store.manifest.get("lengths", ())
    spending.require_square(store.whole)
    decode = Decoding(tokenizer, size, spending)
    wanted = {index * len(store) // count for index in range(count)}
    names: dict[str, str] = {}
    # Decode them shard by shard.
    with new_folder(out) as aside, evaluating(tokenizer):
        first = 0
        for number, shard in enumerate(store.shards()):
            record = store.record(number) if store.whole else None
            for place in sorted(wanted & set(range(first, first + len(shard.keys)))):
                row = place - first
                tokens, own = _tokens(shard, row, device), None
                if record is not None:
                    own, length = (record["sizes"][row][0], record["sizes"][row][1]), record["lengths"][row]
                    tokens = Tokens(tokens.ids[:, :length], None if tokens.keep is None else tokens.keep[:, :length])
                caption = "" if shard.captions is None else shard.captions[row]
                labels = torch.full((store.views,), int(shard.labels[row]))
                condition = tokenizer.condition_for(store.views, [caption] * store.views, labels)
                for view, image in enumerate(decode(tokens, condition, varies, own)):
                    name = f"{place:06d}.png" if store.views == 1 else f"{place:06d}_{view}.png"
                    as_picture(image, bits).save(aside / name)
                    names[name] = shard.keys[place - first]
            first += len(shard.keys)
        write_json(aside / SAMPLE, {"pictures": names, "store_sha256": store.manifest["sha256"]})
    return len(names)


def _tokens(shard: Shard, row: int, device: torch.device) -> Tokens:
    ids = torch.from_numpy(shard.ids[row].astype(np.int64)).to(device)
    keep = None if shard.keep is None else torch.from_numpy(np.array(shard.keep[row])).to(device)
    return Tokens(ids, keep)


def _count(store: TokenStore) -> str:
    """Tokens of a view, and of how many how many there are where views differ."""
    most = f"up to {store.manifest['tokens']}" if store.whole else str(store.manifest["tokens"])
    if store.whole or not store.manifest["variable_length"]:
        return most
    own = np.concatenate([shard.keep.sum(-1).ravel() for shard in store.shards() if shard.keep is not None])
    return f"{own.min()} to {own.max()} of {most}, {own.mean():.1f} in the mean," if len(own) else most


def _table(folder: Path, rows: dict[str, object]) -> Table:
    table = Table(title=terminal(str(folder)), title_justify="left", show_header=False)
    for name, value in rows.items():
        table.add_row(name, terminal(str(value)))
    return table
