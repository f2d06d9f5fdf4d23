"""Small nets of TiTok."""

import torch

ENCODER = {"_target_": "imtok.encoders.titok.TiTokEncoder", "latents": 4, "width": 16, "depth": 1, "heads": 2}


DECODER = {"_target_": "imtok.decoders.titok.TiTokPixelDecoder", "width": 16, "depth": 1, "heads": 2}


def filled(module):
    """The same weights in every version of torch."""
    with torch.no_grad():
        for index, parameter in enumerate(module.parameters()):
            angles = torch.arange(parameter.numel(), dtype=torch.float64) * 0.7 + index
            parameter.copy_((0.3 * angles.sin()).view_as(parameter))
    return module
