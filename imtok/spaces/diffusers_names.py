"""How diffusers' AutoencoderKL names the weights of the KL autoencoder."""

import re
from collections.abc import Iterable

_OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_ATTENTION = {"norm": "group_norm", "query": "to_q", "key": "to_k", "value": "to_v", "project": "to_out.0"}
_REST = {
    "encoder.project": "quant_conv", "decoder.project": "post_quant_conv",
    "encoder.norm_out.0": "encoder.conv_norm_out", "decoder.norm_out.0": "decoder.conv_norm_out",
}  # fmt: skip


def modern_name(name: str) -> str:
    """A name as diffusers writes it today; files before 2023 name the maps of attention in another way.

    Example:
        >>> modern_name("encoder.mid_block.attentions.0.proj_attn.bias")
        'encoder.mid_block.attentions.0.to_out.0.bias'
    """
    old = re.fullmatch(r"(.*\.attentions\.\d+)\.(query|key|value|proj_attn)\.(\w+)", name)
    return f"{old[1]}.{_OLD_ATTENTION[old[2]]}.{old[3]}" if old else name


def diffusers_names(names: Iterable[str]) -> dict[str, str]:
    """The names in diffusers of weights of :class:`imtok.spaces.kl_vae.KLAutoencoder`, by their names there.

    Args:
        names: All of them: whether a level has attention shows in them.

    Example:
        >>> diffusers_names(["decoder.levels.1.0.shortcut.bias", "encoder.project.weight"])["encoder.project.weight"]
        'quant_conv.weight'
    """
    names = list(names)
    attended = {found[1] for name in names if (found := re.match(r"(.*)\.\d+\.query\.", name))}
    return {name: _diffusers_name(name, attended) for name in names}


def _diffusers_name(name: str, attended: set[str]) -> str:
    path, _, last = name.rpartition(".")
    half = path.partition(".")[0]
    side = "down" if half == "encoder" else "up"
    if found := re.fullmatch(r"\w+\.(?:down|up)samplers\.(\d+)\.\w+", path):
        return f"{half}.{side}_blocks.{found[1]}.{side}samplers.0.conv.{last}"
    found = re.fullmatch(r"(\w+\.(?:middle|levels\.(\d+)))\.(\d+)\.(\w+)", path)
    if not found:
        return f"{_REST.get(path, path)}.{last}"
    stack, level, index, part = found[1], found[2], int(found[3]), found[4]
    block = "mid_block" if level is None else f"{side}_blocks.{level}"
    if stack in attended and index % 2:
        return f"{half}.{block}.attentions.{index // 2}.{_ATTENTION[part]}.{last}"
    index = index // 2 if stack in attended else index
    return f"{half}.{block}.resnets.{index}.{part.replace('shortcut', 'conv_shortcut')}.{last}"
