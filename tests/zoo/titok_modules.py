"""TiTok and TA-TiTok with a KL bottleneck in their authors' layout (names, shapes, order of use), written anew."""

import torch
from torch import Tensor, nn


class Block(nn.Module):
    """CLIP's block."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential()
        self.mlp.add_module("c_fc", nn.Linear(width, 4 * width))
        self.mlp.add_module("gelu", nn.GELU())
        self.mlp.add_module("c_proj", nn.Linear(4 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        normed = self.ln_1(tokens)
        tokens = tokens + self.attn(normed, normed, normed, need_weights=False)[0]
        return tokens + self.mlp(self.ln_2(tokens))


class Side(nn.Module):
    """What encoder and decoder share: a class token, positions of patches and of latents, norms and blocks."""

    def __init__(self, width: int, depth: int, heads: int, grid: int, latents: int) -> None:
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(1, width))
        self.positional_embedding = nn.Parameter(torch.randn(grid**2 + 1, width))
        self.latent_token_positional_embedding = nn.Parameter(torch.randn(latents, width))
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = nn.ModuleList(Block(width, heads) for _ in range(depth))

    def read(self, patches: Tensor, *others: Tensor) -> Tensor:
        first = self.class_embedding.expand(len(patches), -1, -1)
        tokens = torch.cat([torch.cat([first, patches], 1) + self.positional_embedding, *others], 1)
        tokens = self.ln_pre(tokens)
        for block in self.transformer:
            tokens = block(tokens)
        return self.ln_post(tokens)


class Encoder(Side):
    """Patches and latent tokens to all means, then all log variances."""

    def __init__(self, width: int, depth: int, heads: int, grid: int, latents: int, patch: int, dim: int) -> None:
        super().__init__(width, depth, heads, grid, latents)
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch)
        self.conv_out = nn.Conv2d(width, 2 * dim, 1)

    def forward(self, image: Tensor, latent_tokens: Tensor) -> Tensor:
        latents = latent_tokens + self.latent_token_positional_embedding
        read = self.read(self.patch_embed(image).flatten(2).mT, latents.expand(len(image), -1, -1))
        return self.conv_out(read[:, -len(latents) :].mT[..., None])[..., 0].mT


class Decoder(Side):
    """Mask tokens, latents and, in TA-TiTok, text features to pixels."""

    def __init__(
        self,
        width: int,
        depth: int,
        heads: int,
        grid: int,
        latents: int,
        patch: int,
        dim: int,
        text: tuple[int, int] | None,
    ) -> None:
        super().__init__(width, depth, heads, grid, latents)
        self.grid, self.patch = grid, patch
        self.decoder_embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, width))
        self.ffn = nn.Sequential(nn.Conv2d(width, 3 * patch**2, 1))
        self.conv_out = nn.Conv2d(3, 3, 3, padding=1)
        if text is not None:
            self.text_guidance_proj = nn.Linear(text[1], width)
            self.text_guidance_positional_embedding = nn.Parameter(torch.randn(text[0], width))

    def forward(self, codes: Tensor, text: Tensor | None) -> Tensor:
        latents = self.decoder_embed(codes) + self.latent_token_positional_embedding
        others = [latents]
        if text is not None:
            others.append(self.text_guidance_proj(text) + self.text_guidance_positional_embedding)
        read = self.read(self.mask_token.expand(len(codes), self.grid**2, -1), *others)
        pixels = self.ffn(read[:, 1 : 1 + self.grid**2].mT.unflatten(2, (self.grid, self.grid)))
        # channels are rows of the patch, its columns, colours
        batch, side = len(codes), self.grid * self.patch
        cut = pixels.unflatten(1, (self.patch, self.patch, 3)).permute(0, 3, 4, 1, 5, 2)
        return self.conv_out(cut.reshape(batch, 3, side, side))


class ContinuousTiTok(nn.Module):
    """The whole net; pixels are in [0, 1]."""

    def __init__(self, text: tuple[int, int] | None = None, dim: int = 5) -> None:
        super().__init__()
        sizes = {"width": 64, "depth": 2, "heads": 1, "grid": 4, "latents": 6, "patch": 4, "dim": dim}
        self.latent_tokens = nn.Parameter(torch.randn(6, 64))
        self.encoder, self.decoder = Encoder(**sizes), Decoder(**sizes, text=text)

    def moments(self, image: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_variance = self.encoder(image, self.latent_tokens).chunk(2, -1)
        return mean, log_variance.clamp(-30, 20)
