"""Work in pieces on the processor's cores, without the barriers of OpenMP."""

import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def on_threads(pieces: Sequence[Piece], begin: Callable[[], Callable[[Piece], Result]], most: int) -> list[Result]:
    """``[work(piece) for piece in pieces]`` with ``work = begin()``, on as many threads as torch may use.

    OpenMP splits every operation and waits at its end for the slowest thread. Where other processes use the cores, each
    wait may last as long as their turn. Here no operation is split, and a thread that lost its core only takes fewer
    pieces. What comes out does not depend on the number of threads.

    The other threads are started at first use, sleep in between and are started anew in a forked process. They share
    neither autograd nor autocast settings of the caller. For torch.compile all this is a plain loop.

    Args:
        pieces: What to work on.
        begin: Called once by each thread, so that all its pieces can use one piece of memory.
        most: How many threads the work is worth: each should have some milliseconds to do.
    """
    if torch.compiler.is_compiling():
        work = begin()
        return [work(piece) for piece in pieces]
    threads = torch.get_num_threads()
    others = min(threads, most, len(pieces)) - 1
    waiting = iter(range(len(pieces)))
    results: dict[int, Result] = {}

    def take() -> None:
        work = begin()
        for index in waiting:  # whoever is free takes the next one
            results[index] = work(pieces[index])

    pool = _started(threads - 1) if others > 0 else None
    torch.set_num_threads(1)  # of this thread in OpenMP, of all threads in MKL
    try:
        futures = [pool.submit(take) for _ in range(others)] if pool else []
        take()
        for future in futures:
            future.result()
    finally:
        torch.set_num_threads(threads)
    return [results[index] for index in range(len(pieces))]


@dataclass(frozen=True)
class _Helpers:
    count: int
    pool: ThreadPoolExecutor


_helpers: _Helpers | None = None
_starting = threading.Lock()


def _started(count: int) -> ThreadPoolExecutor:
    """The other threads; those of a pool that nobody holds any more end by themselves."""
    global _helpers
    with _starting:
        if _helpers is None or _helpers.count != count:
            pool = ThreadPoolExecutor(count, "imtok", initializer=torch.set_num_threads, initargs=(1,))
            _helpers = _Helpers(count, pool)
        return _helpers.pool


def _forget() -> None:
    """In a process that was just forked, which has none of the threads."""
    global _helpers, _starting
    _helpers, _starting = None, threading.Lock()


if hasattr(os, "register_at_fork"):  # no process is forked on Windows
    os.register_at_fork(after_in_child=_forget)
