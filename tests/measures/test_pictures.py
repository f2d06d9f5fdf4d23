"""The pictures of a run, of its report and of every later report show the same images, chosen by one rule."""

from collections import Counter

import pytest
import torch
from measures.tiny import SIDE, batches, tokenizer
from training.runs import run_tiny

from imtok.data.images import ImageSet, Source
from imtok.data.reading.transforms import CentreCrop
from imtok.data.sources.photos import Photos
from imtok.measures import pictures
from imtok.measures.evaluate import evaluate
from imtok.measures.pictures import SHOWN, choose_shown


class Levels(Source):
    """Images of two grey levels, some of them blank."""

    def __init__(self, contrasts):
        self.contrasts, self.classes = contrasts, []

    def __len__(self):
        return len(self.contrasts)

    def read(self, index):
        raise OSError("not needed")

    def key(self, index):
        return f"image {index}"

    def label(self, index):
        return -1

    def record(self, index):
        return self.key(index)

    def image(self, index, least=None):
        image = torch.full((3, SIDE, SIDE), 100, dtype=torch.uint8)
        image[:, : SIDE // 2] += self.contrasts[index]
        return image


def images(contrasts):
    return ImageSet(Levels(contrasts), CentreCrop(SIDE))


def test_of_each_four_candidates_the_one_with_most_contrast_is_shown():
    contrasts = [0] * 64
    for index in (2, 7, 8, 61):
        contrasts[index] = 50
    shown = choose_shown(images(contrasts))
    assert len(shown.key) == SHOWN == len(shown.image)
    assert shown.index.tolist()[:3] == [2, 7, 8]
    assert shown.index.tolist()[3:-1] == list(range(12, 60, 4))  # alike: the first of the four
    assert shown.index.tolist()[-1] == 61
    assert shown.key[0] == "image 2"


def test_candidates_lie_evenly_over_a_large_data_set():
    shown = choose_shown(images([1] * 6400), number=4)
    assert shown.index.tolist() == [0, 1600, 3200, 4800]


@pytest.mark.parametrize("count", [1, 3, 16, 17, 63])
def test_a_small_data_set_shows_each_image_at_most_once(count):
    shown = choose_shown(images(list(range(count)))).index.tolist()
    assert shown == sorted(set(shown))
    assert len(shown) == min(count, SHOWN)


def test_the_default_data_show_all_three_held_out_photographs_and_no_blank_tile():
    shown = choose_shown(Photos().validation(64))
    counts = Counter(key.partition("#")[0] for key in shown.key)
    assert counts.keys() == {"chelsea.png", "flower.jpg", "rocket.jpg"}
    assert min(counts.values()) >= 3
    spread = shown.image.double().mean(1).flatten(1).std(1)
    assert spread.min() > 4


def test_named_images_are_kept_in_their_order_whatever_the_batches():
    named = ["image 9", "image 2", "image 30", "no such image"]
    for size in (1, 4, 40):
        kept = evaluate(tokenizer(), batches(range(40), size), pictures=named).pictures
        assert kept.keys == named[:3]
        assert [int(image.sum()) for image in kept.originals] == [
            int(batches([row])[0].image[0].sum()) for row in (9, 2, 30)
        ]


def test_the_pictures_of_all_processes_are_shown(monkeypatch):
    own = evaluate(tokenizer(), batches(range(0, 8, 2)), pictures=["image 1", "image 2"]).pictures
    assert own.keys == ["image 2"]
    other = evaluate(tokenizer(), batches(range(1, 8, 2)), pictures=["image 1", "image 2"]).pictures
    monkeypatch.setattr(
        pictures,
        "gather_values",
        lambda value: [value, (other.keys, other.originals, other.reconstructions)],
    )
    assert own.finish().keys == ["image 1", "image 2"]


def test_the_last_step_and_the_final_grid_are_the_same_picture(tmp_path):
    run = tmp_path / "run"
    run_tiny(run, "trainer.max_steps=2", "trainer.pictures_every=2")
    assert (run / "images/step_2.png").read_bytes() == (run / "evaluation/grid.png").read_bytes()
