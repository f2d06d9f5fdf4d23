"""A stranger's tokenizer or run calls nothing: classes that do not belong are refused before they are called."""

import json
import sys
import types
from pathlib import Path

import pytest
import yaml
from lightning import Callback
from lightning.pytorch.loggers import CSVLogger, Logger
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file
from torch.optim import SGD, Optimizer
from torchmetrics import Metric
from torchmetrics.image import PeakSignalNoiseRatio

from imtok.construct import check_stored, construct, current_path, stored_class
from imtok.data.base import Data
from imtok.errors import InputError
from imtok.files import canonical_json, sha256
from imtok.quantizers.fsq import FSQ
from imtok.run_data import take_data
from imtok.tokenizer import Tokenizer
from imtok.training.resume import check_changes

GOOD = {
    "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 8, "depth": 1},
    "quantizer": {
        "_target_": "imtok.quantizers.product.Product",
        "parts": [{"_target_": "imtok.quantizers.fsq.FSQ", "levels": [3, 3]}],
    },
    "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 8, "depth": 1},
    "image_size": 16,
}
TOUCH = "from pathlib import Path; Path('hacked').touch()"
# What a stranger would like to be called, with arguments that leave a file behind.
HOSTILE = {
    "a function": {"_target_": "os.system", "command": "touch hacked"},
    "a class of the standard library": {"_target_": "subprocess.Popen", "args": ["touch", "hacked"]},
    "a function of it": {"_target_": "subprocess.run", "args": ["touch", "hacked"]},
    "a built-in function": {"_target_": "builtins.exec", "source": TOUCH},
    "a loader of pickles": {"_target_": "torch.load", "f": "weights.pt", "weights_only": False},
    "a loader of code": {"_target_": "torch.hub.load", "repo_or_dir": ".", "model": "x", "source": "local"},
    "a class of a library": {"_target_": "torch.nn.Linear", "in_features": 8, "out_features": 8},
    "an optimiser where none belongs": {"_target_": "torch.optim.SGD", "params": []},
    "a class that imtok imports": {"_target_": "imtok.tokenizer.Path", "args": ["hacked"]},
    "a module that imtok imports": {"_target_": "imtok.construct.os.system", "command": "touch hacked"},
    "a function of imtok": {"_target_": "imtok.files.write_bytes", "path": "hacked", "content": ""},
    "a method of imtok": {"_target_": "imtok.tokenizer.Tokenizer.load", "source": "."},
    "a command of imtok": {"_target_": "imtok.cli.main"},
    "another class of imtok": {"_target_": "imtok.files.Lock", "path": "hacked", "name": "x"},
    "a data set of imtok": {"_target_": "imtok.data.sources.photos.Photos"},
    "no module": {"_target_": "Popen", "args": ["touch", "hacked"]},
    "a relative module": {"_target_": ".os.system", "command": "touch hacked"},
    "no text": {"_target_": ["os", "system"], "command": "touch hacked"},
    "a class in the place of a name": {"_target_": {"_target_": "subprocess.Popen", "args": ["touch", "hacked"]}},
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("IMTOK_PACKAGES", raising=False)


def places(part):
    """A tokenizer's config with a part of a stranger's in each of the places that there are for one."""
    for name in ("encoder", "quantizer", "decoder", "regularizer", "space", "condition"):
        yield name, {**GOOD, name: part}
    product = GOOD["quantizer"]
    yield "a list of parts", {**GOOD, "quantizer": {**product, "parts": [*product["parts"], part]}}
    yield "a number", {**GOOD, "encoder": {**GOOD["encoder"], "width": part}}
    yield "an unknown argument", {**GOOD, "decoder": {**GOOD["decoder"], "hook": part}}
    yield "deep inside", {**GOOD, "decoder": {**GOOD["decoder"], "hooks": [{"a": [{"b": part}]}]}}


def store(config):
    """A folder that looks in all as if ``Tokenizer.save`` had written it with this config."""
    Tokenizer.from_config(GOOD).save("stored")
    weights = Path("stored/model.safetensors")
    save_file(load_file(weights), weights, {"imtok": canonical_json(config)})
    Path("stored/config.json").write_text(json.dumps({**config, "weights_sha256": sha256(weights)}))


@pytest.mark.parametrize("part", HOSTILE.values(), ids=HOSTILE)
def test_a_stored_tokenizer_calls_no_class_but_those_of_its_parts(part, monkeypatch):
    built = []
    monkeypatch.setattr(FSQ, "__init__", lambda self, **_: built.append(self))
    for name, config in places(part):
        with pytest.raises(ValueError, match=r"_target_ must|has no argument"):
            Tokenizer.from_config(config)
        assert not built, name  # not even what stands before it
        assert not Path("hacked").exists(), name


TEXT = "touch hacked"


@pytest.mark.parametrize(
    "encoder",
    [
        {"_target_": "imtok.encoders.two_depths.TwoDepthEncoder", "net": TEXT},
        {"_target_": "imtok.encoders.beside.SemanticPixelEncoder", "semantic": [{"deep": TEXT}], "pixels": 3},
        {"_target_": "imtok.encoders.pretrained_vit.PretrainedViTEncoder", "style": TEXT},
        {"_target_": "imtok.encoders.vfmtok.RegionEncoder", "net": [TEXT]},
    ],
)
def test_a_text_or_a_number_in_the_place_of_a_part_is_refused_by_its_name(encoder):
    for config in ({**GOOD, "encoder": encoder}, {**GOOD, "quantizer": {**GOOD["quantizer"], "parts": [TEXT]}}):
        with pytest.raises(ValueError, match=r"\w+ of \w+ must be given by a _target_ and its arguments, got 'touch"):
            Tokenizer.from_config(config)


def test_a_folder_with_such_a_config_is_refused_in_one_line():
    store(GOOD)
    assert Tokenizer.load("stored").num_tokens((16, 16)) == 4
    for _, config in places(HOSTILE["a class of the standard library"]):
        store(config)
        with pytest.raises(InputError, match=r"^stored does not .*in a stored config, got 'subprocess") as said:
            Tokenizer.load("stored")
        assert "\n" not in str(said.value)
    assert not Path("hacked").exists()


PHOTOS = {"_target_": "imtok.data.sources.photos.Photos"}
MIXTURE = {"_target_": "imtok.data.sources.mixture.Mixture"}


def sections(part):
    """The data section of a run with a part of a stranger's in each of the places that there are for one."""
    yield "data", part
    yield "a list", {**MIXTURE, "parts": [part], "weights": [1.0]}
    yield "a part", {**MIXTURE, "parts": {"a": PHOTOS, "b": part}, "weights": {"a": 1}}
    yield "a number", {**PHOTOS, "crops_per_photo": part}
    yield "an unknown argument", {**PHOTOS, "sources": [[part]]}


@pytest.mark.parametrize("part", HOSTILE.values(), ids=HOSTILE)
def test_the_data_of_a_stored_run_call_no_class_but_data_sets(part):
    Tokenizer.from_config(GOOD).save("run/tokenizer")
    Path("run/run.json").write_text("{}")
    for name, section in sections(part):
        if section == HOSTILE["a data set of imtok"] or (name in ("a list", "a part") and part == PHOTOS):
            continue  # here it belongs
        Path("run/config.yaml").write_text(yaml.safe_dump({"data": section}))
        config = OmegaConf.create({"data": None, "split": None})
        with pytest.raises(InputError, match=r"^run/config\.yaml.*(_target_ must|has no argument)") as said:
            take_data(config, ["run"])
        assert "\n" not in str(said.value), name
        assert config.data is None, name
    assert not Path("hacked").exists()


@pytest.mark.parametrize("secret", ["${oc.env:HOME}", "a${oc.decode:1}", "${data}", "x/${oc.env:HOME}/{0..9}.tar"])
def test_the_data_of_a_stored_run_look_nothing_up_on_this_machine(secret):
    Tokenizer.from_config(GOOD).save("run/tokenizer")
    Path("run/run.json").write_text("{}")
    for section in ({**PHOTOS, "held_out": [secret]}, {**PHOTOS, "held_out": secret}):
        Path("run/config.yaml").write_text(yaml.safe_dump({"data": section}))
        with pytest.raises(InputError, match=r"data\.held_out.* must not refer to other values in a stored config"):
            take_data(OmegaConf.create({"data": None, "split": None}), ["run"])


@pytest.mark.parametrize("part", HOSTILE.values(), ids=HOSTILE)
def test_the_config_of_a_run_that_goes_on_is_compared_and_never_built(part):
    for section in ("optimizer", "schedule", "objective", "callback", "logger", "encoder", "data"):
        with pytest.raises(InputError, match="the config differs from that of the run so far"):
            check_changes({section: {"x": part}, "encoder": part}, {"encoder": GOOD["encoder"]}, [])
    assert not Path("hacked").exists()


def test_libraries_give_subclasses_of_a_group_and_nothing_else():
    assert stored_class("torch.optim.SGD", ("imtok",), (Optimizer,)) is SGD
    assert stored_class("lightning.pytorch.loggers.CSVLogger", ("imtok",), (Logger,)) is CSVLogger
    assert stored_class("torchmetrics.image.PeakSignalNoiseRatio", ("imtok",), (Metric,)) is PeakSignalNoiseRatio
    for target in (
        "torch.optim.lr_scheduler.LRScheduler", "torch.optim.optimizer.Any", "torch.optim.swa_utils.deepcopy",
        "torch.load", "torch.optim.torch.load", "lightning.pytorch.callbacks.ModelCheckpoint", "torch.nn.Linear",
    ):  # fmt: skip
        with pytest.raises(ValueError, match="_target_ must"):
            stored_class(target, ("imtok",), (Optimizer,))
    for base in (Logger, Callback, Metric):
        for part in HOSTILE.values():
            with pytest.raises(ValueError, match="_target_ must"):
                check_stored(part, base=base)


def test_a_package_of_ones_own_gives_the_classes_that_it_defines(monkeypatch):
    class Mine(FSQ):
        pass

    Mine.__module__ = "mine"
    monkeypatch.setitem(sys.modules, "mine", types.SimpleNamespace(Mine=Mine, Path=Path))
    section = {"_target_": "mine.Mine", "levels": [3, 3]}
    with pytest.raises(ValueError, match="IMTOK_PACKAGES"):
        construct(section)
    monkeypatch.setenv("IMTOK_PACKAGES", "other, mine")
    assert type(construct(section)) is Mine
    with pytest.raises(ValueError, match=r"by the module that defines it, got 'mine\.Path'"):
        construct({"_target_": "mine.Path"})


@pytest.mark.parametrize(
    "before",
    [
        "captioned_photos.CaptionedPhotos",
        "cifar.Cifar10",
        "folder.Folder",
        "huggingface.HuggingFace",
        "idx.Idx",
        "imagenet.ImageNet",
        "mixture.Mixture",
        "pairs.Pairs",
        "photos.Photos",
        "pipeline.Pipeline",
        "tars.Tars",
        "webdataset.WebDataset",
    ],
)
def test_data_is_found_where_it_has_moved(before):
    assert issubclass(stored_class(f"imtok.data.{before}", ("imtok",)), Data)


def test_a_class_is_found_under_the_name_that_it_had_before():
    assert current_path("imtok.evaluation.protocol.Protocol") == "imtok.measures.protocol.Protocol"
    assert construct({"_target_": "imtok.evaluation.protocol.Protocol", "preset": "offline"}).preset == "offline"
    assert current_path("imtok.evaluation.protocols.Protocol") == "imtok.evaluation.protocols.Protocol"
