"""The encoder of FQGAN (arXiv 2411.16681): a convolutional net, and a transformer of its own for each kind of code."""

from typing import Literal, Unpack, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.encoders.cnn import ConvolutionSettings, ConvolutionTrunk
from imtok.nn.convolution import activated_norm, latent_convolution
from imtok.nn.grid import grid_size, to_map, to_sequence
from imtok.nn.initialization import Start, start_weights
from imtok.nn.norms import set_groups
from imtok.nn.positions import GridPositions
from imtok.nn.transformer import Transformer


class AdapterEncoder(ConvolutionTrunk):
    """A CNN reads the image once; adapters make of its map what each part of a product quantizer is to code.

    An adapter adds positions to the map and goes through a layer norm, blocks and a layer norm, all as wide as the map.
    What closes ``CNNEncoder`` follows in each: a group norm, SiLU, a 3 x 3 convolution and one of 1 x 1. The latents
    of the adapters stand side by side in channels, those of the first part first.

    Args:
        out_dim: Width of the latents, a multiple of ``branches``; the builder sets it to the quantizer's.
        image_size: Side of the images that the adapters' positions are for, in pixels; the builder sets it.
        branches: Number of adapters.
        depth: Transformer blocks of each adapter.
        heads: Attention heads of each block.
        latent_channels: Channels between the last two convolutions.
        positions: "fixed" = other image sizes are refused; "interpolated" = the positions are resized for them.
        start: How the weights of the adapters' blocks start (``imtok.nn.initialization``).
        checkpoint: Compute the adapters' blocks again in the backward pass instead of keeping their activations.
        groups: Number of groups in each norm of maps; None = 32, and fewer if there are fewer than 128 channels.
        **cnn: The CNN, as in :class:`~imtok.encoders.cnn.CNNEncoder`.

    Raises:
        ValueError: If an argument has no such choice or ``out_dim`` is no multiple of ``branches``; in ``forward`` and
            ``num_latents``, for images of another size unless positions are interpolated.

    Example:
        >>> encoder = AdapterEncoder(16, image_size=32, depth=1, heads=2, channels=32, multipliers=(1, 2))
        >>> encoder(torch.rand(1, 3, 32, 32) * 2 - 1).values.shape
        torch.Size([1, 256, 16])
    """

    def __init__(
        self,
        out_dim: int,
        image_size: int,
        branches: int = 2,
        depth: int = 6,
        heads: int = 8,
        latent_channels: int = 256,
        positions: Literal["fixed", "interpolated"] = "fixed",
        start: Start = "xavier",
        checkpoint: bool = False,
        groups: int | None = None,
        **cnn: Unpack[ConvolutionSettings],
    ) -> None:
        super().__init__(**cnn)
        if branches < 1 or out_dim % branches:
            raise ValueError(f"branches must be a divisor of the latents' width {out_dim}, got {branches}")
        grid = grid_size((image_size, image_size), self.factor)
        adapters = (
            _Adapter(
                GridPositions(grid, self.width, self.factor, positions == "interpolated"),
                Transformer(self.width, depth, heads, checkpoint=checkpoint),
                nn.Conv2d(self.width, latent_channels, 3, padding=1),
                latent_convolution(latent_channels, out_dim // branches, 1),
            )
            for _ in range(branches)
        )
        self.adapters = nn.ModuleList(adapters)
        for adapter in self.adapters:
            start_weights(cast(_Adapter, adapter).transformer, start)
        set_groups(self, groups)

    @override
    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        features = self.features(image)
        return torch.cat([to_sequence(adapter(features)) for adapter in self.adapters], -1)

    @override
    def num_latents(self, size: tuple[int, int]) -> int:
        rows, columns = grid_size(size, self.factor)
        cast(_Adapter, self.adapters[0]).positions((rows, columns))  # refuses sizes without positions
        return rows * columns


class _Adapter(nn.Module):
    """The transformer of one kind of code, and the convolutions that write its latents."""

    def __init__(self, positions: GridPositions, blocks: Transformer, conv_out: nn.Conv2d, project: nn.Conv2d) -> None:
        super().__init__()
        self.positions = positions
        self.norm_pre = nn.LayerNorm(conv_out.in_channels)
        self.transformer = blocks
        self.norm_post = nn.LayerNorm(conv_out.in_channels)
        self.norm_out = activated_norm(conv_out.in_channels)
        self.conv_out = conv_out
        self.project = project

    @override
    def forward(self, features: Float[Tensor, "b d h w"]) -> Float[Tensor, "b d2 h w"]:
        grid = (features.shape[-2], features.shape[-1])
        tokens = self.norm_pre(to_sequence(features) + self.positions(grid))
        tokens = self.norm_post(self.transformer(tokens))
        return self.project(self.conv_out(self.norm_out(to_map(tokens, grid, factor=1))))
