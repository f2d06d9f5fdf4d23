"""A prior that is trained by the run of the training room."""

import json
import shutil
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from export.stores import PARTS, VQ, batches, tokenizer_of
from PIL import Image
from priors.sampled import sampled
from priors.stores import prior_run, store
from safetensors.torch import load_file
from training.launch import launch_ranks

from imtok.conditions.given import DecodeConditionConfig
from imtok.conditions.words import Words
from imtok.data.sources.pairs import open_partners
from imtok.errors import InputError
from imtok.export.feed import BatchFeed
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.priors.asked import asked_of
from imtok.priors.codes import write_codes
from imtok.priors.generator import Generator
from imtok.priors.samples import write_samples
from imtok.priors.sampling import Sampling
from imtok.tokenizer import Tokenizer
from imtok.training.token_run import train_on_tokens


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return store(tmp_path_factory.mktemp("stores") / "tokens").folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokens):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, train_on_tokens(prior_run(folder, tokens, "trainer.evaluate_every=3", "trainer.best=bits_per_token"))


def test_a_run_leaves_a_prior_its_numbers_and_its_best(whole):
    folder, outcome = whole
    found = json.loads((folder / "summary.json").read_text())
    assert found == outcome.found
    assert found["uniform_bits_per_token"] == 5
    assert found["bits_per_image"] == pytest.approx(4 * found["bits_per_token"])
    assert found["bits_per_pixel"] == pytest.approx(found["bits_per_image"] / 256)
    rows = [line.split(",") for line in (folder / "evaluation.csv").read_text().splitlines()]
    assert [row[0] for row in rows] == ["step", "3", "6"]
    assert float(rows[2][2]) == pytest.approx(found["bits_per_token"])
    Generator.load(folder / "best" / "prior")
    assert (folder / "metrics.csv").read_text().startswith("step,loss,tokens,lr,gradient_norm")


@pytest.mark.parametrize("kept", [2, 4])
def test_a_run_that_goes_on_is_the_same_bit_for_bit(whole, tokens, tmp_path, kept):
    folder = tmp_path / "again"
    shutil.copytree(whole[0], folder)
    for step in range(kept + 1, 7):
        shutil.rmtree(folder / "checkpoints" / f"step_{step}", ignore_errors=True)
    (folder / "summary.json").unlink()
    more = ("trainer.evaluate_every=3", "trainer.best=bits_per_token", "ckpt=last")
    outcome = train_on_tokens(prior_run(folder, tokens, *more))
    assert outcome.found == whole[1].found
    for name in ("prior/model.safetensors", "evaluation.csv", "checkpoints/step_6/model.safetensors"):
        assert (folder / name).read_bytes() == (whole[0] / name).read_bytes()
    assert train_on_tokens(prior_run(folder, tokens, *more)).finished_before


STOPS = (
    "callback=early_stopping",
    "callback.early_stopping.monitor=bits_per_token",
    "callback.early_stopping.mode=min",
    "callback.early_stopping.patience=1",
    "trainer.evaluate_every=1",
    "optimizer.lr=10",
)


def test_a_run_that_a_callback_has_ended_is_finished(tokens, tmp_path):
    first = train_on_tokens(prior_run(tmp_path / "run", tokens, *STOPS))
    assert first.found is not None
    assert first.found["stopped_at"] == first.step < 6
    again = train_on_tokens(prior_run(tmp_path / "run", tokens, *STOPS, "ckpt=last"))
    assert again.finished_before
    assert again.found == first.found


