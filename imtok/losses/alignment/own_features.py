"""Features of a frozen net inside the tokenizer as a target, which its decoder tells (VFMTok, arXiv 2507.08441)."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor
from typing_extensions import override

from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.alignment.distances import Distance, find_distance
from imtok.types import Quantized


class OwnFeatures(AlignmentLoss):
    """What one sub-module of the tokenizer makes is drawn to what another one has made; that one learns nothing by it.

    No second net is needed where the encoder holds the net whose features are the target.

    Args:
        source: Name of a sub-module of the tokenizer that gives tokens.
        target: Name of another one that gives as many.
        depths: How many features the target has side by side in channels; the last of them counts.
        loss: "cosine", "mse", or a ``Distance`` between vectors of one width.
        weight: Factor in the total.

    Raises:
        ValueError: If ``loss`` compares images or places with each other, or ``depths`` is below 1; in ``forward``, if
            the sub-modules give other numbers of tokens, or other widths than ``depths`` says.

    Example:
        >>> import torch
        >>> loss = OwnFeatures("decoder.features", "encoder.net", depths=2)
        >>> made, seen = torch.ones(1, 4, 2), torch.tensor([5.0, -3.0, 2.0, 2.0]).expand(1, 4, 4)
        >>> quantized = Quantized(made, torch.zeros(1, 4, 1, dtype=torch.long))
        >>> taps = {"decoder.features": made, "encoder.net": seen}
        >>> loss(torch.zeros(1, 3, 8, 8), quantized, taps, step=0).abs() < 1e-6
        tensor(True)
    """

    def __init__(
        self, source: str, target: str, depths: int = 1, loss: str | Distance = "cosine", weight: float = 1.0
    ) -> None:
        super().__init__(weight)
        self.distance = find_distance(loss) if isinstance(loss, str) else loss
        if self.distance.in_batch or self.distance.over_places or not self.distance.same_width:
            raise ValueError(f"loss must compare vectors of one width, place by place, got {loss!r}")
        if depths < 1:
            raise ValueError(f"depths must be at least 1, got {depths}")
        self.source, self.target, self.depths = source, target, depths
        self.needs = (source, target)

    @override
    def forward(
        self, target: Float[Tensor, "b c h w"], quantized: Quantized, taps: Mapping[str, Tensor], step: int
    ) -> Float[Tensor, ""]:
        made, seen = taps[self.source], taps[self.target].detach()
        if (made.shape[1], made.shape[2] * self.depths) != seen.shape[1:]:
            raise ValueError(
                f"{self.source} must make features for {self.target}, which gives {seen.shape[1]} of width "
                f"{seen.shape[2]} for depths={self.depths}, got {made.shape[1]} of width {made.shape[2]}"
            )
        return self.distance(made, seen[..., -made.shape[2] :]).mean()
