"""Frozen nets that a tokenizer names: found, verified, and held by nothing that is saved, averaged or trained."""

import copy
import json
from importlib.util import find_spec

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from imtok.conditions import named
from imtok.conditions.base import pinned
from imtok.conditions.clip import CLIPText
from imtok.conditions.named import NamedFile, Told
from imtok.errors import InputError, MissingWeightsError
from imtok.tokenizer import Tokenizer
from imtok.training.ema import EMA

LABELS = torch.tensor([-1, -1])


class Letters(NamedFile):
    """Features of the first two letters, by a table."""

    repository, file = "somebody/letters", "letters.safetensors"
    text_dim, text_length = 6, 2

    def build(self, tensors):
        net = nn.Embedding(128, 6)
        net.load_state_dict(tensors)
        return net

    def features(self, net, captions, device):
        return Told(net(torch.tensor([[ord(letter) % 128 for letter in f"{caption}  "[:2]] for caption in captions])))


CONFIG = {
    "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 16, "depth": 1},
    "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5, 5]},
    "decoder": {
        "_target_": "imtok.decoders.titok.TiTokPixelDecoder", "context_dim": 6, "context_length": 2, "patch_size": 8,
        "width": 16, "depth": 1, "heads": 2,
    },
    "image_size": 16,
}  # fmt: skip


def write(path, seed=0):
    torch.manual_seed(seed)
    save_file({"weight": torch.randn(128, 6)}, path)
    return str(path)


def build(**settings):
    config = CONFIG | {"condition": {"_target_": f"{Letters.__module__}.Letters", **settings}}
    return Tokenizer.from_config(config, packages=None)


def test_its_weights_are_in_no_file_average_optimiser_or_state(tmp_path):
    tokenizer = build(weights=write(tmp_path / "letters.safetensors"))
    before = [name for name, _ in tokenizer.named_parameters()]
    tokenizer.condition.prepare()
    assert tokenizer.condition_for(2, ["ab", ""]).mask.tolist() == [[True, True], [False, False]]
    assert [name for name, _ in tokenizer.named_parameters()] == before
    assert not [name for name in tokenizer.state_dict() if name.startswith("condition")]
    assert EMA(tokenizer, 0.9).average.condition.net is tokenizer.condition.net  # one, not two
    assert copy.deepcopy(tokenizer).double().condition.net.weight.dtype == torch.float32


def test_a_saved_tokenizer_names_it_and_no_path(tmp_path, monkeypatch):
    monkeypatch.setenv("IMTOK_PACKAGES", Letters.__module__.split(".")[0])
    path = write(tmp_path / "letters.safetensors")
    tokenizer = build(weights=path)
    tokenizer.condition.prepare()
    tokenizer.config = pinned(tokenizer.config, tokenizer.condition)
    tokenizer.save(tmp_path / "tokenizer")
    stored = (tmp_path / "tokenizer/config.json").read_text()
    assert str(tmp_path) not in stored
    assert str(tmp_path).encode() not in (tmp_path / "tokenizer/model.safetensors").read_bytes()
    section = json.loads(stored)["condition"]
    assert section["weights"] is None
    assert len(section["sha256"]) == 64

    again = Tokenizer.load(tmp_path / "tokenizer")  # nothing is looked for before it is needed
    assert again.fingerprint() == tokenizer.fingerprint()
    again.condition.weights = path
    text = [part.condition_for(1, ["ab"]).text for part in (tokenizer, again)]
    assert torch.equal(*text)

    other = Tokenizer.load(tmp_path / "tokenizer")
    other.condition.weights = write(tmp_path / "other.safetensors", seed=1)
    with pytest.raises(InputError, match=r"other\.safetensors is not the expected weight file: its sha256 must begin"):
        other.condition_for(1, ["ab"])


def test_without_a_path_it_is_that_in_the_cache_of_the_hub_and_its_commit_is_stored(tmp_path, monkeypatch):
    asked = []
    (tmp_path / "abc123").mkdir()
    path = write(tmp_path / "abc123/letters.safetensors")
    monkeypatch.setattr(named, "try_to_load_from_cache", lambda *about, **more: asked.append((about, more)) or path)
    condition = Letters()
    condition.prepare()
    assert asked == [(("somebody/letters", "letters.safetensors"), {"revision": None})]
    assert condition.stored["revision"] == "abc123"


def test_one_that_cannot_be_found_is_named_with_both_remedies(monkeypatch):
    monkeypatch.setattr(named, "try_to_load_from_cache", lambda *_, **__: None)
    with pytest.raises(
        MissingWeightsError,
        match=r"letters\.safetensors of somebody/letters is not in the cache of the hub; give its path as "
        r"condition\.weights=PATH, or hf download somebody/letters letters\.safetensors --revision abc",
    ):
        Letters(revision="abc")([""], LABELS[:1])
    with pytest.raises(InputError, match=r"condition\.weights=nowhere is not a file"):
        Letters(weights="nowhere").prepare()


@pytest.mark.skipif(find_spec("open_clip") is None, reason="open_clip is not installed")
def test_the_features_are_those_of_the_tower_before_it_pools(tmp_path):
    from open_clip.tokenizer import SimpleTokenizer
    from open_clip.transformer import QuickGELU, TextTransformer

    tower = TextTransformer(77, 49408, 16, 2, 2, output_dim=8, act_layer=QuickGELU).eval()
    found = []
    tower.ln_final.register_forward_hook(lambda *about: found.append(about[-1]))
    with torch.no_grad():
        tower(SimpleTokenizer()(["a red fox", "two cats"]))
    save_file({**tower.state_dict(), "visual.x": torch.zeros(1)}, tmp_path / "clip.safetensors")
    condition = CLIPText(dim=16, depth=2, heads=2, weights=str(tmp_path / "clip.safetensors"))
    made = condition(["a red fox", "two cats"], LABELS)
    torch.testing.assert_close(made.text, found[0])
    assert made.mask.all()
    assert not condition(["", " "], LABELS).mask.any()
    with pytest.raises(InputError, match="is of another net than the condition says"):
        CLIPText(dim=24, depth=2, heads=2, weights=str(tmp_path / "clip.safetensors")).prepare()


@pytest.mark.skipif(find_spec("open_clip") is not None, reason="open_clip is installed")
def test_without_the_library_the_extra_is_named(tmp_path):
    condition = CLIPText(weights=write(tmp_path / "clip.safetensors"))
    with pytest.raises(
        InputError, match=r"open_clip is missing.* pip install open_clip_torch \(imtok's extra `clip`\)"
    ):
        condition.prepare()
