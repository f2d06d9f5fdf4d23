"""A run whose divergence is steered goes on as if it had never stopped, and is given a codebook without training."""

import pytest
import torch
from training.runs import losses_of, run_tiny, state_of, weights_of, write_images

from imtok.data.order.loader import evaluation_loader
from imtok.data.sources.folder import Folder
from imtok.errors import InputError
from imtok.export.feed import BatchFeed
from imtok.export.pictures import decode_ids
from imtok.export.quantize import fit_and_save, with_ids, words_for_ids
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.measures.evaluate import evaluate
from imtok.options import option
from imtok.quantizers.gaussian import Gaussian
from imtok.tokenizer import Tokenizer

SIZES = {"dim": 8, "code_dim": 4, "codebook_size": 256}
STEERED = (
    "quantizer=gaussian_target",
    *(f"quantizer.{name}={value}" for name, value in SIZES.items()),
    "trainer.max_steps=6",
)
CODES = option("quantizer", "gaussian_codebook") | SIZES


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    run_tiny(folder, *STEERED)
    return folder


def test_a_run_that_went_on_has_the_factors_of_one_that_never_stopped(straight, tmp_path):
    run_tiny(tmp_path / "run", *STEERED, "trainer.stop_at=4")
    run_tiny(tmp_path / "run", *STEERED, "ckpt=last")
    assert state_of(tmp_path / "run", 6) == state_of(straight, 6)
    assert weights_of(tmp_path / "run") == weights_of(straight)
    factor = Tokenizer.load(straight).quantizer.lambda_mean.item()
    assert factor in (pytest.approx(1.01**6), pytest.approx(1.01**-6))


def test_the_bits_of_a_group_are_logged(straight):
    assert {"kl", "bits"} <= set(losses_of(straight)[0].split(","))


def test_the_tokenizer_of_a_run_is_given_a_codebook_evaluated_exported_and_decoded(straight, tmp_path):
    images = Folder(write_images(tmp_path / "images", 12)).evaluation(16)
    loader = evaluation_loader(images, 5)
    trained = Tokenizer.load(straight)
    report = fit_and_save(trained, with_ids(trained, CODES), [], loader, tmp_path / "coded", 9, torch.device("cpu"))
    assert report["images_fitted"] == 0
    assert list(report["psnr"]) == ["continuous", "quantized"]

    coded = Tokenizer.load(tmp_path / "coded")
    for part in ("encoder", "decoder"):
        for name, value in getattr(trained, part).state_dict().items():
            assert torch.equal(getattr(coded, part).state_dict()[name], value), f"{part}.{name}"
    assert evaluate(coded, loader).metrics["psnr"] == report["psnr"]["quantized"]
    assert evaluate(trained, loader).metrics["psnr"] == report["psnr"]["continuous"]
    export_tokens(coded, BatchFeed(loader, 4), tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens")
    store.verify()
    assert (len(store), store.manifest["bits_per_token"]) == (12, 16)
    decode_ids(coded, tmp_path / "tokens", tmp_path / "pictures", (16, 16))
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 12


def test_the_command_that_gives_ids_names_the_codebook_of_the_target(straight):
    trained = Tokenizer.load(straight).quantizer
    expected = {"quantizer": "gaussian_codebook", **{f"quantizer.{name}": size for name, size in SIZES.items()}}
    assert words_for_ids(trained) == expected
    assert words_for_ids(Gaussian(8)) == {"quantizer.dim": 8}


def test_what_reads_no_variance_is_refused(straight):
    with pytest.raises(InputError, match=r"quantizer must be tokenbridge_6 or gaussian_codebook .*, got kmeans"):
        with_ids(Tokenizer.load(straight), option("quantizer", "kmeans") | {"dim": 8, "codebook_size": 16})
