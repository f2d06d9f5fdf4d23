"""Every kind of image file has one verdict: these pixels, or this reason; never a crash, never another type."""

import io
import json
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imtok.data.base import Data
from imtok.data.reading.decode import DecodeError, decode_image
from imtok.data.sources.folder import Folder
from imtok.data.sources.webdataset import WebDataset

HEIGHT, WIDTH = 64, 48
ROW, COLUMN = np.mgrid[:HEIGHT, :WIDTH]
PICTURE = np.stack([ROW * 3, COLUMN * 5, 255 - ROW * 2 - COLUMN], axis=-1).astype(np.uint8)
GREY = np.repeat(PICTURE[..., :1], 3, axis=-1)
ALPHA = (COLUMN * 5).astype(np.uint8)
OVER_WHITE = np.round(PICTURE * (ALPHA[..., None] / 255) + 255 * (1 - ALPHA[..., None] / 255))
EXACT, JPEG = 0, 8  # largest difference allowed


def encode(pixels: np.ndarray, format: str, mode: str | None = None, **options) -> bytes:
    image = Image.fromarray(pixels)
    return save(image.convert(mode) if mode else image, format, **options)


def save(image: Image.Image, format: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes, *more: bytes, zlib_stream: bytes = b"") -> bytes:
    """A PNG made by hand, with right checksums; ``rows`` are compressed as they are."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    image = chunk(b"IDAT", zlib_stream or zlib.compress(rows, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + image + chunk(b"IEND", b"")


def with_transparent_colour() -> bytes:
    image = Image.fromarray(ALPHA).convert("P")
    return save(image, "PNG", transparency=0)


def flip_idat(data: bytes) -> bytes:
    at = data.index(b"IDAT") + 40
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def zeroed(data: bytes) -> bytes:
    scan = data.index(b"\xff\xda") + 100
    return data[:scan] + bytes(100) + data[scan + 100 :]


def sixteen_bit_rgb() -> bytes:
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in PICTURE)
    return png(WIDTH, HEIGHT, 16, 2, rows)


def many_scans() -> bytes:
    data = encode(PICTURE, "JPEG", progressive=True)
    at = data.rindex(b"\xff\xda")
    return data[:at] + data[at:-2] * 300 + data[-2:]


def webp_claiming(side: int) -> bytes:
    extent = (side - 1).to_bytes(3, "little")
    return b"RIFF" + struct.pack("<I", 22) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + extent * 2


def jpeg_claiming(side: int, marker: int = 0xC0, precision: int = 8) -> bytes:
    data = bytearray(encode(PICTURE, "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 1] = marker
    data[at + 4] = precision
    data[at + 5 : at + 9] = struct.pack(">HH", side, side)
    return bytes(data)


JPG, PNG, WEBP = encode(PICTURE, "JPEG", quality=95), encode(PICTURE, "PNG"), encode(PICTURE, "WEBP", lossless=True)
PROGRESSIVE = encode(PICTURE, "JPEG", progressive=True, quality=95)
FRAMES = [Image.fromarray(255 - PICTURE)]
HUGE = png(20_000, 20_000, 1, 0, bytes(2501 * 20_000))
SECOND_HEADER = chunk(b"IHDR", struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0))

# name: bytes, and either what the reason must contain or the pixels and the largest difference
KINDS: dict[str, tuple[bytes, str | tuple[np.ndarray, int]]] = {
    "empty.jpg": (b"", "is empty"),
    "one_byte.jpg": (b"\xff", "is unknown"),
    "html.jpg": (b"<!DOCTYPE html><html>not found</html>", "is a web page"),
    "random.png": (np.random.default_rng(0).bytes(5000), "is unknown"),
    "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "is SVG"),
    "gif.jpg": (encode(PICTURE, "GIF"), "is GIF"),
    "bmp.jpg": (encode(PICTURE, "BMP"), "is BMP"),
    "float_tiff.jpg": (encode(PICTURE[..., 0] / np.float32(255), "TIFF"), "is TIFF"),
    "eps.jpg": (encode(PICTURE, "EPS"), "is PostScript"),
    "avif.jpg": (b"\0\0\0\x20ftypavif" + bytes(50), "is an AVIF without an image"),
    "lfs.png": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "is a Git LFS pointer"),
    "zip.png": (b"PK\3\4" + bytes(50), "is a ZIP"),
    "jpeg_20_bytes.jpg": (JPG[:20], "truncated|without an image"),
    "jpeg_half.jpg": (JPG[: len(JPG) // 2], "[Tt]runcated"),
    "jpeg_9_tenths.jpg": (JPG[: len(JPG) * 9 // 10], "truncated"),
    "jpeg_no_end.jpg": (JPG[:-2], "truncated"),
    "progressive_half.jpg": (PROGRESSIVE[: len(PROGRESSIVE) // 2], "truncated"),
    "jpeg_zeroed.jpg": (zeroed(JPG), "damaged JPEG .premature end of data segment"),
    "jpeg_no_image.jpg": (b"\xff\xd8\xff\xd9", "without an image"),
    "jpeg_12_bit.jpg": (jpeg_claiming(48, precision=12), "baseline"),
    "jpeg_lossless.jpg": (jpeg_claiming(48, marker=0xC3), "baseline"),
    "jpeg_many_scans.jpg": (many_scans(), "scans"),
    "jpeg_huge.jpg": (jpeg_claiming(65_000), "max_pixels"),
    "jpeg_0_rows.jpg": (jpeg_claiming(0), "0 x 0"),
    "png_damaged.png": (flip_idat(PNG), "wrong checksum"),
    "png_half.png": (PNG[: len(PNG) // 2], "truncated"),
    "png_no_end.png": (PNG[:-12], "truncated"),
    "png_no_header.png": (PNG[:8] + PNG[33:], "without a header"),
    "png_bad_zlib.png": (
        png(48, 64, 8, 2, b"", zlib_stream=b"\x78\x9c" + b"\xff" * 99),
        "cannot be inflated",
    ),
    "png_few_rows.png": (png(48, 64, 8, 2, (b"\0" + bytes(144)) * 10), "damaged PNG .its image data end"),
    "png_huge.png": (HUGE, "max_pixels"),
    "png_100000.png": (png(100_000, 100_000, 8, 2, b""), "max_pixels"),
    "png_second_header.png": (png(8, 8, 8, 2, bytes(200), SECOND_HEADER), "two headers"),
    "png_text_bomb.png": (
        png(8, 8, 8, 2, bytes(200), chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(10**8)))),
        (np.zeros((8, 8, 3)), EXACT),  # the text is not looked at
    ),
    "webp_half.webp": (WEBP[: len(WEBP) // 2], "truncated"),
    "webp_huge.webp": (webp_claiming(2**24), "max_pixels"),
    "webp_no_image.webp": (b"RIFF\x10\0\0\0WEBPXXXX" + bytes(12), "without an image"),
    "plain.jpg": (JPG, (PICTURE, JPEG)),
    "plain.png": (PNG, (PICTURE, EXACT)),
    "plain.webp": (WEBP, (PICTURE, EXACT)),
    "progressive.jpg": (PROGRESSIVE, (PICTURE, JPEG)),
    "cmyk.jpg": (encode(PICTURE, "JPEG", "CMYK", quality=95), (PICTURE, 12)),
    "grey.jpg": (encode(PICTURE[..., 0], "JPEG", quality=95), (GREY, JPEG)),
    "grey.png": (encode(PICTURE[..., 0], "PNG"), (GREY, EXACT)),
    "one_bit.png": (save(Image.fromarray(PICTURE[..., 0] > 90), "PNG"), (255 * (GREY > 90), EXACT)),
    "palette.png": (save(Image.fromarray(PICTURE[..., 0]).convert("P"), "PNG"), (GREY, EXACT)),
    "palette_clear.png": (with_transparent_colour(), (np.where(ALPHA == 0, 255, ALPHA)[..., None] + [0, 0, 0], EXACT)),
    "alpha.png": (save(Image.fromarray(np.dstack([PICTURE, ALPHA])), "PNG"), (OVER_WHITE, EXACT)),
    "alpha.webp": (
        save(Image.fromarray(np.dstack([PICTURE, ALPHA])), "WEBP", lossless=True, exact=True),
        (OVER_WHITE, EXACT),
    ),
    "grey_alpha.png": (
        save(Image.merge("LA", [Image.fromarray(GREY[..., 0].copy()), Image.fromarray(ALPHA)]), "PNG"),
        (np.round(255 + (GREY - 255.0) * (ALPHA[..., None] / 255)), EXACT),
    ),
    "16_bit_grey.png": (save(Image.fromarray(GREY[..., 0].astype(np.uint16) * 257 + 100), "PNG"), (GREY, EXACT)),
    "16_bit_rgb.png": (sixteen_bit_rgb(), (PICTURE, EXACT)),
    "png_in_disguise.jpg": (PNG, (PICTURE, EXACT)),
    "trailing_garbage.jpg": (JPG + b"garbage" * 99, (PICTURE, JPEG)),
    "trailing_garbage.png": (PNG + b"garbage" * 99, (PICTURE, EXACT)),
    "broken_exif.jpg": (
        encode(PICTURE, "JPEG", quality=95, exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\1"),
        (PICTURE, JPEG),
    ),
    "broken_icc.png": (encode(PICTURE, "PNG", icc_profile=b"not a profile"), (PICTURE, EXACT)),
    "animated.webp": (
        save(Image.fromarray(PICTURE), "WEBP", save_all=True, append_images=FRAMES, lossless=True),
        (PICTURE, EXACT),
    ),
    "animated.png": (save(Image.fromarray(PICTURE), "PNG", save_all=True, append_images=FRAMES), (PICTURE, EXACT)),
    "one_pixel.png": (encode(PICTURE[:1, :1], "PNG"), (PICTURE[:1, :1], EXACT)),
    "one_row.png": (encode(np.zeros((1, 2000, 3), np.uint8), "PNG"), (np.zeros((1, 2000, 3)), EXACT)),
}


def as_folder(path: Path, name: str, data: bytes) -> tuple[Data, str]:
    (path / name).write_bytes(data)
    return Folder(path), name


def as_shard(path: Path, name: str, data: bytes) -> tuple[Data, str]:
    with tarfile.open(path / "0.tar", "w") as shard:
        member = tarfile.TarInfo(name)
        member.size = len(data)
        shard.addfile(member, io.BytesIO(data))
    return WebDataset(path), f"0.tar:{Path(name).stem}"


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("place", [as_folder, as_shard])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_has_one_verdict(
    kind: str, place: Callable[[Path, str, bytes], tuple[Data, str]], tmp_path: Path
):
    data, verdict = KINDS[kind]
    images, key = place(tmp_path, kind, data)
    source = images.evaluation(8).source
    if isinstance(verdict, str):
        with pytest.raises(DecodeError, match=verdict) as caught:
            source.image(0)
        assert str(caught.value).startswith(f"{key}: ")
        assert "\n" not in str(caught.value)
        assert images.evaluation(8)[0, 0].bad == (str(caught.value),)
        return
    image = source.image(0)
    expected, tolerance = verdict
    assert image.dtype == torch.uint8
    assert image.shape == (3, *expected.shape[:2])
    assert np.abs(image.permute(1, 2, 0).numpy().astype(int) - expected).max() <= tolerance


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_comes_out_upright(orientation: int, format: str):
    stored = {  # how a camera held that way would store the upright picture
        1: PICTURE,
        2: PICTURE[:, ::-1],
        3: PICTURE[::-1, ::-1],
        4: PICTURE[::-1],
        5: PICTURE.transpose(1, 0, 2),
        6: np.rot90(PICTURE),
        7: PICTURE[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(PICTURE, -1),
    }[orientation]
    options = {"lossless": True} if format == "WEBP" else {"quality": 95} if format == "JPEG" else {}
    data = encode(np.ascontiguousarray(stored), format, exif=exif(orientation), **options)
    image = decode_image(data, "camera").permute(1, 2, 0).numpy()
    assert image.shape == PICTURE.shape
    assert np.abs(image.astype(int) - PICTURE).max() <= (JPEG if format == "JPEG" else EXACT)


def test_transparent_pixels_show_the_background():
    clear = encode(np.dstack([PICTURE, np.zeros_like(ALPHA)]), "PNG")
    assert decode_image(clear, "clear", background=(1, 2, 3)).flatten(1).unique(dim=1).flatten().tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("depth", "levels", "row"), [(1, [0, 1], b"\x40"), (2, [0, 1, 2, 3], b"\x1b"), (4, [0, 5, 10, 15], b"\x05\xaf")]
)
def test_few_bits_with_a_transparent_level_show_the_background(depth, levels, row):
    for level in levels:
        clear = chunk(b"tRNS", struct.pack(">H", level))
        image = decode_image(png(len(levels), 1, depth, 0, b"\0" + row, clear), "clear", background=(1, 2, 3))
        assert [colour == [1, 2, 3] for colour in image[:, 0].T.tolist()] == [other == level for other in levels]


def test_sixteen_bit_colours_with_a_transparent_one_show_the_background():
    row = b"\0" + struct.pack(">6H", 256, 512, 768, 65535, 0, 0)
    data = png(2, 1, 16, 2, row, chunk(b"tRNS", struct.pack(">3H", 256, 512, 768)))
    assert decode_image(data, "clear", background=(9, 8, 7))[:, 0].T.tolist() == [[9, 8, 7], [255, 0, 0]]


def test_sixteen_bits_with_a_transparent_level_show_the_background():
    rows = b"\0" + np.array([1000, 65535], ">u2").tobytes()
    data = png(2, 1, 16, 0, rows, chunk(b"tRNS", struct.pack(">H", 1000)))
    assert decode_image(data, "clear", background=(9, 8, 7))[:, 0].tolist() == [[9, 255], [8, 255], [7, 255]]


BOMBS = [name for name, (_, verdict) in KINDS.items() if verdict in ("max_pixels", "two headers")]


def test_bombs_are_refused_from_the_header_without_memory_or_time(tmp_path: Path):
    for name in BOMBS:
        (tmp_path / name).write_bytes(KINDS[name][0])
    script = """
