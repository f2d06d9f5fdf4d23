"""What VAR (arXiv 2404.02905) calls its tokenizer, and stored tokens where it would encode images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int64, Shaped
from torch import Tensor
from torch.utils.data import Dataset
from typing_extensions import override

from imtok.errors import InputError
from imtok.export.adapters import CodesAdapter, LlamaGenModel, Map
from imtok.export.convert import REPORT, read_report
from imtok.export.formats.var import LABELS, file_names
from imtok.export.store import read_array
from imtok.quantizers.multiscale import MultiScale
from imtok.tokenizer import Tokenizer

ScaleMap = Float[Tensor, "b d _ _"]


class VARModel(LlamaGenModel):
    """VAR's ``VQVAE``, as its trainer, its sampler and its demos call it.

    Where they hand over images, ids that ``imtok convert format=var`` has stored are taken as well: whole numbers of
    shape ``b tokens``. So VAR's trainer runs on stored tokens as it is.

    Args:
        tokenizer: A tokenizer with one multi-scale quantizer, or where it is stored.
        image_size: Side of the images, in pixels; None = what the tokenizer was trained on.

    Raises:
        InputError: If the quantizer is another one, or a token of a scale is not one number; and as
            :class:`~imtok.export.adapters.LlamaGenModel`.

    Example:
        >>> part = {"patch_size": 8, "width": 16, "depth": 1}
        >>> vq = {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32}
        >>> scales = {"_target_": "imtok.quantizers.multiscale.MultiScale", "quantizer": vq, "sizes": [1, 2, 4]}
        >>> tokenizer = Tokenizer.from_config({
        ...     "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **part},
        ...     "quantizer": {**scales, "convolutions": 2},
        ...     "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **part},
        ... })
        >>> vae = VARModel(tokenizer, image_size=32)
        >>> ids = vae.img_to_idxBl(torch.zeros(2, 3, 32, 32))
        >>> [scale.shape[1] for scale in ids], vae.quantize.idxBl_to_var_input(ids).shape
        ([1, 4, 16], torch.Size([2, 20, 4]))
    """

    quantize: "VARCodes"

    def __init__(self, tokenizer: Tokenizer | str | Path, image_size: int | None = None) -> None:
        super().__init__(tokenizer, image_size)
        self.Cvae, self.vocab_size = self.quantize.Cvae, self.quantize.vocab_size

    @override
    def codes(self) -> "VARCodes":
        return VARCodes(self)

    def img_to_idxBl(  # noqa: N802, the name that VAR calls
        self, inp_img_no_grad: Shaped[Tensor, "b ..."], v_patch_nums: Sequence[int] | None = None
    ) -> list[Int64[Tensor, "b _"]]:
        """Ids of each scale, of images or of ids that stand one scale after the other."""
        self.quantize.check_scales(v_patch_nums)
        if inp_img_no_grad.is_floating_point():
            tokens = self.tokenizer.encode(inp_img_no_grad, condition=self.condition)
            return self.quantize.by_scale(tokens.ids[..., 0])
        return self.quantize.by_scale(inp_img_no_grad)

    @torch.no_grad()
    def fhat_to_img(self, f_hat: Map) -> Float[Tensor, "b 3 h w"]:
        """A map of quantized latents to images in [-1, 1]."""
        latents = rearrange(f_hat.to(self.tokenizer.decoder.last_layer.dtype), "b d h w -> b (h w) d")
        return self.decode(self.to_map(latents.contiguous()))  # the layout that the decoder is used to, bit for bit

    def idxBl_to_img(  # noqa: N802, the name that VAR calls
        self, ids: Sequence[Tensor], same_shape: bool, last_one: bool = False
    ) -> list[Tensor] | Tensor:
        """Images of the ids of the first scales: of each number of scales, or of all."""
        return self.embed_to_img(self.quantize.maps(ids), same_shape, last_one)

    def embed_to_img(
        self, maps: Sequence[ScaleMap], all_to_max_scale: bool, last_one: bool = False
    ) -> list[Tensor] | Tensor:
        """Images of the codes of the first scales, each a map of its own size."""
        sums = self.quantize.embed_to_fhat(maps, all_to_max_scale)
        return self.fhat_to_img(sums[-1]) if last_one else [self.fhat_to_img(f_hat) for f_hat in sums]

    def img_to_reconstructed_img(
        self, x: Float[Tensor, "b 3 h w"], v_patch_nums: Sequence[int] | None = None, last_one: bool = False
    ) -> list[Tensor] | Tensor:
        """What becomes of images with one scale, with two, and so on."""
        return self.idxBl_to_img(self.img_to_idxBl(x, v_patch_nums), True, last_one)


class VARCodes(CodesAdapter):
    """VAR's ``VectorQuantizer2``, as far as a generator calls it.

    Args:
        model: Whose it is.

    Attributes:
        prog_si: The last scale that is trained; -1 = all. VAR's trainer sets it.
    """

    def __init__(self, model: LlamaGenModel) -> None:
        super().__init__(model)
        quantizer = model.tokenizer.quantizer
        if not isinstance(quantizer, MultiScale) or len(quantizer.vocab_sizes) != 1:
            what = f"{type(quantizer).__name__} with slots of {list(quantizer.vocab_sizes)}"
            raise InputError(f"VAR needs one multi-scale quantizer with one id per token (var_msvq), got {what}")
        self.quantizer = quantizer
        self.vocab_size, self.Cvae = quantizer.vocab_sizes[0], quantizer.dim
        self.v_patch_nums, self.prog_si = quantizer.sizes, -1
        self.embedding = Embedding(quantizer)

    def check_scales(self, v_patch_nums: Sequence[Any] | None) -> None:
        """Refuse other scales than the tokenizer's own."""
        given = None if v_patch_nums is None else tuple(n if isinstance(n, int) else n[0] for n in v_patch_nums)
        if given not in (None, self.v_patch_nums):
            raise ValueError(f"v_patch_nums must be the tokenizer's own {self.v_patch_nums}, got {given}")

    def by_scale(self, ids: Int64[Tensor, "b tokens"]) -> list[Int64[Tensor, "b _"]]:
        """Ids that stand one scale after the other, cut into scales up to ``prog_si``.

        Raises:
            ValueError: If they are not those of all scales.
        """
        if ids.ndim != 2 or ids.shape[1] != sum(self.quantizer.scale_tokens):
            raise ValueError(f"ids must be b {sum(self.quantizer.scale_tokens)}, got {list(ids.shape)}")
        scales = list(ids.long().split(self.quantizer.scale_tokens, dim=1))
        return scales if self.prog_si < 0 else scales[: self.prog_si + 1]

    def maps(self, ids: Sequence[Int64[Tensor, "b _"]]) -> list[ScaleMap]:
        """The codes of ids of the first scales, each a map of its own size."""
        sides = self.v_patch_nums[: len(ids)]
        return [
            rearrange(self.embedding(own), "b (h w) d -> b d h w", h=side) for own, side in zip(ids, sides, strict=True)
        ]

    @torch.no_grad()
    def f_to_idxBl_or_fhat(  # noqa: N802, the name that VAR calls
        self, latents: Map, to_fhat: bool, v_patch_nums: Sequence[Any] | None = None
    ) -> list[Tensor]:
        """Latents to ids of each scale, or to the sums of their codes up to each scale."""
        self.check_scales(v_patch_nums)
        ids = self.by_scale(self.quantizer(rearrange(latents, "b d h w -> b (h w) d")).ids[..., 0])
        return self.embed_to_fhat(self.maps(ids)) if to_fhat else ids

    @torch.no_grad()
    def embed_to_fhat(self, maps: Sequence[ScaleMap], all_to_max_scale: bool = True, last_one: bool = False) -> Any:
        """The sums of codes up to each scale, as maps of full size; the last of them alone where it is asked for.

        Raises:
            ValueError: If maps are to stay small: tokenizers are trained with all enlarged.
        """
        if not all_to_max_scale:
            raise ValueError("all_to_max_scale (same_shape) must be true: the tokenizer adds maps of full size")
        sums = list[Tensor]()
        for scale, codes in enumerate(maps):
            enlarged = self._enlarged(codes, scale)
            sums.append(enlarged if not sums else sums[-1] + enlarged)
        return sums[-1] if last_one else sums

    @torch.no_grad()
    def idxBl_to_var_input(  # noqa: N802, the name that VAR calls
        self, ids: Sequence[Tensor]
    ) -> Float[Tensor, "b _ d"] | None:
        """What VAR is told when it predicts the second scale and all after it; None where there is one scale.

        For each scale that is the sum of the codes of all scales before it, averaged to its size.
        """
        sums = self.embed_to_fhat(self.maps(ids[:-1]))
        sides = self.v_patch_nums[1 : len(ids)]
        told = [F.interpolate(f_hat, (side, side), mode="area") for f_hat, side in zip(sums, sides, strict=True)]
        return torch.cat([rearrange(own, "b d h w -> b (h w) d") for own in told], dim=1) if told else None

    @torch.no_grad()
    def get_next_autoregressive_input(
        self, scale: int, scales: int, f_hat: Map, codes: ScaleMap
    ) -> tuple[Map, ScaleMap]:
        """The sum of codes with those of a scale added, in place, and what VAR is told for the next scale."""
        f_hat.add_(self._enlarged(codes, scale))
        if scale == scales - 1:
            return f_hat, f_hat
        side = self.v_patch_nums[scale + 1]
        return f_hat, F.interpolate(f_hat, (side, side), mode="area")

    def _enlarged(self, codes: ScaleMap, scale: int) -> Map:
        return self.quantizer.enlarged(rearrange(codes, "b d h w -> b (h w) d"), scale)


