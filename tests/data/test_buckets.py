"""Images in buckets of shapes: every batch of one shape, every image once an epoch, in an order of seed and step."""

import io
from collections import Counter
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from imtok.data.images import ImageSet
from imtok.data.order.buckets import BucketBatches, BucketSet, bucketed, nearest, spread_shapes
from imtok.data.order.collate import collate
from imtok.data.order.sampler import Blocks, Steps
from imtok.data.reading.augment import augmented
from imtok.data.reading.decode import DecodeError, decode_image, upright_shape
from imtok.data.reading.transforms import CentreCrop, RandomScaleCrop, RandomScaledCrop
from imtok.data.sources.folder import Folder
from imtok.data.sources.mixture import Mixture
from imtok.data.sources.photos import Photos
from imtok.data.sources.webdataset import WebDataset
from imtok.errors import InputError

SHAPES = [(16, 24), (24, 16), (16, 16)]
GLOBAL_BATCH = 12


def write(folder, sizes):
    folder.mkdir()
    for index, (height, width) in enumerate(sizes):
        pixels = np.random.default_rng(index).integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03d}.png")
    return folder


@pytest.fixture
def images(tmp_path):
    """11 wide, 7 high and 5 square images, one of them held out."""
    folder = write(tmp_path / "images", [(20, 33)] * 11 + [(50, 30)] * 7 + [(30, 31)] * 5)
    held = write(tmp_path / "held", [(20, 20)])
    found = bucketed(Folder(folder, val_path=held).train(16, seed=3), SHAPES)
    assert isinstance(found, BucketSet)
    return found


def steps(images, first, last, world=1, accumulate=1):
    """The samples of each step over all ranks."""
    ranks = [
        list(BucketBatches(images, Steps(5, GLOBAL_BATCH, accumulate, rank, world, first, last)))
        for rank in range(world)
    ]
    found = []
    for step in range(last - first):
        micro = [list(chain(*batches[step * accumulate : (step + 1) * accumulate])) for batches in ranks]
        found.append([place for places in zip(*micro, strict=True) for place in places])
    return found


def test_an_image_goes_to_the_nearest_shape_and_is_cropped_to_it(images):
    assert images.counts == [11, 7, 5]
    for index in range(len(images)):
        shape = SHAPES[int(images.bucket[index])]
        for epoch in range(2):
            assert images[epoch, index].image.shape == (3, *shape)
    assert nearest((1, 2), [(2, 2), (2, 3)]) == 1
    assert nearest((2, 1), [(2, 2), (2, 3)]) == 0
    assert nearest((12, 10), [(1, 2), (2, 1)]) == 1  # of 0.5 and 2, on a scale of logarithms
    assert BucketSet(ImageSet(images.source, images.transform, least=20), SHAPES).least == 30  # 24 / 0.8


def test_every_batch_is_of_one_shape_and_every_image_is_seen_once_an_epoch(images):
    seen = steps(images, 0, 46)  # 552 samples: 24 epochs of 23
    drawn = [images.bucket[[index for _, index in places]] for places in seen]
    assert all(len(set(buckets.tolist())) == 1 for buckets in drawn)
    counts = Counter(place for places in seen for place in places)
    assert set(counts.values()) == {1}
    for bucket, number in enumerate(images.counts):
        of_bucket = sorted(epoch for epoch, index in counts if images.bucket[index] == bucket)
        taken = 24 * number // GLOBAL_BATCH * GLOBAL_BATCH
        assert abs(len(of_bucket) - taken) <= GLOBAL_BATCH  # its rest comes first in the next epoch
        whole = len(of_bucket) // number
        assert of_bucket == [epoch for epoch in range(whole + 1) for _ in range(number)][: len(of_bucket)]
    order = [int(buckets[0]) for buckets in drawn]
    assert order != sorted(order)
    assert len({tuple(order[at : at + 23]) for at in (0, 23)}) == 2  # twelve epochs each, drawn anew
    other = BucketBatches(images, Steps(6, GLOBAL_BATCH, total_steps=46))
    assert [other.place(step)[0] for step in range(46)] != order
    assert steps(images, 0, 46) == seen


@pytest.mark.parametrize("attempt", range(4))
def test_after_interruptions_on_any_worlds_the_batches_are_the_same(images, attempt):
    random = np.random.default_rng(attempt)
    stops = [0, *sorted(random.integers(0, 31, 4).tolist()), 30]
    resumed = []
    for first, last in pairwise(stops):
        resumed += steps(images, first, last, int(random.choice([1, 2, 3])), int(random.choice([1, 2])))
    assert resumed == steps(images, 0, 30)


def test_all_ranks_have_the_same_shape_at_each_micro_batch(images):
    one, other = (list(BucketBatches(images, Steps(5, 12, 2, rank, 2, 3, 20))) for rank in range(2))
    assert len(one) == len(other) == 34
    shapes = []
    for left, right in zip(one, other, strict=True):
        batches = [collate([images[place] for place in places], images.image_size) for places in (left, right)]
        assert batches[0].image.shape == batches[1].image.shape
        assert not set(left) & set(right)
        shapes.append(tuple(batches[0].image.shape[-2:]))
    assert set(shapes) == set(SHAPES)
    assert all(shapes[at] == shapes[at + 1] for at in range(0, len(shapes), 2))


