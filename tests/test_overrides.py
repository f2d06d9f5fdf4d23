"""Paths reach a command as they were typed, and lists, sweeps and interpolations mean what they mean to Hydra."""

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from odd import ODD
from omegaconf import OmegaConf
from training.runs import write_images

from imtok.cli import main
from imtok.config import register_schemas
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.overrides import as_typed, check_repeats, from_environment, quoted, settle


def composed(*arguments, command="export"):
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose(command, overrides=as_typed(arguments, ["tokenizer"]))


def read(argument, *flags):
    """What Hydra makes of the value of an argument."""
    return OverridesParser.create().parse_override(as_typed([*flags, argument], ["tokenizer"])[-1])


@pytest.mark.parametrize("path", ODD)
def test_a_path_is_read_as_it_was_typed(path):
    assert read(f"out={path}").value() == path
    assert as_typed([f"out={quoted(path)}"]) == [f"out={quoted(path)}"]  # what is quoted already stays as it is
    if path not in ("[2020]", "{a:1}"):  # of a part of one's own a list or a dict
        assert read(f"data.path={path}").value() == read(f"++data.index={path}").value() == path


def test_many_odd_paths_go_through_hydra_together():
    odd = [path for path in ODD if path not in ("[2020]", "{a:1}")]
    for first, second, third in zip(odd, odd[1:], odd[2:], strict=False):
        if odd.index(first) % 6 == 0:
            config = composed(f"out={first}", "data=folder", f"data.path={second}", f"++data.index={third}")
            assert (config.out, config.data.path, config.data.index) == (first, second, third)


def test_a_folder_that_is_there_is_meant(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("[2020]", "a,b", "{a:1}"):
        (tmp_path / name).mkdir()
        assert read(f"data.path={name}").value() == read(f"tokenizer={name}").value() == name


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("tokenizer=[runs/größe,runs/b c,2020]", ["runs/größe", "runs/b c", "2020"]),
        ("tokenizer=['a,b',c]", ["a,b", "c"]),
        ("data.path=[a,b]", ["a", "b"]),
        ("out=null", None),
        ("out='a b'", "a b"),
        ("out='runs/${hydra:job.num}'", "runs/${hydra:job.num}"),
        ("out=~/${name} (1)", "~/${name} (1)"),
        ("hydra.searchpath=[file:///home/größe]", ["file:///home/größe"]),
        ("name=Größe", "Größe"),
        ("name=2020", "2020"),
        ("seed=3", 3),
        ("optimizer.betas=[0.9,0.95]", [0.9, 0.95]),
        ("data.weights.photos=2", 2),
        ("+quantizer={_target_:mine.Q,levels:[8,8]}", {"_target_": "mine.Q", "levels": [8, 8]}),
    ],
)
def test_what_is_no_odd_path_means_what_it_means_to_hydra(argument, value):
    assert read(argument).value() == value


def test_sweeps_over_paths_take_each_as_it_was_typed():
    sweep = read("data.path=~/größe,C:/b (1),'c,d',2020", "-m")
    assert list(sweep.sweep_string_iterator()) == ["'~/größe'", "'C:/b (1)'", "'c,d'", "'2020'"]
    assert list(read("seed=0,1", "-m").sweep_string_iterator()) == ["0", "1"]
    assert list(read("seed=range(2)", "-m").sweep_string_iterator()) == ["0", "1"]


def test_what_the_shell_made_of_braces_is_refused():
    with pytest.raises(InputError, match=r"data\.path is given twice, a\.tar and b\.tar; .* quote the argument"):
        check_repeats(["data=webdataset", "data.path=a.tar", "data.path=b.tar"])
    check_repeats(["seed=1", "seed=2", "data.path=a", "out=x", "data.path=a"])


