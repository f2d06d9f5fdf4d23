"""Crops and mirror images of maps of tokens, and a net in whose space they work as on pixels (arXiv 2312.10105)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from imtok.export.views import Views

Move = tuple[Float[Tensor, " b"], Float[Tensor, " b"]]


class AdapterNet(nn.Module):
    """Convolutions into a space in which a map of tokens can be moved like pixels, and convolutions back.

    The space has the channels of the map and ``width`` further ones. A new net changes nothing, so its moves are moves
    of the plain map.

    Args:
        dim: Width of the vectors; the builder sets it.
        width: Channels of the space beside those of the map.
        depth: Convolutions of 3 x 3 tokens into the space, and as many back.

    Raises:
        ValueError: If an argument is not positive.

    Example:
        >>> net, maps = AdapterNet(dim=8, width=16, depth=2), torch.randn(2, 8, 4, 4)
        >>> net.into(maps).shape, torch.equal(net.back(net.into(maps)), maps)
        (torch.Size([2, 24, 4, 4]), True)
    """

    def __init__(self, dim: int, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        if min(dim, width, depth) < 1:
            raise ValueError(f"dim, width and depth must be positive, got {dim}, {width} and {depth}")
        self.dim = dim
        self.encode = _convolutions(dim, width, width, depth)
        self.decode = _convolutions(dim + width, width, dim, depth)
        last = self.decode[-1]
        assert isinstance(last, nn.Conv2d)
        nn.init.zeros_(last.weight)

    def into(self, maps: Float[Tensor, "b d h w"]) -> Float[Tensor, "b e h w"]:
        """The maps in the learned space."""
        return torch.cat([maps, self.encode(maps)], 1)

    def back(self, maps: Float[Tensor, "b e h w"]) -> Float[Tensor, "b d h w"]:
        """Maps of tokens from maps in the learned space."""
        return maps[:, : self.dim] + self.decode(maps)

    @override
    def forward(self, maps: Float[Tensor, "b d h w"], rows: Move, columns: Move) -> Float[Tensor, "b d h w"]:
        """The maps, moved; see :func:`moved`."""
        return self.back(moved(self.into(maps), rows, columns))


def _convolutions(channels: int, width: int, out: int, depth: int) -> nn.Sequential:
    layers = list[nn.Module]()
    for number in range(depth):
        last = number == depth - 1
        layers.append(nn.Conv2d(channels if number == 0 else width, out if last else width, 3, padding=1, bias=False))
        if not last:
            layers.append(nn.GELU())
    return nn.Sequential(*layers)


def moved(maps: Float[Tensor, "b d h w"], rows: Move, columns: Move) -> Float[Tensor, "b d h w"]:
    """Cut a window out of maps, by linear interpolation. Beyond a map's edge, the values of the edge repeat.

    Args:
        maps: The maps of tokens.
        rows: Scale and start of the window along the height. The place ``y`` in [0, 1] of the result comes from the
            place ``scale * y + start`` of the map. A scale of -1 with a start of 1 mirrors the map.
        columns: The same along the width.

    Example:
        >>> one, nought = torch.ones(1), torch.zeros(1)
        >>> moved(torch.tensor([[[[1.0, 2.0, 3.0]]]]), (one, nought), (-one, one))
        tensor([[[[3., 2., 1.]]]])
    """
    theta = maps.new_zeros(len(maps), 2, 3)
    for axis, (scale, start) in enumerate((columns, rows)):  # grid_sample counts from -1 to 1
        theta[:, axis, axis], theta[:, axis, 2] = scale, scale + 2 * start - 1
    grid = F.affine_grid(theta, list(maps.shape), align_corners=False)
    return F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)


def covered(size: int, move: Move) -> Bool[Tensor, "b n"]:
    """Which of ``size`` tokens along an axis lie wholly inside the map after a move."""
    scale, start = (part[:, None] for part in move)
    ends = torch.arange(size + 1, device=start.device) / size
    inside = ((scale * ends + start) >= -1e-6) & ((scale * ends + start) <= 1 + 1e-6)
    return inside[:, :-1] & inside[:, 1:]


class Between:
    """Computes where one view of an image lies in another view of the same image.

    Args:
        augment: The kind of views, as ``augment`` of imtok export.
        size: Side of the views in pixels.

    Example:
        >>> Between("flip", 32)(torch.tensor([0]), torch.tensor([1]))[1]
        (tensor([-1.]), tensor([1.]))
    """

    def __init__(self, augment: str, size: int) -> None:
        views = Views(augment)
        room = views.square(size) - size
        places = {"top": 0, "bottom": room, "centre": round(room / 2), "left": 0, "right": room}
        starts = list[tuple[float, float]]()
        for view in views.all:
            down, across = (view.place.split(" ") * 2)[:2]
            starts.append((places[down] / size, places[across] / size))
        self.starts = torch.tensor(starts)  # of a view in its square, in widths of a view
        self.mirrored = torch.tensor([view.mirrored for view in views.all])
        self.square = 1 + room / size

    def __call__(self, source: Tensor, target: Tensor) -> tuple[Move, Move]:
        """Moves along height and width that turn source views into target views. Views are given by number."""
        (top, left), (other_top, other_left) = self.starts[source].unbind(1), self.starts[target].unbind(1)
        one = torch.ones(len(source))
        same = self.mirrored[source] == self.mirrored[target]
        # Of a mirrored square, what is at x of one is at square - x of the other.
        start = torch.where(same, other_left, self.square - other_left) - left
        return (one, other_top - top), (torch.where(same, one, -one), start)


def relative_error(
    found: Float[Tensor, "b d h w"], wanted: Float[Tensor, "b d h w"], rows: Move, columns: Move
) -> Float[Tensor, " b"]:
    """Mean squared error of each image over the tokens inside the map. The vectors have variance 1."""
    inside = covered(found.shape[2], rows)[:, :, None] & covered(found.shape[3], columns)[:, None, :]
    return ((found - wanted).square().mean(1) * inside).sum((1, 2)) / inside.sum((1, 2)).clamp(min=1)
