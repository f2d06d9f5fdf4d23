"""What parts of a config refuse to take from each other is one line for the user, as when they are built."""

import pytest
from hydra import compose, initialize_config_dir
from training.runs import tiny_run

from imtok.build import build_run
from imtok.config import config_folder, register_schemas
from imtok.errors import InputError
from imtok.training.run import train


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["regularizer=nested"], "keep must be None for a decoder that needs every latent of the grid"),
        (["regularizer=perturbation", "regularizer.delta=33", "regularizer.beta=1.0"], "count of neighbours must be"),
        (["regularizer=scale_dropout"], "the quantizer must have scales"),
        (["objective=flow"], "decoder must be one that draws for the objective flow, got PatchDecoder"),
    ],
)
def test_parts_that_do_not_go_together_are_one_line(tmp_path, overrides, line):
    with pytest.raises(InputError, match=f"parts of the config do not go together: {line}"):
        train(tiny_run(tmp_path / "run", *overrides))


def test_a_fault_of_anything_else_keeps_its_traceback(tmp_path, monkeypatch):
    run = tiny_run(tmp_path / "run")
    monkeypatch.setattr(run.objective, "forward", lambda *_: int("no number"))
    with pytest.raises(ValueError, match="invalid literal") as caught:
        train(run)
    assert not isinstance(caught.value, InputError)


def test_a_frozen_net_without_its_weights_is_named(tmp_path, caplog):
    """Codes that nobody has learnt and nobody will learn: a second stage without ``init_from`` is of no use."""
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        quick = (
            "size=tiny",
            "data.crops_per_photo=1",
            "trainer.max_steps=1",
            "trainer.batch_size=1",
            "trainer.workers=0",
        )
        config = compose("train", overrides=["experiment=alit", *quick, f"out={tmp_path}"])
    train(build_run(config, tmp_path))
    for part in ("decoder", "space"):
        assert f"{part} has random weights (weights=random): good for trying things out" in caplog.text
