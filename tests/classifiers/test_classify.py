"""A classifier that is trained on the tokens of a store."""

import json
import math
import shutil

import numpy as np
import pytest
import torch
from classifiers.runs import classifier_run
from priors.stores import store
from torch.nn import functional as F

from imtok.classifiers.embedded import CodebookEmbedding
from imtok.classifiers.net import StoredClassifier
from imtok.errors import InputError
from imtok.export.codebook import read_codebook
from imtok.files import sealed
from imtok.priors.rows import TokenRows
from imtok.training.token_run import train_on_tokens

EVERY = ("trainer.evaluate_every=3", "trainer.best=accuracy")


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return store(tmp_path_factory.mktemp("stores") / "tokens").folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokens):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, train_on_tokens(classifier_run(folder, tokens, *EVERY))


def test_a_run_leaves_a_classifier_whose_accuracy_anyone_can_count_again(whole, tokens):
    folder, outcome = whole
    found = json.loads((folder / "summary.json").read_text())
    assert found == outcome.found
    net, held_out = StoredClassifier.load(folder), classifier_run(folder, tokens).held_out
    (batch,) = held_out.batches(99)
    logits = net.logits(batch.tokens.ids)
    assert found["accuracy"] == pytest.approx((logits.argmax(1) == batch.label).float().mean().item())
    assert found["cross_entropy"] == pytest.approx(F.cross_entropy(logits, batch.label).item(), rel=1e-5)
    assert found["images"] == len(held_out) == 5
    assert (found["bits_per_image"], found["pixel_bits_per_image"]) == (4 * math.log2(32), 8 * 16 * 16)
    assert net.classes == ["ant", "bee", "cat"]
    assert json.loads((folder / "best/best.json").read_text())["metric"] == "accuracy"


def test_a_run_that_goes_on_is_the_same_bit_for_bit(whole, tokens, tmp_path):
    folder = tmp_path / "again"
    shutil.copytree(whole[0], folder)
    for step in range(5, 7):
        shutil.rmtree(folder / "checkpoints" / f"step_{step}", ignore_errors=True)
    (folder / "summary.json").unlink()
    outcome = train_on_tokens(classifier_run(folder, tokens, *EVERY, "ckpt=last"))
    assert outcome.found == whole[1].found
    for name in ("classifier/model.safetensors", "evaluation.csv", "checkpoints/step_6/model.safetensors"):
        assert (folder / name).read_bytes() == (whole[0] / name).read_bytes()


def test_classes_that_the_tokens_tell_apart_are_learnt(tokens, tmp_path):
    shutil.copytree(tokens, tmp_path / "tokens")
    (table,) = read_codebook(tokens / "codebook.safetensors")
    for path in (tmp_path / "tokens").glob("labels-*.npy"):
        ids = np.load(str(path).replace("labels", "ids"))[:, 0, 0]
        np.save(path, (table[ids.astype(np.int64), 0] > table[:, 0].median()).long().numpy())
    more = ("val_fraction=0.05", "trainer.max_steps=80", "trainer.batch_size=8", "trainer.save_every=80")
    run = classifier_run(tmp_path / "run", tmp_path / "tokens", *more, "optimizer.lr=0.01", "ema.decay=0")
    train_on_tokens(run)
    right, _, images, _ = StoredClassifier.load(tmp_path / "run").counts(run.rows.batches(8))
    assert images == 23
    assert right >= 22


def test_vectors_are_the_codebook_s_rows_added_up_over_slots_and_standardised(tmp_path):
    rows = TokenRows(store(tmp_path / "two", "two slots"))
    tables, (batch,) = read_codebook(rows.store.folder / "codebook.safetensors"), rows.batches(99)
    embedding = CodebookEmbedding([len(table) for table in tables], tables[0].shape[1])
    embedding.read(rows)
    ids = batch.tokens.ids
    plain = tables[0][ids[..., 0]] + tables[1][ids[..., 1]]
    flat = plain.flatten(0, 1)
    expected = (plain - flat.mean(0)) / flat.std(0, correction=0)
    torch.testing.assert_close(embedding(ids), expected)


def test_what_is_not_there_changes_no_logit(tmp_path):
    folder = store(tmp_path / "variable", "variable").folder
    run = classifier_run(tmp_path / "run", folder)
    (batch,) = run.rows.batches(99)
    ids, keep = batch.tokens.ids, batch.tokens.keep
    assert keep is not None
    assert not keep.all()
    net = run.net.eval()
    other = torch.where(keep[..., None], ids, (ids + 7) % 32)
    assert torch.equal(net.logits(ids, keep), net.logits(other, keep))
    assert not torch.allclose(net.logits(ids, keep), net.logits(other))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["grid=[3,3]"], r"grid=\[3, 3\] must have the 4 tokens"),
        (["trainer.best=psnr", "trainer.evaluate_every=3"], "accuracy or null for a classifier"),
        (["classifier.trunk.heads=3"], "heads must divide"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(tokens, tmp_path, words, message):
    with pytest.raises(InputError, match=message):
        train_on_tokens(classifier_run(tmp_path / "run", tokens, *words))
    assert not (tmp_path / "run").exists()


def change_manifest(folder, **values):
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest.pop("sha256")
    (folder / "manifest.json").write_text(json.dumps(sealed({**manifest, **values})))


def test_stores_without_labels_or_a_codebook_or_with_other_classes_are_refused(tokens, tmp_path):
    for name in ("unlabelled", "bare", "others"):
        shutil.copytree(tokens, tmp_path / name)
    path = min((tmp_path / "unlabelled").glob("labels-*.npy"))
    labels = np.load(path)
    labels[1] = -1
    np.save(path, labels)
    with pytest.raises(InputError, match=r"without a label \(1.png\)"):
        classifier_run(tmp_path / "run", tmp_path / "unlabelled")
    change_manifest(tmp_path / "bare", codebook_absent="its tables would take 600 MB")
    with pytest.raises(InputError, match=r"no codebook.safetensors, since its tables would take 600 MB"):
        classifier_run(tmp_path / "run", tmp_path / "bare")
    names = [f"other {number}" for number in range(3)]
    change_manifest(tmp_path / "others", classes=names)
    with pytest.raises(InputError, match="has other classes than"):
        classifier_run(tmp_path / "run", tokens, f"val={tmp_path / 'others'}")
