"""Fixtures shared by all tests, and what ``pytest -m quick`` collects."""

import gc
import sys
from pathlib import Path

import pytest
import torch

from imtok.data.sources.photos import _Tiles
from imtok.system import keep_memory

MOST_TILES, EVERY_TILE = 200, _Tiles.__init__

# Folder: modules without "test_". What takes seconds, starts processes or trains is not among them.
QUICK = """
critics: critics
data: apart arrays classes damage folder index layouts links metadata pack_command pairs photos shards tables
    transforms
decoders: cnn_decoder flow_decoder guidance noise_decoder patch_decoder processes qformer_decoder titok_decoders
    vit_decoder
encoders: adapter_encoder adatok_encoder alit_encoder cnn_encoder hita instella karl_encoder linear_encoder
    qformer_encoder register_encoder titok_encoder two_parts vit_encoder
export: adapters captions pictures quantize sequences store tokens verify views
losses: adversarial pixel teachers
measures: codes compare evaluate frechet generated grid images inception_score kid length mean measures missing origin
    precision_recall protocol references rows
nn: *
objectives: adatok_objective alit_objective flow_objective post_training proxy reconstruction
priors: heads ngrams sampling
quantizers: binary binary_entropy bsq ema_vq estimators fsp fsq fvq gq gumbel ibq kmeans lfq multiscale nesting packing
    product reparametrized residual restart search segments shared_vq signs simvq sphere table_estimators tokenbridge vq
regularizers: perturbation prefix prefix_dropout
spaces: *
.: architecture files metadata overrides package paste pictures plain plain_ids tokenizer
training: launching meters stored_config
zoo: files import_command
"""


def pytest_configure(config: pytest.Config) -> None:
    """``pytest -m quick`` imports only modules that hold quick tests: to collect all takes longer than to run them."""
    keep_memory()
    pytest.MonkeyPatch().setattr(_Tiles, "__init__", _few_tiles)
    if config.option.markexpr == "quick" and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        config.args = [str(module) for module in _quick()]


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Parts that a module of tests makes while it is imported have the same weights in every run."""
    if isinstance(collector, pytest.Module):
        torch.manual_seed(0)


def pytest_collection_finish() -> None:
    """Python's collector passes by what was imported, and comes less often: it was a tenth of the suite's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 20, 50)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is in the modules of ``QUICK``, but for what is slow."""
    modules = set(_quick())
    without = None if torch.cuda.is_available() else pytest.mark.skip(reason="there is no GPU")
    for item in items:
        if without is not None and item.get_closest_marker("cuda") is not None:
            item.add_marker(without)
        if item.path in modules and item.get_closest_marker("slow") is None:
            item.add_marker(pytest.mark.quick)


def _few_tiles(tiles: _Tiles, files: list[Path], size: int) -> None:
    """At most 200 of the bundled held-out tiles, of which 16 pixels give 2,584: most of a small run would be these."""
    EVERY_TILE(tiles, files, size)
    tiles.places = tiles.places[:: -(-len(tiles.places) // MOST_TILES)]


def _quick() -> list[Path]:
    found, folder = [], Path(__file__).parent
    for word in QUICK.split():
        if word.endswith(":"):
            folder = Path(__file__).parent / word.removesuffix(":")
        else:
            found += sorted(folder.glob(f"test_{word}.py"))
    return found


@pytest.fixture
def every_tile(monkeypatch):
    """All bundled held-out tiles."""
    monkeypatch.setattr(_Tiles, "__init__", EVERY_TILE)


@pytest.fixture
def rehearsed():
    """Runs follow the shapes of their last step before the first, as they do for a user."""


@pytest.fixture(autouse=True)
def _same_conditions(request, monkeypatch):
    """The same random numbers and one thread for every test, and no rehearsal but where ``rehearsed`` asks for it.

    A package ``mine``, which the docs let their reader write, is gone afterwards.

    The rehearsal of a tiny run takes as long as its steps. The command's own process has it always.
    """
    torch.manual_seed(0)
    torch.set_num_threads(1)
    if "rehearsed" not in request.fixturenames and (prepare := sys.modules.get("imtok.training.prepare")):
        monkeypatch.setattr(prepare, "_rehearse", lambda run, processes: None)
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]