def test_samples_that_lie_together_are_read_together_in_each_bucket(images):
    images.source.blocks = Blocks((5, 6, 4, 8), buffer=1)
    ends = np.cumsum(images.source.blocks.sizes)
    batches = BucketBatches(images, Steps(5, GLOBAL_BATCH, total_steps=30))
    read = [place for step in range(30) if batches.place(step)[0] == 0 for place in batches.whole(step)][:11]
    blocks = [int(np.searchsorted(ends, index, side="right")) for _, index in read]
    assert sum(one != other for one, other in pairwise(blocks)) == len(set(blocks)) - 1


def test_so_many_shapes_have_about_as_many_pixels_as_the_square():
    for number in (1, 3, 5, 7):
        shapes = spread_shapes(number, side=256, step=16)
        assert len(shapes) == number
        assert (256, 256) in shapes
        assert all(height % 16 == width % 16 == 0 for height, width in shapes)
        assert all(abs(height * width / 256**2 - 1) < 0.08 for height, width in shapes)
        assert [(width, height) for height, width in reversed(shapes)] == shapes
    with pytest.raises(InputError, match=r"data.buckets=9: with sides that are multiples of 16 .* only 5 .*=64"):
        spread_shapes(9, side=64, step=16)


@pytest.mark.parametrize("made", [RandomScaleCrop, RandomScaledCrop])
def test_a_crop_of_another_shape_shows_what_its_scale_says(made):
    """On a ramp, the first and the last pixel tell how much of the image a crop shows."""
    ramp = torch.linspace(0, 255, 300)[None, None].expand(1, 200, 300).contiguous()  # float32: nothing is rounded
    crop = made(64, (0.8, 1.0), flip=False).shaped((32, 64))
    for seed in range(20):
        image = crop(ramp, np.random.default_rng(seed))
        assert image.shape == (1, 32, 64)
        shown = float(image[0, 16, -2] - image[0, 16, 1]) / 61 * 64 / 255 * 300  # columns of the image
        assert 0.8 * 300 - 5 <= shown <= 300 + 5
    assert crop.least == 80


def test_the_centre_crop_of_another_shape_is_the_largest_one():
    image = torch.zeros(3, 128, 256, dtype=torch.uint8)
    image[:, 32:96] = 200
    crop = CentreCrop(32).shaped((16, 64))
    random = np.random.default_rng(0)  # of which nothing is drawn
    made = crop(image, random)
    assert made.shape == (3, 16, 64)
    assert (made[:, 2:-2] > 190).all()
    assert torch.equal(CentreCrop(32).shaped((32, 32))(image, random), CentreCrop(32)(image, random))


def test_augment_changes_crops_of_every_shape(images):
    plain = [images[0, index].image for index in (0, 12, 20)]
    folder = images.source.folder.decode()
    base = Folder(folder, val_path=f"{folder}/../held").train(16, seed=3)
    turned = bucketed(augmented(base, [v2.RandomInvert(p=1.0)]), SHAPES)
    for image, index in zip(plain, (0, 12, 20), strict=True):
        assert torch.equal(255 - image, turned[0, index].image)


def encoded(pixels, kind, orientation):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, kind, exif=exif)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WebP", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 6])
def test_the_shape_of_a_header_is_that_of_the_decoded_image(kind, orientation):
    data = encoded(np.random.default_rng(0).integers(0, 256, (20, 34, 3), np.uint8), kind, orientation)
    image = decode_image(data, "one")
    assert upright_shape(data, "one") == tuple(image.shape[-2:])
    assert (20, 34)[:: 1 if orientation == 1 else -1] == tuple(image.shape[-2:])
    if kind in ("JPEG", "PNG"):
        assert upright_shape(data[:-200], "one") == tuple(image.shape[-2:])
    with pytest.raises(DecodeError, match=r"^one: "):
        upright_shape(data[:12], "one")


def test_a_damaged_image_leaves_its_bucket_full(tmp_path):
    folder = write(tmp_path / "images", [(20, 33)] * 4)
    (folder / "001.png").write_bytes(b"no picture")
    images = bucketed(Folder(folder, val_path=write(tmp_path / "held", [(20, 20)])).train(16, seed=0), SHAPES)
    assert images.counts == [3, 0, 1]
    sample = images[0, 1]
    assert sample.bad[0].startswith("001.png: ")
    assert sample.image.shape == (3, 16, 16)


def test_images_that_cannot_be_in_buckets_are_refused(tmp_path):
    parts = {"a": Photos(crops_per_photo=1), "b": Photos(crops_per_photo=1)}
    with pytest.raises(InputError, match=r"^data.buckets needs one set of images .* not a mixture; leave it out$"):
        bucketed(Mixture(parts, {"a": 1.0, "b": 1.0}).train(16, 0), SHAPES)
    stream = WebDataset("memory://absent/{000..001}.tar", val_path="memory://held/{000..001}.tar").train(16, 0)
    with pytest.raises(InputError, match=r"^data.buckets needs one set of images .* not a stream; leave it out$"):
        bucketed(stream, SHAPES)
    assert bucketed(stream, ()) is stream
