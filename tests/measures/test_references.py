"""Stored reference statistics come back bit for bit, or not at all."""

import pytest
import torch

from imtok.errors import InputError
from imtok.measures.frechet import FeatureStatistics
from imtok.measures.references import ReferenceKey, load_reference, save_reference

KEY = ReferenceKey(data="photos/val/148", preset="adm", extractor="ab" * 32)


@pytest.fixture
def stored(tmp_path):
    metric = FeatureStatistics(16)
    metric.update(torch.randn(100, 16))
    path = KEY.path(tmp_path / "cache")
    save_reference(path, metric.compute(), KEY)
    return metric.compute(), path


def test_they_come_back_bit_for_bit(stored):
    gaussian, path = stored
    found = load_reference(path, KEY)
    assert found.count == 100
    assert torch.equal(found.mean, gaussian.mean)
    assert torch.equal(found.covariance, gaussian.covariance)


def test_the_hash_is_that_of_the_statistics(stored, tmp_path):
    gaussian, path = stored
    again = save_reference(tmp_path / "again.safetensors", gaussian, KEY)
    assert again == save_reference(path, gaussian, KEY)
    gaussian.mean[0] += 1
    assert again != save_reference(path, gaussian, KEY)


@pytest.mark.parametrize("field", ["data", "preset", "extractor"])
def test_statistics_of_something_else_are_refused(stored, field):
    other = ReferenceKey(**{**vars(KEY), field: "other"})
    assert other.path(stored[1].parent) != stored[1]
    with pytest.raises(InputError, match=f"holds a reference of another {field}: expected other"):
        load_reference(stored[1], other)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_cut_file_is_refused(stored, share):
    data = stored[1].read_bytes()
    stored[1].write_bytes(data[: int(share * len(data))])
    with pytest.raises(InputError, match="is damaged"):
        load_reference(stored[1], KEY)


def test_a_flipped_bit_is_found(stored):
    data = bytearray(stored[1].read_bytes())
    data[-9] ^= 1
    stored[1].write_bytes(data)
    with pytest.raises(InputError, match="is damaged"):
        load_reference(stored[1], KEY)


def test_a_foreign_and_a_missing_file_are_refused(tmp_path):
    (tmp_path / "noise").write_bytes(b"not this")
    with pytest.raises(InputError, match="is damaged"):
        load_reference(tmp_path / "noise", KEY)
    with pytest.raises(InputError, match="does not exist"):
        load_reference(tmp_path / "absent", KEY)
