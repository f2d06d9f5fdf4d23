"""Any number of ranks with any number of images, even none, gets what one process gets."""

import json

import pytest
import torch.multiprocessing
from measures.many_ranks import COUNTS, TORCHMETRICS, outcome, run

from imtok.measures import codecs
from imtok.measures.protocol import Protocol


@pytest.fixture(scope="module")
def alone():
    build, qualities = Protocol.build, codecs.QUALITIES
    found = {count: json.loads(json.dumps(outcome(count))) for count in COUNTS}
    Protocol.build, codecs.QUALITIES = build, qualities
    return found


def flat(value, name=""):
    if isinstance(value, dict):
        return {key: v for part, inner in value.items() for key, v in flat(inner, f"{name}.{part}").items()}
    if isinstance(value, list):
        return {key: v for part, inner in enumerate(value) for key, v in flat(inner, f"{name}.{part}").items()}
    return {name: value}


@pytest.mark.parametrize("world", [2, 3])
def test_ranks_find_what_one_process_finds(world, alone, tmp_path):
    torch.multiprocessing.spawn(run, args=(world, str(tmp_path)), nprocs=world)
    for rank in range(world):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        for count in COUNTS:
            expected, got = flat(alone[count]), flat(found[str(count)])
            assert expected.keys() == got.keys()
            for name, value in expected.items():
                if isinstance(value, float):
                    close = 1e-5 if "their_" in name else 1e-9  # torchmetrics sums in single precision
                    assert got[name] == pytest.approx(value, rel=close, abs=close), (count, name)
                else:
                    assert got[name] == value, (count, name)


def test_one_image_is_too_few_for_a_distance(alone):
    assert alone[1] == {"error": "a Fréchet distance needs at least 2 images on each side, got 1"}
    assert alone[12]["images"] == 12
    metrics = alone[12]["metrics"]
    assert metrics["fd_tiny"] > 0
    assert metrics["their_fid"] == pytest.approx(metrics["fd_tiny"], rel=1e-3)
    assert metrics["their_psnr"] > 0
    assert set(TORCHMETRICS) < set(metrics)
