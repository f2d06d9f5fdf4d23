"""Weights of vision transformers in the files of timm, transformers and the authors: each name is accounted for."""

import re

import numpy as np
import pytest
import torch
from nn.vits import DEPTH, HEADS, NAMES, WIDTH, encoder_of, randomised, timm_net
from safetensors.torch import save_file

from imtok.errors import InputError
from imtok.nn.vit_resize import resize_patches, resize_positions

SHAPE = {"hidden_size": WIDTH, "num_hidden_layers": DEPTH, "num_attention_heads": HEADS}
MLP = {"intermediate_size": 4 * WIDTH}


def transformers_net(name, side):
    import transformers

    patch = {"image_size": side, "patch_size": 14 if name.startswith("dinov2") else 16}
    kind, config = {
        "dinov2_b14": ("Dinov2Model", "Dinov2Config"),
        "dinov2_b14_reg": ("Dinov2WithRegistersModel", "Dinov2WithRegistersConfig"),
        "dinov3_s16": ("DINOv3ViTModel", "DINOv3ViTConfig"),
        "clip_b16": ("CLIPVisionModel", "CLIPVisionConfig"),
        "siglip2_b16": ("SiglipVisionModel", "SiglipVisionConfig"),
        "mae_b16": ("ViTMAEModel", "ViTMAEConfig"),
    }[name]
    extra = {} if name.startswith("dinov2") else MLP
    extra |= {"dinov3_s16": {"num_register_tokens": 4}, "mae_b16": {"mask_ratio": 0.0}}.get(name, {})
    net = getattr(transformers, kind)(getattr(transformers, config)(**SHAPE, **patch, **extra))
    return randomised(net)


def transformers_features(net, name, pixels):
    if name == "mae_b16":  # it shuffles the patches, unless it is told in which order
        count = (pixels.shape[-1] // 16) ** 2
        return net(pixels, noise=torch.arange(count).expand(len(pixels), -1) / count).last_hidden_state
    found = net(pixels).last_hidden_state
    return net.post_layernorm(found) if name == "clip_b16" else found


@pytest.mark.parametrize("name", [name for name in NAMES if name != "eva02_s14"])
def test_features_are_those_of_transformers_through_its_files(name, tmp_path):
    side = 112
    net = transformers_net(name, side)
    net.save_pretrained(tmp_path)
    changes = {"style": {"mlp": "gelu_tanh"}} if name == "siglip2_b16" else {}
    encoder = encoder_of(name, side, **changes)
    encoder.read_weights(tmp_path / "model.safetensors")
    pixels = torch.randn(2, 3, side, side)
    with torch.no_grad():
        torch.testing.assert_close(encoder.net(pixels), transformers_features(net, name, pixels), rtol=0, atol=1e-5)
    torch.save(net.state_dict(), tmp_path / "net.pth")  # in memory some names are others
    again = encoder_of(name, side, **changes)
    again.read_weights(tmp_path / "net.pth")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in encoder.state_dict().items())


def test_a_whole_clip_in_the_file_of_transformers_is_read_without_its_text_tower(tmp_path):
    import transformers

    vision = SHAPE | MLP | {"image_size": 32, "patch_size": 16}
    config = transformers.CLIPConfig(
        vision_config=vision, text_config=SHAPE | MLP | {"vocab_size": 50}, projection_dim=8
    )
    net = randomised(transformers.CLIPModel(config))
    net.save_pretrained(tmp_path)
    encoder = encoder_of("clip_b16", 32)
    encoder.read_weights(tmp_path / "model.safetensors")
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        expected = net.vision_model.post_layernorm(net.vision_model(pixels).last_hidden_state)
        torch.testing.assert_close(encoder.net(pixels), expected, rtol=0, atol=1e-5)


