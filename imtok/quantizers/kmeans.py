"""k-means (Lloyd, 1982) as the start of a learned codebook."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from imtok.quantizers.search import nearest


@torch.no_grad()
def kmeans(
    latents: Float[Tensor, "m d"], count: int, generator: torch.Generator, iterations: int = 10, spherical: bool = False
) -> Float[Tensor, "v d"]:
    """Centres of ``count`` clusters.

    A cluster that no latent belongs to moves to a random latent, so that all centres are in use at first.

    Args:
        latents: The points, at least one.
        count: Number of clusters; with fewer points than that, some centres coincide up to a little noise.
        generator: On the CPU, so that every rank draws the same.
        iterations: Rounds of assignment and averaging.
        spherical: Centres are scaled to unit length (the points are unit vectors).
    """
    centres = latents[_draw(latents, count, generator)]
    for _ in range(iterations):
        ids = nearest(latents, centres)
        sums = torch.zeros_like(centres).index_add_(0, ids, latents)
        sizes = torch.bincount(ids, minlength=count)[:, None]
        spare = latents[_draw(latents, count, generator)]
        centres = torch.where(sizes > 0, sums / sizes.clamp_min(1), spare)
        if spherical:
            centres = F.normalize(centres, dim=-1)
    if latents.shape[0] < count:  # equal centres would stay equal for ever: ties go to the first
        centres = centres + 1e-3 * latents.std() * torch.randn(centres.shape, generator=generator).to(centres)
    return F.normalize(centres, dim=-1) if spherical else centres


def _draw(latents: Tensor, count: int, generator: torch.Generator) -> Tensor:
    rounds = -(-count // latents.shape[0])
    order = torch.cat([torch.randperm(latents.shape[0], generator=generator) for _ in range(rounds)])
    return order[:count].to(latents.device)
