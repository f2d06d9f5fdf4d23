"""Gradients as a run takes them: one step of the real task, in fp32 or in bf16, of a loss of tensors that are given."""

import copy
import logging
import warnings
from collections.abc import Callable, Sequence

import torch
from lightning import Trainer
from torch import Tensor, nn
from torch.utils.data import DataLoader
from typing_extensions import override

from imtok.critics.base import Critic
from imtok.critics.dino import DinoCritic
from imtok.critics.maskbit import MaskBitCritic
from imtok.critics.maskgit import MaskGITCritic
from imtok.critics.patchgan import PatchGAN
from imtok.critics.stylegan import StyleGANCritic
from imtok.decoders.cnn import CNNDecoder
from imtok.losses.adversarial import Adversary
from imtok.losses.alignment.distances import NAMED, find_distance
from imtok.losses.base import ImageLoss
from imtok.losses.efflite0 import EffLite0Loss
from imtok.losses.logits import LogitLoss
from imtok.losses.lpips import LPIPSLoss
from imtok.losses.pixel import L1Loss, L2Loss
from imtok.objectives.base import Objective
from imtok.objectives.images import image_terms
from imtok.quantizers.base import Quantizer
from imtok.tokenizer import Tokenizer
from imtok.training.settings import OptimizerSettings, TrainerSettings
from imtok.training.task import TokenizerTask
from imtok.types import Batch, CriticLosses, Loss, Losses, Quantized, StepOutput

SIDE = 16
_PATCHES = {"patch_size": 8, "width": 8, "depth": 1}
_TINY = {
    "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **_PATCHES},
    "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [4, 4]},
    "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **_PATCHES},
    "image_size": SIDE,
}


class Given(Objective):
    """Minimises what a function computes, in place of the losses of a tokenizer or of its critic."""

    def __init__(self, loss: Callable[[], Tensor], critic: nn.Module | None) -> None:
        super().__init__()
        self.loss = loss
        self.critic = critic

    @override
    def forward(self, tokenizer: Tokenizer, batch: Batch, step: int, generator: torch.Generator) -> Losses:
        image = torch.zeros(1, 3, SIDE, SIDE)
        shown = StepOutput(image, image, Quantized(torch.zeros(1, 4, 2), torch.zeros(1, 4, 1, dtype=torch.long)))
        total = torch.zeros((), requires_grad=True) if self.critic is not None else self.loss()
        return Losses(total, {"given": Loss(total, 1.0)}, shown)

    @override
    def critic_loss(self, shown: StepOutput, step: int) -> CriticLosses | None:
        total = self.loss()
        return CriticLosses(total, {"critic": Loss(total, 1.0)})


def gradients_of_a_run(
    loss: Callable[[], Tensor], leaves: Sequence[Tensor], precision: str, critic: nn.Module | None = None
) -> list[Tensor]:
    """The gradients that one step of a run in this precision gives to tensors.

    Args:
        loss: What is minimised; called where an objective is.
        leaves: Whose gradients are wanted.
        precision: "32-true" or "bf16-mixed", of Lightning's trainer.
        critic: If given, ``loss`` is that of a critic, and this holds the critic's parameters.
    """
    seen: dict[int, Tensor] = {}
    hooks = [
        leaf.register_hook(lambda gradient, place=place: seen.update({place: gradient.detach().clone()}))
        for place, leaf in enumerate(leaves)
    ]
    batch = Batch(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8), torch.zeros(1).long(), torch.zeros(1).long(), ["a"])
    before = copy.deepcopy(critic.state_dict()) if critic is not None else {}
    task = TokenizerTask(
        Tokenizer.from_config(_TINY),
        Given(loss, critic),
        lambda first, last: DataLoader([batch], batch_size=None),  # type: ignore[arg-type]
        TrainerSettings(max_steps=1, batch_size=1),
        OptimizerSettings(),
        start_codebook=False,
    )
    for name in ("lightning.pytorch", "lightning"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            accelerator="cpu", max_epochs=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, precision=precision,  # type: ignore[arg-type]
        )  # fmt: skip
        trainer.fit(task)
    for hook in hooks:
        hook.remove()
    if critic is not None:
        critic.load_state_dict(before)
    return [seen.get(place, torch.zeros_like(leaf)) for place, leaf in enumerate(leaves)]


