"""Lightning's loggers beside metrics.csv: one axis of steps, one run however often it goes on, and no run stops."""

import csv
import json
import sys
import types
from typing import ClassVar

import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger, Logger
from PIL import Image
from training.event_files import tensorboard_rows, wandb_records, wandb_rows
from training.runs import run_tiny, state_of, tiny_run

from imtok.config import check_command
from imtok.errors import InputError
from imtok.training.checkpoints import load
from imtok.training.loggers import Loggers
from imtok.training.wandb import Wandb, _mode

SHORT = (
    *("trainer.max_steps=6", "trainer.log_every=2", "trainer.save_every=2", "trainer.keep=9"),
    *("trainer.evaluate_every=2", "trainer.evaluate_images=4", "trainer.evaluate_metrics=[psnr]"),
    "trainer.pictures_every=3",
)
ALL = (
    *("logger=[wandb,tensorboard,lightning_csv]", "logger.wandb.group=trials", "logger.wandb.tags=[tiny]"),
    *("callback=[lr,device_stats,early_stopping]", "callback.early_stopping.patience=100"),
)
RATES = {"lr-AdamW/pg1", "lr-AdamW/pg2"}


class Notes(Logger):
    """A logger of one's own."""

    def __init__(self, save_dir, mark="x"):
        super().__init__()
        self.save_dir_, self.mark, self.rows, self.pictures = save_dir, mark, [], []
        Notes.made.append(self)

    made: ClassVar[list["Notes"]] = []

    @property
    def name(self):
        return "notes"

    @property
    def version(self):
        return 0

    def log_hyperparams(self, params, *args, **kwargs):
        self.seed = params["seed"]

    def log_metrics(self, metrics, step=None):
        self.rows.append((step, sorted(metrics)))

    def log_image(self, key, images, step=None):
        self.pictures.append((step, key, images))


class Broken(Notes):
    def log_metrics(self, metrics, step=None):
        raise ConnectionError("the network is gone")


class Unreachable(Notes):
    @property
    def experiment(self):
        raise ConnectionError("no route to host")


@pytest.fixture(autouse=True)
def package(monkeypatch):
    mine = types.ModuleType("mine_loggers")
    for one in (Notes, Broken, Unreachable):
        setattr(mine, one.__name__, one)
    monkeypatch.setitem(sys.modules, "mine_loggers", mine)
    monkeypatch.setattr(Notes, "made", [])


