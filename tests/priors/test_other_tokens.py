"""A prior that turns the tokens of one tokenizer into those of another (DiGIT's way back to pictures)."""

import json

import numpy as np
import pytest
import torch
from export.stores import small_store, tokenizer_of
from priors.sampled import sampled
from priors.stores import KEYS, prior_run, store

from imtok.errors import InputError
from imtok.export.store import TokenStore
from imtok.priors.ar import ARPrior
from imtok.priors.generator import Generator
from imtok.priors.heads import ParallelHead
from imtok.priors.layout import TokenLayout
from imtok.priors.prefix import Prefix
from imtok.priors.rows import TokenRows, collate
from imtok.priors.sampling import Sampling
from imtok.priors.source import OtherStore
from imtok.priors.trunk import Trunk
from imtok.tokenizer import Tokenizer
from imtok.training.token_run import train_on_tokens
from imtok.types import Condition, Tokens


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    """Of the same images: what is to be drawn (one slot), and what the prior is told (two slots)."""
    folder = tmp_path_factory.mktemp("stores")
    return store(folder / "pixels").folder, store(folder / "features", "two slots").folder


@pytest.fixture(scope="module")
def run(tmp_path_factory, stores):
    folder = tmp_path_factory.mktemp("runs")
    outcome = train_on_tokens(
        prior_run(folder / "prior", stores[0], "condition=tokens", f"condition.store={stores[1]}")
    )
    tokenizer_of("one slot").save(folder / "tokenizer")
    return folder, outcome


def test_rows_hold_what_the_other_tokenizer_made_of_their_image(stores):
    pixels, features = map(TokenStore, stores)
    rows = TokenRows(pixels, np.array([3, 17])).beside(OtherStore.open(str(stores[1]), pixels))
    batch = collate([rows[0], rows[1]])
    wanted = {key: ids for shard in features.shards() for key, ids in zip(shard.keys, shard.ids, strict=True)}
    for key, other in zip(batch.key, batch.other, strict=True):
        assert np.array_equal(other.numpy(), wanted[key][0])
    assert np.array_equal(rows.some(1)[0][-1], batch.other[0].numpy())


def test_it_learns_which_tokens_belong_to_which():
    torch.manual_seed(0)
    prefix = Prefix(32, other_tokens=3, other_vocab_sizes=(4,), drop=0.0)
    prior = ARPrior(TokenLayout((4,), 3), ParallelHead((4,), 32), Trunk(32, 1, 2, dropout=0.0), prefix)
    optimizer = torch.optim.Adam(prior.parameters(), 5e-3)
    for _ in range(150):
        other = torch.randint(4, (32, 3, 1))
        nats = prior.losses(Tokens((other.flip(1) + 1) % 4), Condition(tokens=other), 0.5)["tokens"]
        optimizer.zero_grad()
        nats.backward()
        optimizer.step()
    other = torch.randint(4, (16, 3, 1))
    drawn = prior.eval().sample(list(range(16)), Condition(tokens=other), Sampling())
    assert (drawn.ids == (other.flip(1) + 1) % 4).float().mean() > 0.95


def test_a_run_keeps_what_the_tokens_are_and_not_where_they_lay(run, stores):
    folder, outcome = run
    assert outcome.found["bits_per_token"] > 0
    generator = Generator.load(folder / "prior")
    section = generator.config["condition"]
    features = TokenStore(stores[1]).manifest
    assert section["store"] is None
    assert (section["tokens"], section["vocab_sizes"]) == (features["tokens"], features["vocab_sizes"])
    assert section["tokenizer_sha256"] == features["tokenizer_sha256"]
    assert str(stores[1]) not in json.dumps(generator.config)
    assert generator.prior.gives_guidance


def test_pictures_are_drawn_of_the_tokens_of_a_store_and_of_samples_of_them(run, stores, tmp_path):
    folder, _ = run
    sampled(tmp_path / "a", folder / "prior", folder / "tokenizer", f"condition.store={stores[1]}")
    ids = np.load(tmp_path / "a" / "ids.npy")
    assert ids.shape == (3, 4, 1)
    assert (tmp_path / "a" / "000002.png").is_file()
    rows = TokenRows(TokenStore(stores[1]))
    other = torch.from_numpy(np.stack([rows[number][0] for number in (0, 8, 16)]))  # of 24, evenly
    generator = Generator.load(folder / "prior")
    assert np.array_equal(generator.sample([0, 1, 2], Sampling(), other=other).ids.numpy(), ids)
    samples = tmp_path / "samples"
    samples.mkdir()
    np.save(samples / "ids.npy", other.numpy().astype(np.uint16))
    by = TokenStore(stores[1]).manifest["tokenizer_sha256"]
    (samples / "samples.json").write_text(json.dumps({"tokenizer_sha256": by}))
    sampled(tmp_path / "b", folder / "prior", folder / "tokenizer", f"condition.store={samples}")
    assert np.array_equal(np.load(tmp_path / "b" / "ids.npy"), ids)


def test_what_does_not_belong_together_is_refused(run, stores, tmp_path):
    folder, _ = run
    for words, message in (
        ((), r"condition.store=FOLDER must be given: this prior turns tokens of another tokenizer"),
        ((f"condition.store={stores[0]}",), "has tokens of another tokenizer than those that the prior is told"),
        ((f"condition.store={stores[1]}", "n=25"), r"has tokens of 24 images for n=25 samples; give n=24"),
        ((f"condition.store={tmp_path}",), "is neither a token store nor a folder of imtok sample"),
    ):
        with pytest.raises(InputError, match=message):
            sampled(tmp_path / "s", folder / "prior", folder / "tokenizer", *words)
    fewer = small_store(tmp_path / "fewer", "two slots", keys=KEYS[:7])
    with pytest.raises(InputError, match=r"lacks 17 of the 24 images of .*7\.png among them"):
        prior_run(tmp_path / "run", stores[0], "condition=tokens", f"condition.store={fewer.folder}")
    section = {"_target_": "imtok.conditions.tokens.OtherTokens"}
    with pytest.raises(ValueError, match="condition=tokens is for imtok prior"):
        Tokenizer.from_config({**(tokenizer_of("one slot").config or {}), "condition": section})