def test_the_numbers_of_a_shorter_run_are_none_of_a_longer_one_that_was_cut_off_at_its_end(whole, tokens, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(whole[0], folder)
    found = {**whole[1].found, "steps": 4}
    (folder / "summary.json").write_text(json.dumps(found))
    more = ("trainer.evaluate_every=3", "trainer.best=bits_per_token", "ckpt=last")
    outcome = train_on_tokens(prior_run(folder, tokens, *more))
    assert not outcome.finished_before
    assert outcome.found == whole[1].found


def test_other_tokens_and_other_settings_do_not_go_on(whole, tokens, tmp_path):
    more = ("trainer.evaluate_every=3", "trainer.best=bits_per_token", "ckpt=last")
    other = store(tmp_path / "other", "two slots").folder
    with pytest.raises(InputError, match=r"prior.trunk.depth: 1 -> 2"):
        train_on_tokens(prior_run(whole[0], tokens, *more, "prior.trunk.depth=2"))
    with pytest.raises(InputError, match="are not those of the run so far"):
        train_on_tokens(prior_run(whole[0], other, *more))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["condition=words"], "has no captions"),
        (["condition=label", "condition.classes=2"], "condition.classes must be above every label"),
        (["trainer.best=psnr", "trainer.evaluate_every=3"], "bits_per_token or null"),
        (["prior=scales"], "scales of the tokens"),
        (["prior.trunk.heads=3"], "heads must divide"),
        (["val_fraction=0.99"], "leaves none"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(tokens, tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        train_on_tokens(prior_run(tmp_path / "run", tokens, *words))
    assert not (tmp_path / "run").exists()


def test_a_store_of_another_tokenizer_measures_nothing(tokens, tmp_path):
    other = store(tmp_path / "other", "two slots").folder
    with pytest.raises(InputError, match="was exported by another tokenizer"):
        prior_run(tmp_path / "run", tokens, f"val={other}")


@pytest.mark.parametrize("head", ["parallel", "bits"])
def test_a_store_with_an_id_that_is_none_of_its_vocabulary_is_refused_by_the_file(tokens, tmp_path, head):
    shutil.copytree(tokens, tmp_path / "tokens")
    last = max((tmp_path / "tokens").glob("ids-*.npy"))
    ids = np.load(last)
    ids[-1, -1] = 32
    np.save(last, ids)
    for words in ((), (f"val={tmp_path / 'tokens'}",)):
        with pytest.raises(InputError, match=rf"{last.name}: ids of slot 0 must lie in \[0, 32\), got 32"):
            prior_run(tmp_path / "run", tokens if words else tmp_path / "tokens", f"prior/head={head}", *words)
    np.save(last, ids[:-1])
    with pytest.raises(InputError, match="differ in length"):
        prior_run(tmp_path / "run", tmp_path / "tokens")


def test_a_store_to_measure_on_whose_labels_are_not_known_is_refused_before_training(tokens, tmp_path):
    shutil.copytree(tokens, tmp_path / "tokens")
    for path in (tmp_path / "tokens").glob("labels-*.npy"):
        np.save(path, np.full_like(np.load(path), 7))
    with pytest.raises(InputError, match=r"above every label, got 3 and label 7"):
        prior_run(tmp_path / "run", tokens, "condition=label", "condition.classes=3", f"val={tmp_path / 'tokens'}")


def test_scales_are_learnt_from_a_store_of_a_multi_scale_quantizer(tmp_path):
    torch.manual_seed(0)
    scales = {"_target_": "imtok.quantizers.multiscale.MultiScale", "quantizer": VQ, "sizes": [1, 2], "convolutions": 0}
    tokenizer = Tokenizer.from_config({**PARTS, "quantizer": scales}).eval()
    export_tokens(
        tokenizer, BatchFeed(batches([f"{n}.png" for n in range(12)]), 6, ["a", "b", "c"], side=16), tmp_path / "t"
    )
    train_on_tokens(prior_run(tmp_path / "run", tmp_path / "t", "prior=scales"))
    generator = Generator.load(tmp_path / "run")
    assert generator.prior.layout.scales == (1, 4)
    write_samples(generator, tokenizer, 3, tmp_path / "samples", (16, 16), Sampling())
    assert np.load(tmp_path / "samples" / "ids.npy").shape == (3, 5, 1)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (4, "RGBA")])
def test_samples_of_other_channels_are_rgb_for_the_evaluator(channels, mode, tokens, tmp_path, monkeypatch):
    train_on_tokens(prior_run(tmp_path / "run", tokens))
    monkeypatch.setattr("imtok.priors.samples.require_its_tokens", lambda *_: "")
    tokenizer = Tokenizer.from_config({**tokenizer_of("one slot").config, "channels": channels}).eval()
    write_samples(Generator.load(tmp_path / "run"), tokenizer, 2, tmp_path / "samples", (16, 16), Sampling())
    with Image.open(tmp_path / "samples" / "000000.png") as picture:
        assert picture.mode == mode
    assert np.load(tmp_path / "samples" / "samples.npz")["arr_0"].shape == (2, 16, 16, 3)


