"""A codebook that is searched by angle: the angle alone decides, and codes keep their length."""

import torch
from torch.nn import functional as F

from imtok.quantizers.cosine_vq import CosineVQ


def test_the_angle_alone_decides_and_codes_keep_their_length():
    quantizer = CosineVQ(dim=4, codebook_size=32)
    torch.nn.init.normal_(quantizer.weight)
    latents = torch.randn(2, 9, 4)
    quantized = quantizer(latents)
    cosines = F.cosine_similarity(latents[:, :, None], quantizer.weight, dim=-1)
    assert torch.equal(quantized.ids[..., 0], cosines.argmax(-1))
    torch.testing.assert_close(quantized.latents, quantizer.weight[quantized.ids[..., 0]])
    assert torch.equal(quantizer.decode(quantized.ids), quantizer.weight[quantized.ids[..., 0]])
    assert torch.equal(quantizer(latents * 7).ids, quantized.ids)


def test_neighbours_are_those_of_the_smallest_angles():
    quantizer = CosineVQ(dim=4, codebook_size=16)
    torch.nn.init.normal_(quantizer.weight)
    ids = torch.arange(16).view(1, 16, 1)
    cosines = F.cosine_similarity(quantizer.weight[:, None], quantizer.weight, dim=-1)
    assert torch.equal(quantizer.neighbours(ids, 3)[0, :, 0], cosines.topk(3).indices)
