"""What decoders share whose pixels MaskGIT's decoder draws: TiTok's, ALIT's, KARL's and TokenSet's."""

from collections.abc import Callable, Sequence
from pathlib import Path

from jaxtyping import Bool, Float
from torch import Tensor, nn
from typing_extensions import override

from imtok.decoders.base import Decoder, ProxyDecoder
from imtok.nn.grid import to_map
from imtok.nn.maskgit import MaskGITDecoder
from imtok.pixels import from_range
from imtok.pretrained import Pretrained, read_tensors
from imtok.spaces.maskgit import PIXELS, load_codebook, load_exactly
from imtok.types import Condition


class MaskGITPixels(Decoder):
    """A decoder that makes a vector for each square of ``patch_size`` pixels; ``pixels`` draws the image of these."""

    patch_size: int
    pixels: MaskGITDecoder

    @property
    @override
    def last_layer(self) -> nn.Parameter:
        return self.pixels.last_layer

    def drawn(self, vectors: Float[Tensor, "b m d"], size: tuple[int, int]) -> Float[Tensor, "b 3 h w"]:
        """The images of vectors, row by row."""
        return from_range(self.pixels(to_map(vectors, size, self.patch_size)), PIXELS)


class CodeDecoder(MaskGITPixels, ProxyDecoder, Pretrained):
    """A decoder that scores the codes of a frozen tokenizer; its vectors are the mean codes that it expects."""

    codebook: nn.Embedding
    read: Callable[[Path], dict[str, Tensor]] = staticmethod(read_tensors)  # of the file that ``weights`` names

    def add_codes(self, codes: int, code_dim: int, channels: int, multipliers: Sequence[int], blocks: int) -> None:
        """Draw ``codebook`` and ``pixels``; arguments as of :class:`imtok.nn.maskgit.MaskGITDecoder`."""
        self.codebook = nn.Embedding(codes, code_dim)
        self.pixels = MaskGITDecoder(code_dim, channels, multipliers, blocks)

    @override
    def forward(
        self,
        latents: Float[Tensor, "b n d"],
        size: tuple[int, int],
        keep: Bool[Tensor, "b n"] | None = None,
        condition: Condition | None = None,
    ) -> Float[Tensor, "b 3 h w"]:
        return self.drawn(self.logits(latents, size, keep, condition).softmax(-1) @ self.codebook.weight, size)

    @override
    def read_weights(self, path: Path) -> None:
        tensors = self.read(path)
        load_exactly(self.pixels, tensors, path, "decoder.")
        load_codebook(self.codebook.weight, tensors, path)