def test_a_tokenizer_whose_decoder_alone_is_another_decodes_the_samples(tokens, tmp_path):
    train_on_tokens(prior_run(tmp_path / "run", tokens))
    generator, tokenizer = Generator.load(tmp_path / "run"), tokenizer_of("one slot")
    torch.nn.init.normal_(tokenizer.decoder.last_layer)
    write_samples(generator, tokenizer, 2, tmp_path / "samples", (16, 16), Sampling())
    torch.nn.init.normal_(next(tokenizer.encoder.parameters()))
    with pytest.raises(InputError, match="tokens of another tokenizer"):
        write_samples(generator, tokenizer, 2, tmp_path / "other", (16, 16), Sampling())


@pytest.mark.parametrize("kind", ["one slot", "two slots", "variable"])
def test_samples_are_pictures_ids_and_an_npz_and_do_not_depend_on_the_batch(tmp_path, kind, monkeypatch):
    folder = store(tmp_path / "tokens", kind).folder
    train_on_tokens(prior_run(tmp_path / "run", folder, "condition=label", "condition.classes=3"))
    generator, tokenizer = Generator.load(tmp_path / "run"), tokenizer_of(kind)
    generator.config["tokens"]["tokenizer_sha256"] = tokenizer.fingerprint()
    asked = asked_of(generator, tokenizer, 5, DecodeConditionConfig())
    settings, told = Sampling(guidance=1.5), []
    monkeypatch.setattr("imtok.bars.bar", lambda name: nullcontext(lambda count, total: told.append((count, total))))
    for name, batch in (("a", 64), ("b", 2)):
        write_samples(generator, tokenizer, 5, tmp_path / name, (16, 16), settings, asked, batch)
    assert told == [(5, 5), (2, 5), (2, 5), (1, 5)]
    found = np.load(tmp_path / "a" / "samples.npz")
    assert found["arr_1"].tolist() == [0, 1, 2, 0, 1]
    assert found["arr_0"].shape == (5, 16, 16, 3)
    assert np.array_equal(found["arr_0"][3], np.asarray(Image.open(tmp_path / "a" / "000003.png")))
    assert np.array_equal(np.load(tmp_path / "a" / "ids.npy"), np.load(tmp_path / "b" / "ids.npy"))
    assert (tmp_path / "a" / "keep.npy").exists() is (kind == "variable")
    assert not list(tmp_path.glob(".*"))


def test_codes_for_post_training_are_pairs_of_the_store_s_images(whole, tokens, tmp_path):
    found = TokenStore(tokens)
    write_codes(Generator.load(whole[0]), found, tmp_path / "codes", Sampling(), 0.5, batch_size=5)
    write_codes(Generator.load(whole[0]), found, tmp_path / "again", Sampling(), 0.5, batch_size=64)
    same = 0
    for number, shard in enumerate(found.shards()):
        ids = np.load(tmp_path / "codes" / f"ids-{number:05d}.npy")
        assert np.array_equal(ids, np.load(tmp_path / "again" / f"ids-{number:05d}.npy"))
        assert json.loads((tmp_path / "codes" / f"keys-{number:05d}.json").read_text()) == shard.keys
        same += (ids == shard.ids[:, 0]).sum()
    assert 0.4 < same / 96 < 0.75
    partners = open_partners(tmp_path / "codes", "ids", 16)
    assert torch.equal(
        partners.read(partners.place["3"]),
        torch.from_numpy(np.load(tmp_path / "codes" / "ids-00001.npy")[0].astype(np.int64)),
    )


def test_codes_of_other_stores_are_refused(whole, tmp_path):
    for name, kind in (("other", "two slots"), ("variable", "variable")):
        with pytest.raises(InputError, match="another tokenizer"):
            write_codes(Generator.load(whole[0]), store(tmp_path / name, kind), tmp_path / "codes", Sampling(), 0.5)


def test_samples_of_another_tokenizer_are_refused(whole, tmp_path):
    with pytest.raises(InputError, match="tokens of another tokenizer"):
        write_samples(Generator.load(whole[0]), tokenizer_of("two slots"), 2, tmp_path / "x", (16, 16), Sampling())
    assert not (tmp_path / "x").exists()


