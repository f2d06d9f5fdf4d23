"""Checkpoints of TiTok, TA-TiTok and One-D-Piece, two-stage and one-stage, with codes and with a KL bottleneck."""

from collections.abc import Sequence
from math import isqrt
from typing import ClassVar

from typing_extensions import override

from imtok.zoo.blocks import linear_of_convolution, named, self_attention_blocks
from imtok.zoo.files import PublicCheckpoint
from imtok.zoo.layouts import Rearrange, Split
from imtok.zoo.maskgit import decoder_of_maskgit
from imtok.zoo.rules import Drop, Leave, Rename, Rule
from imtok.zoo.source import CheckpointSource, Config, State
from imtok.zoo.table import Table, TableError

_CODE_HEAD = "decoder.ffn.2.weight"
_CODES = "quantize.embedding.weight"
_MOMENTS = "encoder.conv_out.weight"
_TEXT = "decoder.text_guidance_positional_embedding"
_PROXY = "pixel_quantize.embedding.weight"


_CONTINUOUS = {"ta_titok": ["experiment=ta_titok_kl"], "titok_bl64": ["experiment=titok_bl64", "quantizer=gaussian"]}
CODE_RULES: list[Rule] = [
    *linear_of_convolution("encoder.conv_out", "encoder.project"),
    Rename(_CODES, "quantizer.weight"),
    Drop("quantize.embed_prob", "running use of the codes"),
    Leave("quantizer.usage", "running use of the codes, for restarts"),
    Leave("quantizer.restarts", "number of restarts"),
]
MASK_TOKEN = Rearrange("decoder.mask_token", "decoder.mask_token", "1 1 d", "1 d")
_MOMENT_RULES: list[Rule] = [
    Rearrange(_MOMENTS, "encoder.project.weight", "(two d) i 1 1", "(d two) i", {"two": 2}),
    Rearrange("encoder.conv_out.bias", "encoder.project.bias", "(two d)", "(d two)", {"two": 2}),
]


