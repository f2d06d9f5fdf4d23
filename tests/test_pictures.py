"""Files of pictures as tensors, and back."""

import numpy as np
import pytest
import torch
from PIL import Image

from imtok.data.folder import Folder
from imtok.errors import InputError
from imtok.pictures import load_picture, save_picture
from imtok.pixels import to_float, to_uint8


@pytest.fixture
def photographs(tmp_path):
    """What phones and scanners leave: a turned JPEG, a grey PNG, one with a transparent half."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    colours = np.random.default_rng(0).integers(0, 256, (6, 9, 4), dtype=np.uint8)
    colours[:3, :, 3], colours[3:, :, 3] = 0, 255
    large = Image.fromarray(colours).resize((90, 60), Image.Resampling.NEAREST)
    turned = Image.Exif()
    turned[0x0112] = 6
    large.convert("RGB").save(folder / "turned.jpg", exif=turned)
    large.convert("L").save(folder / "grey.png")
    large.save(folder / "clear.png")
    return folder


def test_a_picture_is_read_as_every_command_reads_it(photographs):
    images = Folder(photographs).evaluation(image_size=32)
    for index in range(3):
        sample = images[0, index]
        loaded = load_picture(photographs / sample.key, 32)
        assert torch.equal(loaded, to_float(sample.image)[None])
        assert loaded.shape == (1, 3, 32, 32)
        assert loaded.dtype == torch.float32


def test_transparency_is_white_and_grey_has_three_channels(photographs):
    assert (load_picture(photographs / "clear.png", 60)[0, :, 0] == 1).all()
    red, green, blue = load_picture(photographs / "grey.png", 60)[0]
    assert torch.equal(red, green)
    assert torch.equal(red, blue)


def test_what_is_written_as_png_is_read_back_bit_for_bit(tmp_path):
    image = to_float(torch.randint(0, 256, (1, 3, 20, 20), dtype=torch.uint8))
    save_picture(image, tmp_path / "a.png")
    assert torch.equal(load_picture(tmp_path / "a.png", 20), image)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ".webp"])
def test_other_formats_are_chosen_by_the_name(tmp_path, suffix):
    save_picture(torch.zeros(1, 3, 16, 16), tmp_path / f"a{suffix}")
    assert (to_uint8(load_picture(tmp_path / f"a{suffix}", 16)).int() - 128).abs().max() <= 2


def test_what_is_no_picture_is_refused_by_name(tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    for name, reason in {
        "text.jpg": "not JPEG, PNG, WebP or AVIF",
        "missing.jpg": "cannot be read (No such file",
    }.items():
        with pytest.raises(InputError) as refused:
            load_picture(tmp_path / name, 32)
        assert name in str(refused.value)
        assert reason in str(refused.value)


def test_what_cannot_be_written_leaves_no_file(tmp_path):
    image = torch.zeros(1, 3, 8, 8)
    with pytest.raises(InputError, match=r"must end in one of \.png, \.jpg"):
        save_picture(image, tmp_path / "a.gif")
    with pytest.raises(InputError, match="cannot be written"):
        save_picture(image, tmp_path / "missing/a.png")
    with pytest.raises(ValueError, match="a batch of one image, got 2; give"):
        save_picture(image.repeat(2, 1, 1, 1), tmp_path / "a.png")
    with pytest.raises(ValueError, match="NaN"):
        save_picture(image * float("nan"), tmp_path / "a.png")
    assert not list(tmp_path.iterdir())
