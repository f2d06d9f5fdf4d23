"""Hita: who sees whom in its encoder and decoder, and its sizes."""

import pytest
import torch
from encoders.presets import preset
from torch import nn

from imtok.construct import construct
from imtok.decoders.hita import HitaDecoder
from imtok.encoders.hita import HitaEncoder
from imtok.spaces.dino import DINOv2

SMALL = {"width": 16, "depth": 2, "heads": 2, "channels": 8, "multipliers": (1, 1, 1)}


def build_encoder(**changes) -> HitaEncoder:
    space = DINOv2(width=12, depth=1, heads=2, side=28)
    return HitaEncoder(6, 16, space, **(SMALL | {"latents": 5, "patch_dim": 4} | changes)).eval()


def build_decoder(**changes) -> HitaDecoder:
    return HitaDecoder(6, num_latents=5 + 16, image_size=16, **(SMALL | {"patch_dim": 4} | changes)).double().eval()


def seen_by_the_map(decoder: HitaDecoder) -> torch.Tensor:
    """For each patch of the map that the CNN gets (rows), the latents that it depends on (columns)."""
    maps = []
    decoder.cnn.register_forward_pre_hook(lambda _module, inputs: maps.append(inputs[0]))
    latents = torch.randn(1, 21, 6, dtype=torch.float64, requires_grad=True)
    decoder(latents, (16, 16))
    features = maps[0][0]
    rows = [torch.autograd.grad(row.sum() + row.square().sum(), latents, retain_graph=True)[0] for row in features]
    return torch.cat(rows).ne(0).any(-1)


@pytest.mark.parametrize("shift", [0, 1, 4])
def test_a_patch_is_read_before_its_own_code_is_seen(shift):
    seen = seen_by_the_map(build_decoder(shift=shift))
    position = torch.arange(16)[:, None] + 5 - shift
    assert torch.equal(seen, torch.arange(21) <= position)


def test_the_second_trunk_of_the_encoder_is_causal_and_the_first_is_not():
    encoder, inputs = build_encoder(), {}
    for name in ("trunk_all", "trunk_causal"):
        getattr(encoder, name).register_forward_hook(
            lambda _module, args, _output, name=name: inputs.update({name: args})
        )
    with torch.no_grad():
        encoder(torch.rand(1, 3, 16, 16))
    for name, causal in (("trunk_all", False), ("trunk_causal", True)):
        tokens = inputs[name][0].clone().requires_grad_()
        row = getattr(encoder, name)(tokens, *inputs[name][1:])[0, 3]
        row.square().sum().backward()
        seen = tokens.grad[0].ne(0).any(-1)
        assert torch.equal(seen, torch.arange(len(seen)) <= (3 if causal else len(seen)))


def test_frozen_features_inform_every_latent():
    encoder = build_encoder()
    image = torch.rand(1, 3, 16, 16)
    with torch.no_grad():
        before = encoder(image).values
        nn.init.normal_(encoder.space.norm.bias, std=3.0)
        changed = encoder(image).values
    assert (changed - before).abs().amax(-1).gt(1e-4).all()
    assert not [name for name, _ in encoder.named_parameters() if name.startswith("space")]


def test_patches_fill_their_channels_only():
    latents = build_encoder()(torch.rand(2, 3, 16, 16)).values
    assert latents.shape == (2, 21, 6)
    assert not latents[:, 5:, 4:].any()
    assert latents[:, 5:, :4].ne(0).all()
    assert latents[:, :5].ne(0).all()


def test_channels_that_patches_do_not_fill_mean_nothing_to_the_decoder():
    decoder = build_decoder()
    latents = torch.randn(1, 21, 6, dtype=torch.float64)
    changed = latents.clone()
    changed[:, 5:, 4:] += 1
    assert torch.equal(decoder(changed, (16, 16)), decoder(latents, (16, 16)))


def test_sizes_are_those_of_the_official_code():
    """Trunks of 9.47M each: without biases of query, key and value in the first."""
    with torch.device("meta"):
        space = construct(preset("space", "dinov2_l"))
        encoder = construct(preset("encoder", "hita"), provided={"out_dim": 12, "image_size": 336, "space": space})
        provided = {"in_dim": 12, "image_size": 336, "num_latents": encoder.num_latents((336, 336))}
        decoder = construct(preset("decoder", "hita"), provided=provided)
    parts = [space, encoder.trunk_all, encoder.trunk_causal, decoder.trunk, encoder, decoder]
    assert [sum(parameter.numel() for parameter in part.parameters()) for part in parts] == [
        *(303_181_824, 9_466_896, 9_471_504, 9_471_504, 50_508_596, 53_404_563)
    ]


def test_arguments_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"patch_dim must be in \[1, 6\], the width of the latents, got 7"):
        build_encoder(patch_dim=7)
    with pytest.raises(ValueError, match=r"shift must be in \[0, 5\], the number of holistic latents, got 6"):
        build_decoder(shift=6)
    with pytest.raises(ValueError, match=r"latents must be 21 \(5 holistic ones and 16 patches.* got 20"):
        build_decoder()(torch.zeros(1, 20, 6, dtype=torch.float64), (16, 16))
