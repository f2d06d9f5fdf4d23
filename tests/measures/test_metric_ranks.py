"""Two or three processes with unequal shares, or none, get the numbers of one."""

import json

import pytest
import torch
from measures.metric_rank import measure, run, shares


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(run, args=(str(place),), nprocs=3)
    return place


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("empty", [False, True])
def test_ranks_together_get_the_numbers_of_one(folder, world, empty):
    assert len({len(share) for share in shares(world, empty)}) == world
    outcomes = [json.loads((folder / f"{world}_{rank}.json").read_text())[str(empty)] for rank in range(world)]
    expected = measure(torch.arange(60))
    assert expected["count"] == 60
    for outcome in outcomes:
        assert outcome == outcomes[0]
        for name, value in expected.items():
            # the net of LPIPS computes in float32, whose last digit depends on the batch
            tolerance = 1e-7 if name == "lpips" else 1e-11
            assert outcome[name] == pytest.approx(value, rel=tolerance, abs=1e-13), name
