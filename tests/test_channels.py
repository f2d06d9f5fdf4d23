"""Images of one channel (16-bit grey, masks, depth), of three, and of four (alpha), through all that sees pixels."""

import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from training.runs import tiny_run

from imtok import decoders, encoders
from imtok.commands.verify import run as verify_run
from imtok.construct import arguments
from imtok.critics.patchgan import PatchGAN
from imtok.data.images import Subset
from imtok.data.order.loader import evaluation_loader
from imtok.data.reading.augment import augmented, build_augment
from imtok.data.reading.colours import RandomColours
from imtok.data.reading.decode import decode_image
from imtok.data.reading.transforms import CentreCrop, RandomScaleCrop, RandomScaledCrop
from imtok.data.sources.folder import Folder
from imtok.data.sources.joined import Joined
from imtok.data.sources.photos import Photos
from imtok.data.told import with_channels
from imtok.decoders.base import Decoder
from imtok.encoders.base import Encoder
from imtok.errors import InputError
from imtok.export.feed import ListFeed
from imtok.export.pictures import decode_ids
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.export.views import Views
from imtok.grid import to_deep_picture
from imtok.losses.lpips import LPIPSLoss
from imtok.losses.teachers import Teacher
from imtok.measures.crops import ResizeCrop
from imtok.measures.evaluate import evaluate
from imtok.measures.protocol import Protocol, prepare
from imtok.pictures import load_picture, preprocess, save_picture
from imtok.pixels import rgb_levels, to_float, to_levels, to_rgb, to_uint16
from imtok.tokenizer import Tokenizer
from imtok.training.run import train

EVERY = np.arange(65536, dtype=np.uint16).reshape(256, 256)  # 16-bit level
VIT = {"image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}
LINE = {"patch_size": 8, "width": 16, "depth": 1, "heads": 2}
PATCH, CNN = {"patch_size": 8, "width": 16, "depth": 1}, {"channels": 32, "multipliers": [1, 1], "blocks": 1}
NETS = {
    "patch": {"encoder": PATCH, "decoder": PATCH},
    "cnn": {"encoder": CNN, "decoder": CNN},
    "vit": {"encoder": VIT, "decoder": {**VIT, "hidden": 32}},
    "alto": {"encoder": {**LINE, "latents": 4}, "decoder": {**LINE, "flexible": True}},
}


def config(name: str, channels: int, **quantizer):
    kind = {"patch": "Patch", "cnn": "CNN", "vit": "ViT", "alto": "ALTo"}[name]
    return {
        "encoder": {"_target_": f"imtok.encoders.{name}.{kind}Encoder", **NETS[name]["encoder"]},
        "quantizer": quantizer or {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5]},
        "decoder": {"_target_": f"imtok.decoders.{name}.{kind}Decoder", **NETS[name]["decoder"]},
        "image_size": 32,
        "channels": channels,
    }


def identity(quantizer: dict, side: int) -> Tokenizer:
    """A tokenizer of grey images that changes nothing: a latent for each pixel, and 1 x 1 weights of one."""
    part = {"patch_size": 1, "width": 1, "depth": 0}
    made = Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **part},
            "quantizer": quantizer,
            "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **part},
            "image_size": side,
            "channels": 1,
        }
    )
    for net in (made.encoder, made.decoder):
        for layer in net.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)
    return made.eval()


@pytest.fixture
def deep(tmp_path) -> Path:
    """A folder with one PNG of all 16-bit levels, and the same turned round."""
    folder = tmp_path / "deep"
    folder.mkdir()
    for name, levels in (("a", EVERY), ("b", EVERY[::-1].copy())):
        Image.fromarray(levels).save(folder / f"{name}.png")
    return folder


def test_every_level_of_16_bits_comes_back_from_data_and_floats(deep):
    images = with_channels(Folder(deep).evaluation(256, "all"), 1)
    batch = next(iter(evaluation_loader(images, 2, 0)))
    assert batch.image.shape == (2, 1, 256, 256)
    assert batch.image.dtype == torch.float32
    assert torch.equal(to_levels(to_float(batch.image)), batch.image)
    assert np.array_equal(to_uint16(to_float(batch.image))[0, 0].numpy(), EVERY)


def test_evaluation_of_16_bits_sees_what_8_bits_would_hide(deep):
    images = with_channels(Folder(deep).evaluation(256, "all"), 1)
    tokenizer = identity({"_target_": "imtok.quantizers.continuous.Continuous", "dim": 1}, 256)
    report = evaluate(tokenizer, evaluation_loader(images, 1, 0))
    assert report.metrics["psnr"] == 100
    assert report.protocol["channels"] == 1
    assert "65,536 levels" in report.conventions["psnr"]
    with torch.no_grad():
        tokenizer.decoder.last_layer.mul_(1 + 1 / 300)  # by less than a level of 8 bits, mostly
    assert 40 < evaluate(tokenizer, evaluation_loader(images, 1, 0)).metrics["psnr"] < 70


