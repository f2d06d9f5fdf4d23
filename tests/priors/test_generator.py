"""A prior that is saved, read and measured."""

import math

import numpy as np
import pytest
import torch
from priors.stores import store

from imtok.errors import InputError
from imtok.priors.generator import Generator
from imtok.priors.layout import TokenLayout
from imtok.priors.rows import TokenRows, collate, split_rows
from imtok.priors.sampling import Sampling

HEAD = {"_target_": "imtok.priors.heads.ParallelHead"}
TRUNK = {"_target_": "imtok.priors.trunk.Trunk", "width": 16, "depth": 1, "heads": 2}
PREFIX = {"_target_": "imtok.priors.prefix.Prefix"}
PRIOR = {"_target_": "imtok.priors.ar.ARPrior", "head": HEAD, "trunk": TRUNK, "prefix": PREFIX}
LABEL = {"_target_": "imtok.conditions.label.Label", "classes": 3}


def config(**more):
    return {"prior": PRIOR, "layout": {"vocab_sizes": [32], "tokens": 4}, "tokens": {"tokenizer_sha256": "x"}, **more}


def test_what_is_read_draws_what_was_saved(tmp_path):
    made = Generator.from_config(config(condition=LABEL)).eval()
    made.save(tmp_path / "run" / "prior")
    read = Generator.load(tmp_path / "run")
    drawn = [one.sample([0, 1], Sampling(), labels=[2, 0]).ids for one in (made, read)]
    assert torch.equal(*drawn)
    assert read.tokens == {"tokenizer_sha256": "x"}


def test_an_altered_config_or_a_stranger_s_class_is_refused(tmp_path):
    Generator.from_config(config()).save(tmp_path / "prior")
    path = tmp_path / "prior" / "config.json"
    path.write_text(path.read_text().replace('"depth": 1', '"depth": 2'))
    with pytest.raises(InputError, match=r"config.json was altered"):
        Generator.load(tmp_path)
    with pytest.raises(InputError, match="is not a prior"):
        Generator.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="os"):
        Generator.from_config(config(prior={"_target_": "os.system", "command": "true"}))
    with pytest.raises(ValueError, match="Prior"):
        Generator.from_config(config(prior={"_target_": "imtok.quantizers.fsq.FSQ", "levels": [3]}))


def test_bits_are_those_of_all_tokens(tmp_path):
    rows = TokenRows(store(tmp_path / "tokens"))
    made = Generator.from_config(config()).eval()
    for part in made.prior.head.logits.parameters():
        torch.nn.init.zeros_(part)
    bits, images, tokens = made.counts(rows.batches(5))
    assert (images, tokens) == (24, 96)
    assert bits == pytest.approx(96 * math.log2(32), rel=1e-6)


def test_rows_are_the_views_of_images_of_all_shards_in_order(tmp_path):
    from export.stores import small_store

    found = small_store(tmp_path / "tokens", augment="flip")
    rows = TokenRows(found)
    assert len(rows) == 14
    whole = torch.cat([batch.tokens.ids for batch in rows.batches(4)])
    assert torch.equal(whole, torch.cat([tokens.ids for tokens in found.batches(5)]))
    batch = collate([rows[2], rows[(9, 3)]])
    assert batch.key == ("1.png", "1.png")
    assert batch.label.tolist() == [1, 1]
    each = [batch for rank in range(2) for batch in rows.batches(3, rank, 2)]
    assert sum(map(len, each)) == 14


def test_some_rows_are_spread_over_all_images(tmp_path):
    """Stores are often in the order of classes: the first images would be of the first classes."""
    rows = TokenRows(store(tmp_path / "tokens"), np.arange(4, 24))
    assert rows.some(5).images.tolist() == [4, 8, 12, 16, 20]
    assert rows.some(99).images.tolist() == rows.images.tolist()


def test_a_split_is_of_images_and_the_same_each_time(tmp_path):
    found = store(tmp_path / "tokens")
    for share in (0.25, 0.01):
        train, held_out = split_rows(found, share)
        assert len(held_out) == max(1, round(24 * share))
        assert sorted([*train.images, *held_out.images]) == list(range(24))
        assert np.array_equal(split_rows(found, share)[1].images, held_out.images)
    with pytest.raises(InputError, match="leaves none"):
        split_rows(found, 0.99)


def test_a_layout_is_that_of_the_store(tmp_path):
    assert TokenLayout.of(store(tmp_path / "two", "two slots")) == TokenLayout((32, 20), 4)
    assert TokenLayout.of(store(tmp_path / "variable", "variable")) == TokenLayout((32,), 4, variable_length=True)
