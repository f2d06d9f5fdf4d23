"""Generated images against ADM's layout of references, and what is said of damaged files."""

import json
import os
import tracemalloc
import zipfile
from io import BytesIO

import numpy as np
import pytest
import torch
from measures.tiny import Tiny, batches
from PIL import Image

from imtok.commands.score import Keys, run_score
from imtok.errors import InputError
from imtok.measures import generated
from imtok.measures.frechet import FeatureStatistics
from imtok.measures.generated import score
from imtok.measures.protocol import Protocol
from imtok.measures.stored import load_statistics, stored_images

ADM = Protocol("adm")


@pytest.fixture(autouse=True)
def _small_extractor(monkeypatch):
    monkeypatch.setattr(Protocol, "build", lambda self: Tiny())


@pytest.fixture
def pixels():
    (batch,) = batches(range(40), 40)
    return batch.image.permute(0, 2, 3, 1).contiguous().numpy()


def test_a_set_is_at_no_distance_from_itself(pixels, tmp_path):
    np.savez(tmp_path / "set.npz", arr_0=pixels)
    found = score(tmp_path / "set.npz", tmp_path / "set.npz", ADM, batch_size=7)
    assert found["metrics"]["gfd_tiny"] < 1e-6
    assert found["metrics"]["precision_tiny"] == found["metrics"]["recall_tiny"] == 1
    assert found["metrics"]["inception_score_tiny"] >= 1
    assert found["images"] == found["reference_images"] == 40
    assert [note.split(";")[0] for note in found["warnings"]] == [
        f"a Fréchet distance over 40 {side} images is far too large" for side in ("measured", "reference")
    ]
    assert len(found["protocol"]["id"]) == 12


def test_further_sets_are_held_against_the_same_reference(pixels, tmp_path):
    for name, rows in {"reference": pixels, "samples": pixels[:20], "others": pixels[10:]}.items():
        np.savez(tmp_path / f"{name}.npz", arr_0=rows)
    samples, others, reference = (tmp_path / f"{name}.npz" for name in ("samples", "others", "reference"))
    found = score(samples, reference, ADM, batch_size=7, further={"r": others})
    alone = score(others, reference, ADM)["metrics"]["gfd_tiny"]
    assert found["metrics"]["rfd_tiny"] == pytest.approx(alone, rel=1e-9) != found["metrics"]["gfd_tiny"]
    assert len(found["warnings"]) == len(set(found["warnings"]))


def test_a_folder_is_as_good_as_an_npz_and_statistics_as_good_as_images(pixels, tmp_path):
    (tmp_path / "folder").mkdir()
    for index, image in enumerate(pixels[:20]):
        Image.fromarray(image).save(tmp_path / f"folder/{index:02}.png")
    np.savez(tmp_path / "reference.npz", arr_0=pixels)
    statistics = FeatureStatistics(12)
    statistics.update(Tiny()(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()).features)
    gaussian = statistics.compute()
    np.savez(tmp_path / "statistics.npz", mu=gaussian.mean.numpy(), sigma=gaussian.covariance.numpy())
    whole = score(tmp_path / "folder", tmp_path / "reference.npz", ADM)
    short = score(tmp_path / "folder", tmp_path / "statistics.npz", ADM)
    assert short["metrics"]["gfd_tiny"] == pytest.approx(whole["metrics"]["gfd_tiny"], rel=1e-6)
    assert "statistics only" in short["absent"]["precision_tiny"]


def _npz_of(path, image, statistics_of):
    """A reference as ADM's: some images, and the statistics of others."""
    statistics = FeatureStatistics(12)
    statistics.update(Tiny()(torch.from_numpy(statistics_of).permute(0, 3, 1, 2).contiguous()).features)
    gaussian = statistics.compute()
    np.savez(path, arr_0=image, mu=gaussian.mean.numpy(), sigma=gaussian.covariance.numpy())


def test_adms_statistics_decide_the_distance_and_its_images_the_precision(pixels, tmp_path):
    np.savez(tmp_path / "set.npz", arr_0=pixels)
    np.savez(tmp_path / "images.npz", arr_0=pixels[:20])
    _npz_of(tmp_path / "both.npz", pixels[:20], statistics_of=pixels)
    images = score(tmp_path / "set.npz", tmp_path / "images.npz", ADM)
    both = score(tmp_path / "set.npz", tmp_path / "both.npz", ADM)
    assert both["metrics"]["gfd_tiny"] < 1e-6 < images["metrics"]["gfd_tiny"]
    for name in ("precision_tiny", "recall_tiny", "kid_tiny"):
        assert both["metrics"][name] == images["metrics"][name]
    assert both["reference_images"] == 20
    assert (both["protocol"]["statistics"], images["protocol"]["statistics"]) == ("stored", "of the images")


