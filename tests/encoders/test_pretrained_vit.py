"""An encoder that begins with published weights: what learns, what is saved, and how images come to it."""

import json

import pytest
import torch
from encoders.presets import small
from nn.vits import timm_net
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional as F
from training.runs import run_tiny, tiny_run

from imtok.encoders.pretrained_vit import PretrainedViTEncoder
from imtok.errors import InputError
from imtok.nn.transformer import BlockStyle
from imtok.pretrained import fetch_weights, find_weights
from imtok.tokenizer import Tokenizer
from imtok.training.checkpoints import load
from imtok.training.run import train

TINY = (
    "encoder=dinov2_b14", "encoder.width=32", "encoder.depth=3", "encoder.heads=2", "encoder.factor=8",
    "trainer.max_steps=50",
)  # fmt: skip

STYLE = BlockStyle(eps=1e-6, layer_scale=1e-5)


@pytest.fixture
def weights(tmp_path):
    """A file of timm, for a grid of 5 x 5 patches."""
    path = tmp_path / "dinov2.safetensors"
    save_file({name: value.contiguous() for name, value in timm_net("dinov2_b14", 70).state_dict().items()}, path)
    return path


def encoder_of(**settings):
    return PretrainedViTEncoder(6, image_size=64, width=32, depth=3, heads=2, **settings)


@pytest.mark.parametrize(
    ("how", "learning"),
    [
        ("none", ("project.",)),
        ("last", ("project.", "net.trunk.blocks.2.", "net.norm.")),
        ("lora", ("project.", "lora_A", "lora_B")),
    ],
)
def test_what_is_frozen_is_bitwise_the_same_after_fifty_steps(how, learning, weights, tmp_path):
    given = (f"encoder.weights={weights}", f"encoder.train={how}", "encoder.last_blocks=1", "encoder.drop_path=0.1")
    run = tiny_run(tmp_path / "run", *TINY, *given, "ema.decay=0.5", "optimizer.weight_decay=0.1")
    train(run)
    checkpoint = load(tmp_path / "run/checkpoints/step_50")
    fresh = tiny_run(tmp_path / "fresh", *TINY, *given).tokenizer.encoder
    fresh.read_weights(weights)
    changed = set()
    for name, value in fresh.state_dict().items():
        same = torch.equal(value, checkpoint.model[f"tokenizer.encoder.{name}"])
        assert same == torch.equal(value, checkpoint.ema[f"encoder.{name}"])
        changed |= set() if same else {name}
    parameters = dict(fresh.named_parameters())
    assert {name for name, value in parameters.items() if value.requires_grad} == changed
    assert changed
    assert all(any(part in name for part in learning) for name in changed)
    (states,) = (optimizer["state"] for optimizer in checkpoint.state["optimizers"])
    assert {name for name in states if name.startswith("encoder.")} == {f"encoder.{name}" for name in changed}


@pytest.mark.parametrize(
    ("how", "still"), [("all", []), ("none", [0, 1, 2]), ("last", [0, 1]), ("lora", [])], ids=lambda value: str(value)
)
def test_what_does_not_learn_stays_in_evaluation_mode_so_that_no_path_of_it_is_dropped(how, still):
    encoder = encoder_of(train=how, last_blocks=1, drop_path=0.5).train()
    assert [number for number, block in enumerate(encoder.net.trunk.blocks) if not block.training] == still
    assert encoder.net.patches.training == (how in ("all", "lora"))
    assert encoder.project.training


def test_a_trained_tokenizer_needs_no_other_file_and_names_none(weights, tmp_path):
    run = tiny_run(tmp_path / "run", *TINY, f"encoder.weights={weights}", "encoder.train=none", "trainer.max_steps=2")
    train(run)
    wanted = run.tokenizer.encoder.net.state_dict()
    weights.unlink()
    folder = tmp_path / "run/tokenizer"
    loaded = Tokenizer.load(folder)
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.encoder.net.state_dict().items())
    assert json.loads((folder / "config.json").read_text())["encoder"]["weights"] is None
    assert str(tmp_path).encode() not in b"".join(path.read_bytes() for path in folder.iterdir())
    loaded.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").fingerprint() == loaded.fingerprint()


def test_a_net_inside_an_encoder_begins_with_its_file_and_no_path_is_stored(tmp_path):
    path = tmp_path / "clip.safetensors"
    save_file({name: value.contiguous() for name, value in timm_net("clip_b16", 64).state_dict().items()}, path)
    encoder = small("encoder", "tokenflow")
    encoder["semantic"] |= {"weights": str(path), "width": 32, "depth": 3}
    patch = {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 16, "width": 16}
    vq = {"_target_": "imtok.quantizers.vq.VQ", "dim": 10, "codebook_size": 32}
    parts = {"encoder": encoder, "quantizer": vq, "decoder": patch, "image_size": 64}
    tokenizer = Tokenizer.from_config(parts)
    assert [name for name, _ in find_weights(tokenizer)] == [tokenizer.encoder.semantic]
    fetch_weights(tokenizer)
    tokenizer.save(tmp_path / "tokenizer")
    path.unlink()
    loaded = Tokenizer.load(tmp_path / "tokenizer")
    assert torch.equal(loaded.encoder.semantic.net.class_token, tokenizer.encoder.semantic.net.class_token)
    assert loaded.config["encoder"]["semantic"] == {**encoder["semantic"], "weights": None}
    assert str(tmp_path).encode() not in b"".join(path.read_bytes() for path in (tmp_path / "tokenizer").iterdir())


