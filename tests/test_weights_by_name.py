"""Weights that are named ``hf:org/name[@revision]``: fetched where there is a network, and else refused in one line."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import timm
import torch
from conditions.towers import write_tower
from huggingface_hub.errors import OfflineModeIsEnabled, RemoteEntryNotFoundError
from nn.vits import timm_net
from safetensors.torch import save_file
from spaces.autoencoders import published, small
from training.runs import tiny_run

from imtok.conditions.text import TextTower
from imtok.encoders.pretrained_vit import PretrainedViTEncoder
from imtok.errors import InputError
from imtok.extractors.timm import TimmExtractor
from imtok.losses.teachers import Teacher
from imtok.nn.transformer import BlockStyle
from imtok.pretrained import fetch_weights
from imtok.training.run import train

_NOTHING = SimpleNamespace(headers={}, request=None, status_code=404)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Models as folders of revisions, and what was asked for."""
    asked = []

    def download(model, file, revision=None):
        asked.append((model, file, revision))
        path = tmp_path / "hub" / model / (revision or "main") / file
        if not path.is_file():
            raise RemoteEntryNotFoundError(f"404: no {file}", response=_NOTHING)
        return str(path)

    def snapshot(model, revision=None, allow_patterns=()):
        asked.append((model, tuple(allow_patterns), revision))
        return str(tmp_path / "hub" / model / (revision or "main"))

    monkeypatch.setattr("imtok.locate.hf_hub_download", download)
    monkeypatch.setattr("imtok.locate.snapshot_download", snapshot)
    return tmp_path / "hub", asked


def write(folder: Path, name: str, tensors) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name)


def test_an_encoder_a_space_a_teacher_and_an_extractor_begin_with_files_of_the_hub(hub):
    folder, asked = hub
    vit, test_vit = timm_net("dinov2_b14", 70), timm.create_model("test_vit", img_size=64)
    write(folder / "a/vit/v1", "pytorch_model.safetensors", {})
    write(folder / "a/vit/v1", "model.safetensors", vit.state_dict())
    write(folder / "a/vae/main", "diffusion_pytorch_model.safetensors", published(small()))
    write(folder / "a/test/main", "open_clip_model.safetensors", test_vit.state_dict())
    encoder = PretrainedViTEncoder(
        6, 64, "hf:a/vit@v1", width=32, depth=3, heads=2, style=BlockStyle(eps=1e-6, layer_scale=1e-5)
    )
    fetch_weights(encoder)
    assert torch.equal(encoder.net.class_token, vit.cls_token[0])
    space, random = small(weights="hf:a/vae"), small()
    fetch_weights(space)
    assert not torch.equal(space.encoder.conv_in.weight, random.encoder.conv_in.weight)
    teacher = Teacher("test_vit", "hf:a/test", 64)
    assert torch.equal(teacher.frozen.net.class_token, test_vit.cls_token[0])
    extractor = TimmExtractor("test_vit", "hf:a/test")
    assert torch.equal(extractor.net.cls_token, test_vit.cls_token)
    assert ("a/vit", "model.safetensors", "v1") in asked
    assert ("a/vae", "diffusion_pytorch_model.safetensors", None) in asked


def test_a_text_tower_is_fetched_by_the_name_that_is_stored(hub):
    folder, asked = hub
    write_tower(folder / "a/t5/v2", "t5")
    tower = TextTower("t5", 16, 10, "a/t5", weights="hf:a/t5@v2")
    tower.prepare()
    assert asked == [("a/t5", ("*.json", "*.safetensors"), "v2")]
    assert (tower.stored["weights"], tower.stored["revision"]) == (None, "v2")
    with pytest.raises(
        InputError, match=r"hf:a/b must be of condition\.repository=a/t5, .* give condition\.repository=a/b"
    ):
        TextTower("t5", 16, 10, "a/t5", weights="hf:a/b").prepare()


def test_a_model_without_such_a_file_is_refused_by_the_key(hub):
    for space, reason in (
        (small(weights="hf:a/vae"), r"space\.weights=hf:a/vae has no diffusion_pytorch_model\.safetensors or vae/"),
        (small(weights="hf:vae"), r"space\.weights=hf:vae is not a name on the hub; write hf:org/name or hf:org/name@"),
    ):
        with pytest.raises(InputError, match=reason):
            fetch_weights(space, "space")


def test_without_a_network_a_run_is_refused_in_one_line_before_it_writes(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OfflineModeIsEnabled("Cannot reach https://huggingface.co: offline mode is enabled.\nMore.")

    monkeypatch.setattr("imtok.locate.hf_hub_download", offline)
    monkeypatch.setattr("imtok.locate.snapshot_download", offline)
    run = tiny_run(
        tmp_path / "run", "encoder=dinov2_b14", "encoder.heads=2", "encoder.weights=hf:facebook/dinov2-base@main"
    )
    with pytest.raises(InputError) as caught:
        train(run)
    assert str(caught.value) == (
        "encoder.weights=hf:facebook/dinov2-base@main cannot be fetched from the hub (Cannot reach "
        "https://huggingface.co: offline mode is enabled); download it elsewhere, and give its path"
    )
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=r"condition\.weights=hf:a/t5 cannot be fetched from the hub \(Cannot reach"):
        TextTower("t5", 16, 10, "a/t5", weights="hf:a/t5").prepare()
    with pytest.raises(InputError, match=r"hf:a/test cannot be fetched from the hub \(Cannot reach"):
        Teacher("test_vit", "hf:a/test")
