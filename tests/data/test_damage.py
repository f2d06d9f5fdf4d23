"""Damaged pictures are never shown, and whole ones never refused for what their pixels do not depend on."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import simplejpeg
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from imtok.commands.check import run_check
from imtok.data.archives.pack import ShardLayout, pack
from imtok.data.archives.packing import Encoding
from imtok.data.reading.decode import DecodeError, decode_image
from imtok.data.sources.folder import FileSource, Folder
from imtok.data.sources.webdataset import WebDataset

NOISE = np.random.default_rng(0).integers(0, 256, (9, 11, 3), np.uint8)
SMOOTH = Image.fromarray(NOISE).resize((90, 70), Image.Resampling.BICUBIC)


def save(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def segment(marker: int, data: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def with_chunks(data: bytes, *more: bytes) -> bytes:
    """A PNG with other chunks behind its header."""
    return data[:33] + b"".join(more) + data[33:]


def png_of(
    depth: int, colour: int, rows: bytes, *more: bytes, interlace: int = 0, size: tuple[int, int] = (8, 6)
) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, interlace))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def adam7(width: int, height: int, level: int) -> bytes:
    """Rows of an interlaced grey picture."""
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    sides = [(len(range(x, width, dx)), len(range(y, height, dy))) for x, y, dx, dy in passes]
    return b"".join((b"\0" + bytes([level]) * w) * h for w, h in sides if w and h)


JPG = save(SMOOTH, "JPEG", quality=92)
PROGRESSIVE = save(SMOOTH, "JPEG", quality=92, progressive=True)
RESTARTS = save(SMOOTH, "JPEG", quality=92, restart_marker_rows=1)
GREY = save(SMOOTH.convert("L"), "JPEG", quality=92)
PNG, WEBP = save(SMOOTH, "PNG"), save(SMOOTH, "WEBP", lossless=True)
PALETTE = save(SMOOTH.quantize(60), "PNG")
SCAN = JPG.index(b"\xff\xda") + 14


def cut(data: bytes) -> bytes:
    return data[: len(data) * 2 // 3] + b"\xff\xd9"


def zero_filled(data: bytes, end: bytes = b"") -> bytes:
    half = len(data) * 2 // 3
    return data[:half] + bytes(len(data) - half - len(end)) + end


def lost_restart(data: bytes) -> bytes:
    """Without what lies between the second and the third restart marker."""
    return data[: data.index(b"\xff\xd1")] + data[data.index(b"\xff\xd2") :]


def with_interval(factor: float) -> bytes:
    """What says that restart markers lie ``factor`` times as far apart as they do."""
    at = RESTARTS.index(b"\xff\xdd") + 4
    return RESTARTS[:at] + struct.pack(">H", int(int.from_bytes(RESTARTS[at : at + 2]) * factor)) + RESTARTS[at + 2 :]


def flipped(data: bytes) -> bytes:
    """With the first flip of a bit in its last scan that libjpeg can see."""
    for at in range(data.rindex(b"\xff\xda") + 20, len(data) - 2):
        changed = data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]
        try:
            simplejpeg.decode_jpeg(changed)
        except ValueError as error:
            if "extraneous bytes before marker 0xd9" in str(error):
                return changed
    raise AssertionError("libjpeg sees no flip")


def few_rows(data: bytes) -> bytes:
    """A PNG of which half of the rows are there, each chunk as long as it says, with its checksum."""
    at = data.index(b"IDAT")
    rows = zlib.decompress(data[at + 4 : -16])
    return data[: at - 4] + chunk(b"IDAT", zlib.compress(rows[: len(rows) // 2])) + chunk(b"IEND", b"")


def without(data: bytes, kind: bytes) -> bytes:
    at = data.index(kind)
    return data[: at - 4] + data[at + 8 + int.from_bytes(data[at - 4 : at]) :]


def webp_cut(data: bytes) -> bytes:
    """Shorter, and every size in it says so."""
    short = bytearray(data[: len(data) // 4 * 2])
    short[4:8], short[16:20] = struct.pack("<I", len(short) - 8), struct.pack("<I", len(short) - 20)
    return bytes(short)


RAMP, ONES = (b"\0" + bytes(range(8))) * 6, (b"\0" + b"\1" * 8) * 6  # six rows of eight levels
LARGE = segment(0xE1, b"Exif\0\0" + bytes(65_000)) * 3 + segment(0xE5, b"\xff\xda" * 30_000) * 40
# name: a file, and what is said of it
BAD: dict[str, tuple[bytes, str]] = {
    "cut.jpg": (cut(JPG), "damaged JPEG .premature end of data segment"),
    "cut_progressive.jpg": (cut(PROGRESSIVE), "damaged JPEG .premature end of data segment"),
    "cut_restarts.jpg": (cut(RESTARTS), "damaged JPEG .premature end of data segment"),
    "cut_grey.jpg": (cut(save(SMOOTH.convert("L"), "JPEG")), "damaged JPEG .premature end"),
    "cut_cmyk.jpg": (cut(save(SMOOTH.convert("CMYK"), "JPEG")), "damaged JPEG .premature end"),
    "no_end.jpg": (JPG[:-2], "truncated JPEG .it has no end mark"),
    "zeros.jpg": (zero_filled(JPG), "truncated JPEG"),
    "zeros_and_end.jpg": (zero_filled(JPG, b"\xff\xd9"), "damaged JPEG"),
    "zeros_progressive.jpg": (zero_filled(PROGRESSIVE, b"\xff\xd9"), "damaged JPEG"),
    "zeros_restarts.jpg": (zero_filled(RESTARTS, b"\xff\xd9"), "damaged JPEG"),
    "lost_restart.jpg": (lost_restart(RESTARTS), "damaged JPEG"),
    "wrong_restart.jpg": (RESTARTS.replace(b"\xff\xd1", b"\xff\xd5"), "damaged JPEG"),
    "doubled_restart.jpg": (with_interval(2), "damaged JPEG"),
    "halved_restart.jpg": (with_interval(0.5), "damaged JPEG"),
    "no_restart.jpg": (with_interval(0), "damaged JPEG"),
    "flipped.jpg": (flipped(JPG), "damaged JPEG .* extraneous bytes"),
    "flipped_progressive.jpg": (flipped(PROGRESSIVE), "damaged JPEG .* extraneous bytes"),
    "header_end.jpg": (JPG[: JPG.index(b"\xff\xc4") + 9], "truncated inside its header"),
    "two_colours.jpg": (JPG.replace(b"\x5a\x03\x01\x22", b"\x5a\x02\x01\x22"), "is a JPEG of 2 colours; convert it"),
    "few_rows.png": (few_rows(PNG), "damaged PNG .its image data end before its last row"),
    "few_rows_palette.png": (few_rows(PALETTE), "damaged PNG .its image data end before its last row"),
    "few_rows_bits.png": (png_of(1, 0, b"\0\xff" * 4), "before its last row"),
    "few_rows_16.png": (png_of(16, 0, (b"\0" + bytes(16)) * 5), "before its last row"),
    "few_rows_interlaced.png": (png_of(8, 0, adam7(8, 6, 1)[:-9], interlace=1), "before its last row"),
    "no_rows.png": (without(PNG, b"IDAT"), "PNG without an image"),
    "no_palette.png": (without(PALETTE, b"PLTE"), "places in a palette, and it has none"),
    "beyond_palette.png": (png_of(8, 3, RAMP, chunk(b"PLTE", bytes(21))), "colour 7 of a palette of 7"),
    "checksum.png": (PNG[:-20] + bytes(4) + PNG[-16:], "wrong checksum"),
    "cut.webp": (webp_cut(WEBP), "damaged WebP"),
    "cut_lossy.webp": (webp_cut(save(SMOOTH, "WEBP", quality=90)), "damaged WebP"),
    "short.webp": (WEBP[:-9], "truncated WebP"),
}  # fmt: skip


def text(kind: str) -> bytes:
    more = PngInfo()
    more.add_text("comment", "x" * 2_000_000, zip=True) if kind == "zTXt" else more.add_itxt(
        "comment", "x" * 2_000_000, zip=True
    )
    return save(SMOOTH, "PNG", pnginfo=more)


BROKEN_TEXT = struct.pack(">I", 3) + b"tEXta\0b" + b"\0\0\0\0"
ADOBE = segment(0xEE, b"Adobe\0\x64\0\0\0\0\7")
# name: a picture, and the same one as it is known to be read
GOOD: dict[str, tuple[bytes, bytes]] = {
    "trailing.jpg": (JPG + b"\xff\xd8\xff\xe0trailing" * 999, JPG),
    "trailing_scans.jpg": (JPG + b"\xff\xda" * 999, JPG),  # of a film, say
    "header_junk.jpg": (JPG[:2] + b"junk" + JPG[2:], JPG),
    "more_header_junk.jpg": (JPG.replace(b"\xff\xc4", b"\0junk\xff\xc4"), JPG),
    "fill.jpg": (JPG.replace(b"\xff\xc4", b"\xff\xff\xff\xff\xc4"), JPG),
    "padded.jpg": (JPG[:-2] + bytes(300) + JPG[-2:], JPG),
    "padded_progressive.jpg": (PROGRESSIVE[:-2] + bytes(300) + PROGRESSIVE[-2:], PROGRESSIVE),
    "left_over.jpg": (JPG[:-2] + b"put here by a camera" + JPG[-2:], JPG),
    "left_over_grey.jpg": (GREY[:-2] + b"put here by a camera" + GREY[-2:], GREY),
    "left_over_restarts.jpg": (RESTARTS[:-2] + b"put here by a camera" + RESTARTS[-2:], RESTARTS),
    "filled_end.jpg": (JPG[:-2] + b"\xff" * 30 + JPG[-2:], JPG),
    "version.jpg": (JPG.replace(b"JFIF\0\1", b"JFIF\0\0"), JPG),
    "adobe.jpg": (JPG[:20] + ADOBE + JPG[20:], JPG),
    "spectrum.jpg": (JPG[: SCAN - 3] + bytes(3) + JPG[SCAN:], JPG),
    "large_segments.jpg": (JPG[:2] + LARGE + JPG[2:], JPG),
    "profile.jpg": (JPG[:2] + segment(0xE2, b"ICC_PROFILE\0\1\1none") + JPG[2:], JPG),
    "comment.jpg": (JPG[:2] + segment(0xFE, b"\xff\xd9 comment") + JPG[2:], JPG),
    "thumbnail.jpg": (JPG[:2] + segment(0xE1, b"Exif\0\0" + cut(JPG)) + JPG[2:], JPG),
    "mpo.jpg": (save(SMOOTH, "MPO", save_all=True, append_images=[SMOOTH], quality=92), JPG),
    "ztxt.png": (text("zTXt"), PNG),
    "itxt.png": (text("iTXt"), PNG),
    "profile.png": (save(SMOOTH, "PNG", icc_profile=bytes(1_500_000)), PNG),
    "text_checksum.png": (with_chunks(PNG, BROKEN_TEXT), PNG),
    "gamma.png": (with_chunks(PNG, chunk(b"gAMA", struct.pack(">I", 100_000)), chunk(b"zzZz", b"odd")), PNG),
    "text_at_end.png": (PNG[:-12] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(2_000_000))) + PNG[-12:], PNG),
    "trailing.png": (PNG + bytes(99), PNG),
    "more_data.png": (png_of(8, 0, (b"\0" + bytes(8)) * 9), png_of(8, 0, (b"\0" + bytes(8)) * 6)),
    "like_memory.png": (png_of(8, 0, ONES), png_of(8, 3, (b"\0" + bytes(8)) * 6, chunk(b"PLTE", b"\1\1\1"))),
    "interlaced.png": (png_of(8, 0, adam7(8, 6, 1), interlace=1), png_of(8, 0, ONES)),
    "interlaced_row.png": (png_of(8, 0, adam7(8, 1, 1), interlace=1, size=(8, 1)), png_of(8, 0, ONES[:9], size=(8, 1))),
    "interlaced_pixel.png": (png_of(8, 0, b"\0\1", interlace=1, size=(1, 1)), png_of(8, 0, b"\0\1", size=(1, 1))),
    "trailing.webp": (WEBP + bytes(99), PNG),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_damaged_picture_is_a_bad_image_with_a_reason(name: str):
    data, reason = BAD[name]
    with pytest.raises(DecodeError, match=f"^{name}: .*{reason}") as caught:
        decode_image(data, name)
    assert not any(word in str(caught.value) for word in ("\n", "tjD", "Pillow", "decoder"))


@pytest.mark.parametrize("name", GOOD)
def test_a_whole_picture_is_read_whatever_else_its_file_holds(name: str):
    data, plain = GOOD[name]
    assert torch.equal(decode_image(data, name), decode_image(plain, "plain"))


@pytest.mark.parametrize("file", [JPG, GREY, RESTARTS])
def test_a_flipped_bit_that_libjpeg_sees_is_never_taken_for_bytes_that_were_put_there(file: bytes):
    seen = 0
    for at in range(file.index(b"\xff\xda") + 14, len(file) - 2, 19):
        flipped = file[:at] + bytes([file[at] ^ 1 << at % 8]) + file[at + 1 :]
        try:
            simplejpeg.decode_jpeg(flipped)
        except ValueError:
            seen += 1
            with pytest.raises(DecodeError, match="damaged JPEG"):
                decode_image(flipped, "flipped.jpg")
    assert seen > 3


def test_a_scaled_picture_is_not_read_if_it_is_damaged():
    with pytest.raises(DecodeError, match="premature end"):
        decode_image(cut(JPG), "cut.jpg", least=10)


def test_check_names_every_damaged_picture_and_no_whole_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for name, (data, _) in {**BAD, **{f"good_{name}": pair for name, pair in GOOD.items()}}.items():
        (tmp_path / name).write_bytes(data)
    assert run_check([str(tmp_path)]) == 1
    printed = capsys.readouterr().out
    assert f"{len(BAD)} faults" in printed
    assert "good_" not in printed
    training = Folder(tmp_path).train(16, 0)
    shown = [training[0, index] for index in range(len(training))]
    assert all(sample.image is not None for sample in shown), "another image stands in"
    held_out = Folder(tmp_path).evaluation(16)
    assert sum(held_out[0, index].image is None for index in range(len(held_out))) == len(BAD)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_pixels_of_a_jpeg_are_pillows(mode: str):
    options: list[dict] = [{}, {"subsampling": 0}, {"progressive": True}, {"restart_marker_blocks": 3}, {"quality": 20}]
    options += [{"keep_rgb": True}] if mode == "RGB" else [{"subsampling": 1}]  # 4:2:2 of four inks has no name
    for width, height in ((90, 70), (17, 16), (1, 1), (3, 200)):
        image = SMOOTH.resize((width, height), Image.Resampling.BICUBIC).convert(mode)
        files = {str(option): save(image, "JPEG", **option) for option in options}
        files["YCCK"] = files["{}"].replace(b"Adobe\0\x64\0\0\0\0\0", b"Adobe\0\x64\0\0\0\0\2")
        assert mode != "CMYK" or files["YCCK"] != files["{}"]
        for option, data in files.items():
            for least in (None, 8, 20):
                with Image.open(io.BytesIO(data)) as shown:
                    if least is not None:
                        sides = (max(1, side * least // min(shown.size)) for side in shown.size)
                        shown.draft(None, tuple(sides))
                    expected = np.array(shown.convert("RGB"))
                found = decode_image(data, "", least=least).permute(1, 2, 0).numpy()
                assert np.array_equal(found, expected), (mode, width, height, option, least)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_which_side_is_up_is_also_told_by_xmp_and_beside_long_texts(kind: str):
    xmp = b'<x:xmpmeta><rdf tiff:Orientation="3"/></x:xmpmeta>'
    if kind == "JPEG":
        turned = save(SMOOTH, "JPEG", xmp=xmp)
    else:
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        turned = save(SMOOTH, "PNG", pnginfo=info)
    plain = decode_image(save(SMOOTH, kind), "plain")
    assert torch.equal(decode_image(turned, "xmp"), plain.flip(-1, -2))
    if kind == "PNG":
        tags = Image.Exif()
        tags[0x0112] = 3
        more = PngInfo()
        more.add_text("comment", "x" * 2_000_000, zip=True)
        assert torch.equal(decode_image(save(SMOOTH, "PNG", exif=tags, pnginfo=more), "text"), plain.flip(-1, -2))


def test_avif_is_read_and_refused_as_the_other_kinds(tmp_path: Path):
    data = save(SMOOTH, "AVIF", quality=95)
    pixels = decode_image(data, "a.avif").permute(1, 2, 0).numpy().astype(int)
    assert np.abs(pixels - np.asarray(SMOOTH)).mean() < 4
    clear = save(Image.new("RGBA", (8, 8), (9, 9, 9, 0)), "AVIF")
    assert decode_image(clear, "clear.avif", background=(1, 2, 3)).flatten(1).float().mean(1).tolist() == [1, 2, 3]
    turned = Image.Exif()
    turned[0x0112] = 6
    assert decode_image(save(SMOOTH, "AVIF", exif=turned), "turned.avif").shape == (3, 90, 70)
    for broken, reason in {data[:-50]: "damaged AVIF", data[:60]: "AVIF without an image"}.items():
        with pytest.raises(DecodeError, match=f"broken.avif: .*{reason}"):
            decode_image(broken, "broken.avif")
    with pytest.raises(DecodeError, match="max_pixels=100"):
        decode_image(data, "large.avif", max_pixels=100)
    images = tmp_path / "images"
    images.mkdir()
    (images / "a.avif").write_bytes(data)
    assert Folder(images).evaluation(8)[0, 0].bad == ()
    for name, encoding in {"as it is": Encoding(), "smaller": Encoding(resize=32)}.items():
        pack(FileSource(images), tmp_path / name, ShardLayout(), encoding)
        packed = WebDataset(tmp_path / name).evaluation(8).source
        assert min(packed.image(0).shape[1:]) == (32 if name == "smaller" else 70)
        assert (packed.read(0) == data) == (name == "as it is")


def test_a_picture_of_another_kind_is_named_by_its_kind():
    for brand, kind in {b"heic": "HEIC", b"mif1": "HEIC", b"isom": "a video"}.items():
        with pytest.raises(DecodeError, match=f"photo.jpg: is {kind}, not JPEG, PNG"):
            decode_image(b"\0\0\0\x14ftyp" + brand + bytes(4) + b"mp42" + bytes(50), "photo.jpg")


@pytest.mark.parametrize("colours", ["RGB", "L"])
def test_a_progressive_jpeg_that_lost_its_last_scans_is_bad(colours: str):
    whole = save(SMOOTH.convert(colours), "JPEG", progressive=True)
    decode_image(whole, "whole.jpg")
    places = [at for at in range(200, len(whole) - 20) if whole[at : at + 2] in (b"\xff\xda", b"\xff\xc4")]
    assert len(places) > 8  # where scans and their tables begin
    for at in places:
        with pytest.raises(DecodeError, match=r"cut\.jpg: is a (damaged )?JPEG"):
            decode_image(whole[:at] + b"\xff\xd9", "cut.jpg")
