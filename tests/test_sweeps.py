"""A sweep ends with a table, and hands its sweeper the number that was chosen."""

import io
import sys

import pytest
from rich.console import Console
from training.runs import TINY

from imtok.cli import run_hydra
from imtok.command_line import check_arguments
from imtok.errors import InputError
from imtok.sweeps import Job, chosen, note_job, summed_up, table


def printed(jobs):
    console = Console(file=io.StringIO(), width=200)
    console.print(table(jobs))
    return console.file.getvalue()


def test_the_table_has_the_words_in_which_jobs_differ_and_their_numbers():
    jobs = [Job(["seed=0", "size=tiny"], {"psnr": 20.0}, "s/0"), Job(["seed=1", "size=tiny"], {"ssim": 0.5}, "s/1")]
    shown = printed(jobs)
    assert "seed=0" in shown
    assert "size=tiny" not in shown
    assert "PSNR (dB)" in shown
    assert "SSIM" in shown
    assert "s/1" in shown
    assert "size=tiny" in printed(jobs[:1])


def test_no_number_and_no_folder_is_cut_in_a_narrow_terminal(tmp_path):
    console = Console(file=io.StringIO(), width=40)
    with summed_up(console):
        for rate in (0.00012345, 0.00054321):
            note_job([f"optimizer.lr={rate}", "seed=0"], {"psnr": 20.125}, tmp_path / "a_long_name" / str(rate))
    shown = console.file.getvalue()
    assert "…" not in shown
    assert "optimizer.lr=0.00012345" in shown
    assert str(tmp_path / "a_long_name" / "0.00054321") in shown
    assert console.width == 40


def test_a_job_is_noted_in_a_sweep_alone_and_rows_come_in_the_order_of_folders(tmp_path):
    note_job(["seed=0"], {"psnr": 1.0}, tmp_path / "0")  # outside a sweep nothing happens
    console = Console(file=io.StringIO(), width=200)
    with summed_up(console):
        for number in (10, 9):
            note_job([f"seed={number}"], {"psnr": 1.0}, tmp_path / str(number))
    shown = console.file.getvalue()
    assert shown.index("seed=9 ") < shown.index("seed=10 ")
    with summed_up(quiet := Console(file=io.StringIO())):
        pass
    assert quiet.file.getvalue() == ""


def test_the_number_is_the_one_that_best_names_or_psnr():
    numbers = {"psnr": 20.0, "ssim": 0.5, "gradient_error": 3.0, "entropy": 1.0}
    assert chosen(numbers, None) == (20.0, {"psnr": 20.0, "ssim": 0.5})
    assert chosen(numbers, "gradient_error") == (3.0, {"gradient_error": 3.0, "psnr": 20.0, "ssim": 0.5})
    assert chosen({}, None) == (None, {})


def test_a_sweep_of_two_ends_with_both(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [word for word in TINY if not word.startswith("trainer.max_steps")]
    monkeypatch.setattr(sys, "argv", ["imtok train", "-m", *words, "trainer.max_steps=2", "seed=3,4", "out=sweep"])
    run_hydra("train")
    shown = capsys.readouterr().out
    assert shown.index("seed=3") < shown.index("seed=4")
    assert "sweep/1" in shown.rpartition("PSNR (dB)")[2]


def test_intervals_are_for_other_sweepers(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["imtok train", "-m", "optimizer.lr=interval(1e-3,1e-2)"])
    with pytest.raises(InputError, match=r"optimizer\.lr: a sweep takes a list"):
        check_arguments("train")
    monkeypatch.setattr(
        sys, "argv", ["imtok train", "-m", "hydra/sweeper=x", "optimizer.lr=interval(1e-3,1e-2)", "sed=1"]
    )
    with pytest.raises(InputError, match=r"sed: "):
        check_arguments("train")