class Spatial(Tiny):
    """With a vector that keeps places apart."""

    def extract(self, levels):
        found = super().extract(levels)
        return found._replace(spatial=levels[:, 0, ::11, ::11].flatten(1) / 64)


def test_spatial_features_have_a_distance_and_statistics_of_their_own(pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(Protocol, "build", lambda self: Spatial())
    _npz_of(tmp_path / "both.npz", pixels[:20], statistics_of=pixels)
    np.savez(tmp_path / "set.npz", arr_0=pixels)
    np.savez(tmp_path / "images.npz", arr_0=pixels[:20])
    own = pixels[:20, ::11, ::11, 0].reshape(20, -1).astype(float) / 64
    statistics = {"mu_s": own.mean(0), "sigma_s": np.cov(own, rowvar=False)}
    with np.load(tmp_path / "both.npz") as both:
        np.savez(tmp_path / "adm.npz", **both, **statistics)
        np.savez(tmp_path / "short.npz", **both, mu_s=np.zeros(4), sigma_s=np.eye(4))
    whole = score(tmp_path / "set.npz", tmp_path / "images.npz", ADM)["metrics"]
    adm = score(tmp_path / "set.npz", tmp_path / "adm.npz", ADM)["metrics"]
    assert adm["gsfd_tiny"] == pytest.approx(whole["gsfd_tiny"], rel=1e-6)
    assert whole["gsfd_tiny"] > 0.01
    assert adm["gfd_tiny"] < 1e-6  # of other images than those of mu_s
    none = score(tmp_path / "set.npz", tmp_path / "both.npz", ADM)
    assert "gsfd_tiny" not in none["metrics"]
    assert "holds no mu_s and sigma_s" in none["absent"]["gsfd_tiny"]
    with pytest.raises(InputError, match="mu_s must have 9 values, got 4"):
        score(tmp_path / "set.npz", tmp_path / "short.npz", ADM)


def test_statistics_of_the_inception_are_no_reference_for_another_net(pixels, tmp_path):
    _npz_of(tmp_path / "both.npz", pixels[:20], statistics_of=pixels)
    np.savez(tmp_path / "set.npz", arr_0=pixels[:20])
    found = score(tmp_path / "set.npz", tmp_path / "both.npz", Protocol("offline"))
    assert found["metrics"]["gfd_tiny"] < 1e-6
    assert found["protocol"]["statistics"] == "of the images"


def test_what_cannot_be_read_is_named(pixels, tmp_path):
    np.savez(tmp_path / "set.npz", arr_0=pixels)
    np.savez(tmp_path / "float.npz", arr_0=pixels.astype(np.float32))
    np.savez(tmp_path / "nan.npz", mu=np.full(12, np.nan), sigma=np.eye(12))
    np.savez(tmp_path / "skew.npz", mu=np.zeros(12), sigma=np.triu(np.ones((12, 12))))
    np.savez(tmp_path / "short.npz", mu=np.zeros(5), sigma=np.eye(5))
    np.savez(tmp_path / "none.npz", other=np.zeros(5))
    (tmp_path / "cut.npz").write_bytes((tmp_path / "set.npz").read_bytes()[:3000])
    np.savez(tmp_path / "columns.npz", arr_0=np.asfortranarray(pixels))
    flipped = bytearray((tmp_path / "set.npz").read_bytes())
    flipped[len(flipped) // 2] ^= 1
    (tmp_path / "flipped.npz").write_bytes(flipped)
    _longer(tmp_path / "long.npz", pixels)
    (tmp_path / "objects.npz").write_bytes(b"no zip at all")
    (tmp_path / "empty").mkdir()
    (tmp_path / "mixed").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "mixed/a.png")
    Image.new("RGB", (9, 8)).save(tmp_path / "mixed/b.png")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/a.png").write_bytes(b"nothing")
    for name, reason in {
        "float.npz": "must hold uint8 images arr_0",
        "nan.npz": "mu and sigma must be finite",
        "skew.npz": "sigma must be symmetric",
        "short.npz": "mu must have 12 values, got 5",
        "none.npz": "must hold images arr_0, or statistics",
        "columns.npz": "uint8 images arr_0 .* in Fortran order",
        "flipped.npz": "is no npz file of plain arrays .*CRC",
        "long.npz": "arr_0 holds 122880 bytes, and its shape",
        "cut.npz": "is no npz file of plain arrays",
        "objects.npz": "is no npz file of plain arrays",
        "missing.npz": "does not exist",
        "empty": "^reference=.*holds no image; give a folder",
        "mixed": "images must all have 8x8 pixels, got 9x8",
        "damaged": "cannot be read",
    }.items():
        with pytest.raises(InputError, match=reason) as caught:
            score(tmp_path / "set.npz", tmp_path / name, ADM)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def _header(**about):
    """The head of an .npy file that says what it is told to."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (12,), **about})
    return header.getvalue()


def _zip(path, **arrays):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)


ONES, EYE = np.zeros(12), np.eye(12)
STATISTICS = {
    "text": ({"mu": ONES, "sigma": EYE.astype(str)}, "sigma must hold real numbers of up to 64 bits, got <U"),
    "longdouble": ({"mu": ONES.astype(np.longdouble), "sigma": EYE}, "mu must hold real numbers .* got float128"),
    "complex": ({"mu": ONES, "sigma": EYE.astype(complex)}, "sigma must hold real numbers .* got complex128"),
    "objects": ({"mu": ONES.astype(object), "sigma": EYE}, "mu must hold real numbers .* got object"),
    "bool": ({"mu": ONES, "sigma": EYE.astype(bool)}, "sigma must hold real numbers .* got bool"),
    "negative": ({"mu": ONES, "sigma": -EYE}, "sigma must be a covariance, got the eigenvalue -1 below zero"),
    "indefinite": ({"mu": ONES, "sigma": EYE + 9 * np.eye(12)[::-1]}, "sigma must be a covariance, got the eigenvalue"),
    "skew": ({"mu": ONES, "sigma": np.triu(np.ones((12, 12)))}, "sigma must be symmetric"),
    "wide": ({"mu": ONES, "sigma": np.ones((12, 13))}, r"got mu \(12,\) and sigma \(12, 13\)"),
    "empty": ({"mu": ONES[:0], "sigma": EYE[:0, :0]}, "must hold images arr_0, or statistics"),
    "infinite": ({"mu": ONES, "sigma": np.full((12, 12), np.inf)}, "must be finite"),
}


@pytest.mark.parametrize("kind", STATISTICS)
def test_statistics_that_are_none_are_refused_before_the_network_is_built(kind, pixels, tmp_path, monkeypatch):
    monkeypatch.delattr(Protocol, "build")
    arrays, reason = STATISTICS[kind]
    np.savez(tmp_path / "set.npz", arr_0=pixels)
    np.savez(tmp_path / "statistics.npz", **arrays)
    with pytest.raises(InputError, match=reason) as caught:
        score(tmp_path / "set.npz", tmp_path / "statistics.npz", ADM)
    assert "statistics.npz" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_statistics_of_few_images_or_in_other_types_are_taken(pixels, tmp_path):
    few = np.cov(pixels[:5, ::9, 0, 0].astype(float), rowvar=False).astype(np.float32)  # singular, and rounded
    rounded = load_statistics(_saved(tmp_path / "few.npz", mu=np.zeros(len(few), ">f4"), sigma=few))
    assert rounded.mean.dtype == rounded.covariance.dtype == torch.float64
    whole = load_statistics(_saved(tmp_path / "whole.npz", mu=np.ones(3, int), sigma=np.eye(3)))
    assert whole.mean.tolist() == [1, 1, 1]


def _saved(path, **arrays):
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(
    "head",
    [
        b"", b"\x93NUMPY\x09\x00", b"\x93NUMPY\x01\x00\x10\x00{'descr': '<f8'", _header(shape=(13,)),
        _header(shape=(2**60, 2)), _header()[:10] + b"(" * 60, _header().replace(b"<f8", b"<q9"),
        _header().replace(b"(12,)", b"(-1,)"), _header().replace(b"False", b"Maybe"),
    ],
)  # fmt: skip
def test_a_damaged_header_in_an_npz_is_one_line(head, pixels, tmp_path):
    np.savez(tmp_path / "set.npz", arr_0=pixels)
    whole = BytesIO()
    np.save(whole, np.eye(12))
    _zip(tmp_path / "statistics.npz", mu=head + bytes(96), sigma=whole.getvalue())
    _zip(tmp_path / "images.npz", arr_0=head + bytes(96))
    for path in ("statistics.npz", "images.npz"):
        with pytest.raises(InputError, match=f"{path} is no npz file of plain arrays") as caught:
            score(tmp_path / "set.npz", tmp_path / path, ADM)
        assert "\n" not in str(caught.value)


def test_a_folder_is_read_as_data_folder_reads_it(pixels, tmp_path):
    folder = tmp_path / "folder"
    (folder / "zz.png").mkdir(parents=True)
    (folder / ".ipynb_checkpoints").mkdir()
    for index, image in enumerate(pixels[:20]):
        place = folder / "zz.png" if index > 15 else folder
        Image.fromarray(image).save(place / f"{index:02}.png")
    Image.fromarray(pixels[30]).save(folder / ".ipynb_checkpoints/x.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "1.heic").write_bytes(b"")
    np.savez(tmp_path / "set.npz", arr_0=pixels[:20])
    found = score(folder, tmp_path / "set.npz", ADM)
    assert found["images"] == 20
    assert found["metrics"]["gfd_tiny"] < 1e-6
    assert found["warnings"][0].startswith(f"skipped 2 files of {folder} that imtok does not read")
    (folder / "lost.png").symlink_to(tmp_path / "nothing.png")
    with pytest.raises(InputError, match=r"lost\.png is a link to nothing"):
        score(folder, tmp_path / "set.npz", ADM)


def test_a_pipe_is_refused_and_not_waited_for(pixels, tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    np.savez(tmp_path / "set.npz", arr_0=pixels)
    for pair in (("pipe.npz", "set.npz"), ("set.npz", "pipe.npz")):
        with pytest.raises(InputError, match=r"pipe\.npz is no folder or file"):
            score(tmp_path / pair[0], tmp_path / pair[1], ADM)


def test_images_of_another_size_than_the_references_are_warned_of(pixels, tmp_path, caplog):
    np.savez(tmp_path / "set.npz", arr_0=pixels)
    np.savez(tmp_path / "small.npz", arr_0=np.ascontiguousarray(pixels[:, ::2, ::4]))
    (note, *_) = score(tmp_path / "small.npz", tmp_path / "set.npz", ADM)["warnings"]
    assert note.startswith("the images have 8x16 pixels and those of the reference 32x32;")
    assert note in [record.getMessage() for record in caplog.records]
    assert "pixels" not in str(score(tmp_path / "set.npz", tmp_path / "set.npz", ADM)["warnings"])


def test_adms_inception_score_is_of_parts_of_5000_in_order(pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(generated, "_PART", 15)
    np.savez(tmp_path / "set.npz", arr_0=pixels)
    logits = Tiny()(torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()).logits.double().numpy()
    odds = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    parts = [odds[at : at + 15] for at in range(0, 40, 15)]  # the last of ten, as ADM's evaluator slices
    expected = [np.exp((part * (np.log(part) - np.log(part.mean(0)))).sum(1).mean()) for part in parts]
    found = score(tmp_path / "set.npz", tmp_path / "set.npz", ADM)
    assert found["metrics"]["inception_score_tiny"] == pytest.approx(np.mean(expected), rel=1e-6)
    assert found["metrics"]["inception_score_std_tiny"] == pytest.approx(np.std(expected), rel=1e-4)
    assert found["protocol"]["inception_score"] == "parts of 15 in order"
    shuffled = score(tmp_path / "set.npz", tmp_path / "set.npz", Protocol("pytorch_fid"))
    assert "inception_score" not in shuffled["protocol"]
    monkeypatch.setattr(generated, "_PART", 5000)
    whole = score(tmp_path / "set.npz", tmp_path / "set.npz", ADM)
    assert "inception_score_std_tiny" not in whole["metrics"]
    assert whole["protocol"]["id"] != found["protocol"]["id"]


def test_precision_and_recall_take_all_images_of_the_reference(pixels, tmp_path, monkeypatch):
    monkeypatch.setattr(generated, "_FORMER", 10)
    np.savez(tmp_path / "set.npz", arr_0=pixels[20:])
    np.savez(tmp_path / "reference.npz", arr_0=pixels)
    found = score(tmp_path / "set.npz", tmp_path / "reference.npz", ADM)
    assert found["metrics"]["precision_tiny"] == 1  # each is one of the last twenty of the reference
    assert found["protocol"]["precision_reference"] == found["reference_images"] == 40


def _longer(path, pixels):
    """An npz whose header promises more images than follow."""
    header = BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, *pixels.shape[1:])}
    )
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", header.getvalue() + pixels.tobytes())


def test_an_npz_is_read_a_batch_at_a_time(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (512, 32, 32, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", arr_0=pixels)
    tracemalloc.start()
    for at, batch in enumerate(stored_images(tmp_path / "set.npz", 16)):
        assert torch.equal(batch, torch.from_numpy(pixels[at * 16 : at * 16 + 16]).permute(0, 3, 1, 2))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert at == 31
    assert peak < pixels.nbytes / 4


def test_a_reason_stands_once_and_is_not_cut(tmp_path, capsys, monkeypatch):
    reason = f"download https://example.org/{30 * 'weights/'} or pip install 'imtok[offline]'"
    absent = {"precision": reason, "recall": reason}
    found = {"metrics": {"kid": 0.5}, "absent": absent, "images": 3, "protocol": {"preset": "adm"}}
    monkeypatch.setattr("imtok.commands.score.score", lambda *_: found)
    config = Keys("images", "reference", None)
    run_score(config, ADM, tmp_path / "score", torch.device("cpu"), "imtok score images=images")
    shown = capsys.readouterr().out
    assert shown.count("not measured") == 3
    assert shown.count(f"not measured: precision, recall: {reason}\n") == 1
    stored = json.loads((tmp_path / "score/score.json").read_text())
    assert (stored["data"], stored["command"]) == ("images", "imtok score images=images")
