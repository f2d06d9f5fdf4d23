"""Compare imtok with a checkout of published code, tensor by tensor.

python parity/run.py taming ~/taming-transformers            prints a row for each size of the published module
python parity/run.py taming ~/taming-transformers --page     and puts the rows into docs/parity.md

Published modules get random weights and are saved as their trainers save them. The rules of `imtok import` read the
file, and turn our weights back into those of the file. Both run on the same images, in float64 and in float32. An error
is the largest difference over the largest value. Gradients are those of a random projection of the image, plus the
quantizer's loss if the code gives one, by the image that is read.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.recipe_table import between, table
from imtok.command_line import compose_training
from imtok.tokenizer import Tokenizer
from imtok.types import Condition
from imtok.zoo.files import read_checkpoint
from imtok.zoo.importing import import_checkpoint
from imtok.zoo.registry import SOURCES
from parity.grids import GRIDS
from parity.official import OFFICIAL, Official
from parity.on_mage import ON_MAGE
from parity.sequences import SEQUENCES

PAGE, ROWS = ROOT / "docs" / "parity.md", ROOT / "docs" / "parity.jsonl"
START, END = "<!-- parity -->", "<!-- end of parity -->"
FAMILIES = OFFICIAL | GRIDS | SEQUENCES | ON_MAGE
LIMIT = 1e-5  # of an error in float64


def main() -> None:
    """Compare one family, and exit with 1 if an error is too large."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=sorted(FAMILIES))
    parser.add_argument("tree", type=Path, help="folder of the published code")
    parser.add_argument("--page", action="store_true", help="write the rows into docs/parity.md")
    given = parser.parse_args()
    if not given.tree.is_dir():
        parser.error(f"{given.tree} is not a folder; give a checkout of the published code")
    torch.set_num_threads(1)
    torch.manual_seed(0)  # published modules draw their weights
    rows = [compared(given.name, official) for official in FAMILIES[given.name](given.tree.resolve())]
    print("\n".join(table([shown(row) for row in rows])))
    if given.page:
        others = [row for row in stored() if row["source"] != given.name]
        ROWS.write_text("".join(json.dumps(row) + "\n" for row in [*others, *rows]))
        between(PAGE, (START, END), ["", *table([shown(row) for row in stored()]), ""])
    sys.exit(not all(passed(row) for row in rows))


def compared(name: str, official: Official) -> dict[str, Any]:
    """The errors of one module."""
    scatter(official.module)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"published{official.suffix}"
        torch.save(official.content(official.module.state_dict()), path)
        official.files(path.parent)
        if official.beside:
            (path.parent / "config.json").write_text(official.beside)
        ours = import_checkpoint(SOURCES[name], path, compose_training, given=official.given).tokenizer.eval()
        state = SOURCES[name].open(read_checkpoint(path))
    back = SOURCES[name].table(ours.config).inverse().convert(ours.state_dict()).tensors
    same = all(torch.equal(value, state.tensors[key]) for key, value in back.items())
    row: dict[str, Any] = {"source": name, "module": official.what, "back": same, "keys": len(back)}
    height, width = official.side, official.side * (2 if official.square else 3) // 2
    for kind in (torch.float64, torch.float32):
        image = (torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1).to(kind)
        row[str(kind).removeprefix("torch.")] = errors(official, ours.to(kind), image)
    return row


def scatter(module: nn.Module) -> None:
    """Random values in place of those that start equal: biases, and codes that lie near zero."""
    with torch.no_grad():
        for key, value in module.named_parameters():
            if value.ndim == 1:
                value.add_(0.1 * torch.randn_like(value))
            elif "embed" in key and value.shape[0] >= 100:
                value.normal_()


def errors(official: Official, ours: Tokenizer, image: Tensor) -> dict[str, float]:
    """Errors of latents, image, loss and gradients, and the share of ids that agree."""
    official.module.to(image.dtype)
    direction = torch.randn(image.shape, generator=torch.Generator().manual_seed(2)).to(image)
    theirs_read, ours_read = image.clone().requires_grad_(), image.clone().requires_grad_()
    with lifted(image.dtype):
        theirs = official.run(official.units(theirs_read))
    shown = official.own_units(theirs.image)
    told = None if official.text is None else Condition(text=official.text.to(image).expand(len(image), -1, -1))
    found = ours(ours_read, condition=told)
    loss = sum((term.value * term.weight for term in found.quantized.losses.values()), found.image.new_zeros(()))
    wanted = {"latents": (ours.encoder(image).values, theirs.latents), "image": (found.image, shown)}
    if theirs.loss is not None:
        wanted["loss"] = (loss, theirs.loss)
    with_loss = theirs.loss is not None
    (own,) = torch.autograd.grad((found.image * direction).sum() + (loss if with_loss else 0), ours_read)
    (their,) = torch.autograd.grad((shown * direction).sum() + (theirs.loss if with_loss else 0), theirs_read)
    wanted["gradients"] = (own, their * official.factor)
    agree = {}
    if theirs.ids is not None:
        agree["ids"] = (found.quantized.ids == theirs.ids).double().mean().item()
    return agree | {key: error(*pair) for key, pair in wanted.items()}


@contextmanager
def lifted(kind: torch.dtype) -> Iterator[None]:
    """Let ``.float()``, ``.to(float32)`` and new tensors, which published code has in norms, be in double precision."""
    to, usual = Tensor.to, torch.get_default_dtype()

    def precise(value: Tensor, *given: Any, **named: Any) -> Tensor:
        return to(value, *(kind if one is torch.float32 else one for one in given), **named)

    if kind is not torch.float64:
        yield
        return
    torch.set_default_dtype(kind)
    try:
        with patch.multiple(Tensor, float=Tensor.double, to=precise):
            yield
    finally:
        torch.set_default_dtype(usual)


def error(one: Tensor, other: Tensor) -> float:
    """The largest difference over the largest value."""
    return ((one - other).abs().max() / other.abs().max()).item()


def passed(row: dict[str, Any]) -> bool:
    """Whether both are the same tokenizer."""
    found = row["float64"]
    return (
        row["back"] and found.get("ids", 1) == 1 and all(value < LIMIT for key, value in found.items() if key != "ids")
    )


def shown(row: dict[str, Any]) -> dict[str, str]:
    """A row of the table; in each cell the error in float64, then in float32."""
    cells = {"source": f"`{row['source']}`", "published module": row["module"]}
    exact, single = row["float64"], row["float32"]
    cells["ids that agree"] = f"{exact['ids']:.1%}, {single['ids']:.1%}" if "ids" in exact else "continuous"
    for key in ("latents", "image", "loss", "gradients"):
        cells[key] = f"{exact[key]:.1e}, {single[key]:.1e}" if key in exact else "-"
    return cells | {"weights back": f"{row['keys']} keys, {'equal' if row['back'] else 'NOT equal'}"}


def stored() -> list[dict[str, Any]]:
    """The rows that were measured."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()] if ROWS.exists() else []


if __name__ == "__main__":
    main()
