"""VQ whose codes are made of other weights: the loss of one code moves all of them."""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn
from typing_extensions import override

from imtok.nn.exact import exactly
from imtok.quantizers.base import token_mean
from imtok.quantizers.table import Given, NearestQuantizer
from imtok.types import Loss, Quantized

_Kept = tuple[list[tuple[Any, ...]], Float[Tensor, "v d"]]


class ReparametrizedVQ(NearestQuantizer):
    """The nearest of codes that a map makes of a basis (SimVQ, arXiv 2411.02038; FVQ, arXiv 2509.10140).

    A codebook that is trained row by row moves only the rows in use, and the others die. Here the loss of any row moves
    the map, and so all codes at once. ``codebook = mean |e - sg z|^2``, ``commit = mean |z - sg e|^2``, both means over
    tokens and channels.

    In evaluation the table is made once. It is made again after :meth:`train` or :meth:`eval`, after a call with
    gradients, and when a weight has changed. A write through ``.data`` goes unnoticed: call :meth:`eval` after it.
    :func:`imtok.export.fold.fold` gives the same codes as a plain table, without the map.

    Args:
        dim: Width of latents and codes.
        codebook_size: Number of codes.
        codebook_weight: Weight of the codebook loss.
        commit_weight: Weight of the commitment loss.
        estimator: Gradient past the choice of a code (:func:`imtok.quantizers.table.find_estimator`).

    Raises:
        ValueError: For a size or weight out of range, or an unknown estimator.
    """

    def __init__(
        self, dim: int, codebook_size: int, codebook_weight: float, commit_weight: float, estimator: Given
    ) -> None:
        super().__init__(dim, codebook_size, (codebook_weight, commit_weight), estimator)
        self.codebook_weight = codebook_weight
        self.commit_weight = commit_weight
        self.estimator = estimator
        self._kept: _Kept | None = None

    @abstractmethod
    def made(self) -> Float[Tensor, "v d"]:
        """The codes, made of the weights, with gradients to these."""

    @override
    def quantize(
        self,
        latents: Float[Tensor, "b n d"],
        keep: Bool[Tensor, "b n"] | None,
        ids: Int64[Tensor, "b n"] | None = None,
    ) -> Quantized:
        chosen = self.estimate(latents, self.searched().to(latents.dtype), self, ids)
        codes = chosen.codes
        losses = {
            "codebook": Loss(token_mean((codes - latents.detach()).square().mean(-1), keep), self.codebook_weight),
            "commit": Loss(token_mean((codes.detach() - latents).square().mean(-1), keep), self.commit_weight),
        }
        return Quantized(chosen.latents, chosen.ids[..., None], losses=losses)

    def searched(self) -> Float[Tensor, "v d"]:
        """The table that codes are searched in during a step."""
        return self.table()

    @override
    def table(self) -> Float[Tensor, "v d"]:
        weights = [*self.parameters(), *self.buffers()]
        device = weights[0].device
        if torch.compiler.is_compiling():
            return self.made()
        learns = torch.is_grad_enabled() and any(weight.requires_grad for weight in weights)
        # Weights that are followed by shapes alone (fake) or lie on many devices (sharded) have no address to compare.
        known = all(type(weight) in (Tensor, nn.Parameter) and not weight.is_inference() for weight in weights)
        if self.training or learns or not known:
            self._kept = None
            with exactly(device):  # look-ups are also made outside forward
                return self.made()
        state = [(weight.data_ptr(), weight._version, weight.dtype, weight.device) for weight in weights]
        if self._kept is None or self._kept[0] != state:
            with torch.inference_mode(False), torch.no_grad(), exactly(device):
                self._kept = state, self.made()
        return self._kept[1]

    def folded(self) -> dict[str, Any]:
        """Config of a :class:`~imtok.quantizers.vq.VQ` that has these codes once its ``weight`` is :meth:`table`."""
        return {
            "_target_": "imtok.quantizers.vq.VQ",
            "dim": self.dim,
            "codebook_size": self.vocab_sizes[0],
            "normalize": False,
            "codebook_weight": self.codebook_weight,
            "commit_weight": self.commit_weight,
            "estimator": self.estimator,
        }

    @override
    def train(self, mode: bool = True) -> "ReparametrizedVQ":
        self._kept = None
        super().train(mode)
        return self

    def __getstate__(self) -> dict[str, Any]:  # a copy has weights of its own
        return {**self.__dict__, "_kept": None}
