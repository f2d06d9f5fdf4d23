"""VFMTok's encoder: where its queries stand, whom they see, and what of it learns."""

from typing import Any

import pytest
import torch
from encoders.filled import filled, wave

from imtok.construct import construct
from imtok.encoders.pretrained_vit import PretrainedViTEncoder
from imtok.encoders.vfmtok import RegionEncoder

NET: dict[str, Any] = {
    "patch_size": 4,
    "factor": 4,
    "width": 16,
    "depth": 3,
    "heads": 2,
    "layers": [0, 2],
    "start": "xavier",
}


def region(train="none", **arguments):
    torch.manual_seed(0)
    net = {"_target_": "imtok.encoders.pretrained_vit.PretrainedViTEncoder", **NET, "train": train}
    sizes = {"grid": 3, "width": 24, "depth": 2, "heads": 2, "hidden": 32} | arguments
    config = {"_target_": "imtok.encoders.vfmtok.RegionEncoder", "net": net, **sizes}
    return construct(config, provided={"out_dim": 6, "image_size": 16})


@pytest.fixture
def image():
    return torch.rand(2, 3, 16, 16) * 2 - 1


def test_queries_stand_in_the_middle_of_the_cells_of_a_grid_row_by_row():
    places = region(grid=2).places
    assert places.tolist() == [[0.25, 0.25], [0.75, 0.25], [0.25, 0.75], [0.75, 0.75]]


@torch.no_grad()
def test_a_query_sees_itself_and_those_before_it(image):
    encoder = region().eval()
    before = encoder(image).values
    encoder.queries[4] += torch.randn(24)
    same = torch.isclose(encoder(image).values, before, atol=1e-6).all(-1)
    assert same.tolist() == [[True] * 4 + [False] * 5] * 2


def test_latents_stay_what_they_were_when_they_equalled_the_official_module():
    """As docs/parity.md says."""
    latents = filled(region())(wave(2, 3, 16, 16)).values.flatten()[[0, 50, 107]]
    golden = torch.tensor([-0.5773016218757491, -0.9291308440746462, -0.2965565272778451], dtype=torch.float64)
    torch.testing.assert_close(latents, golden, rtol=1e-9, atol=1e-12)


def test_the_number_of_latents_does_not_depend_on_the_size_of_the_image():
    encoder = region()
    assert encoder.num_latents((16, 16)) == encoder.num_latents((32, 16)) == 9
    assert encoder(torch.zeros(1, 3, 32, 16)).values.shape == (1, 9, 6)


def test_every_depth_of_the_net_is_read(image):
    encoder = region()
    encoder(image).values.square().sum().backward()
    for level in encoder.levels:
        assert level[0].weight.grad.any()


def test_the_net_stays_as_it_is_and_in_evaluation_mode(image):
    encoder = region().train()
    assert not encoder.net.net.training
    assert not any(value.requires_grad for value in encoder.net.parameters())
    encoder(image).values.square().sum().backward()
    assert all(value.grad is not None for value in encoder.parameters() if value.requires_grad)
    assert all(value.requires_grad for value in region(train="all").parameters())


def test_a_net_that_is_not_read_at_several_depths_is_refused():
    with pytest.raises(ValueError, match=r"net\.out_dim must be null: its features are read as they are"):
        RegionEncoder(6, PretrainedViTEncoder(6, 16, **NET))
    with pytest.raises(ValueError, match=r"net.layers must name the blocks that are read, got none"):
        RegionEncoder(6, PretrainedViTEncoder(16, 16, **NET | {"layers": ()}))
    with pytest.raises(ValueError, match="grid must be at least 1, got 0"):
        region(grid=0)