def authors(name, state):
    """The weights of timm's net as the authors' own code names and lays them out."""
    state = dict(state)
    if name.startswith("dinov2"):
        state["mask_token"] = torch.zeros(1, WIDTH)
        if "reg_token" in state:
            state["register_tokens"] = state.pop("reg_token")
            first = torch.randn(1, 1, WIDTH)
            state["pos_embed"] = torch.cat([first, state["pos_embed"]], 1)
            state["cls_token"] = state["cls_token"] - first
        return state
    if name == "dinov3_s16":
        state["storage_tokens"] = state.pop("reg_token")
        state["mask_token"] = torch.zeros(1, WIDTH)
        state["rope_embed.periods"] = torch.ones(4)
        for block in range(DEPTH):
            for gamma in ("1", "2"):
                state[f"blocks.{block}.ls{gamma}.gamma"] = state.pop(f"blocks.{block}.gamma_{gamma}")
            state[f"blocks.{block}.attn.qkv.bias"] = torch.zeros(3 * WIDTH)
            state[f"blocks.{block}.attn.qkv.bias_mask"] = torch.full((3 * WIDTH,), float("nan"))
        return state
    if name == "mae_b16":
        return {"model": {**state, "mask_token": torch.zeros(1, 1, 8), "decoder_embed.weight": torch.zeros(8, WIDTH)}}
    if name == "eva02_s14":
        for block in range(DEPTH):
            stem = f"blocks.{block}.mlp"
            for kind in ("weight", "bias"):
                gate, value = state.pop(f"{stem}.fc1.{kind}").chunk(2)
                state |= {f"{stem}.w1.{kind}": gate, f"{stem}.w2.{kind}": value}
                state[f"{stem}.w3.{kind}"] = state.pop(f"{stem}.fc2.{kind}")
            state[f"blocks.{block}.attn.rope.freqs_cos"] = torch.ones(4)
        state |= {f"norm.{kind}": state.pop(f"fc_norm.{kind}") for kind in ("weight", "bias")}
        return {"module": {**state, "lm_head.weight": torch.zeros(4, WIDTH), "mask_token": torch.zeros(1, 1, WIDTH)}}
    names = {
        "patch_embed.proj": "conv1", "pos_embed": "positional_embedding", "cls_token": "class_embedding",
        "norm_pre": "ln_pre", "blocks.": "transformer.resblocks.", "norm1": "ln_1", "norm2": "ln_2",
        "attn.qkv.": "attn.in_proj_", "attn.proj": "attn.out_proj", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
    }  # fmt: skip
    found = {"logit_scale": torch.zeros(()), "transformer.resblocks.0.ln_1.weight": torch.ones(4)}
    for key, value in state.items():
        key = re.sub(r"^norm\.", "ln_post.", key)
        for old, new in names.items():
            key = key.replace(old, new)
        found[f"visual.{key}"] = value.squeeze() if "embedding" in key else value
    return {"state_dict": {**found, "visual.proj": torch.zeros(WIDTH, 8)}}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "siglip2_b16"])
def test_the_files_of_the_authors_give_the_same_features(name, tmp_path):
    net, pixels = timm_net(name, 112), torch.randn(1, 3, 112, 112)
    ours, theirs = encoder_of(name, 112), encoder_of(name, 112)
    torch.save(net.state_dict(), tmp_path / "timm.pth")
    torch.save(authors(name, net.state_dict()), tmp_path / "authors.pth")
    ours.read_weights(tmp_path / "timm.pth")
    theirs.read_weights(tmp_path / "authors.pth")
    with torch.no_grad():
        torch.testing.assert_close(theirs.net(pixels), ours.net(pixels), rtol=0, atol=1e-5)


