"""``imtok classify``: trains a classifier on the tokens of a store, and says how often it is right on others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from imtok.classifiers.embedded import grid_of
from imtok.classifiers.net import ACCURACY, StoredClassifier
from imtok.command_line import output_folder
from imtok.config import read_keys
from imtok.distributed import launched_rank
from imtok.errors import InputError
from imtok.export.codebook import read_codebook
from imtok.export.store import TokenStore
from imtok.image_commands import plain_values
from imtok.measures.report.titles import number
from imtok.optimizer_section import typed_section
from imtok.priors.layout import TokenLayout
from imtok.tables import print_whole
from imtok.token_commands import StoreKeys, open_rows, say_outcome, token_run
from imtok.training.token_run import TokenRun, train_on_tokens


@dataclass
class Keys(StoreKeys):
    """A token store, a classifier and how it is trained. configs/classify.yaml explains each."""

    classifier: Any = MISSING
    augmentation: Any = None
    grid: list[int] | None = None

    def check(self) -> list[str]:
        """What is out of range, one line each."""
        problems = super().check()
        if self.grid is not None and (len(self.grid) != 2 or min(self.grid) < 1):
            problems.append(f"grid must be rows and columns of tokens, as in [8,8], got {self.grid}")
        return problems


def run(config: DictConfig) -> None:
    """Train a classifier on tokens, and measure it on tokens that it has not seen."""
    console = Console(highlight=False, quiet=launched_rank() != 0)
    folder = output_folder(config, "classify")
    outcome = train_on_tokens(build_classifier_run(config, folder))
    found = say_outcome(outcome, folder, "classify", console)
    if found is not None:
        print_whole(_table(found), console)


def build_classifier_run(config: DictConfig, folder: Path) -> TokenRun:
    """Build everything that a classifier's config describes.

    Raises:
        InputError: If a part refuses its settings, a store has no labels or no codebook, or stores do not go together.
    """
    plain = plain_values(config)
    plain["optimizer"] = typed_section(plain["optimizer"])
    typed = read_keys(config, Keys)
    rows, held_out = open_rows(typed)
    store, other = rows.store, held_out.store
    layout = TokenLayout.of(*dict.fromkeys((store, other)))
    tables = read_codebook(_codebook(store))
    grid = typed.grid or list(grid_of(layout.tokens, tuple(store.manifest["image_size"])))
    if grid[0] * grid[1] != layout.tokens:
        raise InputError(f"grid={grid} must have the {layout.tokens} tokens of {store.folder}")
    varies = layout.variable_length or layout.holes
    about = layout.plain | {"vocab_sizes": store.manifest["vocab_sizes"], "variable_length": varies, "holes": False}
    facts = {name: store.manifest.get(name) for name in ("tokenizer_sha256", "codes_sha256", "image_size")}
    built = {
        "classifier": plain["classifier"],
        "layout": about,
        "dim": tables[0].shape[1],
        "grid": grid,
        "classes": _classes(store, other),
        "tokens": facts,
    }
    if plain.get("augmentation"):
        built["augmentation"] = plain["augmentation"]
    torch.manual_seed(typed.seed)
    try:
        net = StoredClassifier.from_config(built, packages=None)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        raise InputError(f"classifier: {error}") from None
    net.embedding.read(rows)
    return token_run(net, (rows, held_out), typed, plain, folder)


def _codebook(store: TokenStore) -> Path:
    """The file of the codebook of a store."""
    if reason := store.manifest.get("codebook_absent"):
        raise InputError(
            f"{store.folder} has no codebook.safetensors, since {reason}; a classifier reads the rows of one: export "
            "by a tokenizer of fewer codes"
        )
    return store.folder / "codebook.safetensors"


def _classes(*stores: TokenStore) -> list[str]:
    """Names of the classes of stores, or their numbers where there are no names."""
    largest = -1
    for store in stores:
        for shard in store.shards():
            labels = np.asarray(shard.labels)
            if (labels < 0).any():
                key = shard.keys[int(np.argmax(labels < 0))]
                raise InputError(
                    f"{store.folder} has images without a label ({key}), which a classifier learns to say; export data "
                    "whose images all have one"
                )
            largest = max(largest, int(labels.max(initial=-1)))
    names = [store.classes for store in stores if store.classes]
    for store in stores:
        if store.classes and store.classes != names[0]:
            raise InputError(
                f"{store.folder} has other classes than {stores[0].folder}, so that the same label means another one; "
                "export both from data of the same classes"
            )
    if names and largest < len(names[0]):
        return names[0]
    return [str(label) for label in range(largest + 1)]


def _table(found: dict[str, Any]) -> Table:
    rows = Table("", "value", "")
    rows.add_row(ACCURACY, number(found[ACCURACY]), f"over {found['images']} held-out images")
    rows.add_row("chance", number(found["chance"]), "the most frequent class for all of them")
    rows.add_row("cross entropy", number(found["cross_entropy"]), "nats per image")
    rows.add_row("bits per image", number(found["bits_per_image"]), "as tokens")
    share = f"as pixels of 8 bits, one channel: {1 / found['share_of_pixel_bits']:.1f} times as many"
    rows.add_row("", number(found["pixel_bits_per_image"]), share)
    return rows
