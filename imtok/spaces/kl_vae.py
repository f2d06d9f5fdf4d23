"""The KL autoencoder of latent diffusion (arXiv 2112.10752): the frozen space of FlexTok and Semanticist."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.errors import InputError
from imtok.nn.convolution import Attention, ConvolutionStack, Layer, activated_norm, level_layers
from imtok.nn.exact import exact, exact_backward
from imtok.nn.norms import set_groups
from imtok.nn.resampling import downsampler, upsampler
from imtok.pretrained import read_tensors
from imtok.spaces.base import Space
from imtok.spaces.diffusers_names import diffusers_names, modern_name

_MIDDLE: tuple[Layer, ...] = ("residual", "attention", "residual")


class KLAutoencoder(Space):
    """Images to the mean of a normal distribution per position, and back.

    It computes with autocast off: its maps are what a decoder learns to draw, and what it makes of them is the image.

    Args:
        dim: Channels of its maps.
        channels: Channels at full resolution.
        multipliers: Channels of each level as a multiple of ``channels``, full resolution first. One level more
            doubles the pixels per position: 4 levels are 8 x 8 pixels.
        blocks: Residual blocks per level of the encoder; the decoder has one more.
        encoder_attention: "lowest" = in the encoder, at the lowest resolution attention follows every residual block,
            besides the attention in the middle; "none".
        scale: What the mean is multiplied by, to have a deviation of about 1: ``scaling_factor`` in the config of
            published weights.
        sample_posterior: Draw from the distribution in place of its mean, by torch's global generator. The ids of an
            image then differ from call to call.
        groups: Number of groups in each norm of maps; None = 32, and fewer if there are fewer than 128 channels.
        weights: Path of a file with the names of diffusers' AutoencoderKL (its
            ``diffusion_pytorch_model.safetensors``), or "random".
        cache: See :class:`~imtok.spaces.base.Space`.

    Raises:
        ValueError: If ``scale`` is not positive.

    Example:
        >>> space = KLAutoencoder(dim=4, channels=16, multipliers=(1, 2), blocks=1)
        >>> features = space.encode(torch.rand(1, 3, 16, 32) * 2 - 1)
        >>> features.shape, space.decode(features).shape
        (torch.Size([1, 4, 8, 16]), torch.Size([1, 3, 16, 32]))
    """

    files = ("diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors")

    def __init__(
        self,
        dim: int = 16,
        channels: int = 128,
        multipliers: Sequence[int] = (1, 2, 4, 4),
        blocks: int = 2,
        encoder_attention: Attention = "none",
        scale: float = 0.18215,
        sample_posterior: bool = False,
        groups: int | None = None,
        weights: str | None = "random",
        cache: str | None = None,
    ) -> None:
        super().__init__(weights, cache)
        if scale <= 0:
            raise ValueError(f"scale must be positive, got {scale}")
        self.dim = dim
        self.factor = 2 ** (len(multipliers) - 1)
        self.scale = scale
        self.sample_posterior = sample_posterior
        widths = [channels * multiplier for multiplier in multipliers]
        self.encoder = MomentsEncoder(2 * dim, widths, level_layers(len(widths), blocks, encoder_attention))
        self.decoder = MapDecoder(dim, widths[::-1], level_layers(len(widths), blocks + 1, "none"))
        set_groups(self, groups)

    @property
    @override
    def draws(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride], nobody sets it
        return self.sample_posterior

    @override
    def encode(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h2 w2"]:
        with torch.autocast(image.device.type, enabled=False):
            mean, log_variance = self.encoder(exact(image)).chunk(2, 1)
            if self.sample_posterior:
                mean = mean + torch.randn_like(mean) * (log_variance.clamp(-30, 20) / 2).exp()
            features = mean * self.scale
        exact_backward([features], [image], tf32=True)
        return features

    @override
    def decode(self, features: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b 3 h w"]:
        with torch.autocast(features.device.type, enabled=False):
            image = self.decoder(exact(features) / self.scale)
        exact_backward([image], [features], tf32=True)
        return image

    @override
    def read_weights(self, path: Path) -> None:
        stored = {modern_name(name): tensor for name, tensor in read_tensors(path).items()}
        own = self.state_dict()
        named = {theirs: own[name] for name, theirs in diffusers_names(own).items()}
        for what, names in (("lacks", named.keys() - stored.keys()), ("also has", stored.keys() - named.keys())):
            if names:
                some = ", ".join(sorted(names)[:3]) + (", ..." if len(names) > 3 else "")
                raise InputError(f"{path} is not of this KL autoencoder: it {what} {some}; check the space's arguments")
        for name, tensor in named.items():
            # Linear maps of attention are 1 x 1 convolutions here.
            if stored[name].squeeze().shape != tensor.squeeze().shape:
                shapes = f"{tuple(tensor.shape)}, got {tuple(stored[name].shape)}"
                raise InputError(f"{path} is not of this KL autoencoder: {name} must have shape {shapes}")
            tensor.copy_(stored[name].view(tensor.shape))


class MomentsEncoder(nn.Module):
    """Residual blocks at full, half, quarter, ... resolution, then mean and log variance.

    Args:
        out_channels: Channels of both together.
        widths: Channels of each level, full resolution first.
        layers: Layers of each level.
    """

    def __init__(self, out_channels: int, widths: Sequence[int], layers: Sequence[Sequence[Layer]]) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        self.levels = nn.ModuleList(
            ConvolutionStack(level, before, after)
            for level, (before, after) in zip(layers, pairwise([widths[0], *widths]), strict=True)
        )
        self.downsamplers = nn.ModuleList(downsampler("padded_end", width) for width in widths[:-1])
        self.middle = ConvolutionStack(_MIDDLE, widths[-1], widths[-1])
        self.norm_out = activated_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], out_channels, 3, padding=1)
        self.project = nn.Conv2d(out_channels, out_channels, 1)

    @override
    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b d h2 w2"]:
        features = self.levels[0](self.conv_in(image))
        for halve, level in zip(self.downsamplers, self.levels[1:], strict=True):
            features = level(halve(features))
        return self.project(self.conv_out(self.norm_out(self.middle(features))))


class MapDecoder(nn.Module):
    """The mirror image of the encoder.

    Args:
        in_channels: Channels of the map.
        widths: Channels of each level, lowest resolution first.
        layers: Layers of each level.
    """

    def __init__(self, in_channels: int, widths: Sequence[int], layers: Sequence[Sequence[Layer]]) -> None:
        super().__init__()
        self.project = nn.Conv2d(in_channels, in_channels, 1)
        self.conv_in = nn.Conv2d(in_channels, widths[0], 3, padding=1)
        self.middle = ConvolutionStack(_MIDDLE, widths[0], widths[0])
        self.levels = nn.ModuleList(
            ConvolutionStack(level, before, after)
            for level, (before, after) in zip(layers, pairwise([widths[0], *widths]), strict=True)
        )
        self.upsamplers = nn.ModuleList(upsampler("nearest", width) for width in widths[:-1])
        self.norm_out = activated_norm(widths[-1])
        self.conv_out = nn.Conv2d(widths[-1], 3, 3, padding=1)

    @override
    def forward(self, features: Float[Tensor, "b d h2 w2"]) -> Float[Tensor, "b 3 h w"]:
        features = self.levels[0](self.middle(self.conv_in(self.project(features))))
        for double, level in zip(self.upsamplers, self.levels[1:], strict=True):
            features = level(double(features))
        return self.conv_out(self.norm_out(features))
