"""The least number of tokens for a target, on a tokenizer whose error at every length is known in closed form."""

import pytest
import torch
from measures.by_rows import ROWS, RowDecoder, pictures, psnr_by_length, rows_tokenizer

from imtok.measures.length import search_length
from imtok.measures.mean import ImageMean
from imtok.measures.psnr import PSNR
from imtok.pixels import to_uint8
from imtok.types import Condition, Tokens


class WorstError(ImageMean):
    """The largest error of a level: the lower, the better."""

    higher_is_better = False

    def per_image(self, image, target):
        return (image.int() - target.int()).abs().flatten(1).amax(1).double()


@pytest.fixture
def tokenizer():
    return rows_tokenizer()


@pytest.mark.parametrize("target", [6.0, 10.0, 15.0, 20.0])
def test_it_is_the_least_length_that_reaches_the_target(tokenizer, target):
    image = pictures()
    by_length = psnr_by_length(image)
    expected = (by_length < target).sum(1) + 1  # monotone here: all shorter ones miss it
    lengths, values = search_length(tokenizer, image, target)
    assert torch.equal(lengths, expected)
    torch.testing.assert_close(values, by_length.gather(1, expected[:, None] - 1)[:, 0])
    assert (values >= target).all()


def test_only_images_that_have_not_reached_it_go_on(tokenizer):
    image = pictures()
    lengths, _ = search_length(tokenizer, image, 12.0)
    waiting = [(int((lengths >= length).sum()), length) for length in range(1, int(lengths.max()) + 1)]
    assert RowDecoder.decoded == waiting


def test_the_answer_does_not_depend_on_the_batch(tokenizer):
    image = pictures()
    together = search_length(tokenizer, image, 15.0)
    alone = [search_length(tokenizer, image[i : i + 1], 15.0) for i in range(len(image))]
    assert torch.equal(together.lengths, torch.cat([one.lengths for one in alone]))
    assert torch.equal(together.values, torch.cat([one.values for one in alone]))


def test_a_target_out_of_reach_takes_all_tokens_and_says_what_they_reach(tokenizer):
    image = pictures() + 0.01 * torch.randn(12, 3, ROWS, 5)
    lengths, values = search_length(tokenizer, image.clamp(-1, 1), 90.0)
    assert (lengths == ROWS).all()
    assert (values < 90).all()
    assert (values > 30).all()


def test_it_is_exact_where_more_tokens_make_it_worse(tokenizer):
    """A decoder that takes from the second token on loses what the first had won."""
    decode = tokenizer.decoder.forward

    def worse(latents, size, keep=None, condition=None):
        painted = decode(latents, size, keep, condition)
        return painted if latents.shape[1] in (1, ROWS) else torch.ones_like(painted)

    tokenizer.decoder.forward = worse
    image = pictures()
    image[:, :, 0] = -1
    first = psnr_by_length(image)[:, 0]
    lengths, values = search_length(tokenizer, image, 10.0)
    assert torch.equal(lengths == 1, first >= 10.0)
    assert (first >= 10.0).any()
    torch.testing.assert_close(values[lengths == 1], first[lengths == 1])


def test_of_a_distance_the_target_is_an_upper_bound(tokenizer):
    image = pictures()
    wrong = (to_uint8(image)[:, 0, :, 0].int() - 128).abs()
    worst = torch.stack([wrong[:, length:].amax(1) for length in range(1, ROWS)], 1)
    expected = (worst > 60).sum(1) + 1
    lengths, values = search_length(tokenizer, image, 60.0, WorstError())
    assert torch.equal(lengths, expected)
    assert (values <= 60).all()


def test_only_the_lengths_asked_for_are_tried(tokenizer):
    image = pictures()
    exact = search_length(tokenizer, image, 12.0).lengths
    RowDecoder.decoded.clear()
    coarse = search_length(tokenizer, image, 12.0, lengths=[8, 1, 2, 4]).lengths
    assert {length for _, length in RowDecoder.decoded} <= {1, 2, 4, 8}
    assert torch.equal(coarse, 2 ** exact.double().log2().ceil().long())


def test_an_encoder_with_a_budget_is_asked_for_each_length():
    tokenizer, image = rows_tokenizer(shift=0.25), pictures()
    lengths, values = search_length(tokenizer, image, 8.0, encode="each")
    assert len(lengths.unique()) > 1
    for row, length in enumerate(lengths.tolist()):
        tokens = tokenizer.encode(image[row : row + 1], length)
        again = PSNR().per_image(to_uint8(tokenizer.decode(tokens, (ROWS, 5))), to_uint8(image[row : row + 1]))
        assert again.item() == values[row].item()
    assert not torch.equal(values, search_length(tokenizer, image, 8.0).values)


def test_each_image_keeps_its_own_condition(tokenizer):
    """A condition that spoils odd images keeps them from the target at every length."""
    condition = Condition(quality=torch.tensor([0.0, 2.0]).repeat(6))
    lengths, values = search_length(tokenizer, pictures(), 15.0, condition=condition)
    assert (values[::2] >= 15).all()
    assert (lengths[1::2] == ROWS).all()
    assert (values[1::2] < 15).all()


def test_modes_come_back_and_no_gradient_is_kept(tokenizer):
    tokenizer.train()
    tokenizer.encoder.eval()
    lengths, values = search_length(tokenizer, pictures(), 10.0)
    assert tokenizer.training
    assert not tokenizer.encoder.training
    assert not values.requires_grad
    assert not lengths.is_inference()


def test_what_it_finds_is_what_encode_and_decode_give(tokenizer):
    image = pictures(1)
    (length,), (value,) = search_length(tokenizer, image, 12.0)
    whole = tokenizer.encode(image)
    tokens = tokenizer.encode(image, length=int(length))
    assert torch.equal(tokens.ids, whole.ids[:, : int(length)])
    decoded = tokenizer.decode(Tokens(tokens.ids), (ROWS, 5))
    assert PSNR().per_image(to_uint8(decoded), to_uint8(image)).item() == value.item()


def test_what_cannot_be_searched_is_refused(tokenizer, monkeypatch):
    for lengths in ([0, 1], [9], []):
        with pytest.raises(ValueError, match="lengths must be some of 1 to 8 tokens, got"):
            search_length(tokenizer, pictures(), 10.0, lengths=lengths)
    monkeypatch.setattr(RowDecoder, "flexible", False)
    with pytest.raises(ValueError, match="must be of variable length to search one, got one that always takes 8"):
        search_length(tokenizer, pictures(), 10.0)
