"""``imtok classify``: trains a classifier on the tokens of a store, and says how often it is right on others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from imtok.classifiers.net import ACCURACY, StoredClassifier
from imtok.command_line import output_folder
from imtok.config import read_keys
from imtok.distributed import launched_rank
from imtok.errors import InputError, named
from imtok.export.store import TokenStore
from imtok.image_commands import plain_values
from imtok.measures.report.titles import number
from imtok.optimizer_section import typed_section
from imtok.tables import print_whole
from imtok.token_commands import GridKeys, of_vectors, open_rows, say_outcome, token_run
from imtok.training.token_run import TokenRun, train_on_tokens


@dataclass
class Keys(GridKeys):
    """A token store, a classifier and how it is trained. configs/classify.yaml explains each."""

    classifier: Any = MISSING
    augmentation: Any = None


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
    built = {
        "classifier": plain["classifier"],
        "classes": _classes(store, other),
        **of_vectors(typed, rows, held_out),
    }
    if plain.get("augmentation"):
        built["augmentation"] = plain["augmentation"]
    torch.manual_seed(typed.seed)
    with named("classifier"):
        net = StoredClassifier.from_config(built, packages=None)
    net.embedding.read(rows)
    try:
        if net.augmentation is not None:
            net.augmentation.meet(net.embedding, net.grid)
    except ValueError as error:
        raise InputError(f"augmentation: {error}") from None
    return token_run(net, (rows, held_out), typed, plain, folder)


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