def test_a_run_goes_on_without_the_file_that_it_began_with(weights, tmp_path):
    run_tiny(tmp_path / "run", *TINY, f"encoder.weights={weights}", "trainer.max_steps=4", "trainer.stop_at=2")
    weights.unlink()
    gone_on = ("encoder.weights=elsewhere.safetensors", "trainer.max_steps=4", "ckpt=last")
    assert run_tiny(tmp_path / "run", *TINY, *gone_on).step == 4


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("gone.pth", r"encoder.weights=gone.pth does not exist; give the path of its file, or encoder.weights=random"),
        (
            "vit_base_patch14_dinov2.lvd142m",
            r"does not exist; download it \(hf download timm/vit_base_patch14_dinov2.lvd142m model.safetensors\), or",
        ),
        ("facebook/dinov2-base", r"does not exist; download it \(hf download facebook/dinov2-base model.safetensors\)"),
        ("null", r"encoder.weights must be the path of a file, a name or random where a run starts, got null"),
    ],
)
def test_weights_that_are_not_here_are_told_before_anything_runs(given, told, tmp_path, monkeypatch):
    monkeypatch.setattr("imtok.nn.vit_weights.try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(PretrainedViTEncoder, "forward", None)
    with pytest.raises(InputError, match=told):
        run_tiny(tmp_path / "run", *TINY, f"encoder.weights={given}")
    assert not (tmp_path / "run").exists()


def test_a_name_finds_the_file_that_the_hub_left_in_its_cache(weights, monkeypatch):
    asked = []

    def cached(repository, file):
        asked.append(repository)
        return str(weights) if file == "model.safetensors" else None

    monkeypatch.setattr("imtok.nn.vit_weights.try_to_load_from_cache", cached)
    for name in ("vit_base_patch14_dinov2.lvd142m", "facebook/dinov2-base"):
        assert encoder_of(weights=name).find_weights() == weights
    assert set(asked) == {"timm/vit_base_patch14_dinov2.lvd142m", "facebook/dinov2-base"}
    assert encoder_of(weights="a/b/c").find_weights() is None


def test_a_folder_of_transformers_is_searched_for_its_file(tmp_path):
    assert encoder_of(weights=str(tmp_path)).find_weights() is None
    (tmp_path / "model.safetensors").touch()
    assert encoder_of(weights=str(tmp_path)).find_weights() == tmp_path / "model.safetensors"


def test_images_are_resized_so_that_patches_fill_them_and_normalised_by_the_nets_own_numbers():
    encoder = encoder_of(patch_size=14, factor=16).eval()
    image, seen = torch.rand(1, 3, 32, 64) * 2 - 1, []
    encoder.net.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    assert encoder(image).values.shape == (1, 8, 6)
    small = F.interpolate(image, (28, 56), mode="bicubic", antialias=True).clamp(-1, 1)
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    expected = ((small + 1) / 2 - mean[:, None, None]) / deviation[:, None, None]
    torch.testing.assert_close(seen[0], expected, rtol=1e-5, atol=1e-5)


def test_latents_are_the_features_where_they_are_as_wide():
    encoder = PretrainedViTEncoder(64, image_size=64, width=32, depth=3, heads=2, layers=[0, 2])
    assert [name for name, _ in encoder.named_parameters() if name.startswith("project")] == []
    assert encoder(torch.zeros(1, 3, 64, 64)).values.shape == (1, 16, 64)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"layers": [3]}, r"layers must lie in \[-3, 2\], the blocks of the net, got 3"),
        ({"train": "last", "last_blocks": 4}, r"last_blocks must lie in \[1, 3\], the blocks of the net, got 4"),
        ({"train": "lora", "lora_rank": 0}, "lora_rank must be at least 1, got 0"),
        ({"class_tokens": 2}, "class_tokens must be 0 or 1, got 2"),
        ({"registers": -1}, "registers must be at least 0, got -1"),
        ({"factor": 24}, "image size must be a positive multiple of 24 .* got 64 x 64"),
    ],
)
def test_settings_out_of_range_are_refused(settings, told):
    with pytest.raises(ValueError, match=told):
        encoder_of(**settings)


def test_adapters_need_peft(monkeypatch):
    monkeypatch.setattr("imtok.nn.learning.find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"peft is missing, which train=lora needs; pip install peft \(imtok's extra"):
        encoder_of(train="lora")


def test_the_last_block_is_normed_where_it_is_read_if_that_is_asked(weights):
    last, taps, normed = (
        encoder_of(style=STYLE, **settings)
        for settings in ({}, {"layers": [0, -1]}, {"layers": [0, 2], "norm_last": True})
    )
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    for encoder in (last, taps, normed):
        encoder.read_weights(weights)
        encoder.project = nn.Identity()
    with torch.no_grad():
        end, tapped, both = (encoder.eval()(image).values for encoder in (last, taps, normed))
    assert torch.equal(both[..., :32], tapped[..., :32])
    assert torch.equal(both[..., 32:], end)
    assert not torch.allclose(tapped[..., 32:], end)
    assert [name for name in taps.state_dict() if name.startswith("net.norm.")] == []


def test_a_block_before_the_last_is_normed_by_the_norm_of_the_net_s_end(weights):
    """As DINOv2's ``get_intermediate_layers`` does it: DiGIT reads the third block from the end."""
    whole, early, normed = (
        encoder_of(style=STYLE, **settings) for settings in ({}, {"layers": [-2]}, {"layers": [-2], "norm_last": True})
    )
    image = torch.rand(1, 3, 64, 64) * 2 - 1
    for encoder in (whole, early, normed):
        encoder.read_weights(weights)
        encoder.project = nn.Identity()
    with torch.no_grad():
        expected = whole.net.norm(early.eval()(image).values)
        assert torch.equal(normed.eval()(image).values, expected)
    assert len(normed.net.trunk.blocks) == 2
