"""Ids, ours or a generator's, as pictures."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from imtok.errors import InputError
from imtok.evaluation.grid import to_picture
from imtok.evaluation.inference import Size, evaluating
from imtok.export.store import TokenStore, fingerprint
from imtok.files import claim_output, new_folder, write_json
from imtok.pixels import to_uint8
from imtok.tokenizer import Tokenizer, check_ids
from imtok.types import Tokens

MARKER = "pictures.json"


def decode_ids(
    tokenizer: Tokenizer,
    source: Path,
    folder: Path,
    size: Size,
    batch_size: int = 64,
    device: str | torch.device = "cpu",
) -> int:
    """Write a PNG per image: ``000000.png``, ``000001.png``, ...

    Args:
        tokenizer: Ends on ``device``.
        source: An export folder, or an ``.npy`` file of whole numbers whose last axes are tokens and slots (slots
            may be left out where there is one); axes before them count images.
        folder: Appears whole or not at all; earlier pictures of this command in it are replaced.
        size: Height and width of the pictures, in pixels.
        batch_size: Images decoded at a time.
        device: Where to compute.

    Returns:
        How many pictures there are.

    Raises:
        InputError: If the ids cannot be read, are not of this tokenizer, or lie outside its vocabulary.
    """
    claim_output(folder, MARKER)
    count = 0
    device = torch.device(device)
    with new_folder(folder) as aside, evaluating(tokenizer.to(device)):
        for name, tokens in _read(tokenizer, source, size):
            try:
                check_ids(tokens.ids, tokenizer.quantizer.vocab_sizes)
            except ValueError as error:
                raise InputError(f"{name}: {error}") from None
            for start in range(0, len(tokens.ids), batch_size):
                rows = slice(start, start + batch_size)
                keep = None if tokens.keep is None else tokens.keep[rows].to(device)
                images = tokenizer.decode(Tokens(tokens.ids[rows].to(device), keep), size)
                for image in to_uint8(images):
                    to_picture(image).save(aside / f"{count:06d}.png")
                    count += 1
        write_json(aside / MARKER, {"ids": source.name, "pictures": count, "tokenizer_sha256": fingerprint(tokenizer)})
    return count


def _read(tokenizer: Tokenizer, source: Path, size: Size) -> Iterator[tuple[str, Tokens]]:
    if source.is_dir():
        store = TokenStore(source)
        if store.manifest["tokenizer_sha256"] != fingerprint(tokenizer):
            raise InputError(f"{source} was exported with another tokenizer; give the one that wrote it")
        store.verify()
        for number, shard in enumerate(store.shards()):
            keep = None if shard.keep is None else torch.from_numpy(np.array(shard.keep))
            yield f"{source}/ids-{number:05d}.npy", Tokens(torch.from_numpy(shard.ids.astype(np.int64)), keep)
        return
    try:
        array = np.load(source, allow_pickle=False)
    except FileNotFoundError:
        raise InputError(f"ids={source} does not exist") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"ids={source} is not an .npy file of numbers ({error})") from None
    yield str(source), Tokens(_shaped(source, array, tokenizer, size))


def _shaped(source: Path, array: np.ndarray, tokenizer: Tokenizer, size: Size) -> torch.Tensor:
    """Any array of ids as ``b t g``."""
    tokens, slots = tokenizer.num_tokens(size), len(tokenizer.quantizer.vocab_sizes)
    if not isinstance(array, np.ndarray) or not np.issubdtype(array.dtype, np.integer):
        raise InputError(f"ids={source} must hold whole numbers, got {getattr(array, 'dtype', 'several arrays')}")
    whole = array.shape[-2:] == (tokens, slots)
    if not whole and not (slots == 1 and array.shape[-1:] == (tokens,)):
        raise InputError(
            f"ids={source} must end in {tokens} tokens x {slots} slots for {size[1]}x{size[0]} pixels, "
            f"got shape {array.shape}"
        )
    return torch.from_numpy(array.astype(np.int64)).reshape(-1, tokens, slots)
