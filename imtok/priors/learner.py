"""What every net is asked for that a run trains on the tokens of a store: a generator of them, or a classifier."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self

from jaxtyping import Float
from torch import Tensor, nn

from imtok.construct import Config
from imtok.errors import InputError
from imtok.locate import CONFIG
from imtok.priors.rows import TokenBatch, TokenRows
from imtok.sealed import built, read_sealed, write_sealed


class TokenLearner(nn.Module, ABC):
    """A net that learns from tokens, is measured on others, and is saved in a folder of the run.

    Attributes:
        name: Of its folder in the run folder, and of what it is in messages.
        member: What names of its weights begin with in a checkpoint.
        command: The command that trains it.
        needed: Keys of the config that it is built from.
        optional: Further keys that the config may have.
        config: The plain values that it is built from.
        numbers: What :meth:`measured` calls its numbers, the main one first, and whether higher is better.
    """

    name: ClassVar[str]
    member: ClassVar[str]
    command: ClassVar[str]
    needed: ClassVar[tuple[str, ...]]
    optional: ClassVar[tuple[str, ...]]
    numbers: ClassVar[Mapping[str, bool]]
    config: Config

    @classmethod
    @abstractmethod
    def from_config(cls, config: Config, packages: Sequence[str] | None = ("imtok",)) -> Self:
        """Build from plain values.

        Args:
            config: A config with the ``needed`` keys.
            packages: See :meth:`imtok.tokenizer.Tokenizer.from_config`; None = the config is the user's own.

        Raises:
            ValueError: If a class is of another kind or refuses its arguments.
        """

    @abstractmethod
    def losses(self, batch: TokenBatch, progress: float) -> Mapping[str, Float[Tensor, ""]]:
        """What a training step minimises, by name: their sum. ``progress`` is the share of the run that is over."""

    def try_out(self, batch: TokenBatch) -> None:
        """Read some tokens before anything is written; ValueError if the net cannot."""
        self.losses(batch, 0.0)

    @abstractmethod
    def counts(self, batches: Iterable[TokenBatch]) -> tuple[float, ...]:
        """What is counted on some tokens. Counts of other tokens can be added to these."""

    @abstractmethod
    def measured(self, counts: Sequence[float]) -> tuple[int, dict[str, float]]:
        """How many images some counts are of, and the ``numbers`` that they make."""

    @abstractmethod
    def concluded(self, counts: Sequence[float], rows: TokenRows, held_out: TokenRows) -> dict[str, Any]:
        """All that a run says at its end: plain values, the ``numbers`` among them.

        Args:
            counts: On all held-out tokens.
            rows: What was learnt from.
            held_out: What was measured.
        """

    @abstractmethod
    def described(self) -> Mapping[str, str]:
        """What the net is and what it reads, in a line each, by a word."""

    def save(self, folder: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``; the folder appears whole or not at all."""
        write_sealed(folder, self.config, {}, self.state_dict())

    @classmethod
    def load(cls, source: str | Path, packages: Sequence[str] = ("imtok",)) -> Self:
        """Read a folder that ``save`` wrote, in evaluation mode. Only code of ``packages`` runs.

        Args:
            source: Its folder, or a run folder that holds it in a folder of its ``name``.
            packages: See :meth:`imtok.tokenizer.Tokenizer.load`.

        Raises:
            InputError: If a file is missing or was altered, or the weights do not fit the config.
        """
        folder = next((one for one in (Path(source), Path(source) / cls.name) if (one / CONFIG).is_file()), None)
        if folder is None:
            raise InputError(
                f"{source} is not a {cls.name} (no {CONFIG} in it or in its {cls.name}/); give a run of {cls.command} "
                "that has come to its end"
            )
        sealed = read_sealed(folder, cls.needed, (*cls.needed, *cls.optional), cls.name)
        return built(lambda: cls.from_config(sealed.config, packages), sealed.weights, folder)
