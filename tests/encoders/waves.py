"""Weights and images of waves."""

import torch


def waves(module):
    """Weights that any machine draws alike."""
    for index, (name, parameter) in enumerate(sorted(module.double().named_parameters())):
        wave = (torch.arange(parameter.numel(), dtype=torch.float64) * 0.7 + index).sin() * 0.1
        parameter.data = wave.view(parameter.shape) + float("norm" in name and name.endswith("weight"))
    return module


def wave_image():
    return (torch.arange(3 * 32 * 32, dtype=torch.float64) * 0.13).sin().view(1, 3, 32, 32)
