"""MaskGIT's VQGAN against its formula, written out with the names of its published file."""

import pytest
import torch
from torch.nn import functional as F

from imtok.decoders.titok_codes import TiTokCodeDecoder
from imtok.errors import InputError
from imtok.pretrained import as_stored
from imtok.spaces.maskgit import MaskGIT

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 2, "codes": 12, "code_dim": 6}
DECODER = {"in_dim": 4, "image_size": 16, "num_latents": 3, "width": 8, "depth": 1, "heads": 2}


def published() -> dict[str, torch.Tensor]:
    """Random weights under the published names, for two levels of 8 and 16 channels and two blocks each."""
    weights = {}

    def conv(name, read, write, side, bias):
        weights[f"{name}.weight"] = torch.randn(write, read, side, side) / (read * side * side) ** 0.5
        if bias:
            weights[f"{name}.bias"] = torch.randn(write)

    def norm(name, channels):
        weights[f"{name}.weight"], weights[f"{name}.bias"] = torch.rand(channels) + 0.5, torch.randn(channels)

    def block(name, read, write):
        norm(f"{name}.norm1", read)
        conv(f"{name}.conv1", read, write, 3, False)
        norm(f"{name}.norm2", write)
        conv(f"{name}.conv2", write, write, 3, False)
        if read != write:
            conv(f"{name}.nin_shortcut", write, write, 1, False)

    conv("encoder.conv_in", 3, 8, 3, False)
    conv("decoder.conv_in", 6, 16, 3, True)
    for index in range(2):
        block(f"encoder.down.0.block.{index}", 8, 8)
        block(f"encoder.down.1.block.{index}", 16 if index else 8, 16)
        block(f"encoder.mid.{index}", 16, 16)
        block(f"decoder.mid.{index}", 16, 16)
        block(f"decoder.up.1.block.{index}", 16, 16)
        block(f"decoder.up.0.block.{index}", 8 if index else 16, 8)
    conv("decoder.up.1.upsample_conv", 16, 16, 3, True)
    norm("encoder.norm_out", 16)
    conv("encoder.conv_out", 16, 6, 1, True)
    norm("decoder.norm_out", 8)
    conv("decoder.conv_out", 8, 3, 3, True)
    weights["quantize.embedding.weight"] = torch.randn(12, 6)
    return weights


class Reference:
    """The formula."""

    def __init__(self, weights):
        self.weights = {name: weight.double() for name, weight in weights.items()}

    def conv(self, name, features):
        weight = self.weights[f"{name}.weight"]
        return F.conv2d(features, weight, self.weights.get(f"{name}.bias"), padding=weight.shape[-1] // 2)

    def norm(self, name, features):
        groups = max(1, features.shape[1] // 4)
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        return F.silu(F.group_norm(features, groups, weight, bias, eps=1e-6))

    def block(self, name, features):
        hidden = self.conv(f"{name}.conv1", self.norm(f"{name}.norm1", features))
        hidden = self.conv(f"{name}.conv2", self.norm(f"{name}.norm2", hidden))
        skip = f"{name}.nin_shortcut"
        return hidden + (self.conv(skip, hidden) if f"{skip}.weight" in self.weights else features)

    def blocks(self, name, features):
        return self.block(f"{name}.1", self.block(f"{name}.0", features))

    def encode(self, image):
        features = self.blocks("encoder.down.0.block", self.conv("encoder.conv_in", image))
        features = self.blocks("encoder.down.1.block", F.avg_pool2d(features, 2))
        features = self.blocks("encoder.mid", features)
        return self.conv("encoder.conv_out", self.norm("encoder.norm_out", features))

    def decode(self, features):
        features = self.blocks("decoder.mid", self.conv("decoder.conv_in", features))
        features = self.blocks("decoder.up.1.block", features)
        features = self.conv("decoder.up.1.upsample_conv", F.interpolate(features, scale_factor=2.0))
        features = self.blocks("decoder.up.0.block", features)
        return self.conv("decoder.conv_out", self.norm("decoder.norm_out", features))


@pytest.fixture
def weights():
    return published()


@pytest.fixture
def file(weights, tmp_path):
    torch.save(weights, tmp_path / "maskgit.bin")
    return tmp_path / "maskgit.bin"


@pytest.fixture
def space(file):
    space = MaskGIT(str(file), **SMALL)
    space.read_weights(file)
    return space


def test_it_is_the_published_net_on_pixels_from_zero_to_one(space, weights):
    reference, image = Reference(weights), torch.rand(2, 3, 8, 16, dtype=torch.float64)
    latents = space.double().encode(image * 2 - 1)
    torch.testing.assert_close(latents, reference.encode(image))
    torch.testing.assert_close(space.decode(latents), reference.decode(latents) * 2 - 1)


def test_ids_are_those_of_the_nearest_codes_row_by_row(space):
    image = torch.rand(2, 3, 8, 16, dtype=torch.float64) * 2 - 1
    latents = space.double().encode(image).flatten(2).transpose(1, 2)
    with torch.no_grad():
        space.codebook.copy_(latents.flatten(0, 1)[::5][:12] + torch.randn(12, 6) * 0.01)
    nearest = torch.cdist(latents, space.codebook.expand(2, -1, -1)).argmin(-1)
    assert torch.equal(space.ids(image), nearest)
    assert nearest.unique().numel() > 3


def test_the_decoder_that_is_to_be_trained_starts_from_the_same_file(space, file):
    small = {name: value for name, value in SMALL.items() if name != "multipliers"}
    decoder = TiTokCodeDecoder(**DECODER, **small, multipliers=(1, 2), weights=str(file))
    decoder.read_weights(file)
    assert torch.equal(decoder.codebook.weight, space.codebook)
    features = torch.randn(1, 6, 4, 4)
    assert torch.equal(decoder.pixels(features) * 2 - 1, space.decode(features))


def test_no_path_is_stored_of_what_a_tokenizer_has_itself(space, file):
    small = {name: value for name, value in SMALL.items() if name != "multipliers"}
    decoder = TiTokCodeDecoder(**DECODER, **small, multipliers=(1, 2), weights=str(file))
    given = {name: {"weights": str(file), "side": 4} for name in ("space", "decoder")}
    assert as_stored(given, space=space, decoder=decoder) == {key: {"weights": None, "side": 4} for key in given}
    drawn = {"space": {"weights": "random"}}
    assert as_stored(drawn, space=MaskGIT("random", **SMALL)) == drawn
    MaskGIT(None, **SMALL)  # as it is built again


def test_it_never_trains_and_lets_gradients_pass(space):
    assert not space.train().training
    assert not any(parameter.requires_grad for parameter in space.parameters())
    image = torch.rand(1, 3, 8, 8, requires_grad=True)
    space.decode(space.encode(image)).sum().backward()
    assert image.grad.abs().min() > 0


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "codebook"])
def test_a_file_of_another_net_is_refused_by_its_name(change, weights, tmp_path):
    if change == "missing":
        del weights["decoder.mid.1.conv2.weight"]
    elif change == "extra":
        weights["encoder.mid.2.conv1.weight"] = torch.zeros(16, 16, 3, 3)
    elif change == "shape":
        weights["encoder.conv_in.weight"] = torch.zeros(16, 3, 3, 3)
    else:
        weights["quantize.embedding.weight"] = torch.zeros(1024, 6)
    torch.save(weights, tmp_path / "other.bin")
    with pytest.raises(InputError, match=r"other\.bin is not a MaskGIT-VQGAN of this size"):
        MaskGIT(**SMALL).read_weights(tmp_path / "other.bin")
