"""VAR finds its tokens by scale, and what it calls its tokenizer computes what the tokenizer computes."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from export.stores import FIXED, HOSTILE, PARTS, content, small_store, tokenizer_of
from torch.utils.data import DataLoader

from imtok.errors import InputError
from imtok.export.convert import convert
from imtok.export.digits import Digits
from imtok.export.formats.rar import RAR
from imtok.export.formats.var import VAR
from imtok.export.restore import restore
from imtok.export.var import VARModel, VARTokens
from imtok.export.verify import verify
from imtok.tokenizer import Tokenizer

SIZES = (1, 2, 3, 4)


@pytest.fixture(scope="module")
def tokenizer():
    torch.manual_seed(0)
    quantizer = {**FIXED["scales"], "sizes": list(SIZES), "convolutions": 4}
    return Tokenizer.from_config({**PARTS, "quantizer": quantizer, "image_size": 32}).eval()


@pytest.fixture(scope="module")
def vae(tokenizer):
    return VARModel(tokenizer)


@pytest.fixture
def image():
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(2)) * 2 - 1


@torch.no_grad()
def test_the_ids_of_all_scales_are_the_tokenizers_and_make_its_image(tokenizer, vae, image):
    ids = vae.img_to_idxBl(image)  # as trainer.py
    assert [tuple(scale.shape) for scale in ids] == [(3, side**2) for side in SIZES]
    assert torch.equal(torch.cat(ids, dim=1), tokenizer.encode(image).ids[..., 0])
    shown = tokenizer(image).image.clamp(-1, 1)
    assert torch.equal(vae.idxBl_to_img(ids, same_shape=True, last_one=True), shown)
    every = vae.img_to_reconstructed_img(image)
    assert len(every) == len(SIZES)
    assert torch.equal(every[-1], shown)
    assert not torch.equal(every[0], shown)


@torch.no_grad()
def test_what_var_is_told_is_the_sum_of_all_scales_before(tokenizer, vae, image):
    ids = vae.img_to_idxBl(image)
    told = vae.quantize.idxBl_to_var_input(ids)
    assert told.shape == (3, sum(side**2 for side in SIZES[1:]), vae.Cvae)
    table, phi = tokenizer.quantizer.codebook()[0], tokenizer.quantizer.convolutions
    total, parts = torch.zeros(3, 4, 4, 4), []
    for scale, side in enumerate(SIZES[:-1]):
        codes = table[ids[scale]].transpose(1, 2).reshape(3, 4, side, side)
        codes = F.interpolate(codes, (4, 4), mode="bicubic")
        total = total + 0.5 * codes + 0.5 * phi[scale](codes)
        parts.append(F.interpolate(total, (SIZES[scale + 1],) * 2, mode="area").flatten(2).transpose(1, 2))
    torch.testing.assert_close(told, torch.cat(parts, dim=1), rtol=1e-6, atol=1e-6)


@torch.no_grad()
def test_no_scale_is_told_of_itself_or_of_later_ones(vae, image):
    ids = vae.img_to_idxBl(image)
    told = vae.quantize.idxBl_to_var_input(ids)
    starts = np.cumsum([0, *(side**2 for side in SIZES[1:])])
    for scale in range(1, len(SIZES)):
        other = [own if number < scale else (own + 1) % 32 for number, own in enumerate(ids)]
        changed = vae.quantize.idxBl_to_var_input(other)
        assert torch.equal(changed[:, : starts[scale]], told[:, : starts[scale]])
        assert scale == len(SIZES) - 1 or not torch.equal(changed[:, starts[scale] :], told[:, starts[scale] :])


@torch.no_grad()
def test_sampling_scale_by_scale_ends_in_the_same_image(tokenizer, vae, image):
    ids = vae.img_to_idxBl(image)
    told = vae.quantize.idxBl_to_var_input(ids).split([side**2 for side in SIZES[1:]], dim=1)
    f_hat = torch.zeros(3, vae.Cvae, SIZES[-1], SIZES[-1])  # as autoregressive_infer_cfg in models/var.py
    for si, pn in enumerate(SIZES):
        codes = vae.quantize.embedding(ids[si]).transpose_(1, 2).reshape(3, vae.Cvae, pn, pn)
        assert torch.equal(vae.quantize.embedding.weight[ids[si]].transpose(1, 2).reshape(codes.shape), codes)
        f_hat, following = vae.quantize.get_next_autoregressive_input(si, len(SIZES), f_hat, codes)
        if si + 1 < len(SIZES):
            assert torch.equal(following.flatten(2).transpose(1, 2), told[si])
    assert torch.equal(vae.fhat_to_img(f_hat), tokenizer(image).image.clamp(-1, 1))
    latents = tokenizer.quantizer(tokenizer.encoder(image).values).latents
    f = tokenizer.encoder(image).values.transpose(1, 2).reshape(3, vae.Cvae, 4, 4)
    assert torch.equal(f_hat.flatten(2).transpose(1, 2), latents)
    assert torch.equal(vae.quantize.f_to_idxBl_or_fhat(f, to_fhat=True)[-1], f_hat)
    assert torch.equal(torch.cat(vae.quantize.f_to_idxBl_or_fhat(f, to_fhat=False), 1), torch.cat(ids, 1))


@torch.no_grad()
def test_progressive_training_stops_at_its_scale(vae, image):
    whole = vae.img_to_idxBl(image)
    vae.quantize.prog_si = 1  # as trainer.py
    part = vae.img_to_idxBl(image)
    assert torch.equal(torch.cat(part, 1), torch.cat(whole[:2], 1))
    assert vae.quantize.idxBl_to_var_input(part).shape[1] == 4
    vae.quantize.prog_si = 0
    assert vae.quantize.idxBl_to_var_input(vae.img_to_idxBl(image)) is None
    vae.quantize.prog_si = -1


def test_other_scales_small_maps_and_other_ids_are_refused(vae, image):
    with pytest.raises(ValueError, match=r"v_patch_nums must be the tokenizer's own \(1, 2, 3, 4\), got \(1, 4\)"):
        vae.img_to_idxBl(image, v_patch_nums=(1, 4))
    with pytest.raises(ValueError, match="must be true: the tokenizer adds maps of full size"):
        vae.img_to_reconstructed_img(image, SIZES) and vae.idxBl_to_img(vae.img_to_idxBl(image), same_shape=False)
    with pytest.raises(ValueError, match=r"ids must be b 30, got \[2, 29\]"):
        vae.img_to_idxBl(torch.zeros(2, 29, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"must lie in \[0, 32\)"):
        vae.quantize.embedding(torch.full((1, 4), 32))


@pytest.mark.parametrize("kind", ["one slot", "two branches"])
def test_a_tokenizer_without_one_id_per_token_of_a_scale_is_refused(kind):
    with pytest.raises(InputError, match="VAR needs one multi-scale quantizer with one id per token"):
        VARModel(tokenizer_of(kind))


@pytest.mark.parametrize("augment", ["centre", "flip"])
@pytest.mark.parametrize("kind", ["scales", "binary scales", "two branches"])
def test_the_ids_of_every_scale_are_those_of_the_store(kind, augment, tmp_path):
    store = small_store(tmp_path / "tokens", kind, augment)
    report = convert(store, VAR(), tmp_path / "out")
    ids = np.concatenate([np.asarray(shard.ids) for shard in store.shards()])
    scales = [np.load(path, allow_pickle=False) for path in sorted((tmp_path / "out").glob("scale-*.npy"))]
    assert [path.name for path in sorted((tmp_path / "out").glob("*.npy"))] == [
        "labels.npy", "scale-00-1x1.npy", "scale-01-2x2.npy"
    ]  # fmt: skip
    assert {scale.dtype for scale in scales} == {np.dtype(np.uint16)}
    joined = np.concatenate(scales, axis=2)
    assert np.array_equal(joined if joined.ndim == 4 else joined[..., None], ids)
    assert np.array_equal(restore(joined, report)[0], ids.reshape(-1, *ids.shape[2:]))
    assert np.load(tmp_path / "out/labels.npy").tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert report["scales"] == [1, 2]
    assert kind == "two branches" or report["notes"][1].startswith(f"V={report['vocab_sizes'][0]} patch_nums=1,2")
    verify(tmp_path / "out")


def test_stored_tokens_take_the_place_of_images(tmp_path):
    store = small_store(tmp_path / "tokens", "scales", "flip")
    convert(store, VAR(), tmp_path / "out")
    data, vae = VARTokens(tmp_path / "out"), VARModel(tokenizer_of("scales"))
    assert (len(data), data.num_classes, data.scales) == (7, 3, [1, 2])
    data[0]
    assert len(pickle.dumps(data)) < 2000  # a worker process maps the files itself
    ids = np.concatenate([np.asarray(shard.ids) for shard in store.shards()])[..., 0]
    inp, label = next(iter(DataLoader(pickle.loads(pickle.dumps(data)), batch_size=7)))
    assert inp.dtype == label.dtype == torch.int64
    assert label.tolist() == [0, 1, 2, 0, 1, 2, 0]
    gt_idx_Bl = vae.img_to_idxBl(inp.to("cpu", non_blocking=True))  # noqa: N806, as train.py and trainer.py have it
    gt_BL = torch.cat(gt_idx_Bl, dim=1)  # noqa: N806
    assert all((row.numpy() == own).all(1).any() for row, own in zip(gt_BL, ids, strict=True))
    assert vae.quantize.idxBl_to_var_input(gt_idx_Bl).shape == (7, 4, 4)
    drawn = {tuple(data[3][0].tolist()) for _ in range(50)}
    assert drawn == {tuple(own.tolist()) for own in ids[3]}


def test_stores_of_other_tokens_and_folders_of_other_formats_are_refused(tmp_path):
    store = small_store(tmp_path / "tokens")
    with pytest.raises(InputError, match=r"takes tokens that stand scale after scale.*has those of VQ; give"):
        convert(store, VAR(), tmp_path / "out")
    store.manifest["quantizer"] = "MultiScale"
    with pytest.raises(InputError, match="does not say its scales, as stores of earlier versions do not; export again"):
        VAR().check(store, tmp_path / "out")
    convert(small_store(tmp_path / "tokens"), RAR(), tmp_path / "out")
    with pytest.raises(InputError, match=r"convert\.json is of format RAR; convert with format=var"):
        VARTokens(tmp_path / "out")


def test_images_without_a_class_are_named_or_given_one(tmp_path):
    store = small_store(tmp_path / "tokens", "scales", labels=[0, 1, -1, 0, 1, 2, 0])
    with pytest.raises(InputError, match=r"2\.png has no class; give format\.unlabelled=NUMBER"):
        convert(store, VAR(), tmp_path / "out")
    convert(store, VAR(unlabelled=9), tmp_path / "out")
    assert VARTokens(tmp_path / "out").labels.tolist() == [0, 1, 9, 0, 1, 2, 0]


def test_digits_stay_apart(tmp_path):
    store = small_store(tmp_path / "tokens", "scales")
    report = convert(store, VAR(), tmp_path / "out", Digits.of((32,), 2))
    ids = np.concatenate([np.asarray(shard.ids) for shard in store.shards()])
    assert VARTokens(tmp_path / "out")[0][0].shape == (5, 2)
    joined = np.concatenate([np.load(path) for path in sorted((tmp_path / "out").glob("scale-*"))], axis=2)
    assert np.array_equal(restore(joined, report)[0], ids[:, 0])


def test_hostile_keys_stay_data_and_one_flipped_byte_is_named(tmp_path):
    store = small_store(tmp_path / "tokens", "scales", keys=HOSTILE)
    for name in "ab":
        convert(store, VAR(), tmp_path / name)
    assert content(tmp_path / "a") == content(tmp_path / "b")
    for path in (tmp_path / "a").iterdir():
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 4]))
        with pytest.raises(InputError, match=path.name):
            verify(tmp_path / "a")
        path.write_bytes(whole)
    verify(tmp_path / "a")
