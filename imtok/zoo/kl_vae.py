"""The KL autoencoder of diffusers as it lies in the checkpoints of tokenizers."""

from math import prod

import torch

from imtok.spaces.diffusers_names import diffusers_names, modern_name
from imtok.spaces.kl_vae import KLAutoencoder
from imtok.zoo.layouts import Rearrange
from imtok.zoo.rules import Rename, Rule
from imtok.zoo.source import Config, State

_MAPS = ("query", "key", "value", "project")


def modern(key: str) -> str:
    """A key with the names of attention that diffusers uses today.

    Example:
        >>> modern("vae.vae.encoder.mid_block.attentions.0.query.bias")
        'vae.vae.encoder.mid_block.attentions.0.to_q.bias'
    """
    return modern_name(key)


def space_settings(state: State, config: Config, prefix: str) -> Config:
    """The settings of :class:`imtok.spaces.kl_vae.KLAutoencoder` with every size as the weights have it.

    Args:
        state: The weights.
        config: The published settings.
        prefix: Before the names of diffusers.
    """
    levels = state.count(f"{prefix}encoder.down_blocks.*.")
    block = f"{prefix}encoder.down_blocks.{{}}.resnets.0.conv2.weight"
    widths = [state.shape(block.format(level))[0] for level in range(levels)]
    channels = state.shape(f"{prefix}encoder.conv_in.weight")[0]
    attended = f"{prefix}encoder.down_blocks.{levels - 1}.attentions.0.to_q.weight" in state.tensors
    sizes = {
        "dim": state.shape(f"{prefix}post_quant_conv.weight")[0],
        "channels": channels,
        **state.groups([channels, *widths], "autoencoder"),
        "multipliers": [width // channels for width in widths],
        "blocks": state.count(f"{prefix}encoder.down_blocks.0.resnets.*."),
        "encoder_attention": "lowest" if attended else "none",
        "weights": "random",
    }
    return {**config, **sizes}


def space_rules(settings: Config, prefix: str) -> list[Rule]:
    """What becomes of the keys of an autoencoder of diffusers; maps of attention are linear there.

    Args:
        settings: The arguments of :class:`imtok.spaces.kl_vae.KLAutoencoder`.
        prefix: Before the names of diffusers.
    """
    with torch.device("meta"):
        own = KLAutoencoder(**{key: value for key, value in settings.items() if key != "_target_"}).state_dict()
    rules: list[Rule] = []
    for ours, theirs in diffusers_names(own).items():
        *_, part, kind = ours.split(".")
        source, target = f"{prefix}{theirs}", f"space.{ours}"
        if part in _MAPS and kind == "weight" and ".attentions." in theirs and prod(own[ours].shape[2:]) == 1:
            rules.append(Rearrange(source, target, "o i", "o i 1 1"))
        else:
            rules.append(Rename(source, target))
    return rules
