"""How TiTok's latents come from its tokens, in both layouts, and what depends on them."""

import json

import pytest
import torch
from encoders.presets import preset, unchecked
from encoders.titok import DECODER, ENCODER, filled

from imtok.construct import construct
from imtok.encoders.titok import TiTokEncoder
from imtok.tokenizer import Tokenizer


def encoder(**arguments):
    return TiTokEncoder(out_dim=6, image_size=32, latents=4, width=16, heads=2, **arguments).double()


def tokenizer(latent_layout="tokens", flexible=False, image_size=32):
    return Tokenizer.from_config(
        {
            "encoder": ENCODER | {"latent_layout": latent_layout},
            "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 6, "codebook_size": 512},
            "decoder": DECODER | {"flexible": flexible},
            "image_size": image_size,
        }
    ).eval()


def reached(latent_layout: str, token: int) -> list[int]:
    """Latents that change with one latent token, in a net without blocks, where tokens do not talk."""
    net = encoder(depth=0, latent_layout=latent_layout)
    image = torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    before = net(image).values
    with torch.no_grad():
        net.latents[token] += torch.randn(16)
    return (net(image).values - before).abs().amax((0, 2)).nonzero().flatten().tolist()


@pytest.mark.parametrize("token", [0, 2, 3])
def test_a_token_reaches_its_own_latent_and_in_the_legacy_view_all_of_them(token):
    assert reached("tokens", token) == [token]
    assert reached("legacy_view", token) == [0, 1, 2, 3]


def test_the_legacy_view_is_that_of_a_convolution_over_the_untransposed_buffer():
    fixed, legacy = encoder(depth=1), encoder(depth=1, latent_layout="legacy_view")
    legacy.load_state_dict(fixed.state_dict())  # same keys and shapes: nothing but the flag tells them apart
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with torch.no_grad():
        weight, bias = fixed.project.weight.clone(), fixed.project.bias.clone()
        fixed.project = torch.nn.Identity()
        buffer = fixed(image).values.contiguous().view(2, 16, 4, 1)
        expected = torch.nn.functional.conv2d(buffer, weight[..., None, None], bias)[..., 0].transpose(1, 2)
        torch.testing.assert_close(legacy(image).values, expected)


@pytest.mark.parametrize("latent_layout", ["tokens", "legacy_view"])
def test_a_saved_tokenizer_keeps_its_layout(latent_layout, tmp_path):
    saved = tokenizer(latent_layout)
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    saved.save(tmp_path / "saved")
    assert json.loads((tmp_path / "saved/config.json").read_text())["encoder"]["latent_layout"] == latent_layout
    loaded = Tokenizer.load(tmp_path / "saved")
    assert torch.equal(loaded.encode(image).ids, saved.encode(image).ids)
    other = tokenizer({"tokens": "legacy_view", "legacy_view": "tokens"}[latent_layout])
    other.load_state_dict(saved.state_dict())
    assert not torch.equal(other.encode(image).ids, saved.encode(image).ids)


def test_a_shorter_code_is_the_start_of_the_longer_one():
    flexible = tokenizer(flexible=True)
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    whole = flexible.encode(image).ids
    for length in (1, 3, 4):
        assert torch.equal(flexible.encode(image, length=length).ids, whole[:, :length])


def test_interpolated_positions_read_other_sizes_into_as_many_latents():
    net = encoder(depth=1, positions="interpolated")
    assert net.num_latents((64, 48)) == 4
    assert net(torch.rand(1, 3, 64, 48, dtype=torch.float64)).values.shape == (1, 4, 6)


def test_pixels_are_seen_in_the_value_range_that_it_was_trained_on():
    image = torch.rand(1, 3, 32, 32, dtype=torch.float64)
    zero_to_one, as_is = encoder(depth=1), encoder(depth=1, value_range=[-1.0, 1.0])
    as_is.load_state_dict(zero_to_one.state_dict())
    torch.testing.assert_close(zero_to_one(image * 2 - 1).values, as_is(image).values)


def branched(**arguments):
    """Two branches of four latent tokens, three channels each."""
    torch.manual_seed(3)
    return encoder(**{"depth": 2, "branches": 2} | arguments)


@pytest.mark.parametrize(("token", "latent", "channels"), [(1, 1, [0, 1, 2]), (3, 3, [0, 1, 2]), (6, 2, [3, 4, 5])])
def test_a_token_of_a_branch_reaches_its_own_latents_own_channels(token, latent, channels):
    """In a net without blocks, where tokens do not talk: of eight tokens the last four are the second branch."""
    net, image = branched(depth=0), torch.zeros(1, 3, 32, 32, dtype=torch.float64)
    before = net(image).values
    with torch.no_grad():
        net.latents[token] += torch.randn(16)
    changed = (net(image).values - before)[0].abs() > 0
    assert changed.nonzero().tolist() == [[latent, channel] for channel in channels]


