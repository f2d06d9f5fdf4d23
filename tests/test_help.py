"""``--help`` of every command, and what is loaded for it."""

import subprocess
import sys

import pytest
import yaml

from imtok.cli import COMPOSED, main
from imtok.folders import config_folder
from imtok.help import help_of
from imtok.training.settings import TrainerSettings


@pytest.mark.parametrize("command", COMPOSED)
def test_help_names_every_key_and_every_group_of_a_command_and_no_other(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["imtok", command, "--help"])
    main()
    printed = capsys.readouterr().out
    assert printed == help_of(command)
    config = yaml.safe_load((config_folder() / f"{command}.yaml").read_text())
    keys = set(config) - {"defaults", "hydra"}
    assert keys == {line.split(":")[0] for line in printed.splitlines() if line.split(":")[0] in keys}
    groups = {next(iter(one)) for one in config["defaults"] if isinstance(one, dict)}
    groups = {group for group in groups if not group.startswith(("override", "optional"))}
    folders = {path.name for path in config_folder().iterdir()}
    named = {line.split("=")[0].strip() for line in printed.splitlines() if line.startswith("  ") and "=" in line}
    assert groups == named & folders
    assert "hydra:" not in printed


@pytest.mark.parametrize("command", COMPOSED)
def test_every_key_of_a_command_is_explained(command):
    keys = help_of(command).partition("must be given:\n\n")[2].partition("\n\nimtok ")[0].splitlines()
    assert [line for line in keys if line.strip() and not line.endswith(":") and " # " not in line] == []


def test_the_settings_of_a_trainer_are_in_the_help():
    printed = help_of("train")
    for name in vars(TrainerSettings()):
        assert f"\n  {name}: " in printed


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("imtok ex", ["export "]),
        ("imtok train enc", ["encoder="]),
        ("imtok train size=tiny quantizer=vq_t", ["vq_ta_titok", "vq_taming", "vq_titok"]),
        ("imtok train trainer.max", ["trainer.max_steps="]),
        ("imtok train optimizer.critic.l", ["optimizer.critic.lr="]),
        ("imtok eval condition.w", ["condition.weights="]),
        ("imtok eval metr", ["metrics="]),
        ("imtok eval length", ["length=", "length_target=", "lengths="]),
        ("imtok train metr", []),
        ("imtok verify tokens tok", ["tokenizer="]),
        ("imtok train data.path=", []),
        ("imtok nothing x", []),
    ],
)
def test_a_shell_completes_commands_keys_and_options(line, words, monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", line)
    monkeypatch.setattr(sys, "argv", ["imtok", "--complete", "imtok", line.split()[-1], ""])
    main()
    assert capsys.readouterr().out.splitlines() == words


LOADED = """
import sys
sys.argv = {argv!r}
from imtok.__main__ import main
main()
loaded = [name for name in ("torch", "hydra", "lightning", "numpy", "torchmetrics") if name in sys.modules]
sys.stderr.write("loaded " + " ".join(loaded))
"""


@pytest.mark.parametrize(
    "words", [["--version"], ["--help"], ["--completion"], ["train", "--help"], ["info", "--help"]]
)
def test_nothing_is_imported_that_is_not_used(words):
    done = subprocess.run(
        [sys.executable, "-c", LOADED.format(argv=["imtok", *words])], capture_output=True, text=True, check=True
    )
    assert done.stderr == "loaded "
    assert done.stdout.startswith(("imtok ", "complete "))
