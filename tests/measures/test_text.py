"""The reader reads what is written, and what a tokenizer loses shows in the errors."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from imtok.errors import InputError
from imtok.measures.evaluate import evaluate
from imtok.measures.settings import Settings
from imtok.measures.text import ALPHABET, FONTS, TextMeasure, glyphs, read, written
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

PART = {"patch_size": 1, "width": 3, "depth": 0}


def identity(channels: int = 3) -> Tokenizer:
    """A tokenizer that changes nothing."""
    part = PART | {"width": channels}
    made = Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **part},
            "quantizer": {"_target_": "imtok.quantizers.continuous.Continuous", "dim": channels},
            "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **part},
            "image_size": 64,
            "channels": channels,
        }
    )
    for net in (made.encoder, made.decoder):
        for layer in net.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                layer.weight.data.copy_(torch.eye(channels).view(channels, channels, 1, 1))
                torch.nn.init.zeros_(layer.bias)
    return made.eval()


def measured(tokenizer: Tokenizer, **arguments):
    section = {"text": {"_target_": "imtok.measures.text.TextMeasure", "images": 6, **arguments}}
    image = torch.zeros(1, tokenizer.channels, 64, 64, dtype=torch.float32 if tokenizer.channels == 1 else torch.uint8)
    batch = Batch(image, torch.tensor([-1]), torch.tensor([0]), ["a"])
    return evaluate(tokenizer, [batch], settings=Settings(section))


@pytest.mark.parametrize("font", FONTS)
@pytest.mark.parametrize("letters", [8, 12, 20])
def test_the_reader_gets_at_least_99_percent_of_the_originals(font, letters):
    draws = np.random.default_rng(0)
    pages = [written((96, 128), font, letters, draws) for _ in range(8)]
    right = torch.cat([read(page.image, page, letters) == page.text for page in pages])
    assert len(right) > 100
    assert right.float().mean() >= 0.99


def test_a_character_that_was_exchanged_is_read_as_the_other_one():
    page = written((64, 64), FONTS[0], 12, np.random.default_rng(1))
    ink = glyphs(FONTS[0], 12)
    height, width = ink.shape[1:]
    (row, column), other = page.cells[2].tolist(), ALPHABET.index("Q")
    image = page.image.clone()
    image[0, row * height : (row + 1) * height, column * width : (column + 1) * width] = 255 * ink[other]
    found = read(image, page, 12)
    assert found[2] == other
    assert torch.equal(torch.cat([found[:2], found[3:]]), torch.cat([page.text[:2], page.text[3:]]))


def test_an_empty_page_has_no_characters():
    page = written((64, 64), FONTS[1], 12, np.random.default_rng(0))
    assert (read(torch.full((1, 64, 64), 90.0), page, 12) == -1).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_what_changes_nothing_leaves_all_readable_and_a_flat_image_nothing(channels):
    tokenizer = identity(channels)
    report = measured(tokenizer)
    assert report.metrics["character_error"] == report.tables["text"]["reader_character_error"] == 0
    assert report.metrics["word_error"] == 0
    assert "Text, and what the tokenizer makes of it" in report.drawings
    tokenizer.decoder.last_layer.data.zero_()
    assert measured(tokenizer).metrics["character_error"] == 1


def test_noise_spoils_some_characters_and_more_words():
    tokenizer = identity()

    def noisy(_, __, image):
        return image + torch.randn(image.shape, generator=torch.Generator().manual_seed(0)) * 1.2

    tokenizer.decoder.register_forward_hook(noisy)
    found = measured(tokenizer).metrics
    assert 0.02 < found["character_error"] < found["word_error"] < 1


def test_images_without_room_for_a_word_are_named():
    with pytest.raises(InputError, match="a word in letters of 60 pixels needs larger images than 64x64 pixels"):
        measured(identity(), letters=60)
    with pytest.raises(ValueError, match="letters at least 5"):
        TextMeasure(letters=2)


def test_words_stand_apart_from_each_other():
    page = written((96, 192), FONTS[0], 8, np.random.default_rng(2))
    words = [page.cells[page.words == word] for word in range(int(page.words.max()) + 1)]
    assert len(words) > len(page.cells[:, 0].unique())  # some rows have several
    for cells in words:
        assert 3 <= len(cells) <= 7
        assert torch.equal(cells, cells[0] + torch.stack([torch.zeros(len(cells)), torch.arange(len(cells))], 1).long())
    for before, after in pairwise(words):
        assert after[0].tolist() == [before[-1, 0] + 1, 0] or after[0].tolist() == [before[-1, 0], before[-1, 1] + 2]


def test_pages_are_in_every_font_dark_on_light_and_light_on_dark():
    measure = TextMeasure(images=12)
    measure.start(identity(), (64, 64))
    assert {page.font for page in measure.pages} == set(FONTS)
    paper = [page.image[0, -1, -1].item() for page in measure.pages]  # below the last line
    assert min(paper) < 80 < 180 <= max(paper)
