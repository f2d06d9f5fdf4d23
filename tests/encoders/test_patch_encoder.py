"""Which token stands for which pixels of a patch encoder."""

import torch

from imtok.encoders.patch import PatchEncoder


def moved_tokens(encoder: PatchEncoder, row: int, column: int) -> list[int]:
    """Tokens that change with one pixel of a 24 x 32 image."""
    image = torch.rand(1, 3, 24, 32)
    changed = image.clone()
    changed[..., row, column] += 1
    difference = (encoder(changed).values - encoder(image).values).abs().sum(-1)[0]
    return difference.gt(1e-6).nonzero().flatten().tolist()


def test_without_blocks_a_patch_moves_its_own_token_only():
    encoder = PatchEncoder(out_dim=4, patch_size=8, width=16, depth=0)
    assert moved_tokens(encoder, 7, 7) == [0]
    assert moved_tokens(encoder, 0, 8) == [1]
    assert moved_tokens(encoder, 8, 0) == [4]
    assert moved_tokens(encoder, 23, 31) == [11]


def test_blocks_let_patches_talk():
    assert len(moved_tokens(PatchEncoder(out_dim=4, patch_size=8, width=16, depth=1), 0, 0)) > 1
