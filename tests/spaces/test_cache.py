"""Stored maps: the bits of the net, of one net and its pictures alone."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from spaces.autoencoders import published, small
from training.runs import tiny_run, weights_of, write_images

from imtok import cli
from imtok.commands.pack import Keys, run_pack
from imtok.config import check_command
from imtok.data.sources.folder import Folder
from imtok.errors import InputError
from imtok.pixels import to_float
from imtok.spaces.cache import KEYS, VALUES, Maps, write_maps
from imtok.spaces.dino import DINOv2
from imtok.spaces.kl_vae import KLAutoencoder
from imtok.spaces.maskgit import MaskGIT
from imtok.spaces.patches import Patches
from imtok.training.maps import check_maps
from imtok.training.run import train

FACTS = {"images": "abc", "image_size": 16, "flip": True}


def pictures(number=6, side=16):
    return torch.randint(0, 256, (number, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def fill(folder, space, images, **facts):
    return write_maps(folder, images.split(4), space.computed, {**space.about, **FACTS, **facts})


@pytest.fixture
def space():
    return small(cache=None)


@pytest.mark.parametrize(
    "make",
    [
        small,
        lambda: MaskGIT(channels=16, multipliers=(1, 2), blocks=1, codes=32, code_dim=8),
        lambda: DINOv2(width=32, depth=1, heads=2, side=28),
        lambda: Patches(factor=2),
    ],
)
def test_stored_maps_are_those_of_the_net_to_the_last_bit(make, tmp_path):
    space, images = make().requires_grad_(False), pictures()
    assert fill(tmp_path / "maps", space, torch.cat([images, images[:2]])) == 12
    stored = make().requires_grad_(False)
    stored.load_state_dict(space.state_dict())
    stored.cache = str(tmp_path / "maps")
    for mirrored in (False, True):
        # those that the net has encoded together: each batch of the writer lost what it held twice
        for batch in images.split(4):
            image = to_float(batch.flip(-1) if mirrored else batch)
            assert torch.equal(stored.maps(image), space.maps(image))
            assert torch.equal(space.maps(image), space.encode(image))
    both = to_float(torch.cat([images[:2], 255 - images[:2]]))
    torch.testing.assert_close(stored.maps(both), space.maps(both))
    torch.testing.assert_close(stored.maps(both + 1e-3), space.maps(both + 1e-3), msg="no picture of a file")
    both.requires_grad_()
    assert stored.maps(both).requires_grad


def test_the_codes_of_maskgit_come_from_the_cache(tmp_path, monkeypatch):
    space = MaskGIT(channels=16, multipliers=(1, 2), blocks=1, codes=32, code_dim=8)
    fill(tmp_path / "maps", space, pictures())
    codes = space.ids(to_float(pictures()))
    space.cache = str(tmp_path / "maps")
    monkeypatch.setattr(space, "encode", None)
    assert torch.equal(space.ids(to_float(pictures())), codes)


def test_maps_of_another_net_or_setting_are_refused(space, tmp_path):
    cache = str(tmp_path / "maps")
    fill(tmp_path / "maps", space, pictures())
    same = space.state_dict()
    for other, reason in (
        (small(cache=cache), "is of another net: the sha256 of its weights must be"),
        (small(cache=cache, scale=0.5), r"was made with space\.scale=0\.18215, not 0\.5; pack the images again"),
        (Patches(cache=cache), r"was made with space\.space=imtok\.spaces\.kl_vae\.KLAutoencoder, not imtok"),
        (small(cache=cache, sample_posterior=True), r"draws another one each time; give space\.sample_posterior=false"),
        (small(cache=str(tmp_path)), "holds no maps; give a folder that imtok pack wrote"),
    ):
        with pytest.raises(InputError, match=reason):
            other.maps(to_float(pictures()))
    with pytest.raises(InputError, match="already holds something else"):
        fill(tmp_path / "maps", space, pictures(), image_size=32)
    assert fill(tmp_path / "maps", space, torch.empty(0, 3, 16, 16, dtype=torch.uint8)) == 12, (
        "what is there is left as it is"
    )
    good = small(cache=cache)
    good.load_state_dict(same)
    with pytest.raises(InputError, match=r"does not hold 6 of the first 6 pictures that are trained on; pack these"):
        good.maps(to_float(255 - pictures()))


def test_a_folder_that_was_altered_is_refused(space, tmp_path):
    folder = tmp_path / "maps"
    fill(folder, space, pictures())
    for name in (KEYS, VALUES, "maps.json"):
        data = (folder / name).read_bytes()
        for damaged in (data[: len(data) // 2], None):
            (folder / name).unlink() if damaged is None else (folder / name).write_bytes(damaged)
            with pytest.raises(InputError, match=r"altered|was cut|holds no maps|JSON"):
                Maps(folder)
        (folder / name).write_bytes(data)
    Maps(folder)


VAE = (
    "space=kl_f8c4", "space.dim=4", "space.channels=16", "space.multipliers=[1,2]", "space.blocks=1",
    "space.encoder_attention=lowest",
)  # fmt: skip
PARTS = (
    "encoder=flextok_d12", "encoder.reads=space", "encoder.patch_size=2", "encoder.latents=4", "encoder.width=16",
    "encoder.depth=1", "encoder.heads=2", "decoder=flextok_d12", "decoder.patch_size=2", "decoder.width=16",
    "decoder.depth=1", "decoder.heads=2", "objective=flow", "regularizer=none", "quantizer=fsq",
)  # fmt: skip


@pytest.fixture
def packed(tmp_path, monkeypatch, capsys):
    """Twelve images of 20 pixels in shards, and their maps."""
    images = write_images(tmp_path / "images", 12)
    save_file(published(small()), tmp_path / "vae.safetensors")
    words = ["data=folder", f"data.path={images}", f"out={tmp_path}/pack", "cache=[space]", "image_size=16", *VAE]
    monkeypatch.setattr("sys.argv", ["imtok", "pack", *words, f"space.weights={tmp_path}/vae.safetensors"])
    cli.main()
    assert (
        f"24 in {tmp_path}/pack/space; train with space.cache={tmp_path}/pack/space data.crop=centre image_size=16"
        in (capsys.readouterr().out)
    )
    return tmp_path


def run_of(folder, name, *overrides):
    return tiny_run(
        folder / name, *PARTS, *VAE, f"space.weights={folder}/vae.safetensors", "data=webdataset",
        f"data.path={folder}/pack", "data.val_fraction=0.3", "trainer.max_steps=2", *overrides,
    )  # fmt: skip


def test_a_run_trains_on_them_as_if_it_had_encoded_the_images(packed, monkeypatch):
    train(run_of(packed, "fly", "data.crop=centre"))
    calls = []
    encode = KLAutoencoder.encode
    monkeypatch.setattr(KLAutoencoder, "encode", lambda *given: calls.append(1) or encode(*given))
    run = run_of(packed, "stored", "data.crop=centre", f"space.cache={packed}/pack/space")
    train(run)
    assert not calls
    fly, stored = weights_of(packed / "fly"), weights_of(packed / "stored")
    assert fly.keys() == stored.keys()
    for name, value in fly.items():
        numbers = [torch.frombuffer(bytearray(given), dtype=torch.float32) for given in (value, stored[name])]
        torch.testing.assert_close(*numbers, atol=1e-5, rtol=0)
    section = json.loads((packed / "stored/tokenizer/config.json").read_text())["space"]
    assert section["cache"] is None


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ([], "RandomScaleCrop makes others in each epoch; give data.crop=centre"),
        (["data.crop=centre", "data.augment=[{_target_: torchvision.transforms.v2.GaussianNoise}]"], "Augmented makes"),
        (["data.crop=centre", "image_size=32"], "holds the maps of images of 16 pixels, not of image_size=32"),
        (["data.crop=centre", "data=folder", "data.path=OTHER"], "that are trained on; pack these .* such as"),
    ],
)  # fmt: skip
def test_pictures_that_are_not_those_of_the_cache_are_refused_before_a_run_writes(overrides, reason, packed):
    other = write_images(packed / "other", 12)
    for path in other.rglob("*.png"):
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    words = [word.replace("OTHER", str(other)) for word in overrides]
    with pytest.raises(InputError, match=reason):
        train(run_of(packed, "run", f"space.cache={packed}/pack/space", *words))
    assert not (packed / "run").exists()


def test_mirrored_images_are_refused_where_their_maps_are_not_stored(space, tmp_path):
    data = {flip: Folder(write_images(tmp_path / "images", 6), crop="centre", flip=flip) for flip in (False, True)}
    images = data[False].evaluation(16, "all")
    fill(tmp_path / "maps", space, torch.stack([images[0, index].image for index in range(6)]), flip=False)
    space.cache = str(tmp_path / "maps")
    check_maps(space, data[False].train(16, 0))
    with pytest.raises(InputError, match=r"holds no maps of mirrored images; give data\.flip=false, or pack with flip"):
        check_maps(space, data[True].train(16, 0))


def test_random_weights_are_no_net_to_store_maps_of(tmp_path):
    write_images(tmp_path / "images", 2)
    settings = Keys(out=str(tmp_path / "pack"), cache=["space"], space={})
    with pytest.raises(InputError, match=r"space\.weights=random is another net in each process; give the path"):
        run_pack(settings, Folder(tmp_path / "images"), space=small())
    assert not (tmp_path / "pack").exists()


def test_a_cache_wants_a_net_and_a_net_a_cache():
    for words in (["cache=[space]"], ["space=kl_f8c4"]):
        with pytest.raises(InputError, match=r"cache=\[space\] needs the net: space=kl_f8c4"):
            check_command("pack", ["data.path=a", "out=b", *words])
    with pytest.raises(InputError, match=r"cache must be \[text\], \[space\], \[text,space\] or \[\], got maps"):
        check_command("pack", ["data.path=a", "out=b", "cache=[maps]"])
