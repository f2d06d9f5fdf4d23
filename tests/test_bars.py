"""Progress with the time that is left on a terminal, and nothing in a pipe."""

import io
import sys

from imtok.bars import watched


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_pipe_sees_nothing_and_a_terminal_what_is_done_and_left(monkeypatch):
    for stream, shown in ((io.StringIO(), False), (Terminal(), True)):
        monkeypatch.setattr(sys, "stderr", stream)
        assert list(watched([[1, 2], [3]], 3, "decode", len)) == [[1, 2], [3]]
        assert ("decode" in stream.getvalue()) == shown
        assert ("3/3" in stream.getvalue()) == shown


def test_a_loop_that_is_left_early_ends_its_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    for _ in watched(range(5), None, "latents", lambda one: 1):
        break
    assert list(watched(range(2), 2, "again", lambda one: 1)) == [0, 1]
