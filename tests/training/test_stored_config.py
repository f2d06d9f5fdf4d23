"""A tokenizer's stored config is a stranger's: whatever it names, nothing but parts of imtok is built."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file
from training.runs import tiny_run

from imtok.errors import InputError
from imtok.files import canonical_json, sha256
from imtok.tokenizer import Tokenizer

# research on hydra's own block list: the first ones it stops, the later ones it does not
GADGETS = [
    {"_target_": "os.system", "command": "touch MARKER"},
    {"_target_": "posix.system", "command": "touch MARKER"},
    {"_target_": "logging.os.system", "command": "touch MARKER"},
    {"_target_": "subprocess.Popen", "args": ["touch", "MARKER"]},
    {"_target_": "builtins.eval", "source": "open('MARKER', 'w')"},
    {"_target_": "builtins.exec", "source": "open('MARKER', 'w')"},
    {"_target_": "builtins.open", "file": "MARKER", "mode": "w"},
    {"_target_": "io.open", "file": "MARKER", "mode": "w"},
    {"_target_": "torch.load", "f": "MARKER", "weights_only": False},
    {"_target_": "torch.save", "obj": 1, "f": "MARKER"},
    {"_target_": "torch.hub.load", "repo_or_dir": "MARKER", "model": "x", "source": "local"},
    {"_target_": "numpy.load", "file": "MARKER", "allow_pickle": True},
    {"_target_": "pathlib.Path.write_text", "self": "MARKER", "data": "x"},
    {"_target_": "lightning.fabric.utilities.cloud_io._load", "path_or_url": "MARKER"},
    {"_target_": "webdataset.WebDataset", "urls": "pipe:touch MARKER"},
    {"_target_": "hydra.utils.instantiate", "config": {"_target_": "builtins.open", "file": "MARKER"}},
    {"_target_": "imtok.tokenizer.importlib.import_module", "name": "antigravity"},
    {"_target_": "imtok.files.os.system", "command": "touch MARKER"},
    {"_target_": "imtok.files.write_bytes", "path": "MARKER", "data": "x"},
    {"_target_": "imtok.files.shutil.rmtree", "path": "MARKER"},
    {"_target_": "imtok.tokenizer.Path", "args": "MARKER"},
    {"_target_": "imtok/../os.system", "command": "touch MARKER"},
    {"_target_": ["os.system"]},
    {"_target_": None},
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "tokenizer"
    tiny_run(folder.parent / "unused").tokenizer.save(folder)
    return folder


@pytest.mark.parametrize("gadget", GADGETS, ids=lambda gadget: str(gadget["_target_"]))
@pytest.mark.parametrize("place", ["encoder", "nested"])
def test_a_stored_config_that_would_run_code_is_refused(saved, tmp_path, gadget, place):
    folder, marker = tmp_path / "tokenizer", tmp_path / "marker"
    shutil.copytree(saved, folder)
    gadget = json.loads(json.dumps(gadget).replace("MARKER", str(marker)))
    config = json.loads((folder / "config.json").read_text())
    del config["weights_sha256"]
    config["encoder"] = gadget if place == "encoder" else {**config["encoder"], "width": gadget}
    # whoever writes the config can make the hashes agree
    weights = load_file(folder / "model.safetensors")
    save_file(weights, folder / "model.safetensors", {"imtok": canonical_json(config)})
    config["weights_sha256"] = sha256(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="_target_ must"):
        Tokenizer.load(folder)
    assert not marker.exists()