@pytest.mark.parametrize("stacked", [False, True])
def test_siglip_is_read_from_the_file_of_big_vision_as_timm_reads_it(stacked, tmp_path):
    net = timm_net("siglip2_b16", 64)
    arrays = {"t": np.zeros(1), "b": np.zeros(1), "txt/head/bias": np.zeros(3)}
    stem, blocks = "img/Transformer/encoderblock", []
    for _ in range(DEPTH):
        block = {f"LayerNorm_{one}/{kind}": (WIDTH,) for one in (0, 1) for kind in ("scale", "bias")}
        head = WIDTH // HEADS
        for part in ("query", "key", "value"):
            block |= {f"MultiHeadDotProductAttention_0/{part}/kernel": (WIDTH, HEADS, head)}
            block |= {f"MultiHeadDotProductAttention_0/{part}/bias": (HEADS, head)}
        block |= {"MultiHeadDotProductAttention_0/out/kernel": (HEADS, head, WIDTH)}
        block |= {"MultiHeadDotProductAttention_0/out/bias": (WIDTH,), "MlpBlock_0/Dense_0/kernel": (WIDTH, 4 * WIDTH)}
        block |= {"MlpBlock_0/Dense_0/bias": (4 * WIDTH,), "MlpBlock_0/Dense_1/kernel": (4 * WIDTH, WIDTH)}
        blocks.append({name: drawn(*shape) for name, shape in {**block, "MlpBlock_0/Dense_1/bias": (WIDTH,)}.items()})
    for name in blocks[0]:
        if stacked:
            arrays[f"{stem}/{name}"] = np.stack([block[name] for block in blocks])
        else:
            arrays |= {f"{stem}_{index}/{name}": block[name] for index, block in enumerate(blocks)}
    arrays |= {f"img/Transformer/encoder_norm/{kind}": drawn(WIDTH) for kind in ("scale", "bias")}
    arrays |= {"img/embedding/kernel": drawn(16, 16, 3, WIDTH), "img/embedding/bias": drawn(WIDTH)}
    arrays |= {"img/pos_embedding": drawn(1, 16, WIDTH)}
    np.savez(tmp_path / "siglip.npz", **{f"params/{name}": array for name, array in arrays.items()})
    net.attn_pool = None
    net.load_pretrained(str(tmp_path / "siglip.npz"), prefix="params/img/")
    encoder, pixels = encoder_of("siglip2_b16", 64), torch.randn(1, 3, 64, 64)
    encoder.read_weights(tmp_path / "siglip.npz")
    with torch.no_grad():
        torch.testing.assert_close(encoder.net(pixels), net.forward_features(pixels), rtol=0, atol=1e-5)


def drawn(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32) * 0.3


@pytest.mark.parametrize("layout", ["timm", "transformers", "authors"])
def test_names_that_are_missing_or_nobodys_are_told_in_one_line(layout, tmp_path):
    name = "clip_b16"
    net = transformers_net(name, 64) if layout == "transformers" else timm_net(name, 64)
    state = dict(net.state_dict())
    if layout == "authors":
        state = authors(name, state)["state_dict"]
    gone, strange, other = {
        "timm": ("blocks.1.attn.qkv.weight", "blocks.1.attn.qkv.scale", "norm.bias"),
        "transformers": (
            "encoder.layers.1.self_attn.k_proj.bias",
            "encoder.layers.1.gate.weight",
            "post_layernorm.bias",
        ),
        "authors": ("visual.transformer.resblocks.1.mlp.c_fc.bias", "visual.lora.a", "visual.ln_post.bias"),
    }[layout]
    encoder = encoder_of(name, 64)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    state[strange], state[other] = torch.zeros(2), torch.zeros(2)
    del state[gone]
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(InputError) as caught:
        encoder.read_weights(tmp_path / "net.pth")
    line = str(caught.value)
    assert "\n" not in line
    assert f"1 missing: {gone};" in line
    assert f"1 unknown: {strange};" in line
    assert f"1 of another shape: {other} is for shape [2] and not [{WIDTH}];" in line
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("dinov2_b14", {"depth": 2}, "14 unknown: blocks.2.norm1.weight"),
        ("dinov2_b14", {"depth": 4}, "14 missing: blocks.3.attn.proj.weight"),
        ("dinov2_b14", {"registers": 4}, "1 missing: register_tokens|1 missing: reg_token"),
        ("dinov2_b14_reg", {"registers": 0}, "1 unknown: reg_token"),
        ("dinov2_b14", {"width": 16}, "of another shape: cls_token is for shape"),
        ("mae_b16", {"class_tokens": 0}, "1 unknown: cls_token"),
        ("dinov3_s16", {"table": "learned"}, "1 missing: pos_embed"),
        ("dinov2_b14", {"norm_in": True}, "missing: norm_pre.weight, norm_pre.bias; 1 unknown: patch_embed.proj.bias"),
    ],
)
def test_the_file_of_another_net_is_refused(name, changes, told, tmp_path):
    torch.save(timm_net(name, 56).state_dict(), tmp_path / "net.pth")
    with pytest.raises(InputError, match=told):
        encoder_of(name, 56 if "14" in name else 48, **changes).read_weights(tmp_path / "net.pth")


