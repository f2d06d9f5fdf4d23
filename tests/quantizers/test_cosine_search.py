"""A codebook that is searched by angle: the angle alone decides, and codes keep their length."""

import pytest
import torch
from torch.nn import functional as F

from imtok.quantizers.vq import VQ


def test_the_angle_alone_decides_and_codes_keep_their_length():
    quantizer = VQ(dim=4, codebook_size=32, normalize=False, search="cosine")
    torch.nn.init.normal_(quantizer.weight)
    latents = torch.randn(2, 9, 4)
    quantized = quantizer(latents)
    cosines = F.cosine_similarity(latents[:, :, None], quantizer.weight, dim=-1)
    assert torch.equal(quantized.ids[..., 0], cosines.argmax(-1))
    torch.testing.assert_close(quantized.latents, quantizer.weight[quantized.ids[..., 0]])
    assert torch.equal(quantizer.decode(quantized.ids), quantizer.weight[quantized.ids[..., 0]])
    assert torch.equal(quantizer(latents * 7).ids, quantized.ids)


def test_neighbours_are_those_of_the_smallest_angles():
    quantizer = VQ(dim=4, codebook_size=16, normalize=False, search="cosine")
    torch.nn.init.normal_(quantizer.weight)
    ids = torch.arange(16).view(1, 16, 1)
    cosines = F.cosine_similarity(quantizer.weight[:, None], quantizer.weight, dim=-1)
    assert torch.equal(quantizer.neighbours(ids, 3)[0, :, 0], cosines.topk(3).indices)


def test_ten_thousand_latents_find_the_code_of_the_greatest_cosine():
    quantizer = VQ(dim=8, codebook_size=512, normalize=False, search="cosine").double()
    torch.nn.init.normal_(quantizer.weight)
    quantizer.weight.data *= torch.rand(512, 1, dtype=torch.float64) * 9 + 0.1
    latents = torch.randn(1, 10_000, 8, dtype=torch.float64)
    ids = quantizer(latents).ids.flatten()
    assert torch.equal(ids, (F.normalize(latents[0], dim=1) @ F.normalize(quantizer.weight, dim=1).T).argmax(1))
    quantizer.search = "distance"
    assert (quantizer(latents).ids.flatten() != ids).float().mean() > 0.3


def test_assignments_are_by_angle_too():
    quantizer = VQ(4, 16, normalize=False, search="cosine", entropy_weight=0.1, temperature=0.5)
    latents = torch.randn(2, 9, 4)
    found = quantizer(latents).losses
    unit = F.normalize(latents.flatten(0, 1), dim=1), F.normalize(quantizer.weight, dim=1)
    shares = (-torch.cdist(*unit).square() / 0.5).softmax(1)
    entropy = -(shares * shares.log()).sum(1).mean()
    torch.testing.assert_close(found["entropy_token"].value, entropy)


def test_another_search_is_refused():
    with pytest.raises(ValueError, match="distance or cosine"):
        VQ(4, 16, search="angle")
