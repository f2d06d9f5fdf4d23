"""Text towers: their features are those of transformers to the last bit, and only the right tower is read."""

import json

import pytest
import torch
import transformers
from conditions.towers import KINDS, write_tower

from imtok.conditions.text import TextTower
from imtok.errors import InputError

CLASSES = {
    "clip": "CLIPTextModel", "siglip": "SiglipTextModel", "siglip2": "Siglip2TextModel", "t5": "T5EncoderModel",
}  # fmt: skip
CAPTIONS = ["a red fox in the snow", "two cats", "", "a blue circle " * 9]
LABELS = torch.full((4,), -1)


def tower(folder, kind, **settings):
    kind = kind.rstrip("2")
    return TextTower(**{"kind": kind, "dim": 16, "length": 10, "repository": "a/b", "weights": str(folder)} | settings)


@pytest.fixture
def clip(tmp_path):
    return write_tower(tmp_path / "clip", "clip")


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_transformers_to_the_last_bit(kind, tmp_path):
    folder = write_tower(tmp_path / kind, kind)
    made = tower(folder, kind)(CAPTIONS, LABELS)
    net = getattr(transformers, CLASSES[kind]).from_pretrained(folder).eval()
    cut = transformers.AutoTokenizer.from_pretrained(folder)
    given = cut(CAPTIONS, padding="max_length", truncation=True, max_length=10, return_tensors="pt")
    seen = None if kind.startswith("siglip") else given["attention_mask"]
    with torch.no_grad():
        expected = net(input_ids=given["input_ids"], attention_mask=seen).last_hidden_state
    said = torch.ones(4, 10, dtype=torch.bool) if seen is None else seen.bool()
    assert torch.equal(made.text, expected.masked_fill(~said[..., None], 0))  # nothing is said after the last token
    said[2] = False  # there is nothing in that caption
    assert torch.equal(made.mask, said)


def test_words_after_the_last_that_is_read_and_other_captions_of_the_batch_change_little(clip):
    condition = tower(clip, "clip")
    made = condition(CAPTIONS, LABELS)
    alone = condition(["a red fox in the snow"], LABELS[:1])
    torch.testing.assert_close(made.text[:1], alone.text)
    longer = condition([CAPTIONS[3] + "fox"], LABELS[:1])
    assert torch.equal(longer.text, condition([CAPTIONS[3]], LABELS[:1]).text)


def test_bf16_computes_in_bf16_and_gives_fp32(clip):
    half, whole = tower(clip, "clip", precision="bf16"), tower(clip, "clip")
    texts = [condition(CAPTIONS, LABELS).text for condition in (half, whole)]
    assert half.net.tower.dtype == torch.bfloat16
    assert [text.dtype for text in texts] == [torch.float32] * 2
    assert torch.equal(texts[0], texts[0].bfloat16().float())
    torch.testing.assert_close(*texts, atol=0.2, rtol=0.1)


def test_autocast_does_not_reach_the_tower(clip):
    condition = tower(clip, "clip")
    expected = condition(CAPTIONS, LABELS).text
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(condition(CAPTIONS, LABELS).text, expected)


def test_nothing_of_the_tower_is_a_part_of_the_condition(clip):
    condition = tower(clip, "clip")
    condition.prepare()
    assert not list(condition.parameters())
    assert not condition.state_dict()
    assert condition.stored == {"weights": None, "cache": None, "revision": None, "sha256": condition.sha256}
    assert not any(value.requires_grad for value in condition.net.parameters())
    assert not condition.train().net.training


def test_weights_in_several_files_are_one_tower(tmp_path):
    one, several = (write_tower(tmp_path / shard, "t5", shard=shard) for shard in ("1GB", "8KB"))
    assert len(list(several.glob("model-*.safetensors"))) > 1
    texts = [tower(folder, "t5")(CAPTIONS, LABELS).text for folder in (one, several)]
    assert torch.equal(*texts)


