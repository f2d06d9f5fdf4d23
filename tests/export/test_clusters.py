"""imtok quantize with k-means: over all images, on one process or two, killed and gone on with."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans as Reference
from training.runs import write_images

from imtok.data.order.loader import evaluation_loader
from imtok.data.sources.folder import Folder
from imtok.errors import InputError
from imtok.export.clusters import Clusters, Passes
from imtok.export.quantize import cluster_and_save, latents_of, with_ids
from imtok.measures.evaluate import evaluate
from imtok.quantizers.clustering import first_centres
from imtok.tokenizer import Tokenizer

CPU = torch.device("cpu")
KMEANS = {"_target_": "imtok.quantizers.clusters.KMeans", "dim": 4, "codebook_size": 12}
STATE = "clusters.safetensors"


@pytest.fixture(scope="module")
def continuous():
    torch.manual_seed(0)
    parts = {
        name: {"_target_": f"imtok.{name}s.patch.Patch{name.title()}", "patch_size": 4, "width": 8, "depth": 1}
        for name in ("encoder", "decoder")
    }
    quantizer = {"_target_": "imtok.quantizers.continuous.Continuous", "dim": 4}
    return Tokenizer.from_config({**parts, "quantizer": quantizer, "image_size": 16}).eval()


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return Folder(write_images(tmp_path_factory.mktemp("images"), 40)).evaluation(16)


def clusters_of(continuous, images, **changes):
    settings = Passes(**({"most": 8, "every": 3} | changes))
    return Clusters(with_ids(continuous, KMEANS), images.shuffled(None, 0), 4, 0, CPU, settings)


def fitted(continuous, images, folder, **changes):
    clusters = clusters_of(continuous, images, **changes)
    return cluster_and_save(clusters, continuous, evaluation_loader(images, 8), folder, CPU)


def test_all_latents_of_all_images_are_clustered_as_scikit_learn_does_it(continuous, images, tmp_path):
    report = fitted(continuous, images, tmp_path / "out", most=20)
    latents, _ = latents_of(continuous, evaluation_loader(images, 8), CPU, 40)
    theirs = Reference(12, n_init=3, random_state=0).fit(latents.numpy())
    assert report["latents_fitted"] == len(latents) == 40 * 16
    assert report["squared_distances"][-1] * len(latents) < 1.01 * theirs.inertia_
    assert report["codes_in_use"] == 12
    loaded = Tokenizer.load(tmp_path / "out")
    centres = loaded.quantizer.centres
    expected = torch.cdist(latents.double(), centres.double()).argmin(1)
    assert torch.equal(loaded.quantizer(latents[None]).ids[0, :, 0], expected)
    assert report["psnr"]["continuous"] == evaluate(continuous, evaluation_loader(images, 8)).metrics["psnr"]
    assert report["psnr"]["quantized, fitted"] == evaluate(loaded, evaluation_loader(images, 8)).metrics["psnr"]
    assert json.loads((tmp_path / "out/quantize.json").read_text()) == report
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_killed_one_goes_on_with_the_same_bits_wherever_it_was_killed(continuous, images, tmp_path, monkeypatch):
    whole = fitted(continuous, images, tmp_path / "whole")
    kept = Clusters._store
    for stores in (1, 4, 6):
        left = iter(range(stores))

        def store_and_die(self, *values, left=left):
            kept(self, *values)
            if next(left, None) is None:
                raise KeyboardInterrupt

        monkeypatch.setattr(Clusters, "_store", store_and_die)
        out = tmp_path / f"after_{stores}"
        with pytest.raises(KeyboardInterrupt):
            fitted(continuous, images, out)
        monkeypatch.setattr(Clusters, "_store", kept)
        assert not out.exists()
        assert (tmp_path / f"after_{stores}.partial" / STATE).is_file()
        assert fitted(continuous, images, out) == whole
        assert not (tmp_path / f"after_{stores}.partial").exists()
        assert (out / "tokenizer/model.safetensors").read_bytes() == (
            tmp_path / "whole/tokenizer/model.safetensors"
        ).read_bytes()


def test_a_rest_of_other_work_is_refused(continuous, images, tmp_path):
    aside = tmp_path / "out.partial"
    aside.mkdir()
    clusters_of(continuous, images)._store(aside, first_centres(torch.randn(100, 4), 12, 0), 0)
    with pytest.raises(InputError, match=r"out\.partial holds the rest of another quantization .* remove it to begin"):
        fitted(continuous, images, tmp_path / "out", seed=5)
    (aside / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is in the way and not the rest of a quantization"):
        fitted(continuous, images, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_fewer_latents_than_centres_are_refused(continuous, images, tmp_path):
    clusters = Clusters(
        with_ids(continuous, KMEANS | {"codebook_size": 700}), images.shuffled(None, 0), 4, 0, CPU, Passes()
    )
    with pytest.raises(
        InputError, match="cannot be fitted: latents must be at least 700, one for each centre, got 640"
    ):
        cluster_and_save(clusters, continuous, [], tmp_path / "out", CPU)


def test_images_come_in_an_order_that_the_seed_draws(images):
    orders = [[images.shuffled(most, seed)[0, i].key for i in range(most)] for most, seed in ((40, 0), (40, 1), (7, 0))]
    keys = [images[0, index].key for index in range(40)]
    assert sorted(orders[0]) == sorted(orders[1]) == keys
    assert orders[0] != orders[1]
    assert orders[2] == orders[0][:7]


@pytest.mark.slow
def test_two_processes_find_what_one_does_and_a_run_begins_with_it(tmp_path):
    """As a user types it: clusters of a recipe, then its training, export and the way back."""
    words = [
        "tokenizer=recipe:digit",
        "overrides=[size=tiny]",
        "images=300",
        "passes=3",
        "merge_every=2",
        "batch_size=32",
    ]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "imtok"]
    one = [sys.executable, "-m", "imtok"]

    def call(*command):
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    call(*one, "quantize", *words, "out=one")
    assert call(*torchrun, "quantize", *words, "out=two").count("in use") == 1
    for name in ("quantize.json", "tokenizer/model.safetensors"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    short = ("size=tiny", "trainer.max_steps=2", "trainer.accelerator=cpu", "out=run", "init_from=one")
    call(*one, "train", "experiment=digit", *short)
    before, after = Tokenizer.load(tmp_path / "one"), Tokenizer.load(tmp_path / "run")
    assert torch.equal(before.quantizer.centres, after.quantizer.centres)
    call(*one, "export", "tokenizer=run", "out=tokens", "split=val")
    ids = np.load(tmp_path / "tokens/ids-00000.npy", allow_pickle=False)
    assert ids.shape[1:] == (16, 1)
    assert ids.max() < 256
    call(*one, "decode", "tokenizer=run", "ids=tokens", "out=pictures")
