"""``imtok prior``: trains a generator on the tokens of a store, and says how many bits they cost it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING, DictConfig
from rich.console import Console
from rich.table import Table

from imtok.command_line import output_folder
from imtok.conditions.tokens import OtherTokens
from imtok.config import read_keys
from imtok.distributed import launched_rank
from imtok.errors import InputError, named
from imtok.export.store import TokenStore
from imtok.image_commands import plain_values
from imtok.measures.report.titles import number
from imtok.optimizer_section import typed_section
from imtok.paste import imtok_line
from imtok.priors.generator import BITS, Generator
from imtok.priors.layout import TokenLayout
from imtok.priors.rows import TokenRows
from imtok.priors.source import OtherStore
from imtok.tables import print_whole
from imtok.token_commands import StoreKeys, TokenTrainingKeys, open_rows, say_outcome, token_run
from imtok.training.token_run import TokenRun, train_on_tokens

_COUNTED = {"uniform": "all ids as likely", "unigram": "how often each id is", "bigram": "given the token before"}


@dataclass
class PriorKeys(TokenTrainingKeys):
    """A prior and how it is trained. configs/prior.yaml explains each."""

    prior: Any = MISSING
    condition: Any = None


@dataclass
class Keys(StoreKeys, PriorKeys):
    """A token store, a prior and how it is trained. configs/prior.yaml explains each."""


def run(config: DictConfig) -> None:
    """Train a prior, and say what it knows of tokens that it has not seen."""
    console = Console(highlight=False, quiet=launched_rank() != 0)
    folder = output_folder(config, "prior")
    outcome = train_on_tokens(build_prior_run(config, folder))
    found = say_outcome(outcome, folder, "prior", console)
    if found is None:
        return
    print_whole(_table(found), console)
    following = imtok_line("sample", prior=folder, tokenizer="RUN", n=64, out=folder / "samples")
    console.print(f"sample:   {following}", soft_wrap=True, markup=False)


def build_prior_run(config: DictConfig, folder: Path) -> TokenRun:
    """Build everything that a prior's config describes.

    Raises:
        InputError: If a part refuses its settings, or stores do not go together.
    """
    plain = plain_values(config)
    plain["optimizer"] = typed_section(plain["optimizer"])
    typed = read_keys(config, Keys)
    rows, held_out = open_rows(typed)
    store = rows.store
    layout = TokenLayout.of(*dict.fromkeys((store, held_out.store)))
    facts = {name: store.manifest.get(name) for name in ("tokenizer_sha256", "codes_sha256", "image_size", "classes")}
    facts |= {"condition": store.condition.facts} if store.condition.facts else {}
    facts |= {name: store.manifest[name] for name in ("lengths", "prefixes") if name in store.manifest}
    built = {"prior": plain["prior"], "layout": layout.plain, "tokens": facts}
    if plain.get("condition"):
        built["condition"], rows, held_out = _told_tokens(dict(plain["condition"]), rows, held_out)
    torch.manual_seed(typed.seed)
    with named("prior"):
        generator = Generator.from_config(built, packages=None, key="prior")
    if generator.condition is not None:
        generator.condition.prepare()
        for one in dict.fromkeys((rows.store, held_out.store)):
            _require_told(generator, one)
    return token_run(generator, (rows, held_out), typed, plain, folder)


def _told_tokens(
    condition: dict[str, Any], rows: TokenRows, held_out: TokenRows
) -> tuple[dict[str, Any], TokenRows, TokenRows]:
    """Add the sizes of another store's tokens to the condition's section, and their ids to the rows.

    Nothing changes for other conditions.
    """
    if condition.get("_target_") != f"{OtherTokens.__module__}.{OtherTokens.__qualname__}":
        return condition, rows, held_out
    found = [OtherStore.open(condition["store"], one.store) for one in (rows, held_out)]
    return condition | found[0].facts, rows.beside(found[0]), held_out.beside(found[1])


def _require_told(generator: Generator, store: TokenStore) -> None:
    """Refuse a store that says nothing of what the condition reads."""
    reads = generator.condition.reads if generator.condition is not None else ()
    if "caption" in reads and not store.captioned:
        raise InputError(f"{store.folder} has no captions, which the condition reads; export data that has some")
    if "label" in reads:
        labels = [int(shard.labels.max()) for shard in store.shards() if len(shard.labels)]
        if max(labels, default=-1) < 0:
            raise InputError(f"{store.folder} has no labels, which the condition reads; export data that has some")
        classes = generator.condition.classes if generator.condition is not None else None
        if classes is not None and max(labels) >= classes:
            raise InputError(f"condition.classes must be above every label, got {classes} and label {max(labels)}")


def _table(found: dict[str, Any]) -> Table:
    rows = Table("bits per", "value", "")
    at_most = "" if found["exact"] else "at most: a bound above the prior's own"
    rows.add_row("token", number(found[BITS]), at_most)
    for name, what in _COUNTED.items():
        rows.add_row(f"token, {name}", number(found[f"{name}_bits_per_token"]), what)
    rows.add_row("image", number(found["bits_per_image"]), f"over {found['images']} held-out images")
    rows.add_row("pixel", number(found["bits_per_pixel"]), "")
    return rows
