"""The weights of CLIP's text transformer in the files of OpenAI and OpenCLIP, of transformers and of UniTok."""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from imtok.errors import InputError
from imtok.nn.clip_text import CLIPTextNet
from imtok.weights import read_weights

_TABLE = "token_embedding.weight"
_QUERY_KEY_VALUE = tuple(f"self_attn.{name}_proj" for name in "qkv")

# Whatever stands before the names of the text tower; then a name of theirs, and ours.
_AUTHORS = {
    r"token_embedding\.": "tokens.",
    r"positional_embedding": "positions",
    r"transformer\.resblocks\.(\d+)\.ln_([12])\.": r"trunk.blocks.\1.norm\2.",
    r"transformer\.resblocks\.(\d+)\.attn\.in_proj_": r"trunk.blocks.\1.attention.query_key_value.",
    r"transformer\.resblocks\.(\d+)\.attn\.out_proj\.": r"trunk.blocks.\1.attention.project.",
    r"transformer\.resblocks\.(\d+)\.mlp\.c_fc\.": r"trunk.blocks.\1.mlp.0.",
    r"transformer\.resblocks\.(\d+)\.mlp\.c_proj\.": r"trunk.blocks.\1.mlp.2.",
    r"ln_final\.": "norm.",
    r"text_projection(?:\.weight)?": "project.weight",
}
_TRANSFORMERS = {
    r"text_model\.embeddings\.token_embedding\.": "tokens.",
    r"text_model\.embeddings\.position_embedding\.weight": "positions",
    r"text_model\.encoder\.layers\.(\d+)\.layer_norm([12])\.": r"trunk.blocks.\1.norm\2.",
    r"text_model\.encoder\.layers\.(\d+)\.self_attn\.qkv_proj\.": r"trunk.blocks.\1.attention.query_key_value.",
    r"text_model\.encoder\.layers\.(\d+)\.self_attn\.out_proj\.": r"trunk.blocks.\1.attention.project.",
    r"text_model\.encoder\.layers\.(\d+)\.mlp\.fc1\.": r"trunk.blocks.\1.mlp.0.",
    r"text_model\.encoder\.layers\.(\d+)\.mlp\.fc2\.": r"trunk.blocks.\1.mlp.2.",
    r"text_model\.final_layer_norm\.": "norm.",
    r"text_projection\.weight": "project.weight",
}
_COUNTED = r"(?:text_model\.embeddings\.position_ids|attn_mask)"  # numbers that no one has learned
_BESIDE = r"(?:(?:visual|vision_model|visual_projection)\..*|logit_scale|input_resolution|context_length|vocab_size)"


def read_clip_text(net: CLIPTextNet, path: Path) -> None:
    """Fill a net from a file, which may hold an image tower, too; every weight of the text tower must find its place.

    Raises:
        InputError: If the file is damaged, is of another net, or lacks or has more than the net's weights.
    """
    tensors = read_weights(path, None, entries=("trainer", "unitok", "state_dict")).tensors
    found = _ours(tensors, path)
    wanted = net.state_dict()
    for name, value in wanted.items():
        shape = None if name not in found else list(found[name].shape)
        if shape != list(value.shape):
            raise InputError(
                f"{path} is of another text tower: {name} must have shape {list(value.shape)}, got {shape or 'none'}"
            )
    foreign = sorted(found.keys() - wanted.keys())
    if foreign:
        raise InputError(f"{path} is of another text tower: it has {foreign[0]} and {len(foreign) - 1} more weights")
    net.load_state_dict(found)


def _ours(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The text tower's tensors of a file by our names."""
    tables = [name for name in tensors if name.endswith(_TABLE)]
    if len(tables) != 1:
        raise InputError(f"{path} must hold one text tower of CLIP, with a {_TABLE}, got {len(tables)} of them")
    transformers = tables[0].endswith(f"text_model.embeddings.{_TABLE}")
    rules = _TRANSFORMERS if transformers else _AUTHORS
    start = tables[0].removesuffix(f"text_model.embeddings.{_TABLE}" if transformers else _TABLE)
    named = _fused(tensors, path) if transformers else dict(tensors)
    found = dict[str, Tensor]()
    for name, value in named.items():
        own = name.removeprefix(start)
        if not name.startswith(start) or re.fullmatch(f"{_COUNTED}|{_BESIDE}", own):
            continue
        rule = next((rule for rule in rules if re.match(rule, own)), None)
        if rule is None:
            raise InputError(f"{path} has {name}, which no text tower of CLIP has")
        ours = re.sub(rf"^{rule}", rules[rule], own)
        found[ours] = value.T if own == "text_projection" else value  # the authors multiply from the left
    return found


def _fused(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """The same with query, key and value as one."""
    found = dict(tensors)
    for name in tensors:
        own = next((part for part in _QUERY_KEY_VALUE if f".{part}." in name), None)
        if own is None or "text_model." not in name or name not in found:
            continue
        values = list[Tensor]()
        for part in (name.replace(own, part) for part in _QUERY_KEY_VALUE):
            value, shape = found.pop(part, None), list(tensors[name].shape)
            if value is None or list(value.shape) != shape:
                got = "none" if value is None else list(value.shape)
                raise InputError(f"{path} is of another text tower: {part} must have shape {shape}, got {got}")
            values.append(value)
        found[name.replace(own, "self_attn.qkv_proj")] = torch.cat(values)
    return found