@pytest.mark.parametrize("altered", ["model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"])
def test_another_tower_is_refused_by_its_hash_whichever_of_its_files_differs(altered, clip, tmp_path):
    condition = tower(clip, "clip")
    condition.prepare()
    other = write_tower(tmp_path / "other", "clip", seed=1 if altered == "model.safetensors" else 0)
    assert tower(other, "clip").net is not None
    if altered != "model.safetensors":
        about = json.loads((other / altered).read_text())
        (other / altered).write_text(json.dumps(about | {"remark": "another"}))
    with pytest.raises(
        InputError, match=r"other is not the expected text tower: its sha256 must begin with \w{16}, got"
    ):
        tower(other, "clip", sha256=condition.sha256).prepare()
    (clip / "README.md").write_text("what is not read changes nothing")
    tower(clip, "clip", sha256=condition.sha256).prepare()


def test_what_a_folder_lacks_or_has_of_another_kind_or_size_is_one_line(clip, tmp_path):
    def refusal(folder, **settings):
        with pytest.raises(InputError) as refused:
            tower(folder, settings.pop("kind", "clip"), **settings).prepare()
        assert "\n" not in str(refused.value)
        return str(refused.value)

    fetch = 'give its path as condition.weights=PATH, or hf download a/b --include "*.json" "*.safetensors"'
    assert refusal(tmp_path / "no").endswith(f"no is not a folder; {fetch}")
    assert "condition.kind=t5" in refusal(clip, kind="t5")
    assert "holds a net of the type clip, not t5" in refusal(clip, kind="t5")
    assert "condition.dim must be 16, the width of the text tower in" in refusal(clip, dim=24)
    assert "condition.length must be at most 12, as the tower in" in refusal(clip, length=13)
    (clip / "tokenizer.json").rename(clip / "aside")
    assert refusal(clip).endswith(f"clip has no tokenizer.json; {fetch}")
    (clip / "aside").rename(clip / "tokenizer.json")
    weights = clip / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    assert "cannot be read" in refusal(clip)
    from safetensors.torch import load, save

    weights.write_bytes(save({name: one for name, one in load(whole).items() if "layers.1.mlp.fc1" not in name}))
    assert "lacks 2 tensors of CLIPTextModel, such as" in refusal(clip)
    weights.unlink()
    assert "has no model.safetensors" in refusal(clip)


def test_choices_and_numbers_out_of_range_are_refused():
    with pytest.raises(ValueError, match="kind must be one of clip, siglip, t5, got 'bert'"):
        TextTower("bert", 16, 10, "a/b")
    with pytest.raises(ValueError, match="precision must be one of fp32, bf16, got 'fp16'"):
        TextTower("clip", 16, 10, "a/b", precision="fp16")
    with pytest.raises(ValueError, match="dim and length must be positive, got 0 and 10"):
        TextTower("clip", 0, 10, "a/b")
    with pytest.raises(ValueError, match=r"drop must lie in \[0, 1\), got 1"):
        TextTower("clip", 16, 10, "a/b", drop=1)


def test_without_the_library_the_extra_is_named(clip, monkeypatch):
    monkeypatch.setattr("imtok.conditions.text.find_spec", lambda _: None)
    with pytest.raises(
        InputError, match=r"transformers is missing.* \(imtok's extra `text`\), or give condition=words"
    ):
        tower(clip, "clip").prepare()


def test_one_in_the_cache_of_the_hub_is_found_by_its_config_and_its_commit_is_stored(clip, tmp_path, monkeypatch):
    from imtok.conditions import named

    clip.rename(tmp_path / "abc123")
    monkeypatch.setattr(named, "try_to_load_from_cache", lambda *_, **__: str(tmp_path / "abc123/config.json"))
    condition = tower(None, "clip", weights=None)
    condition.prepare()
    assert condition.stored["revision"] == "abc123"