class Embedding:
    """VAR's ``nn.Embedding``: the codes of ids, and ``weight``, the table.

    Args:
        quantizer: Whose codes they are.
    """

    def __init__(self, quantizer: MultiScale) -> None:
        self.quantizer = quantizer

    def __call__(self, ids: Int64[Tensor, "b l"]) -> Float[Tensor, "b l d"]:
        """The codes of ids; ValueError if one is outside of the vocabulary."""
        with torch.no_grad():
            return self.quantizer.quantizer.decode(ids[..., None])

    @property
    def weight(self) -> Float[Tensor, "v d"]:
        """The table."""
        return self.quantizer.codebook()[0]


class VARTokens(Dataset[tuple[Tensor, int]]):
    """What ``imtok convert format=var`` wrote, for VAR's trainer in place of its images.

    An element is the ids of one view, one scale after the other (``tokens``, int64; ``tokens slots`` where there are
    several slots), and the class. The view is drawn at random where there are several.

    Args:
        folder: The converted folder.

    Attributes:
        labels: Class of each image.
        num_classes: One more than the largest class.
        scales: Side of the map at each scale.

    Raises:
        InputError: If it is another one.
    """

    def __init__(self, folder: str | Path) -> None:
        report = read_report(Path(folder))
        if "scales" not in report or report["format"] != "VAR":
            raise InputError(f"{Path(folder) / REPORT} is of format {report['format']}; convert with format=var")
        self.folder, self.scales = Path(folder), list(report["scales"])
        self.labels = np.array(read_array(self.folder / LABELS))
        self.num_classes = int(self.labels.max(initial=-1)) + 1
        self._open: list[np.ndarray] | None = None

    def __len__(self) -> int:
        """Images."""
        return len(self.labels)

    @override
    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self._open is None:
            self._open = [read_array(self.folder / name) for name in file_names(self.scales)]
        view = int(torch.randint(self._open[0].shape[1], ())) if self._open[0].shape[1] > 1 else 0
        ids = np.concatenate([scale[index, view] for scale in self._open]).astype(np.int64)
        return torch.from_numpy(ids), int(self.labels[index])

    def __getstate__(self) -> dict[str, Any]:
        """Without the mapped files, which a worker process maps itself."""
        return {**self.__dict__, "_open": None}
