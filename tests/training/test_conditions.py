"""Runs whose tokenizer is told something besides the pixels: from the first codebook to the last picture."""

import json
from dataclasses import replace

import pytest
import torch
from training.conditioned import PARTS
from training.runs import state_of, tiny_run, write_images

from imtok.conditions.words import Words
from imtok.data.order.loader import train_loader
from imtok.data.order.sampler import TrainBatches
from imtok.data.sources.captioned_photos import CaptionedPhotos
from imtok.data.sources.folder import Folder
from imtok.data.sources.mixture import Mixture
from imtok.data.told import told
from imtok.errors import InputError
from imtok.tokenizer import Tokenizer
from imtok.training.resume import changes
from imtok.training.run import train

WORDS = ("condition=words", "condition.dim=8", "condition.length=4")
TEXT = (
    *PARTS, *WORDS, "data=folder", "trainer.max_steps=2", "trainer.pictures_every=2", "trainer.evaluate_every=2",
)  # fmt: skip


@pytest.fixture
def images(tmp_path):
    """Twelve images, all but the last with a caption of its own."""
    folder = write_images(tmp_path / "images", 12)
    for number, path in enumerate(sorted(folder.rglob("*.png"))[:-1]):
        path.with_suffix(".txt").write_text(f"thing number {number}")
    return folder


@pytest.fixture
def run(images, tmp_path):
    return tiny_run(tmp_path / "run", *TEXT, f"data.path={images}", "data.val_fraction=0.3")


def test_the_codebook_starts_from_images_whose_captions_are_all_told(images, tmp_path, monkeypatch):
    told = (f"data.path={images}", "data.val_fraction=0.3", "condition.drop=0.99")
    run = tiny_run(tmp_path / "run", *TEXT, *told)
    captions, started, codebook = [], [], type(run.tokenizer.quantizer)
    forward, start = Words.forward, codebook.start

    def noted(self, texts, labels):
        captions.append(list(texts))
        return forward(self, texts, labels)

    def starting(self, latents):
        started.append(captions[-1])
        return start(self, latents)

    monkeypatch.setattr(Words, "forward", noted)
    monkeypatch.setattr(codebook, "start", starting)
    train(run)
    (batch,) = started
    assert len(batch) > 2
    assert batch.count("") <= 1  # one image has none


@pytest.mark.usefixtures("rehearsed")
def test_every_part_of_a_run_tells_the_tokenizer_the_captions(run, monkeypatch):
    conditions = []
    forward = type(run.tokenizer.encoder).forward

    def noted(self, image, length=None, condition=None):
        conditions.append(condition)
        return forward(self, image, length, condition)

    monkeypatch.setattr(type(run.tokenizer.encoder), "forward", noted)
    outcome = train(run)
    assert outcome.report is not None
    assert len(conditions) >= 6  # rehearsal, start of the codebook, steps, pictures, evaluations
    assert all(condition is not None and condition.mask.any() for condition in conditions)
    assert (run.folder / "images/step_2.png").is_file()
    again = Tokenizer.load(run.folder)
    assert again.condition is not None
    before = tiny_run(run.folder.parent / "other", *TEXT, f"data.path={run.data.path}").tokenizer
    assert not torch.equal(again.condition.table.weight, before.condition.table.weight)  # words have learnt


def test_captions_that_are_dropped_are_the_same_ones_when_a_run_goes_on(images, tmp_path, monkeypatch):
    words = (
        *TEXT,
        f"data.path={images}",
        "data.val_fraction=0.3",
        "trainer.max_steps=6",
        "trainer.save_every=3",
        "trainer.evaluate_every=0",
    )
    told, steps = dict[str, list[list[bool]]](), []

    def noted(self, captions, labels):
        steps.append([bool(caption) for caption in captions])
        return forward(self, captions, labels)

    forward = Words.forward
    monkeypatch.setattr(Words, "forward", noted)
    for name, more in {"straight": (), "again": (f"ckpt={tmp_path}/straight/checkpoints/step_3",)}.items():
        steps.clear()
        run = tiny_run(tmp_path / name, *words, "condition.drop=0.5", *more)
        steps.clear()
        train(run)
        told[name] = [*steps]
    assert state_of(tmp_path / "straight", 6) | {"losses": 0} == state_of(tmp_path / "again", 6) | {"losses": 0}
    steps_of = {name: [step for step in seen if len(step) == 4] for name, seen in told.items()}
    assert any(not all(step) for step in steps_of["straight"])
    assert steps_of["straight"][-3:] == steps_of["again"][-3:]


