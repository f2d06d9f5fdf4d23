"""Small autoencoders, and files of them as they are published."""

from imtok.spaces.diffusers_names import diffusers_names
from imtok.spaces.kl_vae import KLAutoencoder


def small(**changes):
    settings = {"dim": 4, "channels": 16, "multipliers": (1, 2), "blocks": 1, "encoder_attention": "lowest"}
    return KLAutoencoder(**(settings | changes)).requires_grad_(False)


def published(space):
    """The weights as a file of diffusers has them: attention maps are matrices."""
    own = space.state_dict()
    tensors = {theirs: own[name].clone() for name, theirs in diffusers_names(own).items()}
    return {name: value.flatten(1) if ".to_" in name and value.ndim == 4 else value for name, value in tensors.items()}
