"""Binary codes as -1 and +1: the signs of the latents, in their order, and the ids come back from them."""

import numpy as np
import pytest
import torch
from export.stores import HOSTILE, content, small_store, tokenizer_of
from hypothesis import given, settings
from hypothesis import strategies as st

from imtok.errors import InputError
from imtok.export.convert import convert
from imtok.export.formats.bits import Bits, from_bits, to_bits
from imtok.export.verify import verify
from imtok.quantizers.binary import Binary
from imtok.quantizers.bsq import BSQ
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.gq import GQ
from imtok.quantizers.layout import structure
from imtok.quantizers.lfq import LFQ
from imtok.quantizers.multiscale import MultiScale
from imtok.quantizers.product import Product
from imtok.quantizers.residual import Residual
from imtok.quantizers.vq import VQ


def read(folder, name):
    return np.concatenate([np.load(path, allow_pickle=False) for path in sorted(folder.glob(f"{name}-*.npy"))])


@pytest.mark.parametrize(
    ("kind", "augment"),
    [("binary", "centre"), ("binary", "flip"), ("binary scales", "centre"), ("variable binary", "flip")],
)
def test_every_bit_is_the_sign_of_the_latent_and_the_ids_come_back(kind, augment, tmp_path):
    store = small_store(tmp_path / "tokens", kind, augment)
    report = convert(store, Bits(), tmp_path / "out")
    bits, labels = read(tmp_path / "out", "bits"), read(tmp_path / "out", "labels")
    assert (bits.dtype, labels.dtype, labels.tolist()) == (np.int8, np.int64, [0, 1, 2, 0, 1, 2, 0])
    ids, keep = read(store.folder, "ids"), read(store.folder, "keep") if "variable" in kind else None
    back, kept = from_bits(bits, report["bits"]["slot_bits"])
    assert np.array_equal(back, ids if keep is None else ids * keep[..., None])
    assert np.array_equal(np.ones(1) if kept is None else kept, np.ones(1) if keep is None else keep)
    if "scales" not in kind:
        latents = tokenizer_of(kind).quantizer.decode(
            torch.from_numpy(ids.reshape(-1, *ids.shape[-2:]).astype(np.int64))
        )
        signs = latents.sign().to(torch.int8).numpy().reshape(bits.shape)
        assert np.array_equal(bits, signs if keep is None else signs * keep[..., None])
    else:
        assert report["bits"]["scales"] == [1, 2]
        assert "scale after scale, maps of 1x1, 2x2" in report["notes"][1]
    verify(tmp_path / "out")


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=8), seed=st.integers(0, 1000))
def test_bits_and_ids_are_the_same_thing(sizes, seed):
    random = np.random.default_rng(seed)
    ids = random.integers(0, 2 ** np.array(sizes), (2, 3, 5, len(sizes)))
    bits = to_bits(ids, sizes)
    assert bits.shape == (2, 3, 5, sum(sizes))
    assert set(np.unique(bits)) <= {-1, 1}
    assert np.array_equal(from_bits(bits, sizes)[0], ids)


@pytest.mark.parametrize("kind", ["one slot", "two slots", "scales"])
def test_ids_that_are_no_bits_are_refused_in_one_line(kind, tmp_path):
    store = small_store(tmp_path / "tokens", kind)
    with pytest.raises(InputError, match=r"takes the ids of a binary quantizer \(LFQ, BSQ, GQ, Binary\).*has those of"):
        convert(store, Bits(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("quantizer", ["LFQ", "GQ", "VQ"])
def test_a_store_of_an_earlier_version_says_by_the_name_of_its_quantizer(quantizer, tmp_path):
    store = small_store(tmp_path / "tokens", "binary")
    del store.manifest["slot_bits"]
    store.manifest["quantizer"] = quantizer
    if quantizer == "VQ":
        with pytest.raises(InputError, match="binary quantizer"):
            Bits().check(store, tmp_path / "out")
    else:
        assert Bits().write(store, tmp_path)["bits"]["slot_bits"] == [3, 2]


def test_two_levels_of_fsq_are_bits_too():
    quantizer = FSQ([2] * 6)
    ids = torch.arange(64)[:, None]
    codes = quantizer.decode(ids[None])[0]
    assert codes.unique().tolist() == [-1, 0]
    assert np.array_equal(to_bits(ids.numpy(), [6]), np.where(codes.numpy() == 0, 1, -1))


@pytest.mark.parametrize(
    ("bits", "message"),
    [([[1, 1, -1]], "must have 5 bits"), ([[1, 1, 0, 1, 1]], "must be -1 or"), ([[1, 1, 2, 1, 1]], "must be -1 or")],
)
def test_what_are_no_bits_are_refused(bits, message):
    with pytest.raises(ValueError, match=message):
        from_bits(np.array(bits), [3, 2])


def test_a_quantizer_tells_its_bits_and_scales_however_deep_they_are():
    scales = MultiScale(BSQ(slot_bits=[4]), sizes=[1, 2], convolutions=0)
    for quantizer, expected in (
        (LFQ(slot_bits=[6, 12]), {"slot_bits": [6, 12]}),
        (GQ(groups=2), {"slot_bits": [8, 8]}),
        (Binary(slot_bits=[3]), {"slot_bits": [3]}),
        (scales, {"slot_bits": [4], "scales": [1, 2]}),
        (Product([scales, scales]), {"slot_bits": [4, 4], "scales": [1, 2]}),
        (Residual([BSQ(slot_bits=[2, 2])], depth=2), {"slot_bits": [2, 2, 2, 2]}),
        (Residual([BSQ(slot_bits=[4]), BSQ(slot_bits=[1, 3])]), {"slot_bits": [4, 1, 3]}),
        (Product([LFQ(slot_bits=[4]), VQ(dim=4, codebook_size=16)]), {}),
        (VQ(dim=4, codebook_size=16), {}),
        (FSQ([2] * 10), {"slot_bits": [10]}),
        (FSQ([4, 2, 2]), {}),
        (MultiScale(VQ(dim=4, codebook_size=16), sizes=[1, 1, 2], convolutions=0), {"scales": [1, 1, 2]}),
    ):
        assert structure(quantizer) == expected


def test_hostile_keys_stay_data_and_one_flipped_byte_is_named(tmp_path):
    store = small_store(tmp_path / "tokens", "binary", keys=HOSTILE)
    for name in "ab":
        convert(store, Bits(), tmp_path / name)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 4]))
        with pytest.raises(InputError, match=path.name):
            verify(tmp_path / "a")
        path.write_bytes(whole)
    verify(tmp_path / "a")
