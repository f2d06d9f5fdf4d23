"""What only the shared mapping promises."""

import pytest
import torch
import torch.nn.functional as F

from imtok.quantizers.shared_vq import SharedVQ


@pytest.mark.parametrize("weights", [None, [1.0, 1.0], [0.2, 3.0]])
def test_the_id_is_the_least_weighted_sum_of_the_distances_of_the_parts(weights):
    quantizer = SharedVQ([6, 3], 200, part_weights=weights).double()
    latents = torch.randn(2, 300, 9, dtype=torch.float64) * torch.tensor([5.0] * 6 + [0.1] * 3)
    distance = 0
    for start, end, weight in zip([0, 6], [6, 9], weights or [1, 1], strict=True):
        points = F.normalize(latents[..., start:end], dim=-1)
        codes = F.normalize(quantizer.weight[:, start:end], dim=-1)
        distance = distance + weight * torch.cdist(points, codes).square()
    ids = quantizer(latents).ids[..., 0]
    assert torch.equal(ids, distance.argmin(-1))
    assert torch.equal(quantizer.neighbours(ids[..., None], 3)[..., 0, 0], ids)


def test_part_weights_decide_which_part_rules():
    quantizer = {weight: SharedVQ([4, 4], 64, part_weights=[1.0, weight]) for weight in (1e-6, 1e6)}
    quantizer[1e6].load_state_dict(quantizer[1e-6].state_dict())
    semantic, pixels = torch.randn(2, 1, 50, 4)
    ids = {w: q(torch.cat([semantic, pixels], -1)).ids for w, q in quantizer.items()}
    other = {w: q(torch.cat([semantic, pixels.flip(1)], -1)).ids for w, q in quantizer.items()}
    assert torch.equal(ids[1e-6], other[1e-6])
    assert torch.equal(ids[1e6], other[1e6].flip(1))


def test_each_part_has_unit_length():
    quantizer = SharedVQ([32, 8], 64)
    assert quantizer.part_dims == (32, 8)
    assert (quantizer.dim, quantizer.vocab_sizes) == (40, (64,))
    for part in quantizer(torch.randn(1, 7, 40) * 9).latents.split(quantizer.part_dims, dim=-1):
        torch.testing.assert_close(part.norm(dim=-1), torch.ones(1, 7))


def test_start_and_restarts_keep_the_parts_on_their_spheres_and_lower_the_error():
    quantizer = SharedVQ([6, 3], 64, kmeans_start=True, restart_below=0.1, usage_decay=0.5)
    latents = torch.randn(1000, 9)
    before = quantizer(latents[None]).losses["codebook"].value
    quantizer.start(latents)
    quantized = quantizer(latents[None])
    assert quantized.losses["codebook"].value < 0.8 * before
    assert quantized.ids.unique().numel() > 60
    quantizer.update(quantized.stats)
    table = quantizer.codebook()[0]
    torch.testing.assert_close(table[:, :6].norm(dim=-1), torch.ones(64))


@pytest.mark.parametrize(
    "wrong", [{"part_dims": []}, {"part_dims": [3, 0]}, {"part_weights": [1.0]}, {"part_weights": [1.0, 0.0]}]
)
def test_wrong_parts_are_refused_with_their_value(wrong):
    value = str(next(iter(wrong.values())))
    with pytest.raises(ValueError, match=r"must be .* got " + value.replace("[", r"\[").replace("]", r"\]")):
        SharedVQ(**({"part_dims": [3, 2], "codebook_size": 8} | wrong))
