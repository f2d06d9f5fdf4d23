"""The decoder that reads noise: starts as the one without, and is steady in evaluation."""

import pytest
import torch
from encoders.presets import preset

from imtok.construct import construct
from imtok.decoders.cnn import CNNDecoder
from imtok.decoders.noise import NoiseCNNDecoder, steady_noise

SMALL = {"channels": 8, "multipliers": (1, 2), "blocks": 1, "middle": ("residual",)}
PLAIN = {"attention": "none", "upsample": "depth_to_space", "adaptive_norm": "levels", "bias": False}


def decoders() -> tuple[NoiseCNNDecoder, CNNDecoder]:
    plain = CNNDecoder(4, **SMALL, **PLAIN, latent_channels=None).double()
    noisy = NoiseCNNDecoder(4, **SMALL).double()
    noisy.load_state_dict(plain.state_dict())
    return noisy, plain


def test_it_starts_as_the_decoder_without_noise_from_its_weights():
    noisy, plain = decoders()
    latents = torch.randn(2, 16, 4, dtype=torch.float64)
    for mode in (True, False):
        torch.testing.assert_close(noisy.train(mode)(latents, (8, 8)), plain(latents, (8, 8)))


def test_a_new_one_ignores_noise_too():
    noisy = NoiseCNNDecoder(4, **SMALL)
    assert not noisy.conv_in.weight[:, 4:].any()
    assert noisy.conv_in.weight[:, :4].any()


def test_its_own_weights_come_back_as_they_were():
    noisy, other = NoiseCNNDecoder(4, **SMALL), NoiseCNNDecoder(4, **SMALL)
    torch.nn.init.normal_(noisy.conv_in.weight)
    other.load_state_dict(noisy.state_dict())
    assert torch.equal(other.conv_in.weight, noisy.conv_in.weight)


def test_noise_is_new_in_training_and_the_same_in_evaluation():
    noisy, _ = decoders()
    torch.nn.init.normal_(noisy.conv_in.weight)
    latents = torch.randn(2, 16, 4, dtype=torch.float64)
    assert not torch.equal(noisy(latents, (8, 8)), noisy(latents, (8, 8)))
    noisy.eval()
    torch.testing.assert_close(noisy(latents, (8, 8))[1:], noisy(latents[1:], (8, 8)))


def test_adaptive_norms_see_latents_without_noise():
    noisy, _ = decoders()
    torch.nn.init.normal_(noisy.conv_in.weight)
    seen = []
    noisy.adaptive_norms[0].register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[1]))
    latents = torch.randn(1, 16, 4, dtype=torch.float64)
    noisy(latents, (8, 8))
    assert torch.equal(seen[0], latents.mT.reshape(1, 4, 4, 4))


def test_steady_noise_is_gaussian_and_white():
    noise = steady_noise(torch.zeros(32, 64, 64, dtype=torch.float64))
    assert noise.mean().abs() < 0.01
    assert (noise.std() - 1).abs() < 0.01
    assert ((noise.abs() < 1).double().mean() - 0.6827).abs() < 0.005
    spectrum = torch.fft.fft2(noise).abs().square().mean(0) / 64**2
    assert spectrum.max() < 3  # 32 independent channels: the mean of a white spectrum stays near 1
    for rolled in (noise.roll(1, 0), noise.roll(1, 1), noise.roll(1, 2)):
        assert (noise * rolled).mean().abs() < 0.01


@pytest.mark.parametrize(
    ("name", "encoder", "decoder"),
    [("cnn_wetok", 198_935_328, 261_358_851), ("cnn_wetok_f32", 720_160_544, 953_518_339)],
)
def test_wetok_has_its_published_size(name, encoder, decoder):
    with torch.device("meta"):
        parts = [
            construct(preset(group, name), provided={"out_dim": 32, "in_dim": 32}) for group in ("encoder", "decoder")
        ]
    assert [sum(parameter.numel() for parameter in part.parameters()) for part in parts] == [encoder, decoder]
