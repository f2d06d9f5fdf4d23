"""The way of an image, and a tokenizer on disk."""

import json

import pytest
import torch

from imtok.errors import InputError
from imtok.quantizers.fsq import FSQ
from imtok.tokenizer import Tokenizer, construct
from imtok.types import Tokens

CONFIG = {
    "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 16, "depth": 1},
    "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32},
    "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 16, "depth": 1},
    "image_size": 32,
}


@pytest.fixture
def tokenizer():
    return Tokenizer.from_config(CONFIG).eval()


@pytest.fixture
def saved(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer")
    return tmp_path / "tokenizer"


def test_decoded_tokens_are_the_reconstruction_bit_for_bit(tokenizer):
    image = torch.rand(3, 3, 32, 48) * 2 - 1
    tokens = tokenizer.encode(image)
    with torch.no_grad():
        assert torch.equal(tokenizer.decode(tokens, (32, 48)), tokenizer(image).image.clamp(-1, 1))


def test_the_number_of_tokens_is_known_beforehand(tokenizer):
    assert tokenizer.encode(torch.zeros(1, 3, 32, 48)).ids.shape == (1, tokenizer.num_tokens((32, 48)), 1)


def test_taps_collect_what_sub_modules_return(tokenizer):
    image = torch.rand(2, 3, 32, 32)
    out = tokenizer(image, taps=("encoder", "decoder.blocks.0"))
    assert torch.equal(out.taps["encoder"], tokenizer.encoder(image))
    assert out.taps["decoder.blocks.0"].shape[0] == 2
    assert not tokenizer.encoder._forward_hooks


def test_an_unknown_tap_is_refused_and_leaves_no_hook(tokenizer):
    with pytest.raises(ValueError, match=r"taps must name sub-modules .*, got 'encoder\.nothing'"):
        tokenizer(torch.rand(1, 3, 32, 32), taps=("encoder", "encoder.nothing"))
    assert not tokenizer.encoder._forward_hooks


def test_nan_does_not_become_tokens(tokenizer):
    image = torch.zeros(1, 3, 32, 32)
    image[0, 0, 0, 0] = float("nan")
    with pytest.raises(ValueError, match="latents must be finite"):
        tokenizer.encode(image)


@pytest.mark.parametrize(("ids", "message"), [(32, r"\[0, 32\), got 32 to 32"), (-1, r"\[0, 32\), got -1 to -1")])
def test_ids_outside_the_vocabulary_are_refused(tokenizer, ids, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.decode(Tokens(torch.full((1, 16, 1), ids)), (32, 32))


def test_ids_with_another_number_of_slots_are_refused(tokenizer):
    with pytest.raises(ValueError, match="must have 1 slots"):
        tokenizer.decode(Tokens(torch.zeros(1, 16, 2, dtype=torch.long)), (32, 32))


def test_a_saved_tokenizer_reads_back_the_same(tokenizer, saved):
    again = Tokenizer.load(saved)
    image = torch.rand(2, 3, 32, 32)
    assert not again.training
    assert again.config == CONFIG
    assert torch.equal(again(image).image, tokenizer(image).image)
    assert torch.equal(Tokenizer.load(saved.parent).encode(image).ids, tokenizer.encode(image).ids)  # as a run folder


def test_saving_over_a_tokenizer_replaces_it_whole(saved):
    Tokenizer.from_config({**CONFIG, "image_size": 64}).save(saved)
    assert Tokenizer.load(saved).image_size == 64
    assert [path.name for path in saved.parent.iterdir()] == ["tokenizer"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_missing_file_is_named(saved, name):
    (saved / name).unlink()
    with pytest.raises(InputError, match=r"tokenizer.*" + (name if name.startswith("model") else "no config.json")):
        Tokenizer.load(saved)


def test_every_flipped_byte_of_the_weights_is_found(saved):
    path = saved / "model.safetensors"
    whole = path.read_bytes()
    for place in range(0, len(whole), max(1, len(whole) // 50)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(InputError, match=r"model\.safetensors was altered"):
            Tokenizer.load(saved)


def test_an_altered_config_is_found(saved):
    config = json.loads((saved / "config.json").read_text())
    config["quantizer"]["normalize"] = False
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.json was altered"):
        Tokenizer.load(saved)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"encoder": 1}'])
def test_a_damaged_config_is_named(saved, text):
    (saved / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json is not"):
        Tokenizer.load(saved)


def test_a_tokenizer_that_is_nowhere_is_explained(tmp_path):
    with pytest.raises(InputError, match=r"is not a tokenizer \(it does not exist"):
        Tokenizer.load(tmp_path / "nothing")
    with pytest.raises(InputError, match=r"no config\.json in it"):
        Tokenizer.load(tmp_path)


def test_weights_that_are_not_finite_are_not_saved(tokenizer, tmp_path):
    with torch.no_grad():
        tokenizer.decoder.last_layer[0] = float("inf")
    with pytest.raises(ValueError, match="weights must be finite to be saved, got NaN or infinity in decoder"):
        tokenizer.save(tmp_path / "tokenizer")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "subprocess.Popen",
        "builtins.eval",
        "torch.load",
        "torch.hub.load",
        "numpy.load",
        "pathlib.Path.write_text",
        "imtok.tokenizer.importlib.import_module",
        "imtok.files.shutil.rmtree",
        "imtok.files.os.system",
        "imtok.tokenizer.construct",
        "imtok.files.Path",
        "imtok",
        "",
        "imtok.quantizers.fsq.Nothing",
    ],
)
def test_a_stored_config_builds_nothing_but_classes_of_imtok(target):
    with pytest.raises(ValueError, match="_target_ must"):
        construct({"_target_": target, "path": "x"})


def test_a_users_own_package_is_built_where_it_is_allowed():
    assert isinstance(construct({"_target_": "imtok.quantizers.fsq.FSQ", "levels": [4]}, packages=None), FSQ)
    assert construct({"_target_": "torch.nn.modules.linear.Identity"}, packages=("torch",)) is not None