def test_decoded_pictures_of_16_bits_hold_every_level(tmp_path):
    levels = {"_target_": "imtok.quantizers.vq.VQ", "dim": 1, "codebook_size": 65536, "normalize": False}
    tokenizer = identity(levels, 256)
    with torch.no_grad():
        table = next(p for p in tokenizer.quantizer.parameters() if p.shape == (65536, 1))
        table.copy_(to_float(torch.arange(65536) / 257)[:, None])
    np.save(tmp_path / "ids.npy", EVERY.reshape(1, -1).astype(np.int64))
    decode_ids(tokenizer, tmp_path / "ids.npy", tmp_path / "deep", (256, 256), bits=16)
    with Image.open(tmp_path / "deep" / "000000.png") as picture:
        assert np.array_equal(np.asarray(picture), EVERY)
    decode_ids(tokenizer, tmp_path / "ids.npy", tmp_path / "flat", (256, 256))
    with Image.open(tmp_path / "flat" / "000000.png") as picture:
        assert picture.mode == "L"
    colours = Tokenizer.from_config(config("patch", 3))
    with pytest.raises(InputError, match="bits=16 is for grey pictures"):
        decode_ids(colours, tmp_path / "ids.npy", tmp_path / "none", (32, 32), bits=16)


def test_sample_pictures_of_a_store_hold_every_level_that_is_asked_for(deep, tmp_path):
    levels = {"_target_": "imtok.quantizers.vq.VQ", "dim": 1, "codebook_size": 65536, "normalize": False}
    tokenizer = identity(levels, 16)
    with torch.no_grad():
        table = next(p for p in tokenizer.quantizer.parameters() if p.shape == (65536, 1))
        table.copy_(to_float(torch.arange(65536) / 257)[:, None])
    images = with_channels(Folder(deep).evaluation(16, "all"), 1)
    export_tokens(tokenizer, ListFeed(images, 2, 2), tmp_path / "tokens", Views("centre"))
    tokenizer.save(tmp_path / "saved")
    verify_run([str(tmp_path / "tokens"), f"tokenizer={tmp_path / 'saved'}", f"out={tmp_path / 'sample'}", "bits=16"])
    for number, ids in enumerate(next(TokenStore(tmp_path / "tokens").shards()).ids):  # each stands for its level
        with Image.open(tmp_path / "sample" / f"{number:06d}.png") as picture:
            assert np.array_equal(np.asarray(picture), ids.reshape(16, 16))
    with pytest.raises(InputError, match="bits must be 8 or 16 per channel of a picture, got 12"):
        verify_run([str(tmp_path / "tokens"), f"tokenizer={tmp_path / 'saved'}", f"out={tmp_path / 'odd'}", "bits=12"])


