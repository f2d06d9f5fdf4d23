"""``imtok adapt``: trains an adapter that crops and mirrors images as tokens, for ``imtok classify``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING, DictConfig
from rich.console import Console

from imtok.classifiers.adapter import TokenAdapter, ViewRows
from imtok.command_line import output_folder
from imtok.config import read_keys
from imtok.distributed import launched_rank
from imtok.errors import InputError, named
from imtok.image_commands import plain_values
from imtok.measures.report.titles import number
from imtok.optimizer_section import typed_section
from imtok.token_commands import GridKeys, of_vectors, open_rows, say_outcome, token_run
from imtok.training.token_run import TokenRun, train_on_tokens


@dataclass
class Keys(GridKeys):
    """A token store with several views, an adapter and its training. configs/adapt.yaml explains each key."""

    adapter: Any = MISSING


def run(config: DictConfig) -> None:
    """Train an adapter on tokens, and measure it on held-out images."""
    console = Console(highlight=False, quiet=launched_rank() != 0)
    folder = output_folder(config, "adapt")
    found = say_outcome(train_on_tokens(build_adapter_run(config, folder)), folder, "adapt", console)
    if found is not None:
        console.print(
            f"error {number(found['error'])} of the variance on {found['images']} held-out images; "
            f"{number(found['plain_error'])} if the map itself is moved",
            soft_wrap=True,
            markup=False,
        )


def build_adapter_run(config: DictConfig, folder: Path) -> TokenRun:
    """Build everything that an adapter's config describes.

    Raises:
        InputError: If a part refuses its settings, or a store lacks square views, a grid or a codebook.
    """
    plain = plain_values(config)
    plain["optimizer"] = typed_section(plain["optimizer"])
    typed = read_keys(config, Keys)
    rows, held_out = (ViewRows(one.store, one.images) for one in open_rows(typed))
    about = of_vectors(typed, rows, held_out)
    for store in (rows.store, held_out.store):
        _check(store.folder, store.manifest, about)
    augment, (side, _) = rows.store.manifest["augment"], rows.store.manifest["image_size"]
    if held_out.store.manifest["augment"] != augment:
        raise InputError(
            f"val={typed.val} has other views than store={typed.store}; export both with augment={augment}"
        )
    torch.manual_seed(typed.seed)
    built = {"adapter": plain["adapter"], "augment": augment, "image_size": side, **about}
    with named("adapter"):
        net = TokenAdapter.from_config(built, packages=None)
    net.embedding.read(rows)
    return token_run(net, (rows, held_out), typed, plain, folder)


def _check(folder: Path, manifest: dict[str, Any], about: dict[str, Any]) -> None:
    """InputError if there are no views to learn from."""
    if len(manifest["views"]) < 2:
        raise InputError(
            f"{folder} has one view of each image, and an adapter learns from several; export it with augment=ten_crop "
            "or augment=flip"
        )
    height, width = manifest["image_size"]
    if height != width or 1 in about["grid"]:
        rows, columns = about["grid"]
        raise InputError(
            f"{folder} has views of {height} x {width} pixels and {rows} x {columns} tokens; an adapter needs square "
            "views and tokens that are a grid: give grid=[ROWS,COLUMNS] if they are one"
        )
    if about["layout"]["variable_length"]:
        raise InputError(f"{folder} has tokens that are left out; an adapter needs all tokens of an image")
