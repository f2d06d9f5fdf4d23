"""Training crops take any of torchvision's transforms, each drawn from seed, epoch and index alone."""

import fsspec
import numpy as np
import pytest
import torch
from torch import nn
from torchvision.transforms import v2
from training.runs import write_images, write_shards

from imtok.build import build_data
from imtok.config import check_command
from imtok.data.order.loader import train_loader
from imtok.data.order.sampler import Steps, TrainBatches
from imtok.data.reading.augment import augmented, build_augment
from imtok.data.reading.transforms import CentreCrop
from imtok.data.sources.mixture import Mixture
from imtok.data.sources.pairs import PairSet
from imtok.data.sources.photos import Photos
from imtok.data.sources.webdataset import WebDataset
from imtok.errors import InputError
from imtok.overrides import as_typed, in_full

V2 = "torchvision.transforms.v2"
JITTER = {"_target_": f"{V2}.ColorJitter", "brightness": 0.4, "hue": 0.1}
ERASE = {"_target_": f"{V2}.RandomErasing", "p": 0.5, "inplace": True}
SEVERAL = [
    JITTER,
    {"_target_": f"{V2}.RandomApply", "transforms": [{"_target_": f"{V2}.GaussianBlur", "kernel_size": 3}]},
    ERASE,
]


def train_set(section, seed=0, data=None):
    data = data or Photos(crops_per_photo=2)
    return augmented(data.train(16, seed), build_augment(section))


def test_a_sample_is_a_function_of_seed_epoch_and_index_alone():
    one, other = train_set(SEVERAL), train_set(SEVERAL)
    plain = Photos(crops_per_photo=2).train(16, 0)
    places = [(epoch, index) for epoch in range(2) for index in range(6)]
    wanted = [one[place].image for place in places]
    torch.manual_seed(99)
    before = torch.get_rng_state()
    found = [other[place].image for place in reversed(places)]
    assert torch.equal(torch.get_rng_state(), before)
    for image, again in zip(wanted, reversed(found), strict=True):
        assert torch.equal(image, again)
    changed = [not torch.equal(image, plain[place].image) for image, place in zip(wanted, places, strict=True)]
    assert all(changed)
    assert not torch.equal(one[0, 1].image, one[1, 1].image)
    assert not torch.equal(one[0, 1].image, train_set(SEVERAL, seed=1)[0, 1].image)


def test_the_crop_is_the_one_that_is_drawn_without_augment():
    plain, turned = Photos(crops_per_photo=2).train(16, 0), train_set([{"_target_": f"{V2}.RandomInvert", "p": 1.0}])
    for index in range(6):
        assert torch.equal(255 - plain[0, index].image, turned[0, index].image)


def test_a_transform_that_works_in_place_leaves_the_photographs_alone():
    data = Photos(crops_per_photo=1)
    before = [photo.clone() for photo in data.train(16, 0).source.photos]
    images = train_set([{**ERASE, "p": 1.0}], data=data)
    for index in range(len(images)):
        images[0, index]
    for photo, kept in zip(images.source.photos, before, strict=True):
        assert torch.equal(photo, kept)


def test_workers_change_nothing():
    images = train_set(SEVERAL)
    batches = TrainBatches(len(images), 0, 6, total_steps=3)
    found = [[batch.image for batch in train_loader(images, batches, workers)] for workers in (0, 2)]
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_every_part_of_a_mixture_is_changed():
    parts = {"a": Photos(crops_per_photo=2), "b": Photos(crops_per_photo=3)}
    invert = [{"_target_": f"{V2}.RandomInvert", "p": 1.0}]
    mixture = Mixture(parts, {"a": 1.0, "b": 1.0})
    plain, turned = mixture.train(16, 0), train_set(invert, data=Mixture(parts, {"a": 1.0, "b": 1.0}))
    for index in range(0, len(plain), 5):
        assert torch.equal(255 - plain[0, index].image, turned[0, index].image)


def test_images_of_a_stream_are_changed(tmp_path):
    files, invert = fsspec.filesystem("memory"), [{"_target_": f"{V2}.RandomInvert", "p": 1.0}]
    folder = write_shards(tmp_path / "shards", write_images(tmp_path / "images", 12), shards=3)
    for path in folder.iterdir():
        files.pipe(f"/augment/{path.name}", path.read_bytes())
    data = WebDataset("memory://augment/{000..002}.tar", val_path=str(folder / "000.tar"))
    plain, turned = (
        {
            key: image
            for batch in train_loader(images, images.training_batches(Steps(0, 4, total_steps=3)))
            for key, image in zip(batch.key, batch.image, strict=True)
        }
        for images in (data.train(16, 0), train_set(invert, data=data))
    )
    files.rm("/augment", recursive=True)
    assert len(plain) == 12
    for key, image in plain.items():
        assert torch.equal(255 - image, turned[key])


