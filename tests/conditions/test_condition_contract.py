"""What every condition promises. A new YAML in configs/condition is tested by being there."""

import importlib
import inspect
from pathlib import Path

import pytest
import torch
from torch import nn

from imtok.conditions.base import Conditioner
from imtok.conditions.named import NamedText, Told
from imtok.construct import construct
from imtok.options import option

CONFIGS = Path(__file__).parents[2] / "configs" / "condition"
APART = ("none", "tokens")  # tokens are told by a store, and not by captions and labels
NAMES = sorted(path.stem for path in CONFIGS.glob("*.yaml") if path.stem not in APART)
LABELS = torch.tensor([3, -1, 0])


def preset(name):
    return option("condition", name)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def build(name) -> Conditioner:
    """A condition; the length of a caption stands for the features of a published net, whose weights are not here."""
    condition = construct(preset(name))
    if isinstance(condition, NamedText):
        condition._kept.net = nn.Identity()
        condition.features = lambda net, captions, device: Told(
            torch.stack(
                [torch.full((condition.text_length, condition.text_dim), float(len(caption))) for caption in captions]
                or [torch.zeros(0)]
            ).reshape(len(captions), condition.text_length, condition.text_dim)
        )
    return condition


@pytest.fixture
def condition(name):
    return build(name)


@pytest.fixture
def captions(name):
    return ["3.5", "", "-7"] if name == "score" else ["a red fox in the snow", "", "two cats"]


def same(one, other):
    """Whether two conditions are equal; a score that is not there is NaN."""
    return one.keys() == other.keys() and all(
        torch.equal(value.nan_to_num(9.9), other[kind].nan_to_num(9.9)) for kind, value in one.items()
    )


def values(made):
    return {kind: value for kind, value in vars(made).items() if value is not None}


def test_a_preset_lists_every_argument(name):
    config = preset(name)
    module, _, cls = config["_target_"].rpartition(".")
    assert set(config) - {"_target_"} == set(
        inspect.signature(getattr(importlib.import_module(module), cls)).parameters
    )


def test_it_gives_the_kinds_that_it_says_in_the_sizes_that_it_says(condition, captions):
    made = condition.make(captions, LABELS)
    assert values(made).keys() - {"mask"} == set(condition.gives)
    assert all(len(value) == 3 for value in values(made).values())
    if "text" in condition.gives:
        assert made.text.shape == (3, condition.text_length, condition.text_dim)
        assert condition.sizes == {"text_dim": condition.text_dim, "text_length": condition.text_length}
    if "label" in condition.gives:
        assert made.label.max() < condition.classes
        assert condition.sizes == {"classes": condition.classes}


def test_each_image_has_its_own_whatever_the_batch(condition, captions):
    whole = values(condition.make(captions, LABELS))
    for row in range(3):
        alone = values(condition.make(captions[row : row + 1], LABELS[row : row + 1]))
        assert same(alone, {kind: value[row : row + 1] for kind, value in whole.items()})


def test_what_it_does_not_read_changes_nothing(condition, captions):
    whole = values(condition.make(captions, LABELS))
    others = captions if "caption" in condition.reads else ["another"] * 3
    labels = LABELS if "label" in condition.reads else LABELS + 1
    assert same(whole, values(condition.make(others, labels)))


def test_an_image_lacks_what_is_read_and_not_there(condition, captions):
    wanted = next(iter(condition.reads), None)
    assert condition.lacking(captions, LABELS) == ({} if wanted is None else {1: wanted})


def test_no_image_is_a_batch_too(condition):
    assert all(len(value) == 0 for value in values(condition.make([], LABELS[:0])).values())


def test_a_number_for_all_images_takes_the_place_of_their_own(condition, captions):
    condition.every_label, condition.every_quality = 5, 0.5
    made = condition.make(captions, LABELS)
    assert made.quality.tolist() == [0.5] * 3
    if "label" in condition.reads:
        assert made.label.tolist() == [5] * 3
        assert condition.lacking(captions, LABELS) == {}


def test_its_state_comes_back_from_a_file(name, condition, tmp_path, captions):
    torch.save(condition.state_dict(), tmp_path / "state.pt")
    torch.manual_seed(99)
    again = build(name)
    again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert same(values(again.make(captions, LABELS)), values(condition.make(captions, LABELS)))
