"""What the heads of TiTok's decoders make of latents, sets and texts."""

import pytest
import torch
from encoders.presets import preset
from encoders.titok import DECODER, ENCODER, filled

from imtok.construct import construct
from imtok.decoders.titok import TiTokPixelDecoder
from imtok.decoders.titok_codes import TiTokCodeDecoder
from imtok.decoders.tokenset import TokenSetDecoder
from imtok.spaces.maskgit import MaskGIT
from imtok.tokenizer import Tokenizer
from imtok.types import Condition

SIZE = (64, 64)
CNN = {"channels": 16, "blocks": 1}
TRUNK = {"in_dim": 6, "image_size": 64, "num_latents": 5, "width": 16, "depth": 2, "heads": 2}


@pytest.fixture
def latents():
    return torch.randn(2, 5, 6, dtype=torch.float64)


def swapped(image, decoder, latents):
    order = torch.randperm(5)
    while (order == torch.arange(5)).any():
        order = torch.randperm(5)
    return (decoder(latents[:, order], SIZE) - image).abs().max() / image.abs().max()


def test_the_order_of_a_token_set_means_nothing(latents):
    decoder = TokenSetDecoder(**TRUNK, **CNN).double()
    assert swapped(decoder(latents, SIZE), decoder, latents) < 1e-9


def test_the_order_of_titok_tokens_means_something(latents):
    decoder = TiTokCodeDecoder(**TRUNK, **CNN, codes=16, code_dim=8).double()
    assert swapped(decoder(latents, SIZE), decoder, latents) > 1e-6


def test_certain_scores_give_the_image_of_the_frozen_net(latents):
    space = MaskGIT(**CNN, codes=16, code_dim=8)
    decoder = TiTokCodeDecoder(**TRUNK, **CNN, codes=16, code_dim=8).double()
    decoder.pixels.load_state_dict(space.decoder.state_dict())
    with torch.no_grad():
        decoder.codebook.weight.copy_(space.codebook)
        decoder.head[2].weight.zero_()
        decoder.head[2].bias.copy_(torch.nn.functional.one_hot(torch.tensor(11), 16) * 1e3)
        code = space.double().codebook[11].view(1, 8, 1, 1).expand(2, 8, 4, 4)
    torch.testing.assert_close(decoder(latents, SIZE), space.decode(code))


def test_scores_are_those_of_the_mixture_that_is_drawn(latents):
    decoder = TiTokCodeDecoder(**TRUNK, **CNN, codes=16, code_dim=8).double()
    mixture = torch.einsum("bmv,vd->bdm", decoder.logits(latents, SIZE).softmax(-1), decoder.codebook.weight)
    torch.testing.assert_close(decoder(latents, SIZE), decoder.pixels(mixture.unflatten(2, (4, 4))) * 2 - 1)


def test_no_gradient_of_the_image_reaches_a_latent_that_was_not_kept(latents):
    decoder = TiTokCodeDecoder(**TRUNK, **CNN, codes=16, code_dim=8, flexible=True).double()
    latents.requires_grad_()
    keep = torch.arange(5) < torch.tensor([[2], [4]])
    decoder(latents, SIZE, keep).square().sum().backward()
    assert torch.equal(latents.grad.abs().amax(2) > 0, keep)


def test_text_changes_the_image_and_not_the_codes():
    tokenizer = Tokenizer.from_config(
        {
            "encoder": ENCODER,
            "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 6, "codebook_size": 64},
            "decoder": DECODER | {"context_dim": 8, "context_length": 3},
            "image_size": 32,
        }
    ).eval()
    image = torch.rand(1, 3, 32, 32) * 2 - 1
    first, second = (Condition(text=text) for text in torch.randn(2, 1, 3, 8))
    tokens = tokenizer.encode(image, condition=first)
    assert torch.equal(tokens.ids, tokenizer.encode(image, condition=second).ids)
    decode = [tokenizer.decode(tokens, (32, 32), condition) for condition in (first, second, None)]
    assert not torch.allclose(decode[0], decode[1])
    missing = Condition(text=tokenizer.decoder.missing_context.expand(1, 3, 8))
    torch.testing.assert_close(tokenizer.decode(tokens, (32, 32), missing), decode[2])
    for shape in ((1, 4, 8), (1, 3, 7)):
        with pytest.raises(
            ValueError, match=rf"text must be at most 3 rows of width 8, got \({shape[1]}, {shape[2]}\)"
        ):
            tokenizer.decode(tokens, (32, 32), Condition(text=torch.randn(shape)))


def test_a_place_without_a_word_and_an_image_without_a_text_get_the_vector_for_nothing(latents):
    decoder = filled(TiTokPixelDecoder(**TRUNK, context_dim=8, context_length=3).double())
    text = torch.randn(2, 3, 8, dtype=torch.float64)
    mask = torch.tensor([[True, True, False], [False, False, False]])
    found = decoder(latents, SIZE, None, Condition(text=text, mask=mask))
    text[0, 2] = text[1] = decoder.missing_context
    torch.testing.assert_close(found, decoder(latents, SIZE, None, Condition(text=text)))
    torch.testing.assert_close(found[1:], decoder(latents[1:], SIZE))
    assert decoder.missing_context.abs().sum() > 0


