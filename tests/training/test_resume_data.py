"""The position in the data is exact, whatever holds the images, however often the run stops."""

import collections

import pytest
from omegaconf import OmegaConf
from training.runs import note_keys, run_tiny, same_but_for_losses, tiny_run, weights_of, write_images, write_shards

from imtok.errors import InputError
from imtok.run_data import take_data
from imtok.training.run import train


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """18 images: epochs end inside of a batch."""
    root = tmp_path_factory.mktemp("sources")
    images = write_images(root / "images", 18)
    shards, held = write_shards(root / "shards", images), write_images(root / "held", 18)
    tars = write_shards(root / "tars", held)
    return {
        "folder": ["data=folder", f"data.path={images}", f"data.val_path={held}"],
        "webdataset": ["data=webdataset", f"data.path={shards}", f"data.val_path={tars}", "data.shuffle_shards=2"],
    }


@pytest.fixture
def keys(monkeypatch):
    """The names of the images that were trained on, in order."""
    return note_keys(monkeypatch)


@pytest.mark.parametrize(
    ("kind", "steps"),
    [
        ("folder", (1, 4, 5, 9, 12)),
        ("webdataset", (2, 4, 9, 13)),
        *(pytest.param(kind, range(1, 14), marks=pytest.mark.slow) for kind in ("folder", "webdataset")),
    ],
)
def test_resuming_in_any_of_three_epochs_and_between_them_gives_the_same_run(sources, tmp_path, kind, steps, keys):
    run_tiny(tmp_path / "straight", *sources[kind], "trainer.save_every=1", "trainer.keep=99")
    straight = list(keys)
    assert len(list((tmp_path / "straight/checkpoints").glob("step_*"))) == 14
    for step in steps:
        keys.clear()
        checkpoint = tmp_path / f"straight/checkpoints/step_{step}"
        workers = 2 if step in (4, 9) else 0  # 4: in an epoch, 9: at the end of one
        run_tiny(tmp_path / str(step), *sources[kind], f"ckpt={checkpoint}", f"trainer.workers={workers}")
        assert keys == straight[4 * step :]
        assert same_but_for_losses(tmp_path / str(step), tmp_path / "straight")


def test_after_five_interruptions_every_image_was_seen_once_an_epoch(sources, tmp_path, keys):
    for stop in (1, 2, 4, 5, 7, 13):
        run_tiny(tmp_path / "run", *sources["folder"], "ckpt=last", f"trainer.stop_at={stop}")
    run_tiny(tmp_path / "run", *sources["folder"], "ckpt=last")
    assert len(keys) == 56
    for epoch in range(3):
        counts = collections.Counter(keys[18 * epoch : 18 * (epoch + 1)])
        assert len(counts) == 18
        assert set(counts.values()) == {1}
    assert keys[:18] != keys[18:36]


def test_another_list_of_images_is_refused(sources, tmp_path):
    images = write_images(tmp_path / "images", 18)
    held = write_images(tmp_path / "held", 18)
    given = ("data=folder", f"data.path={images}", f"data.val_path={held}")
    run_tiny(tmp_path / "run", *given, "trainer.stop_at=2")
    (images / "a" / "004.png").unlink()
    with pytest.raises(InputError, match=r"18 then, 17 now.*allow_change=\[data\]"):
        run_tiny(tmp_path / "run", *given, "ckpt=last")


def test_a_start_that_was_killed_before_its_first_line_can_be_repeated(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.config.yaml.4194305.tmp").write_text("half")
    run = tiny_run(tmp_path / "run", "trainer.stop_at=1", "ckpt=last")
    assert train(run).step == 1


def test_a_run_that_was_killed_after_its_last_step_is_finished_by_the_next_start(tmp_path, monkeypatch):
    def killed(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("imtok.training.run.finish", killed)
        with pytest.raises(KeyboardInterrupt):
            run_tiny(tmp_path / "run")
    assert not (tmp_path / "run/tokenizer").exists()
    outcome = train(tiny_run(tmp_path / "run", "ckpt=last"))
    assert outcome.step == 14
    assert outcome.report is not None
    assert (tmp_path / "run/tokenizer/model.safetensors").exists()
    assert train(tiny_run(tmp_path / "run", "ckpt=last")).finished_before


def test_going_back_leaves_the_abandoned_course(tmp_path):
    run_tiny(tmp_path / "run", "trainer.save_every=3", "trainer.keep=9", "trainer.stop_at=12")
    back = tmp_path / "run/checkpoints/step_6"
    changed = ["optimizer.lr=0.02", "allow_change=[optimizer.lr]"]
    run_tiny(tmp_path / "run", f"ckpt={back}", *changed, "trainer.stop_at=8", "trainer.keep=9")
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step_3", "step_6", "step_8"]
    assert run_tiny(tmp_path / "run", "ckpt=last", "optimizer.lr=0.02").step == 14


def test_transforms_of_torchvision_draw_the_same_for_any_workers_after_any_stop(tmp_path):
    augment = "data.augment=[{_target_: torchvision.transforms.v2.ColorJitter, brightness: 0.5, hue: 0.2}]"
    plain = ("trainer.max_steps=6", "trainer.save_every=3", "trainer.keep=9")
    run_tiny(tmp_path / "straight", augment, *plain)
    run_tiny(tmp_path / "stopped", augment, *plain, "trainer.stop_at=3", "trainer.workers=2")
    run_tiny(tmp_path / "stopped", augment, *plain, "ckpt=last", "trainer.workers=2")
    assert weights_of(tmp_path / "stopped") == weights_of(tmp_path / "straight")
    with pytest.raises(InputError, match=r"data\.augment"):
        run_tiny(tmp_path / "stopped", *plain, "ckpt=last", "trainer.max_steps=7")
    run_tiny(tmp_path / "none", *plain)
    assert weights_of(tmp_path / "none") != weights_of(tmp_path / "straight")
    config = OmegaConf.create({"data": None, "split": None})
    assert take_data(config, [str(tmp_path / "straight")]).startswith("data of the run: data=photos")
    assert "augment" not in config.data
