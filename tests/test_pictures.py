"""Files of pictures as tensors, and back."""

import numpy as np
import pytest
import torch
from PIL import Image

from imtok.data.reading.transforms import CentreCrop
from imtok.data.sources.folder import Folder
from imtok.errors import InputError
from imtok.pictures import load_picture, postprocess, preprocess, save_picture
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


LEVELS = torch.randint(0, 256, (3, 20, 30), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
WANTED = to_float(CentreCrop(16)(LEVELS, np.random.default_rng(0)))[None]
ROWS = LEVELS.permute(1, 2, 0).numpy()


@pytest.mark.parametrize(
    ("image", "value_range"),
    [
        (LEVELS, None),
        (LEVELS[None], (0, 255)),
        (LEVELS.float(), (0, 255)),
        (LEVELS.to(torch.int64), (0, 255)),
        (LEVELS / 255, (0, 1)),
        ((LEVELS / 255).requires_grad_(), (0.0, 1.0)),
        (to_float(LEVELS), (-1, 1)),
        (ROWS, None),
        (ROWS[None], None),
        (ROWS[:, ::-1][:, ::-1], None),
        (ROWS / 255, (0, 1)),
        ((ROWS / 255).astype(np.float32), (0, 1)),
        (ROWS.astype(np.uint16) * 257, (0, 65535)),
        (Image.fromarray(ROWS), None),
        ([LEVELS], None),
        ((Image.fromarray(ROWS),), None),
    ],
)
def test_the_same_image_in_any_form_is_the_same_batch(image, value_range):
    assert torch.equal(preprocess(image, 16, value_range), WANTED)


def test_a_list_mixes_forms_and_sizes_and_keeps_its_order():
    images = [LEVELS, np.zeros((50, 40), np.uint8), Image.new("CMYK", (9, 9)), np.full((2, 8, 8, 3), 255, np.uint8)]
    batch = preprocess(images, 16)
    assert batch.shape == (5, 3, 16, 16)
    assert torch.equal(batch[:1], WANTED)
    assert batch[1:].mean((1, 2, 3)).tolist() == [-1, 1, 1, 1]


MODES = ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "RGBa", "CMYK", "YCbCr", "HSV", "I;16", "I;16B", "I;16L"]


@pytest.mark.parametrize("mode", MODES)
def test_a_white_square_on_black_is_one_in_every_mode(mode):
    grey = Image.new("L", (8, 8))
    grey.paste(255, (0, 0, 4, 8))
    if mode.startswith("I;16"):
        order = ">" if mode.endswith("B") else "<"
        image = Image.frombytes(mode, (8, 8), (np.asarray(grey).astype(np.uint16) * 257).astype(f"{order}u2").tobytes())
    else:
        steps = {"PA": ["P", "PA"], "HSV": ["RGB", "HSV"], "RGBa": ["RGBA", "RGBa"], "RGBX": ["RGB", "RGBX"]}
        image = grey
        for step in steps.get(mode, ["RGB", mode] if mode in ("CMYK", "YCbCr") else [mode]):
            image = image.convert(step)
    assert image.mode == mode
    found = preprocess(image, 8)
    assert (found[..., :4] > 0.98).all()
    assert (found[..., 4:] < -0.98).all()


def test_alpha_shows_white_and_exif_says_which_side_is_up(photographs):
    with Image.open(photographs / "clear.png") as clear, Image.open(photographs / "turned.jpg") as turned:
        assert torch.equal(preprocess(clear, 32), load_picture(photographs / "clear.png", 32))
        assert preprocess(turned, 32).sub(load_picture(photographs / "turned.jpg", 32)).abs().max() < 0.05


@pytest.mark.parametrize(
    ("image", "value_range", "said"),
    [
        (LEVELS / 255, None, r"value_range must be given for an image of float32: .*\(from 0 to 1\).*give value_ra"),
        (np.zeros((8, 8)), None, "value_range must be given for an image of float64"),
        (LEVELS.int(), None, "value_range must be given for an image of int32"),
        (Image.new("F", (8, 8)), None, "value_range must be given for an image of float32"),
        (Image.new("I", (8, 8)), None, "value_range must be given for an image of int32"),
        (LEVELS.float(), (0, 1), r"must lie in value_range=\(0, 1\), got values from 0 to 255; give the range"),
        (to_float(LEVELS), (0, 1), r"must lie in value_range=\(0, 1\), got values from -1 to 1"),
        (LEVELS / 255, (1, 0), r"value_range must be two numbers, .* got \(1, 0\)"),
        (LEVELS / 255, (0, 1, 2), "value_range must be two numbers"),
        (torch.full((3, 8, 8), float("nan")), (0, 1), "an image must hold numbers, got NaN or infinity"),
        (ROWS, (0, 1), r"must lie in value_range=\(0, 1\), got values from 0 to 255"),
        (LEVELS.numpy(), None, r"numpy array must be h w, h w c or b h w c with 1, 3 or 4 .*, got shape \[3, 20, 30\]"),
        (torch.from_numpy(ROWS), None, r"tensor must be h w, c h w or b c h w with .*, got shape \[20, 30, 3\]"),
        (torch.zeros(2, 8, 8, dtype=torch.uint8), None, r"got shape \[2, 8, 8\]"),
        (torch.zeros(8, dtype=torch.uint8), None, r"got shape \[8\]"),
        (torch.zeros(3, 0, 8, dtype=torch.uint8), None, r"got shape \[3, 0, 8\]"),
        (torch.zeros(3, 8, 8, dtype=torch.bool), None, "an image must hold real numbers, got bool"),
        (np.zeros((8, 8), complex), (0, 1), "an image must hold real numbers, got complex128"),
        (Image.new("LAB", (8, 8)), None, "a PIL image: is in mode LAB, which Pillow cannot bring to RGB"),
        ([], None, "there must be at least one image, got none"),
        ("cat.jpg", None, "an image must be a PIL image, a numpy array or a tensor, got str"),
        ([None], None, "an image must be a PIL image, a numpy array or a tensor, got NoneType"),
    ],
)  # fmt: skip
def test_what_is_no_image_or_of_an_unknown_range_is_refused(image, value_range, said):
    with pytest.raises(InputError, match=said) as caught:
        preprocess(image, 16, value_range)
    assert "\n" not in str(caught.value)


def test_a_resized_image_may_go_a_little_beyond_its_range_and_half_precision_is_taken():
    image = torch.tensor([-0.1, 0.5, 1.1]).view(3, 1, 1).expand(3, 16, 16)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert preprocess(image.to(dtype), 16, (0, 1))[0, :, 0, 0].tolist() == pytest.approx([-1, 0.0039, 1], abs=1e-3)


def test_a_batch_comes_back_as_pil_images():
    pictures = postprocess(torch.stack([to_float(LEVELS), torch.ones(3, 20, 30)]).requires_grad_())
    assert [picture.mode for picture in pictures] == ["RGB", "RGB"]
    assert np.array_equal(np.asarray(pictures[0]), ROWS)
    assert torch.equal(preprocess(pictures[0], 16), WANTED)
