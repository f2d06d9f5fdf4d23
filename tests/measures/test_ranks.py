"""Two processes that evaluate together get what one gets, to the last bit."""

import json

import pytest
import torch.multiprocessing
from measures.rank import batches, run, tiny

from imtok.measures.evaluate import evaluate


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(run, args=(str(folder),), nprocs=2)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("split", ["uneven", "empty"])
def test_two_ranks_get_the_numbers_of_one(outcomes, split):
    expected = evaluate(tiny(), batches(list(range(7)))).values()
    for outcome in outcomes:
        for name in ("images", "image_size", "metrics", "slots", "absent"):
            assert outcome[split][name] == expected[name], name
        assert outcome[split]["bad"] == ["0.png: is empty", "1.png: is empty"]


def test_a_failure_of_one_rank_ends_both_with_the_reason(outcomes):
    assert {outcome["failure"].split(";")[0] for outcome in outcomes} == {
        "image 5: its reconstruction must be finite, got NaN or infinity"
    }
