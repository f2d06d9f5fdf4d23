"""The loader and its worker processes: how they start, how errors reach the main process, that they always end."""

import atexit
import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader, Dataset, IterableDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter
from typing_extensions import override

from imtok.errors import InputError
from imtok.types import Batch

PATIENCE = 2.0  # seconds that workers get to finish their work
_exiting = False


class Guarded(Dataset[Any]):
    """A data set whose errors reach the main process: an InputError as a value, any other as itself.

    Args:
        images: The data set.
    """

    def __init__(self, images: Dataset[Any]) -> None:
        self.images = images

    @override
    def __getitem__(self, place: Any) -> Any:
        return guarded(lambda: self.images[place])


class GuardedStream(IterableDataset[Any]):
    """The same for a data set that is read from its start to its end.

    Args:
        batches: The data set.
    """

    def __init__(self, batches: Iterable[Any]) -> None:
        self.batches = batches

    @override
    def __iter__(self) -> Iterator[Any]:
        batches = iter(self.batches)
        end = object()
        while (batch := guarded(lambda: next(batches, end))) is not end:
            yield batch
            if isinstance(batch, InputError):
                return


def collated(collate: Callable[[list[Any]], Any], samples: list[Any]) -> Any:
    """A batch of samples; the first InputError instead, if there is one."""
    error = next((sample for sample in samples if isinstance(sample, InputError)), None)
    return guarded(lambda: collate(samples)) if error is None else error


def guarded(action: Callable[[], Any]) -> Any:
    """What ``action`` returns, or the InputError that it raises.

    A worker's InputError would arrive as a traceback. A StopIteration would end the data set as if it were read to its
    end, and an error whose class cannot be pickled would never arrive: both are raised as RuntimeError.
    """
    try:
        return action()
    except InputError as error:
        return error
    except Exception as error:
        if isinstance(error, StopIteration) or not _travels(error):
            raise RuntimeError("".join(traceback.format_exception(error))) from None
        raise


def _travels(error: Exception) -> bool:
    try:
        pickle.dumps(type(error))
    except Exception:  # pickling raises many kinds
        return False
    return True


def start_worker(_worker: int) -> None:
    """Set up a worker process, and let it end when the main process does, however that ends."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the main process, which ends its workers
    warnings.filterwarnings("ignore", module="PIL")  # they tell of damaged metadata and name no file
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    while os.getppid() == parent:  # a process that was killed hands its children on
        time.sleep(1)
    os._exit(1)


@contextmanager
def ending(batches: Iterator[Any]) -> Iterator[Iterator[Any]]:
    """End the worker processes of a loader's iterator when the block ends, whatever ends it.

    torch ends them when nobody refers to the iterator any more. The traceback of an error does until the process
    exits, and then they are sent a SIGTERM and waited for: without end where they ignore it.
    """
    try:
        yield batches
    finally:
        # at the exit of Python they have been killed, and neither threads nor this module's names can be relied on
        if _exiting is False and isinstance(batches, _MultiProcessingDataLoaderIter) and not batches._shutdown:
            _remove_worker_pids(id(batches))  # else torch raises an error for each worker that is killed
            batches._worker_pids_set = False
            late = threading.Timer(PATIENCE, lambda: [worker.kill() for worker in batches._workers])
            late.start()
            try:
                batches._shutdown_workers()
            finally:
                late.cancel()


class Loader(DataLoader[Any]):
    """A DataLoader whose randomness is its own, over places of a list, or over a stream of batches.

    An InputError of a worker arrives as a value and is raised here, so that a user reads one line and no worker's
    traceback. The workers end with the iteration, also where an error ends it.
    """

    def __init__(self, images: Dataset[Any], workers: int, collate_fn: Callable[[Any], Any], **options: Any) -> None:
        if workers < 0:
            raise ValueError(f"workers must be at least 0, got {workers}")
        stream = isinstance(images, IterableDataset)
        super().__init__(
            GuardedStream(images) if stream else Guarded(images),
            num_workers=workers,
            multiprocessing_context=_plain_context() if workers else None,
            prefetch_factor=4 if workers else None,
            worker_init_fn=start_worker,
            collate_fn=collate_fn if stream else partial(collated, collate_fn),
            # Without a generator of its own, every pass would draw from the global one and shift the model's noise.
            generator=torch.Generator().manual_seed(0),
            **options,
        )

    @override
    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride], torch names a private type
        with ending(super().__iter__()) as batches:
            for batch in batches:
                if isinstance(batch, InputError):
                    raise batch
                yield batch


def _plain_context() -> str | None:
    """How worker processes start where a library has changed it, as joblib does in the processes of a sweep."""
    known = multiprocessing.get_start_method(allow_none=True)
    return "fork" if known not in (None, "fork", "spawn", "forkserver") else None


def _end_at_exit() -> None:
    """Kill the workers that are left: those whose iterator is kept alive, or was never finished."""
    global _exiting
    _exiting = True
    with contextlib.suppress(ValueError, AttributeError):  # not in the main thread; not on Windows
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise an error for each
    for child in multiprocessing.active_children():
        if child.daemon:
            child.kill()


# What is registered last is called first: before torch and multiprocessing, which has to be imported by now, wait.
atexit.register(_end_at_exit)
