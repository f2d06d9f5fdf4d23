"""A frozen autoencoder's decoder with small learned changes of its convolutions (CODA, arXiv 2503.17760)."""

from typing import cast

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call
from typing_extensions import override

from imtok.decoders.base import WholeDecoder
from imtok.nn.grid import to_map
from imtok.spaces.base import Space, hold_patches


class LowRankDecoder(WholeDecoder):
    """A space decodes the latents as its map, with changes of low rank in its convolutions (LoRA, arXiv 2106.09685).

    The frozen weights stay as they are and are stored once. A change is a convolution to ``rank`` channels, followed
    by a 1 x 1 convolution. The second one starts at zero, so a new decoder makes the image of the space. All 3 x 3
    convolutions of the space's decoder but the first have a change.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's. A linear map leads to the space's.
        space: The frozen autoencoder, whose decoding net is its sub-module ``decoder``; the builder passes it.
        rank: Channels in the middle of each change.

    Raises:
        ValueError: If the space has no such decoder; in ``forward``, if latents do not fill the map or are left out.

    Example:
        >>> from imtok.spaces.kl_vae import KLAutoencoder
        >>> space = KLAutoencoder(dim=4, channels=32, multipliers=(1, 1), blocks=1)
        >>> LowRankDecoder(4, space, rank=2)(torch.randn(1, 32, 4), size=(8, 16)).shape
        torch.Size([1, 3, 8, 16])
    """

    space: Space
    decoding: nn.Module

    def __init__(self, in_dim: int, space: Space | None = None, rank: int = 32) -> None:
        super().__init__()
        width = hold_patches(self, space, 1, "decoder")
        net = getattr(self.space, "decoder", None)
        if not isinstance(net, nn.Module):
            raise ValueError(
                f"space must have a decoder whose convolutions can be changed, got {type(space).__name__}; give "
                "space=kl_f16c16, or decoder=rectifier"
            )
        if rank < 1:
            raise ValueError(f"rank must be at least 1, got {rank}")
        object.__setattr__(self, "decoding", _Decoding(self.space))  # without its weights, as the space itself
        self.project = nn.Identity() if in_dim == width else nn.Linear(in_dim, width)
        wide = {
            name: part
            for name, part in net.named_modules()
            if isinstance(part, nn.Conv2d) and part.kernel_size == (3, 3) and part.groups == 1
        }
        self.names = list(wide)[1:]
        self.down = nn.ParameterList(torch.randn(rank, *wide[name].weight.shape[1:]) / rank for name in self.names)
        self.up = nn.ParameterList(torch.zeros(wide[name].out_channels, rank) for name in self.names)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.up[-1])

    def changed(self) -> dict[str, Float[Tensor, "o i 3 3"]]:
        """The weights of the space's decoder with their changes, by name."""
        pairs = zip(self.names, self.down, self.up, strict=True)
        found = {f"decoder.{name}.weight": einsum(up, down, "o r, r i h w -> o i h w") for name, down, up in pairs}
        return {name: self.space.get_parameter(name) + change for name, change in found.items()}

    @override
    def decode(self, latents: Float[Tensor, "b n d"], size: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
        maps = to_map(self.project(latents), size, self.space.factor)
        weights = {f"space.{name}": weight for name, weight in self.changed().items()}
        return functional_call(self.decoding, weights, (maps,))


class _Decoding(nn.Module):
    """A module whose forward pass is the decoding of a space."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    @override
    def forward(self, maps: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b 3 h w"]:
        return self.space.decode(maps)
