"""What the weights of vision transformers are called in published files: of timm, of the authors, of transformers.

Each name stands beside the one by which :mod:`imtok.nn.vit_files` knows it. ``#`` is the number of a block, ``*`` is
``weight`` or ``bias``, and ``?`` is anything.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class WeightNames:
    """How one kind of file names its weights.

    Attributes:
        name: Whose it is, for messages.
        mark: A name that every such file has; what stands before it, stands before all names of the net.
        rows: Its names, and ours. Several of its names may have the same of ours: files differ.
        dropped: Names of what is not used, with the reason.
        beside: The same of names that stand beside the net: those of a text tower.
    """

    name: str
    mark: str
    rows: Mapping[str, str]
    dropped: Mapping[str, str]
    beside: Mapping[str, str]

    def prefix(self, keys: Iterable[str]) -> str | None:
        """What stands before the names of the net in a file with these keys; None if it is of another layout."""
        found = (key.removesuffix(self.mark) for key in keys if key.endswith(self.mark))
        return next((prefix for prefix in found if prefix[-1:] in ("", ".", "/")), None)

    def ours(self, key: str) -> str | None:
        """Our name of a weight; None if the layout does not know it."""
        return next((found for old, new in self.rows.items() if (found := _renamed(key, old, new))), None)

    def theirs(self, key: str, keys: Iterable[str]) -> str:
        """The name of a weight of ours in a file with such names; ours if the layout has no such thing."""
        found = [name for old, new in self.rows.items() if (name := _renamed(key, new, old))]
        known = {re.sub(r"\d+", "#", other) for other in keys}
        return next((name for name in found if re.sub(r"\d+", "#", name) in known), found[0] if found else key)

    def reason(self, key: str, beside: bool) -> str | None:
        """Why a name is not used; None if it ought to be."""
        named = self.beside if beside else self.dropped
        return next((why for pattern, why in named.items() if _renamed(key, pattern, pattern)), None)


def _renamed(key: str, old: str, new: str) -> str | None:
    expression = re.escape(old).replace(r"\#", r"(?P<block>\d+)").replace(r"\*", r"(?P<kind>weight|bias)")
    found = re.fullmatch(expression.replace(r"\?", ".*"), key)
    if found is None:
        return None
    for sign, name in (("#", "block"), ("*", "kind")):
        new = new.replace(sign, found.groupdict().get(name) or sign)
    return new


def _blocks(stem: str, rows: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for old, new in rows.items():
        yield f"{stem}.{old}", f"blocks.#.{new}"


# timm's own nets, and the files of DINOv2, DINOv3, MAE and EVA-02, whose authors began with timm's.
TIMM = WeightNames(
    "timm or the authors",
    "patch_embed.proj.weight",
    {
        "cls_token": "class_token",
        **dict.fromkeys(("reg_token", "register_tokens", "storage_tokens"), "registers"),
        "pos_embed": "positions",
        "patch_embed.proj.*": "patches.*",
        "norm_pre.*": "norm_in.*",
        "norm.*": "norm.*",
        "fc_norm.*": "norm.*",
        **dict(
            _blocks(
                "blocks.#",
                {
                    "norm1.*": "norm1.*",
                    "norm2.*": "norm2.*",
                    "attn.qkv.*": "qkv.*",
                    "attn.q_proj.*": "query.*",
                    "attn.k_proj.*": "key.*",
                    "attn.v_proj.*": "value.*",
                    "attn.q_bias": "query.bias",
                    "attn.v_bias": "value.bias",
                    "attn.proj.*": "project.*",
                    **dict.fromkeys(("ls1.gamma", "gamma_1"), "scale1"),
                    **dict.fromkeys(("ls2.gamma", "gamma_2"), "scale2"),
                    **dict.fromkeys(("mlp.fc1.*", "mlp.w12.*"), "in.*"),
                    **dict.fromkeys(("mlp.fc1_g.*", "mlp.w1.*"), "gate.*"),
                    **dict.fromkeys(("mlp.fc1_x.*", "mlp.w2.*"), "up.*"),
                    **dict.fromkeys(("mlp.norm.*", "mlp.ffn_ln.*"), "between.*"),
                    **dict.fromkeys(("mlp.fc2.*", "mlp.w3.*"), "out.*"),
                },
            )
        ),
    },
    {
        "mask_token": "the mask token of pretraining",
        "head.*": "a classifier",
        "lm_head.*": "the head of pretraining",
        "attn_pool.?": "attention pooling",
        "decoder_?": "the decoder of MAE",
        "rope.?": "positions that are computed",
        "rope_embed.?": "positions that are computed",
        "blocks.#.attn.rope.?": "positions that are computed",
        "blocks.#.attn.qkv.bias_mask": "the mask of keys' biases",
        "local_cls_norm.*": "a norm of pretraining",
    },
    {"visual.head.?": "a projection", "text.?": "the text tower", "logit_?": "the temperature"},
)

# CLIP as OpenAI and OpenCLIP write it.
CLIP = WeightNames(
    "CLIP's authors",
    "conv1.weight",
    {
        "class_embedding": "class_token",
        "positional_embedding": "positions",
        "conv1.weight": "patches.weight",
        "ln_pre.*": "norm_in.*",
        "ln_post.*": "norm.*",
        **dict(
            _blocks(
                "transformer.resblocks.#",
                {
                    "ln_1.*": "norm1.*",
                    "ln_2.*": "norm2.*",
                    "attn.in_proj_weight": "qkv.weight",
                    "attn.in_proj_bias": "qkv.bias",
                    "attn.out_proj.*": "project.*",
                    "mlp.c_fc.*": "in.*",
                    "mlp.c_proj.*": "out.*",
                },
            )
        ),
    },
    {"proj": "a projection"},
    {
        **dict.fromkeys(
            ("transformer.?", "token_embedding.weight", "ln_final.*", "text_projection", "positional_embedding"),
            "the text tower",
        ),
        **dict.fromkeys(("logit_scale", "input_resolution", "context_length", "vocab_size"), "a number of CLIP"),
    },
)

_HF_BLOCK = {
    **dict.fromkeys(("norm1.*", "layer_norm1.*", "layernorm_before.*"), "norm1.*"),
    **dict.fromkeys(("norm2.*", "layer_norm2.*", "layernorm_after.*"), "norm2.*"),
    **{f"attention.attention.{name}.*": f"{name}.*" for name in ("query", "key", "value")},
    **{f"attention.{name[0]}_proj.*": f"{name}.*" for name in ("query", "key", "value")},
    **{f"self_attn.{name[0]}_proj.*": f"{name}.*" for name in ("query", "key", "value")},
    **dict.fromkeys(("attention.output.dense.*", "attention.o_proj.*", "self_attn.out_proj.*"), "project.*"),
    "layer_scale1.lambda1": "scale1",
    "layer_scale2.lambda1": "scale2",
    **dict.fromkeys(("mlp.fc1.*", "intermediate.dense.*", "mlp.weights_in.*"), "in.*"),
    "mlp.gate_proj.*": "gate.*",
    "mlp.up_proj.*": "up.*",
    **dict.fromkeys(("mlp.fc2.*", "output.dense.*", "mlp.weights_out.*", "mlp.down_proj.*"), "out.*"),
}


def _transformers(mark: str) -> WeightNames:
    rows = {
        **dict.fromkeys(("embeddings.cls_token", "embeddings.class_embedding"), "class_token"),
        "embeddings.register_tokens": "registers",
        **dict.fromkeys(("embeddings.position_embeddings", "embeddings.position_embedding.weight"), "positions"),
        **dict.fromkeys(
            (
                "embeddings.patch_embeddings.projection.*",
                "embeddings.patch_embeddings.*",
                "embeddings.patch_embedding.*",
            ),
            "patches.*",
        ),
        "pre_layrnorm.*": "norm_in.*",
        **dict.fromkeys(("layernorm.*", "norm.*", "post_layernorm.*"), "norm.*"),
    }
    for stem in ("encoder.layer.#", "encoder.layers.#", "layer.#", "layers.#", "model.layer.#"):
        rows |= dict(_blocks(stem, _HF_BLOCK))
    return WeightNames(
        "transformers",
        mark,
        rows,
        {
            "embeddings.mask_token": "the mask token of pretraining",
            "embeddings.position_ids": "counted numbers",
            "head.?": "attention pooling",
            "pooler.?": "a pooler",
        },
        {
            **dict.fromkeys(("text_model.?", "text_projection.*"), "the text tower"),
            "visual_projection.*": "a projection",
            "logit_?": "the temperature",
            "decoder.?": "the decoder of MAE",
            "classifier.*": "a classifier",
        },
    )


LAYOUTS = (
    TIMM,
    *map(
        _transformers,
        (
            "embeddings.patch_embeddings.projection.weight",
            "embeddings.patch_embeddings.weight",
            "embeddings.patch_embedding.weight",
        ),
    ),
    CLIP,
)