def test_text_of_another_size_than_the_decoder_reads_is_refused_when_it_is_built():
    with pytest.raises(ValueError, match="context_dim must be 9, the width of the condition's text, got 8"):
        TiTokPixelDecoder(**TRUNK, context_dim=8, text_dim=9, text_length=77)
    with pytest.raises(ValueError, match="context_dim must be 9, the width of the condition's text, got 0"):
        TiTokPixelDecoder(**TRUNK, text_dim=9, text_length=77)
    with pytest.raises(
        ValueError, match="context_length must be at least 78, the rows of the condition's text, got 77"
    ):
        TiTokPixelDecoder(**TRUNK, context_dim=8, text_dim=8, text_length=78)


def test_the_builder_also_tells_what_a_decoder_hands_on_to_its_trunk():
    config = {"_target_": "imtok.decoders.titok.TiTokPixelDecoder", **TRUNK, "context_dim": 8}
    assert construct(config, provided={"text_dim": 8, "text_length": 3}).takes == ("text",)
    with pytest.raises(ValueError, match="context_dim must be 9, the width of the condition's text, got 8"):
        construct(config, provided={"text_dim": 9, "text_length": 3})


def test_text_stays_in_sight_when_latents_are_dropped(latents):
    decoder = TiTokPixelDecoder(**TRUNK, flexible=True, context_dim=8, context_length=3).double()
    text = torch.randn(2, 3, 8, dtype=torch.float64)
    keep = torch.arange(5).expand(2, 5) < 2
    told = Condition(text=text)
    torch.testing.assert_close(decoder(latents, SIZE, keep, told), decoder(latents[:, :2], SIZE, None, told))


@pytest.mark.parametrize(
    ("encoder", "decoder", "latents", "expected"),
    [
        ("titok_l", "titok_l", 32, 641_054_735),
        ("titok_b", "titok_b", 64, 204_814_095),
        ("titok_s", "titok_s", 128, 83_674_639),
        ("titok_s", "one_d_piece", 256, 83_871_247),
        ("titok_b", "titok_b", 256, 205_256_463),
        ("titok_l", "titok_l", 256, 641_742_863),
        ("tokenset", "tokenset", 128, 203_322_383),
    ],
)
def test_whole_tokenizers_have_their_published_size(encoder, decoder, latents, expected):
    with torch.device("meta"):
        parts = [
            construct(preset("encoder", encoder) | {"latents": latents}, provided={"out_dim": 12, "image_size": 256}),
            construct(preset("decoder", decoder), provided={"in_dim": 12, "image_size": 256, "num_latents": latents}),
        ]
    assert sum(value.numel() for part in parts for value in part.parameters()) + 4096 * 12 == expected


def test_images_stay_what_they_were_when_they_equalled_the_official_modules():
    trunk = TRUNK | {"depth": 1}
    latents = torch.linspace(-1, 1, 30, dtype=torch.float64).view(1, 5, 6).sin()
    decoders = [
        TiTokPixelDecoder(**trunk),
        TiTokCodeDecoder(**trunk, **CNN, codes=16, code_dim=8),
        TokenSetDecoder(**trunk, **CNN, feature_dim=8),
    ]
    found = [filled(decoder.double())(latents, SIZE).flatten()[[0, 5000, 12287]] for decoder in decoders]
    torch.testing.assert_close(torch.stack(found), torch.tensor(GOLDEN, dtype=torch.float64), rtol=1e-9, atol=1e-12)


GOLDEN = [
    [-0.16949368068541826, 0.12181337451011265, -0.7125989337476801],
    [-1.4045315069872804, -0.30246804717732423, -1.7025312572393854],
    [-0.871212599113137, -0.5404716673252977, -0.6754848492241075],
]


def test_without_the_convolution_each_patch_of_pixels_is_the_linear_map_of_its_token(latents):
    """As with a convolution that takes each pixel as it is; the linear map is then the last layer."""
    plain, smoothed = (TiTokPixelDecoder(**TRUNK, kernel_out=kernel).double() for kernel in (None, 3))
    smoothed.load_state_dict(plain.state_dict(), strict=False)
    with torch.no_grad():
        torch.nn.init.dirac_(smoothed.conv_out.weight)
        smoothed.conv_out.bias.zero_()
    torch.testing.assert_close(plain(latents, SIZE), smoothed(latents, SIZE))
    assert plain.last_layer is plain.pixels.weight
    assert smoothed.last_layer is smoothed.conv_out.weight
    assert smoothed.state_dict().keys() - plain.state_dict().keys() == {"conv_out.weight", "conv_out.bias"}


def test_a_kernel_without_a_middle_is_refused():
    with pytest.raises(ValueError, match="kernel_out must be odd, got 2"):
        TiTokPixelDecoder(**TRUNK, kernel_out=2)
