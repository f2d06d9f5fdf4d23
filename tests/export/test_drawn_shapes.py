"""What a caption is worth at 4 tokens, on drawn shapes: the benchmark's nets, at its own size."""

import pytest

from benchmarks.text import ENCODERS, MARGIN, STEPS, draw, told, trained, unseen


def test_drawings_are_the_same_ones_whenever_they_are_drawn_and_captions_say_what_is_in_them():
    first, again = draw(0, 40), draw(10, 5)
    assert first.images[10:15].equal(again.images)
    assert first.captions[10:15] == again.captions
    assert first.images.shape == (40, 3, 32, 32)
    assert len(set(first.captions)) > 25


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", ENCODERS)
def test_the_right_caption_is_worth_a_decibel_and_a_wrong_one_is_worse_than_none(name, seed):
    found = told(trained(name, seed, STEPS), unseen())
    assert found["right"] - found["none"] >= MARGIN
    assert found["shuffled"] < found["none"]
