"""The KL autoencoder: diffusers' names, its distribution, and that nothing moves it."""

import pytest
import torch
from encoders.filled import filled, wave
from safetensors.torch import save_file
from spaces.autoencoders import published, small

from imtok.errors import InputError
from imtok.spaces.diffusers_names import diffusers_names
from imtok.spaces.kl_vae import KLAutoencoder

OLD = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}


@pytest.fixture
def stored(tmp_path):
    def write(tensors):
        save_file(tensors, tmp_path / "vae.safetensors")
        return tmp_path / "vae.safetensors"

    return write


def test_the_layout_of_stable_diffusion_has_its_weights_by_name():
    """83,653,863 parameters in 248 tensors, as published."""
    with torch.device("meta"):
        space = KLAutoencoder(dim=4)
    assert sum(parameter.numel() for parameter in space.parameters()) == 83_653_863
    names = set(diffusers_names(space.state_dict()).values())
    assert len(names) == 248
    assert {
        "encoder.down_blocks.1.resnets.0.conv_shortcut.weight",
        "encoder.down_blocks.2.downsamplers.0.conv.bias",
        "encoder.mid_block.attentions.0.to_out.0.weight",
        "encoder.mid_block.attentions.0.group_norm.bias",
        "decoder.mid_block.resnets.1.conv2.weight",
        "decoder.up_blocks.3.resnets.2.norm1.weight",
        "decoder.up_blocks.0.upsamplers.0.conv.weight",
        "decoder.conv_norm_out.weight",
        "quant_conv.weight",
        "post_quant_conv.bias",
    } <= names


def test_attention_at_the_lowest_level_is_counted_apart_from_residual_blocks():
    names = set(diffusers_names(small(blocks=2).state_dict()).values())
    kinds = {name.rsplit(".", 3)[0] for name in names if name.startswith("encoder.down_blocks.1.attentions.1.to_out")}
    assert kinds == {"encoder.down_blocks.1.attentions.1"}
    assert "encoder.down_blocks.1.resnets.1.conv1.weight" in names
    assert not [
        name for name in names if name.startswith(("decoder.up_blocks.0.attentions", "encoder.down_blocks.0.at"))
    ]


@pytest.mark.parametrize("old", [False, True])
def test_a_file_with_the_names_of_diffusers_old_or_new_fills_it(stored, old):
    source, target = small(), small()
    tensors = published(source)
    if old:
        for new, before in OLD.items():
            tensors = {name.replace(f".{new}.", f".{before}."): value for name, value in tensors.items()}
    target.read_weights(stored(tensors))
    image = wave(1, 3, 16, 16).float()
    assert torch.equal(target.encode(image), source.encode(image))
    assert torch.equal(target.decode(target.encode(image)), source.decode(source.encode(image)))


def test_a_file_of_another_net_is_refused_by_name(stored):
    tensors = published(small())
    lacking = {name: value for name, value in tensors.items() if name != "quant_conv.bias"}
    with pytest.raises(InputError, match=r"vae.safetensors is not of this KL autoencoder: it lacks quant_conv.bias"):
        small().read_weights(stored(lacking))
    with pytest.raises(InputError, match=r"also has decoder.up_blocks.1.resnets.7.conv1.bias"):
        small().read_weights(stored(tensors | {"decoder.up_blocks.1.resnets.7.conv1.bias": torch.zeros(3)}))
    with pytest.raises(InputError, match=r"quant_conv.bias must have shape \(8,\), got \(9,\)"):
        small().read_weights(stored(tensors | {"quant_conv.bias": torch.zeros(9)}))


def test_maps_are_the_scaled_mean_unless_samples_are_asked_for():
    space = filled(small(scale=0.5))
    image = wave(1, 3, 16, 16)
    mean, log_variance = space.encoder(image).chunk(2, 1)
    torch.testing.assert_close(space.encode(image), mean * 0.5)
    torch.testing.assert_close(space.decode(mean * 0.5), space.decoder(mean))
    space.sample_posterior = True
    drawn = torch.stack([space.encode(image) for _ in range(400)]) / 0.5
    deviation = (log_variance / 2).exp()
    assert ((drawn.mean(0) - mean).abs() < 5 * deviation / 20).all()
    assert (drawn.std(0) / deviation - 1).abs().max() < 0.2


def test_it_stays_in_evaluation_mode_and_in_single_precision_under_autocast():
    space = small().train()
    assert not any(module.training for module in space.modules())
    image = wave(1, 3, 16, 16).float()
    with torch.autocast("cpu", torch.bfloat16):
        features = space.encode(image)
    assert features.dtype == torch.float32
    assert torch.equal(features, space.encode(image))


def test_an_image_is_encoded_once_within_and_again_after():
    space, calls = small(sample_posterior=True), []
    hook = space.encoder.register_forward_hook(lambda *_: calls.append(1))
    image, other = wave(1, 3, 16, 16).float(), wave(1, 3, 16, 16).float() / 2
    with space.once():
        first = space.maps(image)
        assert space.maps(image) is first
        assert not torch.equal(space.maps(other), first)
    assert len(calls) == 2
    assert not torch.equal(space.maps(image), first)
    hook.remove()


GOLDEN = [0.04173767522942, -0.00303117719311, 0.40427698763491, 0.00066119823827]


def test_golden_numbers_of_the_net_that_matched_diffusers():
    space = filled(small())
    features = space.encode(wave(1, 3, 16, 16))
    image = space.decode(features)
    found = [*features.flatten()[[0, 100]].tolist(), *image.flatten()[[0, 300]].tolist()]
    assert found == pytest.approx(GOLDEN, rel=1e-9)


def test_a_scale_that_is_not_positive_is_refused():
    with pytest.raises(ValueError, match="scale must be positive, got 0"):
        small(scale=0.0)
