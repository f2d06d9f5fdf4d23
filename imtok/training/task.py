"""The step of a tokenizer: its losses, those of the objective's other nets, and the update of its codebook."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor, nn
from typing_extensions import override

from imtok.distributed import gather_rows, world_size
from imtok.encoders.base import encoded
from imtok.nn.exact import exact
from imtok.objectives.base import Objective
from imtok.pixels import to_float
from imtok.quantizers.statistics import merge_stats, stats_of_all_ranks
from imtok.schedules import Schedule
from imtok.tokenizer import Tokenizer
from imtok.training.meters import TokenizerMeters
from imtok.training.optimizers import make_optimizer
from imtok.training.settings import OptimizerSettings, TrainerSettings, net_key
from imtok.training.steps import MakeLoader, Task, refusals_for_users
from imtok.types import Batch, NetLosses, StepOutput

START_TOKENS = 1 << 16  # latents that a codebook begins with at most


class TokenizerTask(Task):
    """Trains a tokenizer on an objective.

    Args:
        tokenizer: What is trained.
        objective: What is minimised.
        make_loader: See :class:`imtok.training.steps.Task`.
        trainer: Length and accumulation.
        optimizer: Settings of the optimiser, for the tokenizer and the nets of the objective.
        seed: Of all randomness.
        start_codebook: Whether the quantizer is fitted to the first global batch before step 0.
        schedules: Of the learning rates, by net ("tokenizer", "critic", ...); one that is not there has warm-up, then
            half a cosine.

    Attributes:
        shown: What the last micro-batch produced.
    """

    name = "tokenizer"

    def __init__(
        self,
        tokenizer: Tokenizer,
        objective: Objective,
        make_loader: MakeLoader,
        trainer: TrainerSettings,
        optimizer: OptimizerSettings,
        seed: int = 0,
        start_codebook: bool = True,
        schedules: Mapping[str, Schedule] | None = None,
    ) -> None:
        codes = TokenizerMeters(tokenizer.quantizer.vocab_sizes)
        super().__init__(make_loader, trainer, optimizer, codes, seed, schedules)
        self.codes = codes
        self.tokenizer = tokenizer
        self.objective = objective
        objective.begin(tokenizer)
        self.start_codebook = start_codebook
        self.shown: StepOutput | None = None
        self._stats: dict[str, Tensor] = {}
        self._learnt: dict[str, dict[str, Tensor]] = {}  # by net of the objective: what its losses counted

    @property
    @override
    def learner(self) -> Tokenizer:
        return self.tokenizer

    @override
    def other_nets(self) -> Mapping[str, nn.Module]:
        return self.objective.nets()

    @override
    def has_learnt(self, name: str) -> bool:
        return name in self._learnt

    @property
    @override
    def slower_from(self) -> int | None:
        adversary = self.objective.adversary
        return adversary.generator_start if adversary is not None else None

    @override
    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        settings, heads = self.optimizer_settings, self.objective.heads()
        tokenizer = self.tokenizer if heads is None else nn.ModuleDict({"tokenizer": self.tokenizer, "heads": heads})
        nets = self.objective.nets().items()
        others = [make_optimizer(net, settings.for_net(name), net_key(name)) for name, net in nets]
        return [make_optimizer(tokenizer, settings), *others]

    @override
    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        image, label = batch.image.to(device, non_blocking=True), batch.label.to(device, non_blocking=True)
        return replace(batch, image=image, label=label)

    @override
    def on_fit_start(self) -> None:
        if self.step == 0 and self.start_codebook and not self.tokenizer.is_frozen("quantizer"):
            with refusals_for_users():
                self._start_codebook()

    @override
    def learn(self, batch: Batch, generator: torch.Generator) -> None:
        with fixed(self.objective.nets().values()):
            with refusals_for_users():
                losses = self.objective(self.tokenizer, batch, self.step, generator)
            self.backward_of(losses.total)
        self.shown = _detached(losses.shown)
        of_nets = self._train_nets(self.shown)
        merge_stats(self._stats, losses.shown.quantized.stats)
        self.codes.note_losses(losses, *of_nets)

    def _train_nets(self, shown: StepOutput) -> list[NetLosses]:
        """Let each net of the objective that learns in this step learn from what it has shown."""
        nets, found = self.objective.nets(), list[NetLosses]()
        for name in nets:
            with fixed(net for other, net in nets.items() if other != name):
                with refusals_for_users():
                    losses = self.objective.net_losses(name, shown, self.step)
                if losses is None:
                    continue
                self.backward_of(losses.total, besides=True)
            merge_stats(self._learnt.setdefault(name, {}), losses.stats)
            found.append(losses)
        return found

    @override
    def after_update(self) -> None:
        if not self.tokenizer.is_frozen("quantizer"):
            self.tokenizer.quantizer.update(stats_of_all_ranks(self._stats))
        for name, stats in self._learnt.items():
            self.objective.net_update(name, stats_of_all_ranks(stats))
        self.objective.follow(self.tokenizer)

    @override
    def forget_step(self) -> None:
        self._stats, self._learnt = {}, {}

    @override
    def rates(self) -> dict[str, float]:
        settings, steps, found = self.optimizer_settings, self.trainer_settings.max_steps, super().rates()
        for name in self.objective.nets():
            start = self.objective.net_start(name) or 0
            found[name] = settings.net_rate(name, self.step, steps, start, self.schedules.get(name))
        return found

    @torch.no_grad()
    def _start_codebook(self) -> None:
        """Fit the codebook to the latents of the first global batch, the same on every rank and for any split.

        The encoder computes as it does in training. More than ``START_TOKENS`` latents say no more, so the first whole
        images that have so many are enough.
        """
        latents, images = [], 0
        with _nothing_dropped(self.tokenizer.condition), self.trainer.strategy.precision_plugin.forward_context():
            for batch in self.make_loader(0, 1):
                image, condition = to_float(batch.image.to(self.device)), self.tokenizer.condition_of(batch)
                rows = encoded(self.tokenizer.encoder, image, None, condition).values  # b n d
                latents.append(exact(rows))
                images += len(rows)
                if images * world_size() * rows.shape[1] >= START_TOKENS:
                    break
        everywhere = gather_rows(torch.cat(latents))
        in_order = rearrange(everywhere, "(rank image) n d -> image rank n d", rank=world_size()).flatten(0, 1)
        enough = max(1, START_TOKENS // in_order.shape[1])
        self.tokenizer.quantizer.start(in_order[:enough].flatten(0, 1))


@contextmanager
def fixed(modules: Iterable[nn.Module]) -> Iterator[None]:
    """While something else learns, gradients pass through these nets but leave nothing in them."""
    learning = [parameter for module in modules for parameter in module.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)


@contextmanager
def _nothing_dropped(condition: nn.Module | None) -> Iterator[None]:
    """Let the condition see all captions: before the first step nothing has seeded what it would draw."""
    training = condition is not None and condition.training
    if condition is not None:
        condition.eval()
    try:
        yield
    finally:
        if condition is not None:
            condition.train(training)


def _detached(shown: StepOutput) -> StepOutput:
    quantized = replace(shown.quantized, latents=shown.quantized.latents.detach(), losses={})
    return StepOutput(shown.target, None if shown.image is None else shown.image.detach(), quantized)