import json, resource, sys, time
from pathlib import Path
from imtok.data.reading.decode import DecodeError, decode_image
slowest = 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in Path(sys.argv[1]).iterdir():
    data, start = path.read_bytes(), time.process_time()
    try:
        decode_image(data, path.name)
        sys.exit("not refused: " + path.name)
    except DecodeError:
        slowest = max(slowest, time.process_time() - start)
print(json.dumps([slowest, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    seconds, megabytes = json.loads(done.stdout)
    assert len(BOMBS) == 5
    assert seconds < 0.1
    assert megabytes < 20


@pytest.mark.slow
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_no_damaged_file_ends_the_process(format: str, tmp_path: Path):
    (tmp_path / "whole").write_bytes(encode(PICTURE, format))
    script = """
import sys, time, warnings
import numpy as np
from pathlib import Path
from imtok.data.reading.decode import DecodeError, decode_image
warnings.simplefilter("ignore")
whole, random = Path(sys.argv[1], "whole").read_bytes(), np.random.default_rng(0)
verdicts = [0, 0]
for _ in range(200):
    data, start = bytearray(whole), time.process_time()
    for _ in range(random.integers(1, 4)):
        data[random.integers(len(data))] = random.integers(256)
    try:
        image = decode_image(bytes(data), "fuzz")
        assert image.dtype.itemsize == 1 and image.shape[0] == 3
        verdicts[0] += 1
    except DecodeError as error:
        assert str(error).startswith("fuzz: ")
        verdicts[1] += 1
    assert time.process_time() - start < 2
print(sum(verdicts))
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "200"


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_is_decoded_smaller_only_as_far_as_it_may(mode: str):
    numbers = np.random.default_rng(0).integers(0, 256, (10, 15, 3), np.uint8)
    large = Image.fromarray(numbers).resize((1500, 1000), Image.Resampling.BICUBIC).convert(mode)
    data = save(large, "JPEG", quality=95)
    whole = decode_image(data, "")
    for least, factor in ((1000, 1), (501, 1), (500, 2), (251, 2), (250, 4), (126, 4), (125, 8), (10, 8), (2000, 1)):
        image = decode_image(data, "", least=least)
        assert tuple(image.shape) == (3, -(-1000 // factor), -(-1500 // factor))
        boxes = torch.nn.functional.avg_pool2d(whole.float(), factor, ceil_mode=True)
        assert (image.float() - boxes).abs().mean() < 1.5  # of 255: it is the mean of each block
    odd = save(large.resize((1001, 513)), "JPEG")
    assert decode_image(odd, "", least=256).shape[1:] == (257, 501)
    other = save(large.convert("RGB"), "PNG")
    assert torch.equal(decode_image(other, "", least=10), decode_image(other, ""))


def test_only_training_that_asks_for_it_sees_smaller_jpegs(tmp_path: Path):
    numbers = np.random.default_rng(0).integers(0, 256, (700, 800, 3), np.uint8)
    for name in "12":
        (tmp_path / f"{name}.jpg").write_bytes(encode(numbers, "JPEG"))
    exact, scaled = Folder(tmp_path), Folder(tmp_path, decode="scaled")
    assert (exact.train(64, 0).least, scaled.train(64, 0).least, scaled.evaluation(64).least) == (None, 80, None)
    assert torch.equal(exact.evaluation(64)[0, 0].image, scaled.evaluation(64)[0, 0].image)
    assert scaled.train(64, 0)[0, 0].image.shape == (3, 64, 64)
    assert not torch.equal(exact.train(64, 0)[0, 0].image, scaled.train(64, 0)[0, 0].image)


@pytest.mark.parametrize(
    "options", [{}, {"subsampling": 0}, {"subsampling": 1}, {"progressive": True}, {"quality": 30}]
)
def test_decoding_is_equal_to_torchvisions_and_pillows_in_every_pixel(options: dict):
    from torchvision.io import ImageReadMode, decode_jpeg

    numbers = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    pixels = np.array(Image.fromarray(numbers).resize((301, 203), Image.Resampling.BICUBIC))
    data = encode(pixels, "JPEG", **options)
    ours = decode_image(data, "")
    assert np.array_equal(ours.permute(1, 2, 0).numpy(), np.array(Image.open(io.BytesIO(data)).convert("RGB")))
    assert torch.equal(ours, decode_jpeg(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB))