def quantizer_case(quantizer: Quantizer, tokens: int) -> tuple[Callable[[], Tensor], list[Tensor]]:
    """Each loss of a quantizer, and a product with its codes, of latents of its own; and whose gradients count."""
    generator = torch.Generator().manual_seed(1)
    number = quantizer.num_latents or tokens
    shape = (max(1, tokens // number), number, quantizer.in_dim)
    names = ["", *quantizer(torch.randn(shape, generator=generator)).losses]
    given = {name: torch.randn(shape, generator=generator).requires_grad_() for name in names}
    towards = torch.randn(*shape[:2], quantizer.dim, generator=generator)

    def loss() -> Tensor:
        torch.manual_seed(2)  # binary latents are drawn
        total = torch.zeros(())
        for name, latents in given.items():
            quantized = quantizer(latents)
            total = total + (quantized.losses[name].value if name else (quantized.latents * towards).mean())
        return total

    learning = [parameter for parameter in quantizer.parameters() if parameter.requires_grad]
    return loss, [*given.values(), *learning]


IMAGE_LOSSES: dict[str, Callable[[], ImageLoss]] = {
    "l1": L1Loss,
    "l2": L2Loss,
    "lpips": lambda: LPIPSLoss(weights="random"),
    "logits_convnext_small": lambda: LogitLoss("convnext_small", "random", side=32),
    "logits_resnet50": lambda: LogitLoss("resnet50", "random", side=32),
    "logits_squeezenet1_1": lambda: LogitLoss("squeezenet1_1", "random", side=32),
    "efflite0": lambda: EffLite0Loss("random"),
}
CRITICS: dict[str, Callable[[], Critic]] = {
    "patchgan": lambda: PatchGAN(channels=8, halvings=2),
    "stylegan": lambda: StyleGANCritic(image_size=SIDE, channels=8),
    "maskgit": lambda: MaskGITCritic(image_size=SIDE, channels=8),
    "maskbit": lambda: MaskBitCritic(channels=8, halvings=2, grid=4),
    "dino": lambda: DinoCritic("test_vit", weights="random", layers=(1, 3), side=32),
    "dino_groups": lambda: DinoCritic("test_vit", "random", (1, 3), side=32, norm="group", spectral=False),
}
DISTANCES = sorted(NAMED)
_Case = tuple[Callable[[], Tensor], list[Tensor]]


def pictures() -> tuple[Tensor, Tensor]:
    """Eight reconstructions, whose gradients count, and their targets."""
    generator = torch.Generator().manual_seed(3)
    target = torch.rand(8, 3, SIDE, SIDE, generator=generator) * 2 - 1
    return (target + 0.1 * torch.randn(target.shape, generator=generator)).requires_grad_(), target


def image_loss_case(name: str) -> _Case:
    """A loss between images, as an objective takes it."""
    image, target = pictures()
    losses, decoder = {name: IMAGE_LOSSES[name]()}, CNNDecoder(in_dim=4, channels=8, multipliers=(1, 2), blocks=1)
    return lambda: image_terms(image, target, losses, None, decoder, 0).total, [image]


def distance_case(name: str) -> _Case:
    """A distance between features."""
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(8, 32, generator=generator).requires_grad_()
    wanted, distance = torch.randn(8, 32, generator=generator), find_distance(name)
    return lambda: distance(features, wanted).mean(), [features]


def penalty_case(name: str) -> tuple[Callable[[], Tensor], list[Tensor], Adversary]:
    """R1 alone, which is a gradient and differentiated again, for a critic."""
    _, target = pictures()
    adversary = Adversary(CRITICS[name](), r1_weight=2.0, r1_every=1)

    def loss() -> Tensor:
        torch.manual_seed(5)  # of random crops
        found = adversary.losses(target, target, 0)
        assert found is not None
        return found.terms["r1"].value

    return loss, [parameter for parameter in adversary.parameters() if parameter.requires_grad], adversary


def relative_error(found: Sequence[Tensor], exact: Sequence[Tensor]) -> float:
    """The length of the difference over that of the exact gradient, of the worst tensor; rounding of zeros is none."""
    least = 1e-5 * max(other.double().norm().item() for other in exact) + 1e-30
    pairs = [(one.double(), other.double()) for one, other in zip(found, exact, strict=True)]
    return max(((one - other).norm() / other.norm().clamp_min(least)).item() for one, other in pairs)