@pytest.mark.parametrize(
    ("name", "key", "shape"),
    [
        ("dinov2_b14", "pos_embed", (1, 8, WIDTH)),  # of no square, with a class token or without
        ("dinov2_b14", "pos_embed", ()),
        ("dinov2_b14", "patch_embed.proj.weight", (WIDTH, 588)),
        ("dinov2_b14", "blocks.0.attn.qkv.weight", (99, WIDTH)),
        ("dinov3_s16", "blocks.0.attn.qkv.weight", (90, WIDTH)),
        ("dinov2_b14", "cls_token", (1, 2, WIDTH)),
    ],
)
def test_tensors_of_shapes_that_nothing_can_be_made_of_are_told_by_name(name, key, shape, tmp_path):
    state = dict(timm_net(name, 112).state_dict()) | {key: torch.zeros(shape)}
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(InputError, match=rf"of another shape: {key} is for shape \[.*\] and not \["):
        encoder_of(name, 112).read_weights(tmp_path / "net.pth")


def test_what_is_resized_is_said(tmp_path, caplog):
    torch.save(timm_net("dinov2_b14", 70).state_dict(), tmp_path / "net.pth")
    with caplog.at_level("INFO"):
        encoder_of("dinov2_b14", 64, patch_size=16, factor=16).read_weights(tmp_path / "net.pth")
    assert "net.pth: resized patches from 14 to 16 pixels, positions from 5 x 5 to 4 x 4" in caplog.text
    caplog.clear()
    encoder_of("dinov2_b14", 70).read_weights(tmp_path / "net.pth")
    assert caplog.text == ""


def test_a_file_of_something_else_says_what_it_holds(tmp_path):
    save_file({"conv_in.weight": torch.zeros(2)}, tmp_path / "vae.safetensors")
    with pytest.raises(InputError, match=r"vae.safetensors is no vision transformer as .* it holds conv_in.weight"):
        encoder_of("mae_b16", 32).read_weights(tmp_path / "vae.safetensors")
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(InputError, match=r"cut.npz cannot be read"):
        encoder_of("mae_b16", 32).read_weights(tmp_path / "cut.npz")


def test_positions_and_patches_of_other_sizes_are_resized_as_timm_does(tmp_path):
    from timm.layers import resample_abs_pos_embed, resample_patch_embed

    table, kernel = torch.randn(25, 8), torch.randn(4, 3, 14, 14)
    expected = resample_abs_pos_embed(table[None], [3, 4], [5, 5], num_prefix_tokens=0)[0]
    assert torch.equal(resize_positions(table, (3, 4)), expected)
    assert torch.equal(resize_patches(kernel, 14), kernel)
    torch.testing.assert_close(resize_patches(kernel, 16), resample_patch_embed(kernel, [16, 16]), rtol=0, atol=1e-5)


def test_a_net_for_other_patches_and_another_grid_is_timms(tmp_path):
    net = timm_net("dinov2_b14", 70)
    torch.save(net.state_dict(), tmp_path / "net.pth")
    encoder = encoder_of("dinov2_b14", 48, patch_size=16, factor=16)
    encoder.read_weights(tmp_path / "net.pth")
    net.set_input_size(img_size=(48, 48), patch_size=(16, 16))
    pixels = torch.randn(1, 3, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(encoder.net(pixels), net.forward_features(pixels), rtol=0, atol=1e-5)
