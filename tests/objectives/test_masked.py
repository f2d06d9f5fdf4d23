"""What is hidden from the encoder: so many squares, drawn anew, while the whole image is the target."""

import pytest
import torch

from imtok.losses.pixel import L2Loss
from imtok.objectives.masked import MaskedReconstruction
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def objective(share=0.5, patch=4):
    return MaskedReconstruction({"l2": L2Loss()}, share=share, patch=patch)


def hidden_squares(seen, patch):
    """Squares that are at level 0 throughout, of images that are nowhere so; every other pixel must be as it was."""
    return (seen.unfold(2, patch, patch).unfold(3, patch, patch) == -1).all(-1).all(-1)[:, 0]


@pytest.mark.parametrize(("share", "count"), [(0.5, 12), (0.1, 3), (0.0, 0), (0.99, 24)])
def test_so_many_squares_of_each_image_are_at_level_0_and_all_else_stays(share, count):
    image = torch.rand(5, 2, 16, 24) * 0.9
    seen = objective(share).seen(image, generator())
    squares = hidden_squares(seen, 4)
    assert squares.sum((1, 2)).tolist() == [count] * 5
    pixels = squares.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand_as(image)
    assert torch.equal(seen[~pixels], image[~pixels])
    assert (image != -1).all()  # the target itself is not written to


def test_every_square_is_hidden_as_often_as_any_other_and_images_are_drawn_one_by_one():
    squares = hidden_squares(objective().seen(torch.zeros(4000, 1, 16, 16), generator()), 4).double()
    assert (squares.mean(0) - 0.5).abs().max() < 5 * 0.5 / 4000**0.5
    assert len(squares.flatten(1).unique(dim=0)) > 3000  # of 12,870


def test_what_is_hidden_is_a_function_of_the_generator():
    image = torch.rand(3, 1, 16, 16)
    first, again, other = (objective().seen(image, generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_losses_compare_with_the_whole_image_and_the_encoder_sees_a_part():
    part = {"patch_size": 8, "width": 16, "depth": 1}
    tokenizer = Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **part},
            "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32},
            "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **part},
            "channels": 1,
        }
    )
    batch = Batch(torch.rand(2, 1, 32, 32) * 255, torch.tensor([0, 1]), torch.tensor([0, 1]), ["a", "b"])
    whole = to_float(batch.image)
    losses = objective()(tokenizer, batch, 0, generator())
    assert torch.equal(losses.shown.target, whole)
    made = tokenizer(objective().seen(whole, generator())).image
    torch.testing.assert_close(losses.shown.image, made)
    torch.testing.assert_close(losses.terms["l2"].value, (made - whole).square().mean())
    plain = ReconstructionObjective({"l2": L2Loss()})(tokenizer, batch, 0, generator())
    assert not torch.equal(losses.terms["l2"].value, plain.terms["l2"].value)
    nothing = objective(share=0.0)(tokenizer, batch, 0, generator())
    torch.testing.assert_close(nothing.total, plain.total)


def test_mistakes_are_named():
    with pytest.raises(ValueError, match=r"share must lie in \[0, 1\) and patch be at least 1, got 1.0 and 4"):
        objective(share=1.0)
    with pytest.raises(ValueError, match=r"patch must divide the side of the images, 18, got 4; give objective\.patch"):
        objective().seen(torch.zeros(1, 1, 16, 18), generator())
