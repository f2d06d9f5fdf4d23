"""A critic on frozen features (StyleGAN-T, arXiv 2301.09515), as ImageFolder (arXiv 2410.01756) and UniTok use it."""

from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.critics.base import Critic
from imtok.nn.frozen import Frozen
from imtok.nn.norms import group_norm
from imtok.nn.positions import GridPositions
from imtok.nn.timm_net import timm_net
from imtok.pixels import to_rgb

Norm = Literal["local", "group"]
DINO = "vit_small_patch16_224.dino"
_VIRTUAL_BATCH = 8
_KERNEL = 9
_MEAN, _DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1]


class DinoCritic(Critic):
    """Small heads that score the patches of a frozen vision transformer at several depths.

    Each head is a 1 x 1 convolution over the sequence of patches, a residual one of nine patches, and the scores, with
    norms in between. The frozen net lets gradients pass to the image; its weights are in no checkpoint. Images larger
    than ``side`` are cropped at random in half of all calls, and else resized. If the net was trained on another side,
    its positions are resized as the code of DINO and DINOv2 does it.

    Args:
        net: A vision transformer of timm, with the tag of its weights.
        weights: Its weight file (safetensors or torch); None = the one that timm left in the cache of the Hugging Face
            hub; nothing is downloaded. "random" = no file: fixed random weights, for trying things out only.
        layers: Blocks whose outputs are scored, from 0.
        side: Side at which the net sees images, in pixels: a multiple of its patches'.
        embedded: Score the embedded patches, too, before the first block.
        norm: "local" = each channel over up to eight images and all patches; "group" = groups of channels over the
            patches of each image (UniTok, arXiv 2502.20321).
        spectral: Divide each kernel by its largest singular value. Without, kernels start at half of Xavier's
            deviation and biases at 0 (UniTok).

    Raises:
        InputError: If timm or the weight file is missing, or the file is of another net.
        ValueError: If timm has no such net, it has no such block or patches of another size, or ``norm`` is neither.

    Example:
        >>> critic = DinoCritic("test_vit", weights="random", layers=(1, 3), side=32)
        >>> critic(torch.zeros(2, 3, 32, 32)).shape  # three heads, 2 x 2 patches
        torch.Size([2, 12])
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        net: str = DINO,
        weights: str | Path | None = None,
        layers: tuple[int, ...] | list[int] = (2, 5, 8, 11),
        side: int = 224,
        embedded: bool = True,
        norm: Norm = "local",
        spectral: bool = True,
    ) -> None:
        super().__init__()
        if norm not in get_args(Norm):
            raise ValueError(f"norm must be one of {', '.join(get_args(Norm))}, got {norm!r}")
        vit = timm_net(net, weights)
        depth, patch = len(vit.blocks), vit.patch_embed.patch_size[0]
        if not all(0 <= layer < depth for layer in layers):
            raise ValueError(f"layers must lie in [0, {depth}) for {net}, got {list(layers)}")
        if side < patch or side % patch:
            raise ValueError(f"side must be a positive multiple of {patch} for {net}, got {side}")
        _set_side(vit, side)
        self.frozen = Frozen(vit)
        self.layers = tuple(layers)
        self.side = side
        self.embedded = embedded
        self.norm: Norm = norm
        count = len(self.layers) + embedded
        self.heads = nn.ModuleList(_Head(vit.embed_dim, norm, spectral) for _ in range(count))
        for name, values in (("mean", _MEAN), ("deviation", _DEVIATION)):
            self.register_buffer(name, torch.tensor(values).view(3, 1, 1), persistent=False)

    @override
    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k"]:
        seen = ((to_rgb(self._fit(image)) + 1) / 2 - self.mean) / self.deviation
        return torch.cat([head(features) for head, features in zip(self.heads, self._features(seen), strict=True)], 1)

    @override
    def update(self) -> None:
        for part in self.modules():
            if isinstance(part, _SpectralConvolution):
                part.update()

    def _fit(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c side side"]:
        height, width = image.shape[-2:]
        if (height, width) == (self.side, self.side):
            return image
        crop, *place = torch.rand(3).tolist()  # of torch's own generator, seeded at every step
        if min(height, width) > self.side and crop < 0.5:
            top, left = (
                int(share * (size - self.side + 1)) for share, size in zip(place, (height, width), strict=True)
            )
            return image[..., top : top + self.side, left : left + self.side]
        small = min(height, width) > self.side
        return F.interpolate(image, (self.side, self.side), mode="area" if small else "bicubic")

    def _features(self, image: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b d n"]]:
        vit: Any = self.frozen.net
        tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(image)))
        found = [tokens] if self.embedded else []
        for index, block in enumerate(vit.blocks):
            tokens = block(tokens)
            found += [tokens] if index in self.layers else []
        return [self._with_class(tokens, vit.num_prefix_tokens) for tokens in found]

    @staticmethod
    def _with_class(tokens: Float[Tensor, "b t d"], prefix: int) -> Float[Tensor, "b d n"]:
        """Patches with what the class token says added to each."""
        patches = tokens[:, prefix:] + tokens[:, :1] if prefix else tokens
        return rearrange(patches, "b n d -> b d n")


class _Convolution(nn.Conv1d):
    """A convolution around the ring of patches."""

    def __init__(self, channels: int, width: int, kernel: int) -> None:
        ring = "circular" if kernel > 1 else "zeros"
        super().__init__(channels, width, kernel, padding=kernel // 2, padding_mode=ring)
        self.start()

    def start(self) -> None:
        """Draw the weights."""
        nn.init.xavier_normal_(self.weight, gain=0.5)
        assert self.bias is not None, "as nn.Conv1d makes it"
        nn.init.zeros_(self.bias)


class _SpectralConvolution(_Convolution):
    """The same, divided by the largest singular value of its kernel.

    The value is found by one step of the power method per optimiser step, from a vector that is saved; ``forward``
    changes nothing.
    """

    direction: Tensor

    @override
    def start(self) -> None:
        self.register_buffer("direction", F.normalize(torch.randn(self.out_channels), dim=0))
        for _ in range(16):
            self.update()

    @override
    def forward(self, input: Tensor) -> Tensor:
        matrix = self.weight.flatten(1)
        left, right = self._vectors()
        return self._conv_forward(input, self.weight / (left @ matrix @ right), self.bias)

    @torch.no_grad()
    def update(self) -> None:
        """One step of the power method."""
        self.direction.copy_(self._vectors()[0])

    @torch.no_grad()
    def _vectors(self) -> tuple[Float[Tensor, " d"], Float[Tensor, " c"]]:
        matrix = self.weight.flatten(1)
        right = F.normalize(matrix.T @ self.direction.to(matrix), dim=0)
        return F.normalize(matrix @ right, dim=0), right


class _LocalNorm(nn.Module):
    """Normalises each channel over the patches of up to eight images, without running statistics."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels, 1))
        self.bias = nn.Parameter(torch.zeros(channels, 1))

    @override
    def forward(self, features: Float[Tensor, "b c n"]) -> Float[Tensor, "b c n"]:
        size = next(size for size in range(min(_VIRTUAL_BATCH, len(features)), 0, -1) if len(features) % size == 0)
        groups = rearrange(features, "(g s) c n -> g s c n", s=size)
        variance, mean = torch.var_mean(groups, (1, 3), correction=0, keepdim=True)
        normed = (groups - mean) / (variance + 1e-6).sqrt()
        return rearrange(normed, "g s c n -> (g s) c n") * self.weight + self.bias


