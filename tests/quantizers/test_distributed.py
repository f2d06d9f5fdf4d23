"""Two processes are one big batch: tables, losses and gradients; and none waits for the other in evaluation."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from quantizers import two_ranks
from quantizers.contract import NAMES

TESTS = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What each of two ranks has seen."""
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "quantizers.two_ranks"]
    processes = [
        subprocess.Popen([*command, str(folder / str(rank)), str(rank), port], env=environment, cwd=TESTS.parent)
        for rank in range(2)
    ]
    try:
        assert [process.wait(timeout=300) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(folder / str(rank), weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("name", two_ranks.LEARNING)
def test_tables_stay_equal_bit_for_bit_on_ranks_with_different_data(ranks, name):
    for one, other in zip(*(rank["states"][name] for rank in ranks), strict=True):
        for key in one:
            assert torch.equal(one[key], other[key]), key


@pytest.mark.parametrize("name", two_ranks.LEARNING)
def test_two_ranks_learn_what_one_process_learns_of_both_batches(ranks, name):
    alone = two_ranks.learn(two_ranks.learner(name), range(2))
    for key, value in alone[-1].items():
        torch.testing.assert_close(ranks[0]["states"][name][-1][key], value, msg=key)
    assert alone[-1]["restarts"] == two_ranks.STEPS


@pytest.mark.parametrize("kept", ["all", "some", "single", "none"])
@pytest.mark.parametrize("name", NAMES)
def test_averaged_gradients_of_the_losses_are_those_of_one_process(ranks, name, kept):
    """Whatever the masks keep: an uneven share, a single token of a single rank, or nothing."""
    seen = [rank["losses"][name].get(kept) for rank in ranks]
    if seen[0] is None:
        pytest.skip("a multi-scale quantizer takes no mask")
    quantizer = two_ranks.prepared(name)
    latents, masks = two_ranks.inputs(quantizer)
    values, gradients = two_ranks.losses(quantizer, latents, masks[kept])
    for loss, value in values.items():
        assert torch.isfinite(value), loss
        torch.testing.assert_close((seen[0][0][loss] + seen[1][0][loss]) / 2, value, msg=loss)
    to_latents = torch.cat([seen[0][1][0], seen[1][1][0]]) / 2
    torch.testing.assert_close(to_latents, gradients[0], rtol=1e-5, atol=1e-9)
    for index, expected in enumerate(gradients[1:], start=1):
        averaged = (seen[0][1][index] + seen[1][1][index]) / 2
        torch.testing.assert_close(averaged, expected, rtol=1e-4, atol=1e-7)
        assert torch.isfinite(seen[1][1][index]).all()


@pytest.mark.parametrize("name", NAMES)
def test_evaluation_issues_no_collective(ranks, name):
    assert [rank["losses"][name]["calls in evaluation"] for rank in ranks] == [0, 0]


def test_the_counter_of_collectives_counts(ranks):
    assert ranks[0]["calls"] == ranks[1]["calls"] > 0
