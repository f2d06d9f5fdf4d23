"""Deformable attention against the same in loops, and what it starts as."""

import math
from itertools import product

import pytest
import torch
from encoders.presets import as_program, unchecked
from torch import Tensor

from imtok.nn.deformable import DeformableAttention

SIZES = [(4, 4), (3, 5), (1, 2)]


def attention(width=8, heads=2, levels=3, points=4):
    torch.manual_seed(0)
    net = DeformableAttention(width, heads, levels, points).double()
    torch.nn.init.normal_(net.offsets.weight, std=0.3)
    torch.nn.init.normal_(net.weights.weight, std=0.3)
    return net


def inputs(batch=2, queries=6, width=8, sizes=SIZES) -> tuple[Tensor, Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return draw(batch, queries, width), draw(queries, 2).sigmoid(), [draw(batch, width, *size) for size in sizes]


def pixel(values, row, column):
    """A position of a map of channels, zero around it."""
    inside = 0 <= row < values.shape[1] and 0 <= column < values.shape[2]
    return values[:, row, column] if inside else torch.zeros(values.shape[0], dtype=values.dtype)


def between(values, x, y):
    """Linear along both axes, between the four positions around a point."""
    left, top = math.floor(x), math.floor(y)
    parts = [
        (1 - abs(x - column)) * (1 - abs(y - row)) * pixel(values, row, column)
        for row, column in product((top, top + 1), (left, left + 1))
    ]
    return torch.stack(parts).sum(0)


def in_loops(net, queries, places, maps):
    """The formula of the paper, query by query, head by head, map by map, point by point."""
    out = torch.zeros_like(queries)
    head_width = queries.shape[2] // net.heads
    for image, query, head in product(range(len(queries)), range(queries.shape[1]), range(net.heads)):
        vector = queries[image, query]
        offsets = (net.offsets.weight @ vector + net.offsets.bias).view(net.heads, net.levels, net.points, 2)[head]
        scores = (net.weights.weight @ vector + net.weights.bias).view(net.heads, -1)[head]
        shares = (scores.exp() / scores.exp().sum()).view(net.levels, net.points)
        channels = slice(head * head_width, (head + 1) * head_width)
        for level, point in product(range(net.levels), range(net.points)):
            source = maps[level][image]
            values = torch.einsum("od,dhw->ohw", net.value.weight, source) + net.value.bias[:, None, None]
            x = places[query, 0].item() * source.shape[2] + offsets[level, point, 0].item() - 0.5
            y = places[query, 1].item() * source.shape[1] + offsets[level, point, 1].item() - 0.5
            out[image, query, channels] += shares[level, point] * between(values[channels], x, y)
    return out @ net.project.weight.T + net.project.bias


@torch.no_grad()
def test_it_equals_the_same_in_loops():
    net, given = attention(), inputs()
    torch.testing.assert_close(net(*given), in_loops(net, *given), rtol=0, atol=1e-12)


def test_its_gradients_are_those_of_differences():
    net, (queries, places, maps) = attention(width=4, levels=2, points=2), inputs(1, 2, 4, SIZES[:2])
    given = [queries, places, *maps, *net.parameters()]
    for value in given[:4]:
        value.requires_grad_()
    names = [name for name, _ in net.named_parameters()]

    def run(queries, places, first, second, *parameters):
        named = dict(zip(names, parameters, strict=True))
        return torch.func.functional_call(net, named, (queries, places, [first, second]))

    with unchecked():
        assert torch.autograd.gradcheck(run, given)


def test_it_starts_on_rays_that_count_alike():
    net = DeformableAttention(8, heads=4, levels=1, points=2)
    queries, places = (value.float() for value in inputs()[:2])
    rays = net.offsets(queries).view(2, 6, 4, 2, 2)
    wanted = torch.tensor([[[1, 0], [2, 0]], [[0, 1], [0, 2]], [[-1, 0], [-2, 0]], [[0, -1], [0, -2]]]).float()
    torch.testing.assert_close(rays, wanted.expand(2, 6, -1, -1, -1))
    flat = torch.ones(2, 8, 32, 32)
    torch.testing.assert_close(net(queries, places * 0.5 + 0.25, [flat]), net.project(net.value(torch.ones(2, 6, 8))))


def test_a_point_outside_of_a_map_reads_nothing():
    net, (queries, places, maps) = attention(), inputs()
    with torch.no_grad():
        net.offsets.bias.add_(100)
        torch.testing.assert_close(net(queries, places, maps), net.project.bias.expand_as(queries))


def test_other_numbers_are_refused():
    with pytest.raises(ValueError, match="heads must divide the width 8, got 3"):
        DeformableAttention(8, 3)
    with pytest.raises(ValueError, match="levels and points must be at least 1, got 0 and 4"):
        DeformableAttention(8, 2, levels=0)
    queries, places, maps = inputs()
    with pytest.raises(ValueError, match="maps must be 3, as many as the attention was built for, got 2"):
        attention()(queries, places, maps[:2])


class OneMap(torch.nn.Module):
    """Places and sizes are the same for all."""

    def __init__(self):
        super().__init__()
        self.attention = attention(levels=1)
        self.register_buffer("places", inputs()[1])

    def forward(self, queries, source):
        return self.attention(queries, self.places, [source])


@torch.no_grad()
def test_it_compiles_as_one_graph_and_a_program_of_it_takes_any_number_of_images():
    net = OneMap()
    (three, _, [maps]), (five, _, [more]) = inputs(3, sizes=SIZES[:1]), inputs(5, sizes=SIZES[:1])
    with unchecked():
        compiled = torch.compile(net, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(three, maps), net(three, maps))
        torch.testing.assert_close(as_program(net, (three, maps))(five, more), net(five, more))


def test_places_are_exact_in_bfloat16():
    net, (queries, places, maps) = attention().float(), inputs()
    queries, places, maps = queries.float(), places.float(), [one.float() for one in maps]
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rounded = net(queries, places, maps).float()
    exact = net(queries, places, maps)
    assert (rounded - exact).norm() < 0.05 * exact.norm()
