"""Data sets whose files are one array: every pixel and label in place, and damaged files named."""

import gzip
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from imtok.data.images import ImageSet
from imtok.data.sources.small import CLASSES, Cifar10, Idx, read_idx
from imtok.errors import InputError

NAMES = [str(number) for number in range(10)]


def write_idx(path: Path, array: np.ndarray) -> None:
    data = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.fixture
def idx(tmp_path: Path) -> tuple[Path, dict[str, np.ndarray]]:
    numbers, arrays = np.random.default_rng(0), {}
    for split, count in (("train", 30), ("t10k", 10)):
        arrays[split] = numbers.integers(0, 256, (count, 28, 28), np.uint8)
        arrays[f"{split} labels"] = np.arange(count, dtype=np.uint8) % 10
        write_idx(tmp_path / f"{split}-images-idx3-ubyte.gz", arrays[split])
        write_idx(tmp_path / f"{split}-labels-idx1-ubyte", arrays[f"{split} labels"])
    return tmp_path, arrays


def test_idx_files_show_their_pixels_in_a_black_frame(idx: tuple[Path, dict[str, np.ndarray]]):
    folder, arrays = idx
    for split, name in (("train", "train"), ("val", "t10k")):
        images = Idx(NAMES, folder, pad=2).evaluation(32, split)
        assert len(images) == len(arrays[name])
        for at in range(len(images)):
            sample = images[0, at]
            assert torch.equal(sample.image[:, 2:30, 2:30], torch.from_numpy(arrays[name][at]).expand(3, -1, -1))
            assert int(sample.image.sum()) == 3 * int(arrays[name][at].sum())
            assert sample.label == at % 10
    assert [len(Idx(NAMES, folder).evaluation(28, split)) for split in (None, "all")] == [10, 40]
    assert len({Idx(NAMES, folder).evaluation(28, "all")[0, at].key for at in range(40)}) == 40


def test_the_file_of_an_array_image_is_the_image(idx: tuple[Path, dict[str, np.ndarray]]):
    from imtok.data.reading.decode import decode_image

    source = Idx(NAMES, idx[0], pad=1).evaluation(30, "train").source
    assert all(torch.equal(decode_image(source.read(at), ""), source.image(at)) for at in range(len(source)))


def test_training_images_are_whole_and_mirrored_only_where_asked(idx: tuple[Path, dict[str, np.ndarray]]):
    folder, arrays = idx
    images = Idx(NAMES, folder).train(28, 0)
    assert isinstance(images, ImageSet)
    assert all((images[0, at].image[0].numpy() == arrays["train"][at]).all() for at in range(30))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "has no train-images-idx3-ubyte or train-images-idx3-ubyte.gz"),
        (lambda path: path.write_bytes(path.read_bytes()[:500]), "cannot be read"),
        (lambda path: path.write_bytes(b"<html>"), "cannot be read"),
        (lambda path: path.write_bytes(gzip.compress(b"\0\0\x08\x03" + b"\xff" * 12)), "bytes, more than"),
        (lambda path: path.write_bytes(gzip.compress(b"\0\0\x08\x01" + bytes(12))), "is not an idx file of bytes in 3"),
        (
            lambda path: path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1])),
            "should hold 23520 bytes",
        ),
    ],
)
def test_a_damaged_idx_file_is_named(damage, message: str, idx: tuple[Path, dict[str, np.ndarray]]):
    damage(idx[0] / "train-images-idx3-ubyte.gz")
    with pytest.raises(InputError, match=message):
        Idx(NAMES, idx[0]).evaluation(28, "train")


def test_labels_that_do_not_fit_are_refused(idx: tuple[Path, dict[str, np.ndarray]]):
    with pytest.raises(InputError, match="not one of 5 classes"):
        Idx(NAMES[:5], idx[0]).evaluation(28, "train")


def test_files_that_are_nowhere_are_asked_for(tmp_path: Path):
    with pytest.raises(InputError, match=r"are not in .*nowhere; give data\.path=DIR"):
        Idx(NAMES, places=[str(tmp_path / "nowhere")]).train(28, 0)
    with pytest.raises(InputError, match=r"CIFAR-10 .* is not in .*; give data\.path=DIR"):
        Cifar10(tmp_path).train(32, 0)


def test_a_huge_idx_file_is_not_unpacked(tmp_path: Path):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, 1, 28, 28) + bytes(50_000_000)))
    with pytest.raises(InputError, match="should hold 784 bytes and holds more"):
        read_idx(path, 3)


@pytest.fixture(params=["bin", "py"])
def cifar(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray, list[int]]:
    numbers = np.random.default_rng(0)
    pixels, labels = numbers.integers(0, 256, (60, 3072), np.uint8), (np.arange(60) * 7 % 10).tolist()
    folder = tmp_path / f"cifar-10-batches-{request.param}"
    folder.mkdir()
    for at, name in enumerate([*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]):
        own, marks = pixels[10 * at : 10 * at + 10], labels[10 * at : 10 * at + 10]
        if request.param == "bin":
            rows = np.concatenate([np.array(marks, np.uint8)[:, None], own], axis=1)
            (folder / f"{name}.bin").write_bytes(rows.tobytes())
        else:
            content = {b"batch_label": b"training batch", b"labels": marks, b"data": own, b"filenames": [b"a.png"] * 10}
            (folder / name).write_bytes(pickle.dumps(content, protocol=2 + at % 3))
    return tmp_path, pixels, labels


def test_cifar_is_read_from_either_of_its_archives(cifar: tuple[Path, np.ndarray, list[int]]):
    folder, pixels, labels = cifar
    expected = torch.from_numpy(pixels).view(60, 3, 32, 32)
    for split, start, count in (("train", 0, 50), ("val", 50, 10)):
        images = Cifar10(folder).evaluation(32, split)
        assert len(images) == count
        assert all(torch.equal(images[0, at].image, expected[start + at]) for at in range(count))
        assert [images[0, at].label for at in range(count)] == labels[start : start + count]
    assert tuple(images.source.classes) == CLASSES


class Gadget:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        import os

        return os.system, (self.command,)


def test_nothing_in_a_hostile_batch_runs(cifar: tuple[Path, np.ndarray, list[int]], tmp_path: Path):
    folder = next(cifar[0].glob("cifar*"))
    for path in folder.glob("test_batch*"):
        path.with_suffix("").write_bytes(pickle.dumps({b"data": Gadget(f"touch {tmp_path}/ran"), b"labels": [1]}))
        if path.suffix:
            path.unlink()
    with pytest.raises(InputError, match="unpack the archive again"):
        Cifar10(folder).evaluation(32)
    assert not (tmp_path / "ran").exists()