class Larger(v2.Transform):
    """Enlarges one image in a thousand."""

    def transform(self, inpt, params):
        return nn.functional.pad(inpt, (1, 1)) if torch.rand(()) < 0.001 else inpt


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ([{"_target_": f"{V2}.Resize", "size": 8}], r"data.augment\[0\] \(Resize\) must keep size .* \[3, 8, 8\]"),
        ([JITTER, {"_target_": f"{V2}.Grayscale"}], r"data.augment\[1\] \(Grayscale\) .*torch.uint8 of \[1, 16, 16\]"),
        ([{"_target_": f"{V2}.ToPILImage"}], r"data.augment\[0\] \(ToPILImage\) must keep size .* gives Image"),
        ([{"_target_": f"{V2}.Normalize", "mean": [0.5], "std": [0.5]}], r"\(Normalize\) cannot change uint8 images"),
        ([{"_target_": f"{V2}.MixUp", "num_classes": 3}], r"data.augment\[0\] \(MixUp\) cannot change uint8 images"),
        ([{"_target_": "torchvision.transforms.ColorJitter"}], r"must name a subclass of .*; give .*v2.ColorJitter$"),
        ([{"_target_": "torch.nn.Dropout"}], r"must name a subclass of torchvision.*, got torch.nn.Dropout$"),
        ([{"_target_": f"{V2}.ColourJitter"}], r"data.augment\[0\]._target_: cannot import .*ColourJitter"),
        ([{"_target_": f"{V2}.ColorJitter", "hue": 3}], r"data.augment\[0\]: .*hue"),
        ([JITTER, "flip"], r"data.augment\[1\] must be a section with _target_: .*, got 'flip'"),
        ([{"brightness": 0.4}], r"data.augment\[0\] must be a section with _target_"),
        (JITTER, r"data.augment must be a list of transforms"),
    ],
)  # fmt: skip
def test_what_is_no_such_transform_is_refused_by_name(section, said):
    with pytest.raises(InputError, match=said) as caught:
        train_set(section)
    assert "\n" not in str(caught.value)


def test_a_transform_that_changes_the_size_now_and_then_is_found_when_it_does():
    images = augmented(Photos(crops_per_photo=1).train(16, 0), (Larger(),))
    image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"data.augment\[0\] \(Larger\) must keep size and type of an image"):
        [images.transform(image, np.random.default_rng(index)) for index in range(5000)]


def test_pairs_whose_sources_would_stay_as_they_are_are_refused():
    pairs = PairSet.__new__(PairSet)
    pairs.transform = CentreCrop(16)
    with pytest.raises(InputError, match="would change images, but not what they are to be made from"):
        augmented(pairs, build_augment([JITTER]))


@pytest.mark.parametrize("data", ["folder", "photos", "imagenet", "cifar10", "webdataset", "huggingface"])
def test_the_key_is_taken_for_every_kind_of_data_and_is_no_argument_of_any(data, tmp_path):
    words = ["data.augment=[{_target_: torchvision.transforms.v2.ColorJitter, brightness: 0.4}]"]
    words += [f"data={data}", *([] if data == "photos" else [f"data.path={tmp_path}"])]
    check_command("train", as_typed(in_full("train", words)))
    if data == "photos":
        plain = {"data": {"_target_": "imtok.data.sources.photos.Photos", "crops_per_photo": 3, "augment": [JITTER]}}
        assert build_data(plain).crops_per_photo == 3


@pytest.mark.parametrize(
    ("command", "words", "said"),
    [
        ("train", ["data.augment=[{_target_: torchvision.transforms.v2.ColorJitter, brigtness: 0.4}]"], "brightness"),
        ("train", ["data.augment=[{_target_: torchvision.transforms.v2.ColorJiter}]"], "v2 has no ColorJiter"),
        ("export", ["tokenizer=t", "data=photos", "+data.augment=[]"], "Photos has no argument augment"),
    ],
)
def test_mistakes_are_named_before_anything_is_read(command, words, said):
    with pytest.raises(InputError, match=said):
        check_command(command, as_typed(in_full(command, words)))
