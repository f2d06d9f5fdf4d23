"""Encoders and decoders of images that work on the maps of a frozen space: what all of them that can promise."""

import pytest
import torch
from encoders.presets import DIM, SIDE, encoder_of, names, preset, small
from safetensors.torch import save_file
from training.runs import run_tiny, tiny_run

from imtok.construct import arguments, import_class
from imtok.decoders.inside import DecoderInSpace
from imtok.encoders.inside import EncoderInSpace
from imtok.errors import InputError
from imtok.info import describe
from imtok.objectives.flow import FlowObjective
from imtok.spaces.diffusers_names import diffusers_names
from imtok.spaces.dino import DINOv2
from imtok.spaces.kl_vae import KLAutoencoder
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

SPACE = {"_target_": "imtok.spaces.patches.Patches", "factor": 2}  # maps of 12 channels, as large as the small presets
SIZE = (2 * SIDE, 2 * SIDE)
PATCH = {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 16, "depth": 1}
CNN = {"channels": 32, "multipliers": [1, 1], "blocks": 1}


def can(group: str) -> list[str]:
    """Presets of parts that read or write images of any number of channels, and leave a space alone."""
    takes = {name: arguments(import_class(preset(group, name)["_target_"]))[0] for name in names(group)}
    return [name for name, known in takes.items() if "image_channels" in known and "space" not in known]


def config(encoder: dict, decoder: dict, *inside: str, **others) -> dict:
    quantizer = {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [3] * DIM}
    parts = {"encoder": encoder, "quantizer": quantizer, "decoder": decoder, "space": SPACE}
    return parts | {"image_size": 2 * SIDE, "in_space": list(inside)} | others


def cnn(*inside: str, **others) -> dict:
    encoder = {"_target_": "imtok.encoders.cnn.CNNEncoder", **CNN}
    return config(encoder, {"_target_": "imtok.decoders.cnn.CNNDecoder", **CNN}, *inside, **others)


@pytest.mark.parametrize("name", can("encoder"))
def test_an_encoder_reads_the_map_as_if_it_were_the_image(name):
    tokenizer = Tokenizer.from_config(config(small("encoder", name), PATCH, "encoder")).eval()
    encoder, image = tokenizer.encoder, torch.rand(2, 3, *SIZE) * 2 - 1
    assert isinstance(encoder, EncoderInSpace)
    latents = encoder(image).values
    assert torch.equal(latents, encoder.net(tokenizer.space.maps(image)).values)
    assert latents.shape[1] == encoder.num_latents(SIZE) == encoder.net.num_latents((SIDE, SIDE))
    other = image.flip(-1)
    assert not torch.equal(latents, encoder(other).values)


@pytest.mark.parametrize("name", can("decoder"))
def test_a_decoder_writes_the_map_and_the_space_makes_the_image(name):
    partner = encoder_of(name)
    latents = {"_target_": "imtok.encoders.registers.RegisterEncoder", "reads": "pixels", "latents": 5, "depth": 1}
    encoder = small("encoder", partner) if partner else {**latents, "width": 16, "heads": 2, "patch_size": 32}
    inside = ["decoder", "encoder"] if partner in can("encoder") else ["decoder"]
    tokenizer = Tokenizer.from_config(config(encoder, small("decoder", name), *inside))
    decoder, image = tokenizer.decoder, torch.rand(1, 3, *SIZE) * 2 - 1
    assert isinstance(decoder, DecoderInSpace)
    codes = torch.randn(1, tokenizer.num_tokens(SIZE), DIM, requires_grad=True)
    decoder.eval()  # or noise is drawn anew
    written = decoder.written(codes, SIZE)
    assert written.shape == (1, 12, SIDE, SIDE)
    assert torch.equal(decoder(codes, SIZE), tokenizer.space.decode(written))
    loss = decoder.loss(image, codes)["latent"].value
    torch.testing.assert_close(loss, (written - tokenizer.space.encode(image)).square().mean())
    loss.backward()
    assert decoder.last_layer.grad is not None
    assert codes.grad.abs().sum() > 0


def test_enough_parts_can():
    assert {"cnn", "vit", "patch", "titok_l", "instella", "ait"} <= set(can("encoder"))
    assert {"cnn", "vit", "patch", "ta_titok", "instella", "uniwetok"} <= set(can("decoder"))


def test_a_tokenizer_of_maps_is_stored_whole(tmp_path):
    made = Tokenizer.from_config(cnn("encoder", "decoder")).eval()
    made.save(tmp_path / "saved")
    again, image = Tokenizer.load(tmp_path / "saved"), torch.rand(2, 3, 64, 96) * 2 - 1
    tokens = again.encode(image)
    assert tokens.ids.shape == (2, 16 * 24, 1)
    assert torch.equal(tokens.ids, made.encode(image).ids)
    assert torch.equal(again.decode(tokens, (64, 96)), made(image).image.clamp(-1, 1))
    assert "CNNEncoder in the space" in "".join(describe(again, tmp_path).columns[1]._cells)


