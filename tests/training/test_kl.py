"""A run with a KL bottleneck: its draws are seeded, and afterwards it is given ids like any continuous autoencoder."""

import pytest
import torch
from training.runs import losses_of, run_tiny, state_of, weights_of, write_images

from imtok.data.order.loader import evaluation_loader
from imtok.data.sources.folder import Folder
from imtok.errors import InputError
from imtok.export.feed import BatchFeed
from imtok.export.pictures import decode_ids
from imtok.export.quantize import fit_and_save, with_ids
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.measures.evaluate import evaluate
from imtok.options import option
from imtok.tokenizer import Tokenizer

KL = ("quantizer=gaussian", "quantizer.dim=4", "trainer.max_steps=6")
BRIDGE = option("quantizer", "tokenbridge_6") | {"dim": 4}


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight") / "run"
    run_tiny(folder, *KL)
    return folder


def test_a_run_that_went_on_has_drawn_the_same_noise(straight, tmp_path):
    run_tiny(tmp_path / "run", *KL, "trainer.stop_at=4")
    run_tiny(tmp_path / "run", *KL, "ckpt=last")
    assert state_of(tmp_path / "run", 6) == state_of(straight, 6)
    assert weights_of(tmp_path / "run") == weights_of(straight)


def test_the_divergence_is_logged_and_draws_are_on_in_training_alone(straight, tmp_path):
    assert "kl" in losses_of(straight)[0].split(",")
    run_tiny(tmp_path / "run", *KL, "quantizer.draw=mode")
    assert weights_of(tmp_path / "run") != weights_of(straight)


def test_the_tokenizer_of_a_run_is_given_ids_evaluated_exported_and_decoded(straight, tmp_path):
    images = Folder(write_images(tmp_path / "images", 12)).evaluation(16)
    loader = evaluation_loader(images, 5)
    trained = Tokenizer.load(straight)
    with pytest.raises(InputError, match=r"no ids to export; give it ids first: imtok quantize tokenizer=RUN$"):
        export_tokens(trained, BatchFeed(loader, 4), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()

    quantized = with_ids(trained, BRIDGE)
    report = fit_and_save(trained, quantized, loader, loader, tmp_path / "bridged", 100, torch.device("cpu"))
    psnr = report["psnr"]
    assert abs(psnr["quantized, fitted"] - psnr["continuous"]) < 0.1

    bridged = Tokenizer.load(tmp_path / "bridged")
    for part in ("encoder", "decoder"):
        for name, value in getattr(trained, part).state_dict().items():
            assert torch.equal(getattr(bridged, part).state_dict()[name], value), f"{part}.{name}"
    assert evaluate(bridged, loader).metrics["psnr"] == psnr["quantized, fitted"]
    assert evaluate(trained, loader).metrics["psnr"] == psnr["continuous"]
    export_tokens(bridged, BatchFeed(loader, 4), tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens")
    store.verify()
    assert len(store) == 12
    assert store.manifest["bits_per_token"] == 24
    decode_ids(bridged, tmp_path / "tokens", tmp_path / "pictures", (16, 16))
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 12