class TiTok(CheckpointSource):
    """TiTok L-32, B-64, S-128 (two-stage, stage 2), BL-64, BL-128, SL-256, KL (one-stage), and TA-TiTok.

    Where the codes are continuous the file has no codebook, and the encoder's last map writes all means before all log
    variances; in imtok each channel's mean comes before its log variance.
    """

    name = "titok"
    title = "TiTok (arXiv 2406.07550) or TA-TiTok (arXiv 2501.07730)"
    marks = ("latent_tokens", "encoder.latent_token_positional_embedding")
    foreign = ("transformer.*.attn.in_proj.",)  # AliTok has them
    alike = "One-D-Piece (source=one_d_piece)"
    keys = ("heads", "groups")
    recipes: ClassVar[dict[int, str]] = {512: "titok_s128", 768: "titok_b64", 1024: "titok_l32"}

    @override
    def open(self, checkpoint: PublicCheckpoint) -> State:
        told = checkpoint.beside().get("model", {})
        return State(checkpoint.tensors(), facts=told.get("vq_model", {}))

    @override
    def recipe(self, state: State) -> Sequence[str]:
        if _CODE_HEAD not in state.tensors:
            experiment = "ta_titok" if _TEXT in state.tensors else "titok_bl64"
            return _CONTINUOUS[experiment] if _is_continuous(state) else [f"experiment={experiment}"]
        width = state.shape("encoder.class_embedding")[1]
        return [f"experiment={self.recipes.get(width, self.recipes[1024])}"]

    @override
    def settings(self, state: State, config: Config) -> Config:
        patch_size = state.shape("encoder.patch_embed.weight")[-1]
        side = isqrt(state.shape("encoder.positional_embedding")[0] - 1) * patch_size
        encoder = {
            **config["encoder"],
            **trunk_sizes(state, "encoder"),
            "latents": state.shape("latent_tokens")[0],
            "latent_layout": _layout(state),
            "patch_size": patch_size,
        }
        decoder = {**config["decoder"], **trunk_sizes(state, "decoder")}
        if _CODE_HEAD in state.tensors:
            codes, code_dim = state.shape(_PROXY)
            decoder |= pixel_sizes(state) | {"codes": codes, "code_dim": code_dim, "weights": "random"}
        else:
            decoder["patch_size"] = isqrt(state.shape("decoder.ffn.0.weight")[0] // 3)
        quantizer = _quantizer(state, config["quantizer"])
        return {**config, "encoder": encoder, "quantizer": quantizer, "decoder": decoder, "image_size": side}

    @override
    def table(self, config: Config) -> Table:
        grid = (config["image_size"] // config["encoder"]["patch_size"]) ** 2
        rules = [
            Rename("latent_tokens", "encoder.latents"),
            Rename("encoder.patch_embed", "encoder.patches"),
            *(CODE_RULES if "codebook_size" in config["quantizer"] else _MOMENT_RULES),
            Rename("decoder.decoder_embed", "decoder.embed"),
            MASK_TOKEN,
        ]
        for part in ("encoder", "decoder"):
            rules += trunk_rules(part, config[part]["depth"], grid)
        if "codes" in config["decoder"]:
            return Table(rules + _two_stage_rules(config["decoder"]))
        rules += [*linear_of_convolution("decoder.ffn.0", "decoder.pixels"), _same("decoder.conv_out")]
        if config["decoder"]["context_dim"]:
            rules += [
                Rename("decoder.text_guidance_proj", "decoder.embed_context"),
                Rename(_TEXT, "decoder.context_positions"),
                Leave("decoder.missing_context", "stands for a missing text, which the published net does not know"),
            ]
        return Table(rules)


class OneDPiece(TiTok):
    """One-D-Piece S, B and L with 256 tokens, stage 2."""

    name = "one_d_piece"
    title = "One-D-Piece (arXiv 2501.10064)"
    alike = "TiTok of two stages (source=titok)"
    recipes: ClassVar[dict[int, str]] = {512: "one_d_piece_s256", 768: "one_d_piece_b256", 1024: "one_d_piece_l256"}


def trunk_sizes(state: State, part: str) -> Config:
    """Width, depth and heads of the transformer of a part."""
    width = state.shape(f"{part}.class_embedding")[1]
    return {"width": width, "depth": state.count(f"{part}.transformer.*."), "heads": state.heads(width, part)}


def _is_continuous(state: State) -> bool:
    """Whether there is no codebook because the encoder gives twice what the decoder reads: means and log variances."""
    read = state.shape("decoder.decoder_embed.weight")[1]
    return _CODES not in state.tensors and state.shape(_MOMENTS)[0] == 2 * read


def _quantizer(state: State, settings: Config) -> Config:
    """The quantizer's settings, by the weights.

    Raises:
        TableError: If config.json says otherwise.
    """
    mode = "vae" if _is_continuous(state) else "vq"
    told = state.facts.get("quantize_mode", mode)
    if told != mode:
        has = "no codebook" if mode == "vae" else "a codebook"
        raise TableError(f"config.json beside it says quantize_mode: {told}, but it has {has}")
    if mode == "vae":
        return {**settings, "dim": state.shape(_MOMENTS)[0] // 2}
    codes, dim = state.shape(_CODES)
    normalize = bool(state.facts.get("use_l2_norm", settings["normalize"]))
    return {**settings, "codebook_size": codes, "dim": dim, "normalize": normalize}


def _layout(state: State) -> str:
    """How latents are read off their buffer: in the code the same flag chooses the head, which the weights show.

    Raises:
        TableError: If config.json says otherwise.
    """
    legacy = _CODE_HEAD in state.tensors
    told = state.facts.get("is_legacy", legacy)
    if told != legacy:
        raise TableError(
            f"config.json beside it says is_legacy: {told}, but its decoder has the head of is_legacy: {legacy}"
        )
    return "legacy_view" if legacy else "tokens"


def pixel_sizes(state: State) -> Config:
    """Channels, levels and blocks of the decoder of MaskGIT's VQGAN."""
    levels = state.count("pixel_decoder.up.*.")
    widths = [state.shape(f"pixel_decoder.up.{level}.block.0.conv2.weight")[0] for level in range(levels)]
    return {
        "channels": widths[0],
        **state.groups(widths, "pixel decoder"),
        "multipliers": [width // widths[0] for width in widths],
        "blocks": state.count("pixel_decoder.up.0.block.*."),
    }


def trunk_rules(part: str, depth: int, grid: int) -> list[Rule]:
    """What becomes of the transformer of a part, whose grid has that many positions."""
    names = {
        "class_embedding": "class_token",
        "latent_token_positional_embedding": "latent_positions",
        "ln_pre": "norm_in",
        "ln_post": "norm_out",
    }
    positions = (f"{part}.class_position", f"{part}.positions.table")
    return [
        *named(names, part, part),
        Split(f"{part}.positional_embedding", positions, (1, grid)),
        *self_attention_blocks(f"{part}.transformer", f"{part}.trunk", depth),
    ]


def _two_stage_rules(settings: Config) -> list[Rule]:
    return [
        *linear_of_convolution("decoder.ffn.0", "decoder.head.0"),
        *linear_of_convolution("decoder.ffn.2", "decoder.head.2"),
        Rename(_PROXY, "decoder.codebook.weight"),
        *pixel_rules(settings),
    ]


def pixel_rules(settings: Config) -> list[Rule]:
    """What becomes of the decoder of MaskGIT's VQGAN inside one of these settings."""
    return decoder_of_maskgit(settings, "pixel_decoder", "decoder.pixels")


def _same(name: str) -> Rule:
    return Rename(name, name)