def test_a_run_of_before_captions_could_be_dropped_goes_on():
    before = {"condition": {"_target_": "imtok.conditions.words.Words", "dim": 8}}
    now = {"condition": before["condition"] | {"drop": 0.0}}
    assert changes(before, now) == changes(now, before) == changes({}, {}) == {}
    assert changes(before, {"condition": now["condition"] | {"drop": 0.1}}) == {"condition.drop": (0.0, 0.1)}


def test_the_loss_differs_with_captions_without_and_shuffled(run):
    images = told(run.data.train(16, 0), run.tokenizer.condition)
    batch = next(iter(train_loader(images, TrainBatches(len(images), 0, 4, 1, 0, 1, 0, 1))))
    assert len(set(batch.caption)) > 1
    captions = [batch.caption, [], batch.caption[1:] + batch.caption[:1]]
    losses = []
    for given in captions:
        generator = torch.Generator().manual_seed(0)
        losses.append(run.objective(run.tokenizer, replace(batch, caption=given), 0, generator).total.item())
    assert len(set(losses)) == 3


def test_the_recipe_of_ta_titok_reads_the_captions_of_its_images(tmp_path):
    """At size=tiny by words; the bundled photographs have a sentence each."""
    data = CaptionedPhotos(crops_per_photo=2)
    samples = told(data.train(16, 0), Words())
    assert samples[0, 0].caption == "an astronaut in an orange suit in front of a flag"
    assert told(data.validation(16), Words())[0, 0].caption == "the face of a ginger cat"
    assert data.train(16, 0)[0, 0].caption == ""  # nobody asked


def test_several_captions_are_drawn_by_seed_epoch_and_index_and_measured_by_the_first(tmp_path):
    folder = write_images(tmp_path / "images", 8)
    rows = [
        {"file_name": path.relative_to(folder).as_posix(), "text": [f"{path.stem} {number}" for number in range(5)]}
        for path in sorted(folder.rglob("*.png"))
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = Folder(folder)
    drawn = told(data.train(16, seed=3), Words())
    found = [[drawn[epoch, index].caption for index in range(len(drawn))] for epoch in range(6)]
    again = told(data.train(16, seed=3), Words())
    assert found[4] == [again[4, index].caption for index in range(len(again))]
    assert len({caption.split()[1] for row in found for caption in row}) == 5
    measured = told(data.validation(16), Words())
    assert all(measured[0, index].caption.endswith(" 0") for index in range(len(measured)))


def test_the_parts_of_a_mixture_are_asked_for_their_captions(images, tmp_path):
    mixed = Mixture({"a": Folder(images), "b": Folder(write_images(tmp_path / "b", 4))}, {"a": 1.0, "b": 1.0})
    found = told(mixed.train(16, 0), Words())
    captions = {found[0, index].key: found[0, index].caption for index in range(len(found))}
    assert any(caption.startswith("thing") for key, caption in captions.items() if key.startswith("a/"))
    assert not any(caption for key, caption in captions.items() if key.startswith("b/"))


def test_images_without_any_caption_are_refused_before_anything_is_written(tmp_path):
    bare = write_images(tmp_path / "bare", 6)
    run = tiny_run(tmp_path / "run", *TEXT, f"data.path={bare}")
    with pytest.raises(
        InputError,
        match=r"to train on have no caption, which the condition \(Words\) reads \(none of 5 that .* condition=none",
    ):
        train(run)
    assert not (tmp_path / "run").exists()


def test_parts_and_condition_that_do_not_go_together_are_refused_with_the_fix(tmp_path):
    def refusal(*overrides):
        with pytest.raises(InputError) as refused:
            tiny_run(tmp_path / "run", *overrides)
        return str(refused.value)

    needs = (
        "decoder (TiTokPixelDecoder) needs the text of each image, and the condition gives none; give condition=words"
    )
    assert needs in refusal(*PARTS, "condition=label")
    assert needs in refusal(*PARTS)
    assert "context_dim must be 8, the width of the condition's text, got 9" in (
        refusal(*PARTS, *WORDS, "decoder.context_dim=9")
    )
    assert "condition (Words) gives the text of each image, which neither encoder nor decoder reads" in (
        refusal("condition=words")
    )