def test_home_is_one_place_for_all_paths(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = OmegaConf.create(
        {"out": "~/runs/${name}", "name": "~x", "data": {"path": "~", "val_path": "a/~"}, "tokenizer": ["~/a", "b"]}
    )
    assert settle(config) == []
    assert config == {
        "out": "/home/me/runs/~x",
        "name": "~x",
        "data": {"path": "/home/me", "val_path": "a/~"},
        "tokenizer": ["/home/me/a", "b"],
    }
    assert settle(OmegaConf.create({"out": "~nobody-here/x"})) == [
        "out: there is no user nobody-here; for a folder of that name give out=./~nobody-here/x"
    ]


def test_a_variable_that_the_shell_has_left_is_no_name_of_a_folder(tmp_path, monkeypatch):
    """``out='$HOME/runs'`` made a folder called ``$HOME`` here."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMTOK_PLACE", "/data")
    (line,) = settle(OmegaConf.create({"out": "$IMTOK_PLACE/x y"}))
    assert line.startswith("out: $IMTOK_PLACE is as it was typed, ")
    assert line.endswith("write 'out=${oc.env:IMTOK_PLACE}/x y', or 'out=./$IMTOK_PLACE/x y' for a folder of that name")
    assert settle(OmegaConf.create({"out": "./$IMTOK_PLACE", "data": {"path": "$nobodys/x", "val_path": "a$b"}})) == []
    (tmp_path / "$IMTOK_PLACE").mkdir()
    assert settle(OmegaConf.create({"data": {"path": "$IMTOK_PLACE"}})) == []


def test_paths_may_come_from_the_environment_and_addresses_may_not(monkeypatch):
    monkeypatch.setenv("IMTOK_PLACE", "/data")
    monkeypatch.delenv("IMTOK_NOWHERE", raising=False)
    config = OmegaConf.create({"out": "${oc.env:IMTOK_PLACE}/x", "data": {"path": "${ oc.env:IMTOK_NOWHERE,/home}"}})
    assert from_environment(config) == [
        "out is taken from the environment (IMTOK_PLACE)",
        "data.path is taken from the environment (IMTOK_NOWHERE)",
    ]
    assert settle(config) == []
    assert OmegaConf.to_container(config) == {"out": "/data/x", "data": {"path": "/home"}}
    (line,) = settle(OmegaConf.create({"data": {"path": "https://${oc.env:IMTOK_PLACE}@host/0.tar"}}))
    assert line.startswith("data.path: an address must not read the environment")
    (line,) = settle(OmegaConf.create({"out": "${oc.env:IMTOK_NOWHERE}"}))
    assert line.startswith("out: ")
    assert "'IMTOK_NOWHERE' not found" in line


def test_each_job_of_a_sweep_has_a_folder_of_its_own():
    config = OmegaConf.create({"out": "a"})
    settle(config, job=3)
    assert config.out == "a/3"
    settle(named := OmegaConf.create({"out": "a/${hydra:job.num}"}), job=3)
    assert OmegaConf.to_container(named) == {"out": "a/${hydra:job.num}"}


def test_commands_take_odd_paths_sweeps_home_and_the_environment(tmp_path, monkeypatch, capsys, caplog):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    write_images(tmp_path / "home/photos, #1 (größe)", 2)
    words = ["imtok", "pack", "data.path=~/photos, #1 (größe)", "out=${oc.env:HOME}/[packed] it's"]
    monkeypatch.setattr("sys.argv", words)
    with caplog.at_level("INFO"):
        main()
    assert (tmp_path / "home/[packed] it's/manifest.json").is_file()
    assert "out is taken from the environment (HOME)" in caplog.text
    assert "imtok train data=webdataset" in capsys.readouterr().out
    write_images(tmp_path / "home/größe (2)", 2)  # a comma would make a sweep
    for out, places in {"a/${hydra:job.num}": ("a/0", "a/1"), "b (1)": ("b (1)/0", "b (1)/1")}.items():
        monkeypatch.setattr("sys.argv", ["imtok", "pack", "data.path=~/größe (2)", f"out={out}", "-m", "shuffle=0,1"])
        main()
        assert all((tmp_path / place / "manifest.json").is_file() for place in places)
