"""A tokenizer goes to the hub with a card and comes back by its name and revision."""

import json
import logging

import pytest
import torch
from export.stores import tokenizer_of
from hubs import FolderHub
from huggingface_hub import ModelCard
from PIL import Image

from imtok import InputError, Tokenizer
from imtok.measures.evaluate import evaluate
from imtok.measures.report.writing import write_report
from imtok.types import Batch


@pytest.fixture
def hub(tmp_path, monkeypatch):
    there = FolderHub(tmp_path / "hub")
    there.install(monkeypatch)
    monkeypatch.chdir(tmp_path)
    return there


@pytest.fixture
def tokenizer():
    return tokenizer_of("one slot")


@pytest.fixture
def run(tmp_path, tokenizer):
    """A run with its report, as training leaves it."""
    tokenizer.save(tmp_path / "runs/mine/tokenizer")
    pixels = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    batch = Batch(pixels, torch.zeros(5, dtype=torch.int64), torch.arange(5), [str(number) for number in range(5)])
    write_report(evaluate(tokenizer, [batch]), tmp_path / "runs/mine/evaluation")
    return tmp_path / "runs/mine"


def altered(tokenizer):
    with torch.no_grad():
        tokenizer.decoder.last_layer.add_(0.01)
    return tokenizer


def test_what_was_pushed_is_loaded_by_name_and_by_revision(hub, tokenizer):
    first = tokenizer.fingerprint()
    address = tokenizer.push_to_hub("org/name")
    second = altered(tokenizer).fingerprint()
    tokenizer.push_to_hub("hf:org/name")
    commit = address.rpartition("/")[2]
    assert Tokenizer.from_pretrained("org/name").fingerprint() == second
    assert Tokenizer.load("hf:org/name").fingerprint() == second
    for asked in (
        Tokenizer.from_pretrained("org/name", revision=commit),
        Tokenizer.from_pretrained("hf:org/name", revision=commit),
        Tokenizer.from_pretrained(f"org/name@{commit}"),
        Tokenizer.from_pretrained(f"hf:org/name@{commit}", revision=commit),
        Tokenizer.load(f"hf:org/name@{commit}"),
    ):
        assert asked.fingerprint() == first
        assert not asked.training


def test_a_branch_is_pushed_to_and_loaded_from(hub, tokenizer):
    tokenizer.push_to_hub("org/name")
    main = tokenizer.fingerprint()
    altered(tokenizer).push_to_hub("org/name", branch="better", private=True, commit_message="Better weights")
    assert Tokenizer.from_pretrained("org/name").fingerprint() == main
    assert Tokenizer.from_pretrained("org/name@better").fingerprint() == tokenizer.fingerprint()
    assert {"private": True, "exist_ok": True} in hub.asked
    assert "Better weights" in [asked.get("commit_message") for asked in hub.asked]


def test_a_folder_here_goes_before_a_model_of_that_name(hub, tokenizer, tmp_path):
    altered(tokenizer_of("one slot")).push_to_hub("runs/mine")
    tokenizer.save(tmp_path / "runs/mine/tokenizer")
    assert Tokenizer.from_pretrained("runs/mine").fingerprint() == tokenizer.fingerprint()
    assert Tokenizer.from_pretrained(tmp_path / "runs/mine").fingerprint() == tokenizer.fingerprint()
    assert Tokenizer.from_pretrained("hf:runs/mine").fingerprint() != tokenizer.fingerprint()


def test_token_and_cache_reach_the_client_of_the_hub(hub, tokenizer):
    tokenizer.push_to_hub("org/name")
    Tokenizer.from_pretrained("org/name", token="secret", cache_dir="there", local_files_only=True)
    asked = {"token": "secret", "cache_dir": "there", "force_download": False, "local_files_only": True}
    assert hub.asked[-1] == asked


def test_what_cannot_be_had_is_one_line_that_says_why(hub, tokenizer, tmp_path):
    tokenizer.save(tmp_path / "runs/mine/tokenizer")
    tokenizer.push_to_hub("org/name")
    (hub.folder / "org/name/1/config.json").unlink()
    for name, settings, said in (
        ("org/other", {}, r"hf:org/other cannot be fetched from the hub \(404 Client Error: no org/other at None\)$"),
        ("runs/mien", {}, r"no runs/mien at None\); did you mean the folder runs/mine\?$"),
        ("org/name", {"revision": "v9"}, r"hf:org/name@v9 cannot be fetched .*no org/name at v9"),
        ("org/name@v1", {"revision": "v2"}, "org/name@v1 names another revision than revision=v2; give one of them"),
        ("org/name", {}, r"hf:org/name is not a tokenizer of imtok \(the model has no config\.json\)"),
        ("runs/mine", {"revision": "v1"}, "revision=v1 is of a model on the hub, and runs/mine is a folder"),
        ("nothing", {}, r"nothing is not a tokenizer \(it does not exist"),
        ("a/b/c", {}, r"a/b/c is not a tokenizer \(it does not exist"),
        ("hf:name", {}, "hf:name is not a name on the hub"),
    ):
        with pytest.raises(InputError, match=said) as caught:
            Tokenizer.from_pretrained(name, **settings)
        assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the mixin leaves its folder to Python
