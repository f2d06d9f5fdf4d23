"""What single conditions promise besides the contract."""

import pytest
import torch

from imtok.conditions.label import Label
from imtok.conditions.words import Words
from imtok.errors import InputError
from imtok.types import Condition

NONE = torch.tensor([-1])


def test_words_are_told_apart_by_letters_and_not_by_case_or_signs():
    words = Words(dim=4, length=3)
    rows = [
        words([caption], NONE).text for caption in ("A red fox", "a RED, fox!", "a fox red", "ein r\u00f6tlicher Fuchs")
    ]
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0][:, [0, 2, 1]], rows[2])
    assert not torch.equal(rows[0], rows[3])


def test_words_beyond_the_length_are_not_read():
    words = Words(dim=4, length=2)
    assert torch.equal(words(["one two three"], NONE).text, words(["one two"], NONE).text)
    assert words(["one"], NONE).mask.tolist() == [[True, False]]


def test_text_that_is_no_word_or_cannot_be_written_is_a_text_all_the_same():
    words = Words(dim=4, length=2)
    assert not words(["?! ..."], NONE).mask.any()
    assert words(["\ud800x \u65e5\u672c\u8a9e"], NONE).mask.all()


def test_every_row_of_the_table_is_reached_by_the_gradient_of_a_caption_without_words():
    """Ranks that see no caption must not wait for a gradient."""
    words = Words(dim=4, length=2)
    words([""], NONE).text.sum().backward()
    assert words.table.weight.grad is not None


def test_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="dim, length and buckets must be positive, got 0, 16 and 4096"):
        Words(dim=0)
    with pytest.raises(ValueError, match="classes must be at least 1, got 0"):
        Label(0)
    with pytest.raises(InputError, match=r"condition\.classes must be above every label, got 3 and label 3"):
        Label(3)([""], torch.tensor([3]))


def test_rows_and_repeats_keep_text_mask_and_label_together():
    words = Words(dim=4, length=2)
    text = words(["a fox", "", "cats"], torch.tensor([1, 2, 3]))
    condition = Condition(text=text.text, mask=text.mask, label=torch.tensor([1, 2, 3]))
    some = condition.rows(torch.tensor([2, 0]))
    assert some.label.tolist() == [3, 1]
    assert torch.equal(some.mask, text.mask[[2, 0]])
    twice = condition.repeat(2)
    assert twice.label.tolist() == [1, 1, 2, 2, 3, 3]
    assert torch.equal(twice.text[1::2], text.text)
    assert twice.quality is None


def test_a_share_of_captions_is_dropped_in_training_alone_by_draws_that_a_seed_repeats():
    words, captions, labels = Words(dim=4, length=2, drop=0.25), ["a fox"] * 4000, torch.full((4000,), -1)
    torch.manual_seed(3)
    said = words.make(captions, labels).mask.any(1)
    assert abs(said.float().mean().item() - 0.75) < 0.03
    torch.manual_seed(3)
    assert torch.equal(words.make(captions, labels).mask.any(1), said)
    assert not torch.equal(words.make(captions, labels).mask.any(1), said)
    assert words.eval().make(captions, labels).mask.all()


def test_a_condition_that_drops_nothing_draws_nothing():
    words = Words(dim=4, length=2)
    state = torch.get_rng_state()
    words.make(["a fox"], NONE)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_share_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"drop must lie in \[0, 1\), got -0.1"):
        Words(drop=-0.1)