def test_losses_of_maps_need_no_image(monkeypatch):
    tokenizer = Tokenizer.from_config(cnn("encoder", "decoder", image_size=32))
    monkeypatch.setattr(tokenizer.space, "decode", None)
    batch = Batch(torch.zeros(2, 3, 32, 32, dtype=torch.uint8), torch.tensor([-1, -1]), torch.arange(2), ["a", "b"])
    losses = FlowObjective()(tokenizer, batch, 0, torch.Generator().manual_seed(0))
    assert "latent" in losses.terms
    losses.total.backward()
    assert all(parameter.grad is not None for parameter in tokenizer.encoder.parameters())


def test_grey_images_go_through_a_space_that_takes_them():
    tokenizer = Tokenizer.from_config(cnn("encoder", "decoder", image_size=32, channels=1))
    assert tokenizer(torch.zeros(1, 1, 32, 32)).image.shape == (1, 1, 32, 32)


def test_features_are_read_and_pixels_written():
    space = {"_target_": "imtok.spaces.dino.DINOv2", "width": 32, "depth": 1, "heads": 2, "side": 56}
    parts = cnn("encoder", space=space, image_size=64)
    parts["decoder"] = {"_target_": "imtok.decoders.cnn.CNNDecoder", **CNN, "multipliers": [1, 1, 1, 1, 1, 1]}
    tokenizer = Tokenizer.from_config(parts).eval()
    assert tokenizer.num_tokens((64, 64)) == 4  # 4 x 4 patches, halved
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    assert tokenizer(image).image.shape == image.shape
    with pytest.raises(ValueError, match=r"DINOv2 has features only and no way back .* give in_space=\[encoder\]"):
        Tokenizer.from_config(cnn("encoder", "decoder", space=space))
    assert not DINOv2.decodes


VIT = {"_target_": "imtok.encoders.vit.ViTEncoder", "width": 16, "depth": 1, "heads": 2}
REGISTERS = {"_target_": "imtok.encoders.registers.RegisterEncoder", "latents": 4, "depth": 1, "width": 16, "heads": 2}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_space": ["quantizer"]}, r"in_space must be a list of the parts encoder and decoder.*quantizer"),
        ({"in_space": ["encoder", "encoder"]}, "each at most once"),
        ({"space": None}, r"in_space=\[encoder\] needs a space, and there is none; give space=kl_f8c16"),
        ({"encoder": REGISTERS}, r"encoder \(RegisterEncoder\) deals with the space by itself; leave it out of in_"),
        (
            {"encoder": {"_target_": "imtok.encoders.pretrained_vit.PretrainedViTEncoder"}},
            r"encoder \(PretrainedViTEncoder\) is made for RGB images and cannot read or write maps; give another",
        ),
        (
            {"encoder": VIT, "image_size": 8},
            "on maps of the space, with 2 x 2 pixels at each position: image size must be a positive multiple of 8",
        ),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message):
        Tokenizer.from_config(cnn("encoder") | changes)


def test_sizes_that_the_maps_do_not_fill_are_refused():
    tokenizer = Tokenizer.from_config(cnn("encoder", "decoder"))
    with pytest.raises(ValueError, match=r"image size must be a positive multiple of 2 .* got 31 x 32"):
        tokenizer.encode(torch.zeros(1, 3, 31, 32))
    with pytest.raises(ValueError, match=r"on maps of the space.* a positive multiple of 2 .* got 15 x 16"):
        tokenizer.encode(torch.zeros(1, 3, 30, 32))


def test_a_run_goes_on_without_the_file_that_its_space_began_with(tmp_path):
    space, file = KLAutoencoder(dim=4, channels=32, multipliers=(1, 2), blocks=1), tmp_path / "space.safetensors"
    own = space.state_dict()
    save_file({theirs: own[name] for name, theirs in diffusers_names(own).items()}, file)
    net = ("space=kl_f8c4", "space.channels=32", "space.multipliers=[1,2]", "space.blocks=1")
    keys = (*net, "in_space=[encoder,decoder]", "encoder.patch_size=2", "decoder.patch_size=2", "trainer.max_steps=4")
    run_tiny(tmp_path / "run", *keys, f"space.weights={file}", "trainer.stop_at=2")
    file.unlink()
    run_tiny(tmp_path / "run", *keys, "ckpt=last")
    found = Tokenizer.load(tmp_path / "run").space.state_dict()
    assert all(torch.equal(found[name], value) for name, value in own.items())


def test_a_run_trains_in_the_space_and_one_key_asks_for_it(tmp_path):
    keys = ("space=patches", "in_space=[encoder,decoder]", "encoder.patch_size=2", "decoder.patch_size=2")
    report = run_tiny(tmp_path / "run", *keys, "trainer.max_steps=2").report
    assert report.metrics["psnr"] > 0
    assert Tokenizer.load(tmp_path / "run").config["in_space"] == ["encoder", "decoder"]
    with pytest.raises(InputError, match=r"the tokenizer cannot be built: in_space=\[encoder\] needs a space"):
        tiny_run(tmp_path / "none", "in_space=[encoder]")
