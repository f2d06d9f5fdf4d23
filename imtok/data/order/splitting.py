"""Which samples of somebody's pipeline a reader takes, so that all readers together take each of them once."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol, runtime_checkable

import xxhash
from torch.utils.data import get_worker_info
from webdataset.pipeline import DataPipeline
from webdataset.shardlists import ResampledShards, split_by_node, split_by_worker

END = object()


@runtime_checkable
class SampleSource(Protocol):
    """Gives samples, from the first one on whenever it is iterated over."""

    def __iter__(self) -> Iterator[Any]: ...


class Splitting(NamedTuple):
    """What a pipeline splits by itself.

    Attributes:
        node: It gives each process samples of its own.
        worker: It gives each worker of a process samples of its own.
        endless: It has no end.
    """

    node: bool
    worker: bool
    endless: bool = False

    def strides(self, world: int, workers: int) -> int:
        """How many readers get the same samples."""
        return (1 if self.node else world) * (1 if self.worker else workers)

    def samples(self, pipeline: SampleSource, reader: int, readers: int) -> Iterator[Any]:
        """What the pipeline gives to a reader.

        Where it does not split by itself it is told that there is one process or one worker, in the environment
        variables that webdataset's stages read. So no stage inside of it splits either.
        """
        rank, world, worker, workers = _place(reader, readers)
        seen = {
            "RANK": rank if self.node else 0,
            "WORLD_SIZE": world if self.node else 1,
            "WORKER": worker if self.worker else 0,
            "NUM_WORKERS": workers if self.worker else 1,
        }
        with _environment(seen):
            samples = iter(pipeline)
        while True:
            with _environment(seen):
                sample = next(samples, END)
            if sample is END:
                return
            yield sample

    def takes(self, key: bytes, reader: int, readers: int) -> bool:
        """Whether a reader takes a sample that others get too: by its name, since their orders may differ."""
        rank, world, worker, workers = _place(reader, readers)
        number = (0 if self.worker else worker) * (1 if self.node else world) + (0 if self.node else rank)
        strides = self.strides(world, workers)
        return strides == 1 or xxhash.xxh3_64_intdigest(key) % strides == number


def splitting_of(pipeline: SampleSource, own: bool) -> Splitting:
    """What a pipeline splits by itself.

    Args:
        pipeline: The pipeline.
        own: Somebody says that it splits by process and by worker.
    """
    if not isinstance(pipeline, DataPipeline):
        return Splitting(own, own)
    stages, drawn = pipeline.pipeline, pipeline.repetitions > 1
    if drawn or any(isinstance(stage, ResampledShards) for stage in stages):  # every reader draws for itself
        return Splitting(True, True, endless=pipeline.nsamples <= 0)
    return Splitting(own or split_by_node in stages, own or split_by_worker in stages)


def _place(reader: int, readers: int) -> tuple[int, int, int, int]:
    """Process and worker of a reader, each with their number."""
    about = get_worker_info()
    world = readers // (about.num_workers if about else 1)
    return reader % world, world, reader // world, readers // world


@contextmanager
def _environment(variables: dict[str, int]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: str(value) for name, value in variables.items()})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
