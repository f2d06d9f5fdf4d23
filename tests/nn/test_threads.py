"""Work on several threads: all of it, in order, and nothing of it left behind."""

import os
import threading
import time

import pytest
import torch

from imtok.nn import threads
from imtok.nn.threads import on_threads


@pytest.fixture
def three():
    """A thread that may use three, which no test of this process does otherwise."""
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(1)


def names(pieces):
    """The pieces and the thread of each, which none can have finished before the others began."""

    def begin():
        def work(piece):
            time.sleep(0.05)
            return piece * 2, threading.current_thread().name, torch.get_num_threads()

        return work

    return on_threads(pieces, begin, len(pieces))


@pytest.mark.usefixtures("three")
def test_pieces_come_back_in_order_from_several_threads_in_which_torch_uses_one():
    doubled, used, inside = zip(*names(range(9)), strict=True)
    assert doubled == tuple(range(0, 18, 2))
    assert len(set(used)) == 3
    assert set(inside) == {1}
    assert torch.get_num_threads() == 3


@pytest.mark.usefixtures("three")
def test_threads_are_used_again():
    names(range(6))
    before = threading.active_count()
    for _ in range(3):
        names(range(6))
    assert threading.active_count() == before


def test_one_thread_starts_no_other():
    before = threading.active_count()
    assert {name for _, name, _ in names(range(3))} == {threading.current_thread().name}
    assert threading.active_count() == before


@pytest.mark.usefixtures("three")
def test_what_is_worth_one_thread_stays_on_it():
    here = threading.current_thread()
    assert on_threads(range(5), lambda: lambda _piece: threading.current_thread(), 1) == [here] * 5


@pytest.mark.usefixtures("three")
def test_an_error_of_any_thread_comes_out_and_the_setting_stays():
    def work(piece):
        raise ValueError(f"piece {piece}")

    with pytest.raises(ValueError, match="piece"):
        on_threads(range(9), lambda: work, 9)
    assert torch.get_num_threads() == 3
    assert len(names(range(6))) == 6


@pytest.mark.usefixtures("three")
def test_a_new_thread_of_others_starts_with_the_number_that_was_set():
    names(range(6))
    seen = []
    thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert seen == [3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no process is forked here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.usefixtures("three")
def test_a_forked_process_has_threads_of_its_own():
    names(range(6))
    child = os.fork()
    if not child:
        os._exit(0 if threads._helpers is None and len({name for _, name, _ in names(range(9))}) == 3 else 1)
    end = time.monotonic() + 30
    while (done := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < end:
        time.sleep(0.05)
    if done == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert done == (child, 0)