def test_a_few_batches_can_be_learnt_by_heart(tokens, tmp_path):
    more = (
        "trainer.lightning={overfit_batches: 1}",
        "trainer.max_steps=60",
        "trainer.log_every=5",
        "prior.trunk.dropout=0",
    )
    train_on_tokens(prior_run(tmp_path / "run", tokens, *more, "optimizer.lr=0.02", "trainer.save_every=60"))
    losses = [float(row.split(",")[1]) for row in (tmp_path / "run" / "metrics.csv").read_text().splitlines()[1:]]
    assert losses[-1] < 0.5 * losses[0]


def test_what_a_prior_is_not_told_cannot_be_asked_for(whole):
    generator, tokenizer = Generator.load(whole[0]), tokenizer_of("one slot")
    for given, message in (
        (DecodeConditionConfig(label=1), "reads labels"),
        (DecodeConditionConfig(captions="x"), "captions"),
    ):
        with pytest.raises(InputError, match=message):
            asked_of(generator, tokenizer, 2, given)
    assert asked_of(generator, tokenizer, 2, DecodeConditionConfig()).labels == ()
    tokenizer.condition = Words(dim=4, length=2)
    with pytest.raises(InputError, match=r"condition.captions=FILE must be given"):
        asked_of(generator, tokenizer, 2, DecodeConditionConfig())


@pytest.fixture(scope="module")
def told(tmp_path_factory, tokens):
    """A prior that is told classes, and its tokenizer, which is told nothing."""
    folder = tmp_path_factory.mktemp("told")
    train_on_tokens(prior_run(folder / "prior", tokens, "condition=label", "condition.classes=3"))
    tokenizer_of("one slot").save(folder / "tokenizer")
    return folder / "prior", folder / "tokenizer"


def test_a_label_is_for_the_prior_also_where_the_tokenizer_is_told_nothing(told, tmp_path):
    sampled(tmp_path / "s", *told, "condition.label=2")
    assert np.load(tmp_path / "s" / "samples.npz")["arr_1"].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("condition.label=3", "condition.label must be below 3"),
        ("condition.weights=x", "neither prior nor tokenizer names a frozen net"),
        ("condition.cache=x", "neither prior nor tokenizer names a text tower"),
        ("condition.quality=2", "no part of this tokenizer reads a wanted quality"),
        ("image_size=64", "image_size: latents must be 64"),
        ("store=STORE condition.label=1", "cannot be given with store="),
        ("store=STORE condition.captions=x", "cannot be given with store="),
    ],
)
def test_what_samples_cannot_be_is_refused_by_the_key(told, tokens, tmp_path, word, message):
    with pytest.raises(InputError, match=message):
        sampled(tmp_path / "s", *told, *word.replace("STORE", str(tokens)).split())
    assert not (tmp_path / "s").exists()


def test_samples_are_of_the_size_of_the_images_whose_tokens_the_prior_has_learnt(tmp_path):
    tokenizer = tokenizer_of("one slot")  # trained on images of 16 x 16
    tokenizer.save(tmp_path / "tokenizer")
    feed = BatchFeed(batches([f"{n}.png" for n in range(12)], side=32), 6, ["a", "b", "c"], side=32)
    export_tokens(tokenizer, feed, tmp_path / "tokens")
    train_on_tokens(prior_run(tmp_path / "prior", tmp_path / "tokens"))
    sampled(tmp_path / "s", tmp_path / "prior", tmp_path / "tokenizer")
    assert np.load(tmp_path / "s" / "samples.npz")["arr_0"].shape == (3, 32, 32, 3)


def test_the_command_that_codes_end_with_can_be_pasted(told, tokens, tmp_path, capsys):
    sampled(tmp_path / "codes", *told, f"store={tokens}")
    assert '"freeze=[encoder,quantizer]"' in capsys.readouterr().out


def test_two_ranks_train_like_one_process(tmp_path):
    store(tmp_path / "tokens")
    names = ["ar"]
    for world in (1, 2):
        processes = launch_ranks(world, "priors.stores:train_priors", [str(tmp_path), names], tmp_path)
        assert [process.wait(120) for process in processes] == [0] * world, processes[0].output
    for name in names:
        one, two = (load_file(tmp_path / f"{name}_{world}" / "prior" / "model.safetensors") for world in (1, 2))
        for key, value in one.items():
            torch.testing.assert_close(two[key], value, atol=1e-10, rtol=0)
        found = [json.loads((tmp_path / f"{name}_{world}" / "summary.json").read_text()) for world in (1, 2)]
        assert found[1]["bits_per_token"] == pytest.approx(found[0]["bits_per_token"], abs=1e-9)
