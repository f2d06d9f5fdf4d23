"""What only FVQ promises."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from imtok.options import option
from imtok.quantizers.fvq import FVQ, VQBridge


def by_hand(bridge, table, side, patch):
    """The bridge as a patch embedding by convolution, pre-norm blocks and an un-patching loop."""
    channels, cells = table.shape[1], side // patch
    kernel = bridge.compress.weight.view(-1, channels, patch, patch)
    tokens = F.conv2d(table.T.view(1, channels, side, side), kernel, bridge.compress.bias, stride=patch)
    tokens = tokens.flatten(2).transpose(1, 2)[0]
    for block in bridge.process.blocks:
        heads, width = block.attention.heads, tokens.shape[1]
        normed = F.layer_norm(tokens, (width,), eps=1e-6)
        query, key, value = (
            part.view(-1, heads, width // heads).transpose(0, 1)
            for part in block.attention.query_key_value(normed).chunk(3, -1)
        )
        attended = ((query @ key.transpose(1, 2)) * (width // heads) ** -0.5).softmax(-1) @ value
        tokens = tokens + block.attention.project(attended.transpose(0, 1).reshape(-1, width))
        hidden = block.mlp[0](F.layer_norm(tokens, (width,), eps=1e-6))
        tokens = tokens + block.mlp[2](F.gelu(hidden, approximate="tanh"))
    out = bridge.recover(F.layer_norm(tokens, (tokens.shape[1],), eps=1e-6))
    grid = torch.zeros(side, side, channels, dtype=table.dtype)
    for cell, values in enumerate(out.view(-1, patch, patch, channels)):
        row, column = cell // cells * patch, cell % cells * patch
        grid[row : row + patch, column : column + patch] = values
    return grid.view(-1, channels)


def test_the_table_is_the_bridge_of_the_weights_and_the_nearest_code_is_chosen():
    quantizer = FVQ(6, 256, patch_size=4, width=32, depth=2, heads=4).double()
    nn.init.normal_(quantizer.weight)
    table = by_hand(quantizer.bridge, quantizer.weight, 16, 4)
    torch.testing.assert_close(quantizer.table(), table, rtol=1e-12, atol=1e-12)
    latents = torch.randn(2, 100, 6, dtype=torch.float64)
    quantized = quantizer(latents)
    assert torch.equal(quantized.ids[..., 0], torch.cdist(latents.flatten(0, 1), table).argmin(-1).view(2, 100))
    naive = (table[quantized.ids[..., 0]] - latents).square().mean()
    torch.testing.assert_close(quantized.losses["codebook"].value, naive)
    parameters = list(quantizer.parameters())
    ours = torch.autograd.grad(quantized.losses["codebook"].value, parameters)
    for mine, theirs in zip(ours, torch.autograd.grad(naive, parameters), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-12)


def test_codes_start_close_together_but_not_equal():
    """From far apart fewer of them come into use, and equal ones learn as one."""
    table = FVQ(8, 256).table()
    assert 0 < table.std() < 1e-2
    assert len(table.unique(dim=0)) == 256


def test_a_step_on_one_token_moves_all_codes_and_all_rows_learn():
    quantizer = FVQ(8, 64, patch_size=2, width=16)
    before = quantizer.codebook()[0].clone()
    quantizer(torch.randn(1, 1, 8)).losses["codebook"].value.backward()
    assert (quantizer.weight.grad.abs().sum(-1) > 0).all()
    torch.optim.SGD(quantizer.parameters(), lr=0.1).step()
    assert ((quantizer.codebook()[0] - before).abs().amax(-1) > 0).all()


def test_losses_move_only_their_side():
    quantizer, latents = FVQ(4, 16, width=16), torch.randn(1, 5, 4, requires_grad=True)
    losses = quantizer(latents).losses
    assert (losses["codebook"].weight, losses["commit"].weight) == (1.0, 0.25)
    assert torch.autograd.grad(losses["codebook"].value, latents, allow_unused=True) == (None,)
    assert set(torch.autograd.grad(losses["commit"].value, list(quantizer.parameters()), allow_unused=True)) == {None}


@pytest.mark.parametrize("bits", range(8, 19))
@pytest.mark.parametrize("patch_size", [4, 8])
def test_codebooks_of_every_power_of_two_have_a_grid(bits, patch_size):
    with torch.device("meta"):
        bridge = VQBridge(1, 2**bits, patch_size, width=8, depth=1, heads=1)
    rows, columns = bridge.grid
    assert rows * columns * patch_size**2 == 2**bits
    assert rows in (columns, 2 * columns)


def test_codes_lie_in_the_grid_row_by_row():
    bridge = VQBridge(3, 512, 4, width=16, depth=1)
    assert bridge.grid == (8, 4)
    changed = torch.randn(512, 3, requires_grad=True)
    nn.init.zeros_(bridge.process.blocks[0].attention.project.weight)  # no talk: a group answers for itself
    bridge(changed)[:4].sum().backward()
    group = [row * 16 + column for row in range(4) for column in range(4)]
    assert changed.grad.abs().sum(-1).nonzero().flatten().tolist() == group


def test_the_preset_is_the_published_one():
    with torch.device("meta"):
        quantizer = FVQ(**{k: v for k, v in option("quantizer", "fvq").items() if k != "_target_"})
    linear = (16 * 256 * 256 + 256) + (256 * 16 * 256 + 16 * 256)
    blocks = 2 * (256 * 768 + 768 + 256 * 256 + 256 + 2 * 256 * 512 + 512 + 256)
    assert sum(parameter.numel() for parameter in quantizer.bridge.parameters()) == linear + blocks
    assert quantizer.weight.shape == (16384, 256)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"dim": 0}, "dim and codebook_size must be at least 1, got 0"),
        ({"commit_weight": -1.0}, "loss weights must not be negative, got 1.0, -1.0"),
        ({"codebook_size": 100}, r"of 16, so that .* groups of 4 x 4 \(patch_size\), got 100; the nearest is 96"),
        ({"codebook_size": 8}, "multiple of 16, .* got 8; the nearest is 16"),
        ({"patch_size": 0}, "patch_size, width and depth must be at least 1 .* got 0"),
        ({"mlp_ratio": 0.0}, "mlp_ratio positive, got .* and 0.0"),
        ({"heads": 3}, "heads must divide the width 256, got 3"),
        ({"estimator": "gumbel"}, "estimator must be one of"),
    ],
)
def test_settings_out_of_range_are_refused_with_their_value(wrong, message):
    with pytest.raises(ValueError, match=message):
        FVQ(**({"dim": 4, "codebook_size": 64} | wrong))
