"""A transformer that draws images from noise to fit tokens: FlexTok (arXiv 2502.13967), Semanticist (2503.08685)."""

from functools import partial
from typing import Any, Literal, cast, get_args

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.decoders.base import GenerativeDecoder
from imtok.decoders.guidance import Guidance
from imtok.decoders.processes import Maps, Predict, Process, RectifiedFlow, Times
from imtok.nn.fixed_positions import Axes, SincosPositions
from imtok.nn.grid import grid_size
from imtok.nn.initialization import start_weights
from imtok.nn.modulation import Modulation, modulate
from imtok.nn.noise import normal_like
from imtok.nn.norms import token_norm
from imtok.nn.patches import from_patches, to_patches
from imtok.nn.positions import OtherSizes
from imtok.nn.time import TimeEmbedding
from imtok.nn.transformer import BlockStyle, Transformer
from imtok.spaces.base import Space, hold
from imtok.types import Condition, Loss

Missing = Literal["vector", "vector_per_position"]


class FlowDecoder(GenerativeDecoder):
    """Predicts, from a noisy map and the tokens, which way to go to the map of the image; sampling goes that way.

    The sequence is patches of the noisy map, then the tokens; all see all. The time modulates every block.

    Args:
        in_dim: Width of the latents; the builder sets it to the quantizer's.
        num_latents: How many there are at most; the builder sets it to the encoder's.
        image_size: Side of the images that positions are for, in pixels.
        space: The frozen autoencoder whose maps are drawn; None = images themselves. The builder passes it.
        width: Width of the transformer.
        depth: Its number of blocks.
        heads: Attention heads; divides ``width``.
        patch_size: Side of a patch, in positions of the map or in pixels.
        style: Of the transformer's blocks; of its norm the last one is too.
        process: How noise and map are mixed, and what is predicted; None = rectified flow with logit-normal times.
        steps: Of sampling.
        guidance: Pushes samples towards the tokens; None = nothing does.
        condition_dropout: Probability that in training an image is drawn without any token, for guidance.
        missing: What stands for tokens that are not kept. "vector" = one learned vector without a position, and
            another one for all tokens where an image is drawn without any (FlexTok); "vector_per_position" = a learned
            latent for each position, all of them where an image is drawn without any (Semanticist).
        latent_positions: Whether tokens have learned positions: "learned" or "none".
        modulated_segments: 2 = patches and tokens are modulated each in its own way (FlexTok); 1 = alike (DiT).
        time_period: Range of frequencies of the time (``imtok.nn.time``).
        axes: What the first half of a patch's position stands for (``imtok.nn.fixed_positions``).
        positions: Of patches. "fixed" = images of ``image_size`` only; "cropped" = smaller images take the first rows
            and columns (FlexTok); "interpolated" = the positions are resized.
        seed: Of the noise that ``forward`` starts from: the same for every image, so that an image does not depend on
            its batch.
        checkpoint: Compute blocks again in the backward pass instead of keeping their activations.
        image_channels: Channels of the images: 1, 3 or 4; the builder sets it.

    Raises:
        ValueError: If an argument has no such choice; in ``forward`` and ``loss``, for too many latents or images of
            another size.

    Example:
        >>> decoder = FlowDecoder(
        ...     6, num_latents=8, image_size=32, width=16, depth=1, heads=2, patch_size=8, steps=2
        ... )
        >>> latents = torch.randn(1, 8, 6)
        >>> decoder(latents[:, :3], size=(32, 32)).shape
        torch.Size([1, 3, 32, 32])
        >>> list(decoder.loss(torch.zeros(1, 3, 32, 32), latents))
        ['velocity']
    """

    flexible = True
    space: Space | None
    noise: Float[Tensor, "m c h w"]

    def __init__(
        self,
        in_dim: int,
        num_latents: int,
        image_size: int,
        space: Space | None = None,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        patch_size: int = 2,
        style: BlockStyle | None = None,
        process: Process | None = None,
        steps: int = 25,
        guidance: Guidance | None = None,
        condition_dropout: float = 0.1,
        missing: Missing = "vector",
        latent_positions: Literal["learned", "none"] = "learned",
        modulated_segments: Literal[1, 2] = 2,
        time_period: float = 256.0,
        axes: Axes = "row column",
        positions: OtherSizes = "fixed",
        seed: int = 0,
        checkpoint: bool = False,
        image_channels: int = 3,
    ) -> None:
        super().__init__()
        if missing not in get_args(Missing):
            raise ValueError(f"missing must be one of {', '.join(get_args(Missing))}, got {missing!r}")
        if positions not in get_args(OtherSizes):
            raise ValueError(f"positions must be one of {', '.join(get_args(OtherSizes))}, got {positions!r}")
        if not 0 <= condition_dropout <= 1:
            raise ValueError(f"condition_dropout must be in [0, 1], got {condition_dropout}")
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        # What it draws: pixels, or maps of a space, by which process.
        if space is not None:
            hold(self, space)
        else:
            self.space = None
        style = style or BlockStyle(norm="layer_plain")
        self.num_latents = num_latents
        self.process = process or RectifiedFlow()
        self.steps = steps
        self.guidance = guidance if guidance is not None and guidance.scale != 1 else None
        self.condition_dropout = condition_dropout
        self.seed = seed
        self.patch_size = patch_size
        self.channels, scale = (space.dim, space.factor) if space is not None else (image_channels, 1)
        self.factor = patch_size * scale
        # Tokens: noisy patches and latents, and what stands for latents that are missing.
        grid = grid_size((image_size, image_size), self.factor)
        written = patch_size**2 * self.channels
        self.patch_embedding = nn.Linear(written, width)
        resized, cropped = positions == "interpolated", positions == "cropped"
        self.positions = SincosPositions(grid, width, self.factor, resized, cropped, axes)
        self.latent_embedding = nn.Linear(in_dim, width)
        self.latent_positions = _learned(num_latents, width) if latent_positions == "learned" else None
        self.missing_vectors = _learned(num_latents, in_dim) if missing == "vector_per_position" else None
        self.missing_vector = _learned(width) if missing == "vector" else None
        self.missing_all = _learned(width) if missing == "vector" else None
        # The net, modulated by the time.
        self.time_embedding = TimeEmbedding(width, time_period)
        self.trunk = Transformer(width, depth, heads, style, modulated_segments, checkpoint=checkpoint)
        self.norm = token_norm(style.norm, width, style.eps)
        self.modulation = Modulation(width, 2)
        self.head = nn.Linear(width, written * self.process.predictions)
        self.register_buffer("noise", self._draw_noise(grid), persistent=False)
        start_weights(self, "xavier")
        nn.init.zeros_(self.head.weight)

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return cast(nn.Parameter, self.head.weight)

    @override
    def loss(
        self,
        image: Float[Tensor, "b c h w"],
        latents: Float[Tensor, "b n d"],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Loss]:
        maps = self.maps(image)
        noise = normal_like(maps, generator)
        times = self.process.draw_times(maps.shape[0], generator).to(maps)
        rate = self.condition_dropout if self.training else 0.0
        dropped = (torch.rand(maps.shape[0], generator=generator) < rate).to(maps.device)
        return self.process.losses(self.predictor(latents, keep, dropped), maps, noise, times)

    @override
    def forward(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b c h w"]:
        grid = grid_size(size, self.factor)
        self.positions(grid)
        predict = self.predictor(latents, keep)
        if self.guidance is not None:
            everything = torch.ones(latents.shape[0], dtype=torch.bool, device=latents.device)
            null = self._predictor(self._tokens(latents, keep, everything), 0)
            predict = partial(self._guided, guidance=self.guidance, predict=predict, null=null, updates=[])
        noise = self.noise if grid == self.positions.grid else self._draw_noise(grid)
        noise = noise.to(latents)[:, None].expand(-1, latents.shape[0], -1, -1, -1)
        return self.pictured(self.process.sample(predict, noise, self.steps))

    @torch.no_grad()
    def maps(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c2 h2 w2"]:
        """The target of drawing: the maps of images, or the images themselves."""
        return image if self.space is None else self.space.maps(image)

    def draw_in(self, steps: int) -> None:
        """Set the number of sampling steps, with noise of the same seed.

        Raises:
            ValueError: If there are fewer than 1.
        """
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.steps = steps
        self.noise = self._draw_noise(self.positions.grid).to(self.noise)

    def pictured(self, maps: Float[Tensor, "b c2 h2 w2"]) -> Float[Tensor, "b c h w"]:
        """The images of drawn maps."""
        return maps if self.space is None else self.space.decode(maps)

    def predictor(
        self,
        latents: Float[Tensor, "b n d"],
        keep: Bool[Tensor, "b n"] | None = None,
        dropped: Bool[Tensor, " b"] | None = None,
    ) -> Predict:
        """The prediction given latents. Images in ``dropped`` are drawn without latents; None = no image is."""
        if dropped is None:
            dropped = torch.zeros(latents.shape[0], dtype=torch.bool, device=latents.device)
        return self._predictor(self._tokens(latents, keep, dropped), latents.shape[1])

    def _predictor(self, tokens: Float[Tensor, "b m d2"], count: int) -> Predict:
        """The prediction given tokens of which those after the first ``count`` are missing.

        Where one vector without position stands for all of these, they stay the same in every block: one of them does,
        if it counts for all.
        """
        rest = self.num_latents - count
        if self.missing_vector is None or rest < 2:
            return partial(self._predict, tokens=tokens)
        weights = torch.ones(count + 1, dtype=tokens.dtype, device=tokens.device)
        weights[-1] = rest
        return partial(self._predict, tokens=tokens[:, : count + 1], weights=weights)

    def _predict(
        self,
        noisy: Maps,
        times: Times,
        tokens: Float[Tensor, "b n d"],
        weights: Float[Tensor, " n"] | None = None,
    ) -> Float[Tensor, "b c2 h w"]:
        """What the process wants to know at ``times``, between 0 and 1; ``weights`` as in the trunk."""
        grid = (noisy.shape[-2] // self.patch_size, noisy.shape[-1] // self.patch_size)
        patches = self.patch_embedding(to_patches(noisy, self.patch_size)) + self.positions(grid)
        lengths = [patches.shape[1], tokens.shape[1]]
        condition = self.time_embedding(times)
        if weights is not None:
            weights = F.pad(weights, (lengths[0], 0), value=1.0)
        sequence = torch.cat([patches, tokens.to(patches.dtype)], 1)
        sequence = self.trunk(sequence, condition=condition, lengths=lengths, weights=weights)
        shift, scale = self.modulation(condition, lengths[:1])
        written = self.head(modulate(self.norm(sequence[:, : lengths[0]]), shift, scale))
        return from_patches(written, grid, self.patch_size)

    def _guided(
        self, noisy: Maps, times: Times, guidance: Guidance, predict: Predict, null: Predict, updates: list[Maps]
    ) -> Float[Tensor, "b c2 h w"]:
        """A guided prediction of the data's channels; ``updates`` remembers what guidance wants to know next time."""
        conditional, without = predict(noisy, times), null(noisy, times)[:, : self.channels]
        last = updates.pop() if updates else None
        guided, update = guidance.combine(conditional[:, : self.channels], without, last)
        updates.append(update)
        return torch.cat([guided, conditional[:, self.channels :]], 1)

    def _tokens(
        self, latents: Float[Tensor, "b n d"], keep: Bool[Tensor, "b n"] | None, dropped: Bool[Tensor, " b"]
    ) -> Float[Tensor, "b m d2"]:
        """Tokens as the transformer sees them: something stands in every place, kept or not."""
        count = latents.shape[1]
        if not 1 <= count <= self.num_latents:
            raise ValueError(f"latents must be 1 to {self.num_latents} for this decoder, got {count}")
        absent = self.num_latents - count
        keep = torch.ones_like(latents[..., 0], dtype=torch.bool) if keep is None else keep
        kept = rearrange(F.pad(keep, (0, absent)), "b n -> b n 1")
        dropped = rearrange(dropped, "b -> b 1 1")
        latents = F.pad(latents, (0, 0, 0, absent))
        if self.missing_vectors is not None:
            return self.latent_embedding(torch.where(kept & ~dropped, latents, self.missing_vectors))
        tokens = self.latent_embedding(latents)
        if self.latent_positions is not None:
            tokens = tokens + self.latent_positions
        tokens = torch.where(kept, tokens, cast(Tensor, self.missing_vector))
        return torch.where(dropped, cast(Tensor, self.missing_all), tokens)

    def _draw_noise(self, grid: tuple[int, int]) -> Float[Tensor, "m c h w"]:
        shape = (self.process.draws(self.steps), self.channels, *(side * self.patch_size for side in grid))
        return torch.randn(shape, generator=torch.Generator().manual_seed(self.seed), device="cpu")

    @override
    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the transformer, which both training and sampling run, and not the loop of sampling."""
        self.trunk.compile(*args, **kwargs)


def _learned(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape) * 0.02)
