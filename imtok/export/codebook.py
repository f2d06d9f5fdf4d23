"""The codebook as a file: a table per slot, whose look-ups add up to the latents."""

import json
from pathlib import Path

from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from imtok.errors import InputError
from imtok.files import canonical_json
from imtok.quantizers.base import Quantizer
from imtok.quantizers.layout import layout

LARGEST = 2**29  # bytes of all tables; a vocabulary beyond that is decoded by the tokenizer, not by a table


def write_codebook(quantizer: Quantizer, path: Path) -> str | None:
    """Write ``slot_0``, ``slot_1``, ... of shape ``v d`` in float32, zero outside the slot's channels.

    Args:
        quantizer: Any with a vocabulary; the tables of codebook-free ones are computed.
        path: A ``.safetensors`` file.

    Returns:
        Why there is no file; None if there is one.
    """
    size = 4 * quantizer.dim * sum(quantizer.vocab_sizes)
    if size > LARGEST:
        return f"its tables would take {size / 1e6:,.0f} MB, more than {LARGEST / 1e6:,.0f} MB"
    tables = {f"slot_{slot}": table.detach().float().cpu().clone() for slot, table in enumerate(quantizer.codebook())}
    save_file(tables, path, {"layout": canonical_json(layout(quantizer))})  # several keys come in any order
    return None


def read_codebook(path: Path) -> list[Float[Tensor, "v d"]]:
    """The table of each slot.

    Raises:
        InputError: If the file is missing, damaged or not one that ``write_codebook`` wrote.
    """
    try:
        with safe_open(path, framework="pt") as file:
            slots = len(json.loads((file.metadata() or {})["layout"])["vocab_sizes"])
            return [file.get_tensor(f"slot_{slot}") for slot in range(slots)]
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; codebook_absent in the manifest says why") from None
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path} is not a codebook that imtok wrote ({error}); export again") from None