def csv_steps(path):
    with path.open() as file:
        return [(int(row["step"]), {key for key, value in row.items() if value}) for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run without any of them, and one with all that was stopped, went back and went on."""
    root = tmp_path_factory.mktemp("loggers")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("WANDB_MODE", "offline")
        run_tiny(root / "plain", *SHORT)
        run_tiny(root / "all", *SHORT, *ALL, "trainer.stop_at=4")
        run_tiny(root / "all", *SHORT, *ALL, f"ckpt={root}/all/checkpoints/step_2")  # as after a kill at step 4
    return root


def test_a_run_with_loggers_and_callbacks_is_bit_for_bit_the_run_without_them(stopped):
    assert state_of(stopped / "all", 6) == state_of(stopped / "plain", 6)


def test_lightnings_csv_file_is_one_file_without_doubled_rows(stopped):
    rows = csv_steps(stopped / "all/lightning_csv/metrics.csv")
    assert [step for step, names in rows if "loss" in names] == [2, 4, 6]
    assert [step for step, names in rows if names >= RATES] == [2, 4, 6]
    assert [step for step, names in rows if "evaluation/psnr" in names] == [2, 4, 6]
    assert [step for step, names in rows if "final/psnr" in names] == [6]
    monitored = [step for step, names in rows if any(name.startswith("DeviceStats") for name in names)]
    assert monitored == [2, 2, 4, 4, 6, 6]  # before a step and after it


def test_tensorboard_shows_each_value_once_at_its_optimiser_step(stopped):
    rows = tensorboard_rows(stopped / "all/tensorboard")
    assert len(rows) == len(set(rows))
    assert [step for step, tag in rows if tag == "loss"] == [2, 4, 6]
    assert [step for step, tag in rows if tag == "lr-AdamW/pg1"] == [2, 4, 6]
    assert [step for step, tag in rows if tag == "reconstructions"] == [3, 6]
    assert (6, "final/psnr") in rows


def test_wandb_has_one_run_one_row_per_step_and_the_results(stopped):
    rows = wandb_rows(stopped / "all/wandb")
    assert [row["trainer/global_step"] for row in rows if "loss" in row] == [2, 4, 6]
    assert all(row["_step"] == row["trainer/global_step"] for row in rows)
    assert [row["_step"] for row in rows if any(key.startswith("reconstructions") for key in row)] == [3, 6]
    final = json.loads((stopped / "all/evaluation/report.json").read_text())["metrics"]["psnr"]
    assert rows[-1]["final/psnr"] == final
    records = wandb_records(stopped / "all/wandb")
    runs = [record.run for record in records if record.WhichOneof("record_type") == "run"]
    assert {run.run_id for run in runs} == {(stopped / "all/wandb/id").read_text()}
    assert {(run.project, run.display_name, run.run_group, *run.tags) for run in runs} == {
        ("imtok", "all", "trials", "tiny")
    }
    artefacts = [record.artifact.type for record in records if record.WhichOneof("record_type") == "artifact"]
    assert artefacts == ["report", "tokenizer"]


def test_the_rates_that_monitors_see_are_those_of_the_step(stopped):
    with (stopped / "all/lightning_csv/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    seen = {row["step"]: float(row["lr-AdamW/pg1"]) for row in rows if row["lr-AdamW/pg1"]}
    used = {row["step"]: float(row["lr"]) for row in rows if row["lr"]}
    assert seen == used


def test_patience_is_in_the_checkpoint(stopped):
    waits = [load(stopped / f"all/checkpoints/step_{step}").state["callbacks"]["early_stopping"] for step in (4, 6)]
    assert [state["patience"] for state in waits] == [100, 100]
    assert float(waits[1]["best_score"]) >= float(waits[0]["best_score"])


def test_a_logger_of_ones_own_needs_nothing_of_imtok(tmp_path):
    given = ("+logger.mine={_target_:mine_loggers.Notes,mark:y}", "trainer.max_steps=4", "trainer.log_every=2")
    run_tiny(tmp_path / "run", *given, "trainer.pictures_every=2", "trainer.stop_at=2")
    run_tiny(tmp_path / "run", *given, "trainer.pictures_every=2", "ckpt=last")
    first, second = Notes.made
    assert (first.save_dir_, first.mark, first.seed) == (str(tmp_path / "run"), "y", 0)
    assert [step for step, names in first.rows if "loss" in names] == [2]
    assert [step for step, names in second.rows if "loss" in names] == [4]
    assert [(step, key) for step, key, _ in first.pictures + second.pictures] == [
        (2, "reconstructions"),
        (4, "reconstructions"),
    ]
    assert any("final/psnr" in names for _, names in second.rows)


def test_what_a_logger_has_is_not_sent_again(tmp_path):
    sections = {"mine": {"_target_": "mine_loggers.Notes"}}
    first = Loggers(sections, tmp_path, {"seed": 3}, None)
    first.start()
    for step in (2, 4):
        first.log(step, {"loss": 1.0})
    first.log(4, {"psnr": 1.0})
    again = Loggers(sections, tmp_path, {"seed": 3}, 2)
    again.start()
    for step in (3, 4, 5):
        again.log(step, {"loss": 1.0, "other": 2.0, "text": "no number"})
    assert Notes.made[1].rows == [(3, ["other"]), (4, ["other"]), (5, ["loss", "other"])]


@pytest.mark.parametrize("kind", ["Broken", "Unreachable"])
def test_a_logger_that_fails_is_off_and_the_run_goes_on(tmp_path, caplog, kind):
    given = (f"+logger.mine={{_target_:mine_loggers.{kind}}}", "+logger.more={_target_:mine_loggers.Notes}")
    run_tiny(tmp_path / "run", *given, "trainer.max_steps=2", "trainer.log_every=1")
    assert "mine is off for the rest of this run (" in caplog.text
    assert caplog.text.count("mine is off") == 1
    assert [step for step, names in Notes.made[1].rows if "loss" in names] == [1, 2]
    assert (tmp_path / "run/summary.json").exists()


def test_a_picture_that_cannot_be_sent_turns_its_logger_off_as_a_row_does(tmp_path, caplog, monkeypatch):
    loggers = Loggers({"board": {"_target_": "lightning.pytorch.loggers.TensorBoardLogger"}}, tmp_path, {}, None)
    loggers.start()
    Image.new("RGB", (8, 8)).save(tmp_path / "picture.png")
    experiment = loggers.loggers[0].experiment
    monkeypatch.setattr(experiment, "add_image", lambda *_, **__: 1 / 0)
    for step in (1, 2):
        loggers.picture(step, tmp_path / "picture.png")
    loggers.log(3, {"loss": 1.0})
    loggers.finish()
    assert caplog.text.count("board is off for the rest of this run (division by zero)") == 1
    assert caplog.text.count("is off") == 1
    assert [tag for step, tag in tensorboard_rows(tmp_path / "board") if step == 3] == []


def test_other_ranks_log_nothing(tmp_path):
    loggers = Loggers({"mine": {"_target_": "mine_loggers.Notes"}}, tmp_path, {}, None, main=False)
    loggers.start()
    loggers.log(1, {"loss": 1.0})
    loggers.finish()
    assert Notes.made == []
    assert [type(one) for one in loggers.loggers] == [DummyLogger]


def test_places_and_names_of_ones_own_hold(tmp_path):
    run = tiny_run(tmp_path / "run", "logger=[lightning_csv]", f"+logger.lightning_csv.save_dir={tmp_path}/else")
    built = Loggers(run.loggers, run.folder, run.config, None)._built["lightning_csv"]
    assert isinstance(built, CSVLogger)
    assert built.log_dir == f"{tmp_path}/else/lightning_csv/"


@pytest.mark.parametrize(
    ("environment", "section", "mode"),
    [
        ({"WANDB_MODE": "offline"}, {}, "offline"),
        ({"WANDB_MODE": "dryrun"}, {}, "offline"),
        ({"WANDB_MODE": "disabled"}, {}, "disabled"),
        ({"WANDB_DISABLED": "true"}, {}, "disabled"),
        ({"WANDB_DISABLED": "false", "WANDB_MODE": "offline"}, {}, "offline"),
        ({"WANDB_DISABLED": "1", "WANDB_MODE": "online"}, {}, "disabled"),
        ({}, {"offline": True}, "offline"),
        ({"WANDB_MODE": "online"}, {"mode": "disabled"}, "disabled"),
    ],
)
def test_who_chooses_the_mode_of_wandb_is_obeyed_without_a_look_at_the_network(
    tmp_path, monkeypatch, environment, section, mode
):
    for name in ("WANDB_MODE", "WANDB_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert _mode(section) == (mode, None)


def test_what_the_config_says_of_wandb_comes_before_the_environment(tmp_path, monkeypatch):
    calls = []
    run = types.SimpleNamespace(id="abc", define_metric=lambda *_args, **_given: None)
    monkeypatch.setattr(wandb, "init", lambda **given: calls.append(given) or run)
    for name, value in {"MODE": "offline", "PROJECT": "theirs", "NAME": "its"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    section = {"project": "mine", "entity": "us", "group": "g", "tags": ["a"], "id": "xyz"}
    monkeypatch.setattr("imtok.training.wandb._check_arguments", lambda _names: None)
    Wandb(tmp_path, {"seed": 1}, section).start()
    (given,) = calls
    assert {name: given[name] for name in section} == section
    assert (given["name"], given["mode"], given["resume"], given["config"]) == ("its", "offline", "allow", {"seed": 1})
    assert issubclass(Wandb, WandbLogger)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("+logger.x={_target_:os.system,command:ls}", "logger.x._target_ must name a subclass of lightning.pytorch"),
        ("+logger.x={_target_:lightning.pytorch.Trainer}", "logger.x._target_ must name a subclass of lightning"),
        ("+logger.x=3", "logger.x: it has no _target_, so nothing can build it; ~logger.x removes it"),
        ("+logger._target_=mine_loggers.Notes", "logger: takes parts by name: logger={NAME: {_target_: ...}}"),
        ("logger=[wandb,wendb]", "wendb"),
        ("+logger.x={_target_:mine_loggers.Notes,marc:1}", "logger.x.marc: Notes has no argument marc"),
    ],
)
def test_mistakes_are_named_with_the_config(override, message):
    with pytest.raises(InputError) as caught:
        check_command("train", [override])
    assert message in str(caught.value)


def test_arguments_that_wandb_does_not_have_are_refused_before_there_is_a_folder(tmp_path):
    with pytest.raises(InputError, match=r"logger\.wandb: wandb\.init has no argument projekt"):
        run_tiny(tmp_path / "run", "logger=wandb", "+logger.wandb.projekt=x")
    assert not (tmp_path / "run").exists()


def test_a_package_that_is_not_there_is_named_before_there_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"logger\.mlflow needs mlflow: pip install mlflow"):
        Loggers({"mlflow": {"_target_": "lightning.pytorch.loggers.MLFlowLogger"}}, tmp_path / "run", {}, None)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("server", [None, "http://mlflow.lab:5000"])
def test_mlflow_is_in_the_run_folder_unless_there_is_a_server(tmp_path, monkeypatch, server):
    calls = []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr("imtok.training.loggers.build", lambda *given: calls.append(given) or Notes(""))
    if server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    else:
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "loggers.json").write_text('{"mlflow": {"run_id": "abc"}}')
    section = {"_target_": "lightning.pytorch.loggers.MLFlowLogger", "experiment_name": "mine"}
    Loggers({"mlflow": section}, tmp_path, {}, 4).start()
    ((given, _, key, provided),) = calls
    assert (given["experiment_name"], key, provided["run_id"]) == ("mine", "logger.mlflow", "abc")
    assert provided["tracking_uri"] == (server or f"sqlite:///{tmp_path}/mlflow.db")
    assert ("artifact_location" in provided) is (server is None)


def test_a_run_whose_loggers_change_goes_on_without_a_question(tmp_path):
    run_tiny(tmp_path / "run", "trainer.max_steps=3", "trainer.stop_at=1")
    assert run_tiny(tmp_path / "run", "trainer.max_steps=3", "logger=lightning_csv", "ckpt=last").step == 3
