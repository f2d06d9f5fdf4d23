"""Rules of what transformers of many codes share: blocks, and linear maps that are written as convolutions."""

from imtok.zoo.layouts import Rearrange, Split
from imtok.zoo.rules import Rename, Rule

VIT_BLOCK = {  # a block of DINOv2 with LayerScale, as its authors and timm name it
    "norm1": "norm1",
    "attn.qkv": "attention.query_key_value",
    "attn.proj": "attention.project",
    "ls1.gamma": "scale1.scale",
    "norm2": "norm2",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
    "ls2.gamma": "scale2.scale",
}


def named(names: dict[str, str], source: str, target: str) -> list[Rule]:
    """Rules that rename the modules of one module.

    Args:
        names: The name in imtok of each.
        source: The module in its code.
        target: The module in imtok.
    """
    return [Rename(f"{source}.{old}", f"{target}.{new}") for old, new in names.items()]


def linear_of_convolution(source: str, target: str) -> list[Rule]:
    """A 1 x 1 convolution that imtok has as a linear map."""
    return [
        Rearrange(f"{source}.weight", f"{target}.weight", "o i 1 1", "o i"),
        Rename(f"{source}.bias", f"{target}.bias"),
    ]


def self_attention_blocks(source: str, target: str, depth: int) -> list[Rule]:
    """Blocks as CLIP names them, whose query, key and value are one matrix in torch as in imtok."""
    names = {
        "ln_1": "norm1",
        "attn.in_proj_weight": "attention.query_key_value.weight",
        "attn.in_proj_bias": "attention.query_key_value.bias",
        "attn.out_proj": "attention.project",
        "ln_2": "norm2",
        "mlp.c_fc": "mlp.0",
        "mlp.c_proj": "mlp.2",
    }
    return [rule for block in range(depth) for rule in named(names, f"{source}.{block}", f"{target}.blocks.{block}")]


def qformer_blocks(source: str, target: str, depth: int) -> list[Rule]:
    """Blocks as DETR names them, whose query, key and value are one matrix in torch and three in imtok."""
    names = {"norm1": "norm1", "norm2": "norm2", "norm3": "norm3", "linear1": "mlp.0", "linear2": "mlp.2"}
    attentions = {"self_attn": "self_attention", "multihead_attn": "cross_attention"}
    rules: list[Rule] = []
    for block in range(depth):
        old_block, new_block = f"{source}.{block}", f"{target}.blocks.{block}"
        rules += named(names, old_block, new_block)
        for old, new in attentions.items():
            for kind in ("weight", "bias"):
                targets = tuple(f"{new_block}.{new}.{part}.{kind}" for part in ("query", "key", "value"))
                rules.append(Split(f"{old_block}.{old}.in_proj_{kind}", targets))
            rules.append(Rename(f"{old_block}.{old}.out_proj", f"{new_block}.{new}.project"))
    return rules
