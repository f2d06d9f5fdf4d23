"""Codes drawn at random, nearer ones more often: what RQ-Transformer learns from (arXiv 2203.01941)."""

import torch
from einops import rearrange
from jaxtyping import Float, Int64
from torch import Tensor

from imtok.quantizers.ema_vq import EMAVQ
from imtok.quantizers.residual import Residual


@torch.no_grad()
def soft_codes(
    quantizer: Residual, latents: Float[Tensor, "b n d"], temperature: float, generator: torch.Generator
) -> tuple[Int64[Tensor, "b n g"], Float[Tensor, "b n g v"]]:
    """Ids that are drawn depth by depth, and the probabilities of all ids at each depth.

    At each depth the probability of a code is ``softmax(-|r - e|^2 / temperature)``, where ``r`` is what the codes
    drawn before left over. A generator learns from both: other ids each time, and the probabilities as soft labels.

    Args:
        quantizer: A residual quantizer whose one stage, an ``EMAVQ`` without normalisation, all depths share.
        latents: The encoder's latents.
        temperature: Of the softmax, positive; near 0 the ids are those of ``quantizer`` itself.
        generator: The draw's randomness, on the device of the latents.

    Raises:
        ValueError: For another quantizer, or a temperature that is not positive.
    """
    stage = quantizer.stages[0]
    if len(quantizer.stages) > 1 or not isinstance(stage, EMAVQ) or stage.normalize or quantizer.bound is not None:
        raise ValueError("quantizer must be residual with one EMAVQ that all depths share, without normalisation")
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    table = stage.table().to(latents.dtype)
    rest, ids, chances = latents, list[Tensor](), list[Tensor]()
    for _ in range(quantizer.depth):
        distances = torch.cdist(rest, table, compute_mode="donot_use_mm_for_euclid_dist").square()
        chances.append((-distances / temperature).softmax(-1))
        drawn = torch.multinomial(rearrange(chances[-1], "b n v -> (b n) v"), 1, generator=generator)
        ids.append(drawn.view(latents.shape[:2]))
        rest = rest - table[ids[-1]]
    return torch.stack(ids, -1), torch.stack(chances, -2)