class _Head(nn.Module):
    def __init__(self, channels: int, norm: Norm, spectral: bool) -> None:
        super().__init__()
        convolution = _SpectralConvolution if spectral else _Convolution
        norms = _LocalNorm if norm == "local" else group_norm

        def layer(kernel: int) -> nn.Sequential:
            return nn.Sequential(convolution(channels, channels, kernel), norms(channels), nn.LeakyReLU(0.2))

        self.first = layer(1)
        self.second = layer(_KERNEL)
        self.score = convolution(channels, 1, 1)

    @override
    def forward(self, features: Float[Tensor, "b d n"]) -> Float[Tensor, "b n"]:
        features = self.first(features)
        features = (self.second(features) + features) / 2**0.5
        return rearrange(self.score(features), "b 1 n -> b n")


def _set_side(vit: Any, side: int) -> None:
    """Prepare a net of timm for images of another size; nets with registers resize positions as timm does."""
    grid, table = vit.patch_embed.grid_size, vit.pos_embed
    vit.set_input_size(img_size=side)
    if table is None or vit.num_reg_tokens or vit.patch_embed.grid_size == grid:
        return
    prefix = 0 if vit.no_embed_class else vit.num_prefix_tokens
    positions = GridPositions(grid, vit.embed_dim, vit.patch_embed.patch_size[0], interpolate=True, offset=0.1)
    positions.table = nn.Parameter(table[0, prefix:])
    resized = positions(vit.patch_embed.grid_size)[None]
    vit.pos_embed = nn.Parameter(torch.cat([table[:, :prefix], resized], 1).detach())