def test_colours_become_luma_as_pillow_has_it(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = decode_image((tmp_path / "a.png").read_bytes(), "a", channels=1)
    assert np.array_equal(found[0].numpy(), np.asarray(Image.fromarray(pixels).convert("L")))
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.jpg")
    data = (tmp_path / "grey.jpg").read_bytes()
    assert torch.equal(decode_image(data, "grey", channels=1)[0], decode_image(data, "grey")[0].float())


def test_alpha_is_kept_and_opaque_where_there_is_none(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    found = decode_image((tmp_path / "a.png").read_bytes(), "a", channels=4)
    assert np.array_equal(found.permute(1, 2, 0).numpy(), pixels)
    Image.fromarray(pixels[..., :3]).save(tmp_path / "b.png")
    assert (decode_image((tmp_path / "b.png").read_bytes(), "b", channels=4)[3] == 255).all()
    save_picture(to_float(found)[None], tmp_path / "c.png")
    assert torch.equal(load_picture(tmp_path / "c.png", 20, channels=4), to_float(found)[None])
    with pytest.raises(InputError, match="a JPEG holds no alpha"):
        save_picture(to_float(found)[None], tmp_path / "c.jpg")


CROPS = [CentreCrop(16), RandomScaleCrop(16), RandomScaledCrop(16), ResizeCrop(16, "bilinear")]


@pytest.mark.parametrize("crop", CROPS, ids=lambda crop: type(crop).__name__)
def test_every_crop_keeps_fractions_of_levels_and_hides_what_is_transparent(crop):
    draws = np.random.default_rng(0)
    grey = torch.full((1, 50, 41), 1234 / 257)
    assert (crop(grey, draws) - grey[0, 0, 0]).abs().max() < 1e-4
    noise = torch.rand(1, 50, 41, generator=torch.Generator().manual_seed(0)).round() * 255
    assert 0 <= crop(noise, draws).min() <= crop(noise, draws).max() <= 255
    hidden = torch.zeros(4, 50, 41, dtype=torch.uint8)
    hidden[0, :, :20], hidden[1:, :, 20:] = 255, 255  # red without alpha beside opaque cyan
    red, *_, alpha = crop(hidden, draws)
    assert red[alpha > 0].max() < 40


def test_tiles_and_colours_of_photographs_have_other_channels_too():
    for channels in (1, 4):
        images = with_channels(Photos(crops_per_photo=1, colours=1.0).train(16, seed=0), channels)
        sample = images[0, 0].image
        assert sample.shape == (channels, 16, 16)
        assert channels == 1 or (sample[3] == 255).all()
    grey = RandomColours(CentreCrop(8), 1.0)(torch.rand(1, 8, 8) * 255, np.random.default_rng(0))
    assert grey.is_floating_point()
    assert 0 <= grey.min() <= grey.max() <= 255


def test_further_changes_take_grey_images_in_the_range_that_they_know():
    images = with_channels(Photos(crops_per_photo=1, colours=0.0).train(16, seed=0), 1)
    plain = images[0, 0].image
    changes = build_augment([{"_target_": "torchvision.transforms.v2.RandomInvert", "p": 1.0}])
    assert torch.allclose(augmented(images, changes)[0, 0].image, 255 - plain, atol=1e-3)


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("name", NETS)
def test_nets_read_and_write_so_many_channels(name, channels, tmp_path):
    tokenizer = Tokenizer.from_config(config(name, channels))
    image = torch.rand(2, channels, 32, 32) * 2 - 1
    assert tokenizer(image).image.shape == image.shape
    tokenizer.save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").channels == channels
    assert PatchGAN(8, halvings=2, image_channels=channels)(image).shape[0] == 2


def test_a_part_takes_other_channels_where_the_part_that_it_is_made_from_does():
    for package in (encoders, decoders):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    kinds = [Encoder, Decoder]
    for kind in kinds:
        kinds += [one for one in kind.__subclasses__() if one.__module__.startswith("imtok.")]
        parents = [base for base in kind.__mro__ if issubclass(base, Encoder | Decoder)]
        takes = ["image_channels" in arguments(base)[0] for base in parents]
        assert takes[0] or not any(takes), kind
    assert len(kinds) > 40


def test_a_part_that_is_made_for_colours_says_so():
    with pytest.raises(ValueError, match=r"channels=1: decoder \(TiTokCodeDecoder\) is made for RGB images; give chan"):
        Tokenizer.from_config(
            config("patch", 1) | {"decoder": {"_target_": "imtok.decoders.titok_codes.TiTokCodeDecoder"}}
        )
    with pytest.raises(ValueError, match="channels must be 1"):
        Tokenizer.from_config(config("patch", 2))


def test_nets_that_judge_colours_see_grey_as_three_equal_channels_and_white_behind_alpha():
    grey, other = torch.rand(2, 1, 64, 64) * 2 - 1, torch.rand(2, 1, 64, 64) * 2 - 1
    loss = LPIPSLoss("alex", "random")
    assert torch.equal(loss(grey, other), loss(grey.expand(-1, 3, -1, -1), other.expand(-1, 3, -1, -1)))
    clear = torch.cat([torch.rand(2, 3, 64, 64) * 2 - 1, -torch.ones(2, 1, 64, 64)], 1)
    assert torch.equal(to_rgb(clear), torch.ones(2, 3, 64, 64))
    teacher = Teacher("test_vit", weights="random", image_size=32)
    assert torch.equal(teacher(clear).summary, teacher(torch.ones(2, 3, 64, 64)).summary)
    assert torch.equal(rgb_levels(torch.full((1, 1, 2, 2), 99.6)), torch.full((1, 3, 2, 2), 100, dtype=torch.uint8))


def test_the_api_keeps_16_bit_grey(deep):
    picture = to_deep_picture(preprocess(Image.open(deep / "a.png"), 256, channels=1)[0])
    assert np.array_equal(np.asarray(picture), EVERY)


def test_some_of_the_images_have_the_channels_of_all(deep):
    grey = with_channels(Folder(deep).evaluation(32, "all"), 1)
    some = prepare(grey, Protocol("adm"), 1)
    assert (len(some), some.channels) == (1, 1)  # or the features of grey images would be stored as those of colours


@pytest.mark.parametrize("channels", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_a_run_goes_from_pictures_to_a_report(channels, tmp_path):
    run = tiny_run(tmp_path / "run", f"channels={channels}", "trainer.max_steps=2", "trainer.pictures_every=1")
    report = train(run).report
    assert report.metrics["psnr"] > 0
    assert report.pictures.originals[0].shape == (3, 16, 16)
    assert (tmp_path / "run" / "images").is_dir()


def test_a_part_of_images_and_several_of_them_have_the_channels_that_these_were_told(deep):
    images = with_channels(Folder(deep).evaluation(64, "all"), 1)
    parts = [Subset(images.source, np.arange(2)), Joined([images.source, images.source], ["a", "b"])]
    for source in parts:
        assert source.channels == 1
        assert source.image(1).shape[0] == 1
    assert images.shuffled(2, seed=0).channels == 1
    assert prepare(images, Protocol("offline"), 1).channels == 1
