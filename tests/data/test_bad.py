"""Bad images: each named once, over ranks and resumes, and a budget that ends the run."""

import json
import logging
from pathlib import Path

import pytest
import torch

from imtok.data.order.bad import BadSamples
from imtok.errors import InputError
from imtok.types import Batch


def batch(*bad: str, size: int = 8) -> Batch:
    index = torch.arange(size)
    return Batch(torch.zeros(size, 3, 4, 4, dtype=torch.uint8), index, index, [str(i) for i in range(size)], list(bad))


def written(path: Path) -> list[str]:
    return [json.loads(line)["key"] for line in path.read_text().splitlines()]


def test_each_bad_image_is_written_and_logged_once(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    path = tmp_path / "bad_samples.jsonl"
    samples = BadSamples(path)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            samples.update(batch("a.png: is empty", "b.png: is GIF: convert it"))
    assert written(path) == ["a.png", "b.png"]
    assert json.loads(path.read_text().splitlines()[1]) == {"key": "b.png", "reason": "is GIF: convert it"}
    assert [record.getMessage() for record in caplog.records] == [
        "a.png: is empty; another image takes its place",
        "b.png: is GIF: convert it; another image takes its place",
    ]


def test_other_ranks_and_resumes_do_not_repeat_a_line(tmp_path: Path):
    path = tmp_path / "bad_samples.jsonl"
    first, second = BadSamples(path), BadSamples(path)
    first.update(batch("a.png: x"))
    second.update(batch("a.png: x", "b.png: x"))
    first.update(batch("b.png: x", "c.png: x"))
    BadSamples(path).update(batch("a.png: x", "c.png: x"))
    assert written(path) == ["a.png", "b.png", "c.png"]


def test_a_line_that_a_kill_tore_is_left_and_the_next_stands_alone(tmp_path: Path):
    path = tmp_path / "bad_samples.jsonl"
    BadSamples(path).update(batch("a.png: x"))
    path.write_text(path.read_text() + '{"key": "b.p')
    resumed = BadSamples(path)
    resumed.update(batch("b.png: x"))
    resumed.update(batch("c.png: x"))
    lines = path.read_text().splitlines()
    assert lines[1] == '{"key": "b.p'
    assert [json.loads(line)["key"] for line in (lines[0], *lines[2:])] == ["a.png", "b.png", "c.png"]


def test_more_bad_images_than_allowed_end_the_run_with_ten_names():
    samples = BadSamples(None, budget=0.001)
    for index in range(10):
        samples.update(batch(f"{index}.png: is empty"))
    with pytest.raises(InputError, match=r"11 bad, 10 allowed after 88 samples\): 0.png: is empty; 1.png") as caught:
        samples.update(batch("10.png: is empty"))
    assert "10.png" not in str(caught.value)


def test_the_budget_grows_with_the_samples_seen_and_counts_those_before_a_resume(tmp_path: Path):
    path = tmp_path / "bad_samples.jsonl"
    samples = BadSamples(path, budget=0.01, minimum=0, seen=0)
    for _ in range(25):
        samples.update(batch())
    samples.update(batch("a.png: x", "b.png: x"))
    with pytest.raises(InputError, match="3 bad, 2 allowed after 216"):
        samples.update(batch("c.png: x"))
    BadSamples(path, budget=0.01, minimum=0, seen=400).update(batch("d.png: x"))
    with pytest.raises(InputError, match="5 bad, 0 allowed"):
        BadSamples(path, budget=0.01, minimum=0).update(batch("e.png: x"))


def test_a_budget_out_of_range_is_refused():
    with pytest.raises(ValueError, match="budget must lie in"):
        BadSamples(None, budget=1.5)
