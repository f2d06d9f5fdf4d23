"""A continuous tokenizer is given ids after its training: by a quantizer that suits it, or not at all."""

import json

import numpy as np
import pytest
import torch
from training.runs import write_images

from imtok.data.order.loader import evaluation_loader
from imtok.data.sources.folder import Folder
from imtok.errors import InputError
from imtok.export.quantize import compare_psnr, fit_and_save, latents_of, with_ids
from imtok.measures.evaluate import evaluate
from imtok.tokenizer import Tokenizer

CPU = torch.device("cpu")
KINDS = ["continuous.Continuous", "gaussian.Gaussian"]
BRIDGE = {"_target_": "imtok.quantizers.tokenbridge.TokenBridge", "dim": 4, "bits": 6}


def tokenizer_of(quantizer):
    parts = {
        name: {"_target_": f"imtok.{name}s.patch.Patch{name.title()}", "patch_size": 4, "width": 8, "depth": 1}
        for name in ("encoder", "decoder")
    }
    return Tokenizer.from_config({**parts, "quantizer": quantizer, "image_size": 16}).eval()


@pytest.fixture(params=KINDS)
def tokenizer(request):
    return tokenizer_of({"_target_": f"imtok.quantizers.{request.param}", "dim": 4})


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Twelve images in two classes, sorted by class."""
    return Folder(write_images(tmp_path_factory.mktemp("images"), 12)).evaluation(16)


def test_the_copy_shares_nothing_but_the_values(tokenizer):
    quantized = with_ids(tokenizer, BRIDGE)
    assert quantized.quantizer.vocab_sizes == (64,) * 4
    with torch.no_grad():
        for parameter in quantized.parameters():
            parameter += 1
    assert not torch.equal(quantized.decoder.last_layer, tokenizer.decoder.last_layer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dim": 16}, "quantizer.dim must be 4, the width of the tokenizer's latents, got 16; give quantizer.dim=4"),
        ({"bits": 13}, "quantizer: bits must be between 1 and 12, got 13"),
        ({"colour": 3}, "quantizer: .*colour"),
        ({"_target_": "elsewhere.Bridge"}, "quantizer: _target_ must be a class of imtok"),
    ],
)
def test_a_quantizer_that_does_not_suit_is_refused(tokenizer, change, message):
    with pytest.raises(InputError, match=message):
        with_ids(tokenizer, BRIDGE | change)


def test_only_a_quantizer_that_can_be_fitted_is_taken(tokenizer):
    with pytest.raises(InputError, match=r"quantizer must be one for finished latents .*, got FSQ"):
        with_ids(tokenizer, {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [5, 5, 5, 5]})


def test_a_codebook_of_noise_takes_only_an_encoder_with_a_variance():
    codes = {"_target_": "imtok.quantizers.gaussian_codebook.GaussianCodebook", "dim": 4, "code_dim": 2}
    codes |= {"codebook_size": 16}
    both = [tokenizer_of({"_target_": f"imtok.quantizers.{name}", "dim": 4}) for name in KINDS]
    assert with_ids(both[1], codes).quantizer.vocab_sizes == (16, 16)
    with pytest.raises(
        InputError, match="encoder gives no variance, got gaussian_codebook; train with quantizer=gaussian_tar"
    ):
        with_ids(both[0], codes)


def test_a_tokenizer_with_ids_needs_none():
    with pytest.raises(InputError, match=r"tokenizer must be continuous .*, got one with ids already, by TokenBridge"):
        with_ids(tokenizer_of(BRIDGE), BRIDGE)


def test_images_to_fit_to_are_spread_over_all_classes(images):
    few = images.spread(4)
    assert [few[0, index].key for index in range(len(few))] == [images[0, index].key for index in (0, 3, 6, 9)]
    assert [few[0, index].label for index in range(len(few))] == [0, 0, 1, 1]
    assert images.spread(12) is images


@pytest.mark.parametrize("most", [1, 5, 12, 40])
def test_latents_are_those_of_the_first_images_whatever_the_batch(tokenizer, images, most):
    latents, count = latents_of(tokenizer, evaluation_loader(images, 4), CPU, most)
    assert count == min(most, 12)
    whole, _ = latents_of(tokenizer, evaluation_loader(images, 12), CPU, 40)
    torch.testing.assert_close(latents, whole[: 16 * count])
    assert whole.shape == (12 * 16, 4)


def test_fitted_values_stand_on_the_latents_own_mean_and_deviation(tokenizer, images, tmp_path):
    quantized = with_ids(tokenizer, BRIDGE)
    loader = evaluation_loader(images, 5)
    report = fit_and_save(tokenizer, quantized, loader, loader, tmp_path / "out", 100, CPU)
    latents = latents_of(tokenizer, loader, CPU, 100)[0].double()
    values = Tokenizer.load(tmp_path / "out").quantizer.values.double()
    torch.testing.assert_close(values.mean(1), latents.mean(0), rtol=1e-4, atol=1e-5)
    ends = (values[:, -1] - values[:, 0]) / latents.std(0)
    assert (ends / ends[0] - 1).abs().max() < 1e-5
    assert report["images_fitted"] == report["images_measured"] == 12
    assert json.loads((tmp_path / "out/quantize.json").read_text()) == report


def test_psnr_is_that_of_an_evaluation(tokenizer, images):
    quantized = with_ids(tokenizer, BRIDGE)
    loader = evaluation_loader(images, 5)
    both = {"before": tokenizer.quantizer, "after": quantized.quantizer}
    psnr, count = compare_psnr(tokenizer, both, loader, CPU)
    assert count == 12
    assert psnr["before"] == evaluate(tokenizer, loader).metrics["psnr"]
    assert psnr["after"] == evaluate(quantized, loader).metrics["psnr"]


def test_latents_that_do_not_vary_are_refused_and_nothing_is_written(tokenizer, images, tmp_path):
    with torch.no_grad():
        for parameter in tokenizer.encoder.parameters():
            parameter.zero_()
    loader = evaluation_loader(images, 5)
    with pytest.raises(InputError, match="the quantizer cannot be fitted: latents must be finite and vary"):
        fit_and_save(tokenizer, with_ids(tokenizer, BRIDGE), loader, loader, tmp_path / "out", 100, CPU)
    assert not list(tmp_path.iterdir())


def test_another_result_is_not_overwritten_but_an_earlier_one_is(tokenizer, images, tmp_path):
    loader = evaluation_loader(images, 12)
    tokenizer.save(tmp_path / "tokenizer")
    with pytest.raises(InputError, match="already holds something else"):
        fit_and_save(tokenizer, with_ids(tokenizer, BRIDGE), loader, loader, tmp_path / "tokenizer", 9, CPU)
    reports = [
        fit_and_save(tokenizer, with_ids(tokenizer, BRIDGE), loader, loader, tmp_path / "out", most, CPU)
        for most in (3, 12)
    ]
    assert json.loads((tmp_path / "out/quantize.json").read_text()) == reports[1] != reports[0]
    assert np.isfinite(list(reports[1]["psnr"].values())).all()