def test_a_push_that_fails_is_one_line_that_says_why(hub, tokenizer, monkeypatch):
    for name, said in (
        ("a/b/c", "is not a name on the hub"),
        ("my name", "is not a name"),
        ("org/name@v1", "for a branch give branch=NAME"),
    ):
        with pytest.raises(InputError, match=said):
            tokenizer.push_to_hub(name)

    def refuse(**_):
        raise OSError("401 Unauthorized\nRequest ID: 7")

    monkeypatch.setattr(hub, "upload", refuse)
    with pytest.raises(InputError, match=r"^org/name cannot be pushed to the hub \(401 Unauthorized\); .*token=TOKEN$"):
        tokenizer.push_to_hub("org/name")


def test_the_card_has_the_task_the_metrics_of_the_run_and_a_picture(hub, run):
    loaded = Tokenizer.from_pretrained("runs/mine")
    loaded.push_to_hub("org/name", model_card_kwargs={"license": "apache-2.0"})
    there = hub.folder / "org/name/1"
    assert sorted(path.name for path in there.iterdir()) == [
        "README.md", "config.json", "model.safetensors", "reconstructions.png",
    ]  # fmt: skip
    found = ModelCard.load(there / "README.md")
    assert found.data.license == "apache-2.0"
    assert found.data.pipeline_tag == "image-to-image"
    assert found.data.library_name == "imtok"
    assert {"imtok", "image-tokenizer"} <= set(found.data.tags)
    report = json.loads((run / "evaluation/report.json").read_text())
    results = {one.metric_type: one for one in found.data.eval_results}
    assert {name: one.metric_value for name, one in results.items()} == report["metrics"]
    assert results["psnr"].metric_name == "PSNR (dB)"
    assert results["psnr"].metric_config == report["protocol_ids"]["psnr"]["id"]
    assert found.data.model_name == "org/name"
    assert "](reconstructions.png)" in found.text
    assert 'imtok.Tokenizer.from_pretrained("org/name")' in found.text
    assert str(run) not in found.content
    with Image.open(there / "reconstructions.png") as picture:
        assert picture.width > 2 * 128


def test_metrics_of_other_weights_are_in_no_card(hub, run, caplog):
    loaded = altered(Tokenizer.load(run))
    with caplog.at_level(logging.WARNING):
        assert "Not measured" in loaded.generate_model_card().text
    assert "was measured with other weights" in caplog.text
    with pytest.raises(InputError, match=r"runs/mine was measured with other weights .*evaluate this tokenizer"):
        loaded.generate_model_card(report=run)
    with pytest.raises(InputError, match="nothing does not exist"):
        loaded.push_to_hub("org/name", model_card_kwargs={"report": "nothing"})
    assert not hub.revisions


def test_weights_that_are_not_finite_leave_no_trace_on_the_hub(hub, tokenizer):
    with torch.no_grad():
        tokenizer.decoder.last_layer[0] = float("nan")
    with pytest.raises(ValueError, match="weights must be finite to be saved, got NaN or infinity in decoder"):
        tokenizer.push_to_hub("org/name")
    assert not hub.asked


def test_a_folder_that_is_saved_to_keeps_what_else_is_in_it(hub, tokenizer, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/notes.txt").write_text("mine")
    tokenizer.train()
    tokenizer.save_pretrained("model")
    assert tokenizer.training
    assert (tmp_path / "model/notes.txt").read_text() == "mine"
    (tmp_path / "model/README.md").write_text("my own card")
    altered(tokenizer).save_pretrained(tmp_path / "model")
    assert (tmp_path / "model/README.md").read_text() == "my own card"
    assert Tokenizer.from_pretrained("./model").fingerprint() == tokenizer.fingerprint()
    assert not [path for path in (tmp_path / "model").iterdir() if path.name.startswith(".")]
    tokenizer.save_pretrained("model", push_to_hub=True)  # by the folder's name, to one's own
    assert Tokenizer.from_pretrained("me/model").fingerprint() == tokenizer.fingerprint()
    tokenizer.save_pretrained("model", push_to_hub=True, repo_id="org/name")
    assert Tokenizer.from_pretrained("org/name").fingerprint() == tokenizer.fingerprint()


def test_a_tokenizer_that_must_be_told_more_or_whose_size_is_open_gets_a_card_without_a_picture(hub, tmp_path):
    tokenizer = tokenizer_of("one slot")
    tokenizer.config = {name: value for name, value in tokenizer.config.items() if name != "image_size"}
    tokenizer.save_pretrained("model")
    assert not (tmp_path / "model/reconstructions.png").exists()
    assert "reconstructions.png" not in (tmp_path / "model/README.md").read_text()
