"""How far a run is in a stream of shards: which it has begun, in which epoch."""

from typing import Any

from imtok.distributed import gather_values
from imtok.types import Batch


class StreamPosition:
    """Notes which shards the finished steps have begun, so that a resumed run starts at the next ones.

    What was left of a begun shard is not read again in that epoch.

    Args:
        shards: Number of shards of the stream.
        state: What :meth:`state` returned when the run was saved; None = at the start.

    Example:
        >>> position = StreamPosition(shards=2, state={"epoch": 1, "begun": {1: [0]}})
        >>> position.left(epoch=1, order=[1, 0]), position.left(epoch=2, order=[1, 0])
        ([1], [1, 0])
    """

    def __init__(self, shards: int, state: dict[str, Any] | None = None) -> None:
        self.shards = shards
        self.epoch = state["epoch"] if state else 0
        self.begun = {epoch: set(begun) for epoch, begun in state["begun"].items()} if state else {}

    def note(self, batch: Batch) -> None:
        """Take in a batch that was trained on; its ``index`` says which reading of which shard each image is from."""
        for reading in set(batch.index.tolist()):
            epoch, shard = divmod(reading, self.shards)
            if epoch >= self.epoch:
                self.begun.setdefault(epoch, set()).add(shard)

    def state(self) -> dict[str, Any]:
        """The position of all ranks together, as plain values. Called on every rank."""
        for begun in gather_values(self.begun):
            for epoch, shards in begun.items():
                self.begun.setdefault(epoch, set()).update(shards)
        while len(self.begun.get(self.epoch, ())) == self.shards:
            del self.begun[self.epoch]
            self.epoch += 1
        return {"epoch": self.epoch, "begun": {epoch: sorted(begun) for epoch, begun in sorted(self.begun.items())}}

    def left(self, epoch: int, order: list[int]) -> list[int]:
        """Those shards of ``order`` that were not begun in an epoch."""
        begun = self.begun.get(epoch, set())
        return [shard for shard in order if shard not in begun]