def test_branches_are_class_token_patches_and_one_sequence_each_at_the_same_positions_on_their_levels():
    net, image = branched(), torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    seen = torch.cat([
        (net.class_token + net.class_position).expand(2, -1, -1),
        net.patches((image + 1) / 2).flatten(2).transpose(1, 2) + net.positions.table,
    ], 1)  # fmt: skip
    branches = [net.latents[4 * k : 4 * k + 4] + net.latent_positions + net.levels[1 + k] for k in range(2)]
    sequence = torch.cat([seen + net.levels[0], *(branch.expand(2, -1, -1) for branch in branches)], 1)
    read = net.norm_out(net.trunk(net.norm_in(sequence)))
    assert read.shape[1] == 1 + 4 + 2 * 4
    torch.testing.assert_close(net(image).values, torch.cat([net.project(read[:, 5:9]), net.project(read[:, 9:])], -1))


def test_branches_that_change_places_change_channels():
    """Nothing but the level and its own tokens makes a branch what it is; and all see each other."""
    net, image = branched(), torch.rand(1, 3, 32, 32, dtype=torch.float64)
    latents = net(image).values
    assert (latents[..., :3] - latents[..., 3:]).abs().max() > 1e-3
    (reached,) = torch.autograd.grad(latents[..., :3].sum(), net.latents)
    assert (reached.abs().sum(1) > 0).all()
    with torch.no_grad():
        net.latents.copy_(net.latents.roll(4, 0))
        net.levels.copy_(net.levels[[0, 2, 1]])
    torch.testing.assert_close(net(image).values, latents.roll(3, -1))


def test_one_branch_has_the_weights_that_it_always_had():
    one, two = encoder(depth=1).state_dict(), branched(depth=1).state_dict()
    assert two.keys() - one.keys() == {"levels"}
    changed = {name: (value.shape, two[name].shape) for name, value in one.items() if value.shape != two[name].shape}
    assert changed == {
        "latents": ((4, 16), (8, 16)),
        "project.weight": ((6, 16), (3, 16)),
        "project.bias": ((6,), (3,)),
    }


def test_two_branches_fit_a_product_quantizer_and_come_back_from_their_folder(tmp_path):
    half = {"_target_": "imtok.quantizers.vq.VQ", "dim": 3, "codebook_size": 64}
    config = {
        "encoder": ENCODER | {"branches": 2},
        "quantizer": {"_target_": "imtok.quantizers.product.Product", "parts": [half, half]},
        "decoder": DECODER | {"kernel_out": None},
        "image_size": 32,
    }
    built, image = Tokenizer.from_config(config).eval(), torch.rand(2, 3, 32, 32) * 2 - 1
    ids = built.encode(image).ids
    assert ids.shape == (2, 4, 2)
    built.save(tmp_path / "saved")
    loaded = Tokenizer.load(tmp_path / "saved")
    assert torch.equal(loaded.encode(image).ids, ids)
    assert torch.equal(loaded(image).image, built(image).image)


def test_branches_that_do_not_share_the_channels_evenly_are_refused():
    for branches in (0, 4):
        with pytest.raises(ValueError, match=f"branches must be a divisor of the latents' width 6, got {branches}"):
            encoder(depth=0, branches=branches)
    with pytest.raises(ValueError, match="latent_layout must be tokens where there are 2 branches, got 'legacy_view'"):
        encoder(depth=0, branches=2, latent_layout="legacy_view")


def test_an_unknown_layout_is_refused_by_name():
    with unchecked(), pytest.raises(ValueError, match="latent_layout must be one of tokens, legacy_view, got 'view'"):
        encoder(depth=0, latent_layout="view")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("titok_s", 25_884_172), ("titok_b", 85_953_804), ("titok_l", 303_442_956), ("tokenset", 85_953_804)],
)
def test_presets_have_as_many_parameters_as_the_official_code(name, expected):
    with torch.device("meta"):
        built = construct(preset("encoder", name), provided={"out_dim": 12, "image_size": 256})
    assert sum(parameter.numel() for parameter in built.parameters()) == expected


def test_latents_stay_what_they_were_when_they_equalled_the_official_module():
    net = filled(encoder(depth=2, latent_layout="legacy_view"))
    image = torch.linspace(-1, 1, 3 * 32 * 32, dtype=torch.float64).view(1, 3, 32, 32)
    latents = net(image).values[0]
    expected = torch.tensor(GOLDEN, dtype=torch.float64)
    torch.testing.assert_close(latents.flatten()[[0, 7, 14, 23]], expected, rtol=1e-9, atol=1e-12)


GOLDEN = [-0.41765891035706804, -0.24132643576670648, -0.13375142567346432, 0.3045233056709423]
