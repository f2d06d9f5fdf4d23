"""Whether all processes of a run found the same on their machines: what differs would be averaged in silence."""

from collections.abc import Sequence

from lightning import Callback, LightningModule, Trainer
from typing_extensions import override

from imtok.distributed import gather_values
from imtok.errors import InputError


class Alike(Callback):
    """Refuses a run whose processes are without different judges, or compute in different precisions.

    Each process finds out for itself which weights are on its machine (``judges=found``) and whether its device has
    bf16 (``trainer.precision=auto``).

    Args:
        left_out: Config keys of the judges that this process is without.
        precision: What it computes in.

    Raises:
        InputError: In every process, before the first step.
    """

    def __init__(self, left_out: Sequence[str], precision: str) -> None:
        self.left_out, self.precision = sorted(left_out), precision

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        found = gather_values((self.left_out, self.precision))
        lacking = {
            key: [number for number, (left, _) in enumerate(found) if key in left] for left, _ in found for key in left
        }
        for key, processes in lacking.items():
            if len(processes) < len(found):
                raise InputError(
                    f"{key}: its weights are missing on the machines of processes {processes} and are on others; put "
                    f"them on every machine, or leave it out everywhere by ~{key}"
                )
        precisions = [precision for _, precision in found]
        if len(set(precisions)) > 1:
            raise InputError(
                f"trainer.precision=auto is {precisions[0]} in process 0 and not in all others; give "
                "trainer.precision=fp32 or bf16"
            )
