"""The way of an image, and a tokenizer on disk."""

import json
from dataclasses import replace

import pytest
import torch

from imtok.construct import construct
from imtok.errors import InputError
from imtok.nn.taps import tapped
from imtok.quantizers.fsq import FSQ
from imtok.regularizers.base import Regularizer
from imtok.tokenizer import Tokenizer
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
    assert torch.equal(out.taps["encoder"], tokenizer.encoder(image).values)
    assert out.taps["decoder.blocks.0"].shape[0] == 2
    assert not tokenizer.encoder._forward_hooks


def test_an_unknown_tap_is_refused_and_leaves_no_hook(tokenizer):
    with pytest.raises(ValueError, match=r"taps must name sub-modules .*, got 'encoder\.nothing'"):
        tokenizer(torch.rand(1, 3, 32, 32), taps=("encoder", "encoder.nothing"))
    assert not tokenizer.encoder._forward_hooks


def test_a_tap_on_what_gives_no_tensor_is_refused():
    net = torch.nn.ModuleDict({"lstm": torch.nn.LSTM(2, 2)})
    with (
        tapped(net, ("lstm",)),
        pytest.raises(ValueError, match="must name sub-modules that give a tensor, and lstm gives tuple"),
    ):
        net["lstm"](torch.zeros(1, 2))


@pytest.mark.parametrize("returned", [torch.zeros(1, 16, 4), (torch.zeros(1, 16, 4), None)])
def test_an_encoder_that_returns_anything_but_latents_is_refused_in_one_line(tokenizer, returned):
    tokenizer.encoder.forward = lambda *_: returned
    kind = type(returned).__name__
    with pytest.raises(ValueError, match=rf"PatchEncoder.forward must return Latents\(values, keep\) .*, got a {kind}"):
        tokenizer(torch.rand(1, 3, 32, 32))


class Marked(Regularizer):
    """Takes all latents but the first, and notes what it is told."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def forward(self, quantized, quantizer, step, generator):
        self.calls.append((step, generator))
        keep = torch.arange(quantized.latents.shape[1]).expand(quantized.latents.shape[:2]) > 0
        return replace(quantized, keep=keep)


def test_the_regulariser_is_at_work_in_training_with_a_generator_and_nowhere_else(tokenizer):
    tokenizer.regularizer = Marked()
    image, generator = torch.rand(1, 3, 32, 32), torch.Generator()
    assert tokenizer.quantize(image, step=7, generator=generator).keep is None
    tokenizer.train()
    assert tokenizer.quantize(image, step=7).keep is None
    assert tokenizer.quantize(image, step=7, generator=generator).keep.sum() == 15
    tokenizer.decoder.flexible = True
    assert tokenizer(image, step=8, generator=generator).quantized.keep.sum() == 15
    assert tokenizer.regularizer.calls == [(7, generator), (8, generator)]


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


def test_only_a_name_with_hf_is_asked_of_the_hub(saved, monkeypatch):
    asked = list[tuple[str, str | None]]()

    def fetch(name, revision=None, **_):
        asked.append((name, revision))
        return str(saved)

    monkeypatch.setattr("imtok.locate.snapshot_download", fetch)
    for name in ("org/name", "runs/mien", "name", "https://huggingface.co/org/name"):
        with pytest.raises(InputError, match="is not a tokenizer"):
            Tokenizer.load(name)
    for name in ("hf:name", "hf:a/b/c", "hf:org/name@", "hf:../x/y"):
        with pytest.raises(InputError, match="is not a name on the hub; write hf:org/name or hf:org/name@revision"):
            Tokenizer.load(name)
    assert asked == []
    assert Tokenizer.load("hf:org/name").image_size == 32
    assert Tokenizer.load("hf:org/name@v1").image_size == 32
    assert asked == [("org/name", None), ("org/name", "v1")]


def test_a_mistyped_folder_is_answered_with_the_nearest_one(tmp_path, monkeypatch):
    (tmp_path / "runs/mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for typed, meant in {
        "runs/mien": "did you mean runs/mine?",
        "rusn/mine/tokenizer": "did you mean runs/mine/tokenizer?",
        str(tmp_path / "runs/mien"): f"did you mean {tmp_path / 'runs/mine'}?",
        "org/name": "for a model on the hub give hf:org/name",
        "nothing": "give a run folder or its tokenizer/ folder",
    }.items():
        with pytest.raises(InputError) as error:
            Tokenizer.load(typed)
        assert str(error.value) == f"{typed} is not a tokenizer (it does not exist); {meant}"


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


def test_a_package_that_the_user_trusts_may_be_named_by_stored_configs(monkeypatch):
    config = {"_target_": "torch.nn.modules.linear.Identity"}
    monkeypatch.setenv("IMTOK_PACKAGES", "mine,torch")
    assert construct(config) is not None
    monkeypatch.setenv("IMTOK_PACKAGES", "mine")
    with pytest.raises(ValueError, match="has to be named in the environment variable IMTOK_PACKAGES"):
        construct(config)


TITOK = {
    "encoder": {
        "_target_": "imtok.encoders.titok.TiTokEncoder",
        "latents": 8,
        "patch_size": 8,
        "width": 16,
        "depth": 1,
        "heads": 2,
        "latent_layout": "tokens",
    },
    "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5, 5]},
    "decoder": {
        "_target_": "imtok.decoders.titok.TiTokPixelDecoder",
        "patch_size": 8,
        "width": 16,
        "depth": 1,
        "heads": 2,
        "flexible": True,
    },
    "image_size": 32,
}


@pytest.fixture
def variable():
    return Tokenizer.from_config(TITOK).double().eval()


def test_the_first_tokens_are_those_of_the_whole(variable):
    image = torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1
    whole = variable.encode(image)
    for length in (1, 3, 8):
        assert torch.equal(variable.encode(image, length=length).ids, whole.ids[:, :length])


def test_a_prefix_decodes_like_the_whole_with_the_rest_masked(variable):
    whole = variable.encode(torch.rand(2, 3, 32, 32, dtype=torch.float64) * 2 - 1)
    images = [variable.decode(Tokens(whole.ids[:, :length]), (32, 32)) for length in (3, 5)]
    keep = torch.arange(8) < torch.tensor([3, 5])[:, None]
    mixed = variable.decode(Tokens(whole.ids, keep), (32, 32))
    torch.testing.assert_close(mixed, torch.stack([images[0][0], images[1][1]]), rtol=1e-9, atol=1e-9)
    other = torch.where(keep[..., None], whole.ids, 7)  # whatever stands where nothing was transmitted
    assert torch.equal(variable.decode(Tokens(other, keep), (32, 32)), mixed)


@pytest.mark.parametrize("length", [0, 9, -1])
def test_lengths_out_of_range_are_refused(variable, length):
    with pytest.raises(ValueError, match=rf"length must lie in \[1, 8\] tokens, got {length}"):
        variable.encode(torch.zeros(1, 3, 32, 32, dtype=torch.float64), length=length)


def test_a_tokenizer_of_fixed_length_refuses_another(tokenizer):
    with pytest.raises(ValueError, match="length must be None for a tokenizer that always takes 16 tokens, got 3"):
        tokenizer.encode(torch.zeros(1, 3, 32, 32), length=3)


FROZEN_SPACE = {
    "space": {
        "_target_": "imtok.spaces.kl_vae.KLAutoencoder",
        "dim": 4,
        "channels": 16,
        "multipliers": [1, 2],
        "blocks": 1,
        "weights": "random",
    },
    "encoder": {
        "_target_": "imtok.encoders.registers.RegisterEncoder",
        "latents": 4,
        "width": 16,
        "depth": 1,
        "heads": 2,
    },
    "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5, 5]},
    "decoder": {"_target_": "imtok.decoders.flow.FlowDecoder", "width": 16, "depth": 1, "heads": 2, "steps": 2},
    "image_size": 32,
}


def test_a_frozen_space_is_held_once_and_never_trains(tmp_path):
    tokenizer = Tokenizer.from_config(FROZEN_SPACE).train()
    assert tokenizer.encoder.space is tokenizer.space
    assert tokenizer.decoder.space is tokenizer.space
    names = list(tokenizer.state_dict())
    assert any(name.startswith("space.") for name in names)
    assert not [name for name in names if ".space." in name]
    assert not any(module.training for module in tokenizer.space.modules())
    assert not any(parameter.requires_grad for parameter in tokenizer.space.parameters())
    tokenizer.eval().save(tmp_path / "tokenizer")
    again = Tokenizer.load(tmp_path / "tokenizer")
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    image = torch.rand(2, 3, 32, 32) * 2 - 1
    assert torch.equal(again.encode(image).ids, tokenizer.encode(image).ids)
    assert again.encoder.space is again.space


def test_frozen_parts_stay_in_evaluation_mode_and_get_no_gradient(tokenizer):
    tokenizer.freeze(["encoder", "decoder.blocks.0"])
    tokenizer.train()
    assert not any(module.training for module in tokenizer.encoder.modules())
    assert not tokenizer.decoder.blocks[0].training
    assert tokenizer.decoder.training
    tokenizer(torch.rand(2, 3, 32, 32)).image.square().sum().backward()
    learnt = {name for name, value in tokenizer.named_parameters() if value.grad is not None}
    assert learnt
    assert not [name for name in learnt if name.startswith(("encoder.", "decoder.blocks.0."))]


def test_what_is_frozen_is_known_by_whole_names(tokenizer):
    tokenizer.freeze(["decoder.blocks"])
    assert tokenizer.is_frozen("decoder.blocks")
    assert tokenizer.is_frozen("decoder.blocks.0")
    assert not tokenizer.is_frozen("decoder")
    assert not tokenizer.is_frozen("decoder.blocks_of_another_name")


def test_a_part_that_does_not_exist_cannot_be_frozen(tokenizer):
    with pytest.raises(
        ValueError,
        match=r"freeze must name parts of the tokenizer \(encoder, quantizer, decoder, \.\.\.\), got 'encodr'",
    ):
        tokenizer.freeze(["encodr"])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            torch.full((1, 3, 32, 32), 128, dtype=torch.uint8),
            r"must be floats in \[-1, 1\], got torch.uint8; give tokenizer.preprocess",
        ),
        (torch.zeros(1, 3, 32, 32, dtype=torch.int64), r"must be floats in \[-1, 1\], got torch.int64"),
        (torch.rand(1, 3, 32, 32) * 255, r"got values from [\d.e-]+ to 25[45][\d.]*; give tokenizer.preprocess\(image"),
        (torch.full((1, 3, 32, 32), -2.1), r"got values from -2.1 to -2.1; .* undo another normalisation"),
        (torch.full((1, 3, 32, 32), float("inf")), "got values from inf to inf"),
    ],
)
def test_what_is_no_image_between_minus_one_and_one_is_refused_with_the_cure(tokenizer, image, message):
    with pytest.raises(ValueError, match=message):
        tokenizer.encode(image)


@pytest.mark.parametrize("scale", [1.0, 1.3, -1.3])
def test_an_image_that_overshoots_is_encoded(tokenizer, scale):
    assert tokenizer.encode(torch.full((1, 3, 32, 32), scale)).ids.shape[0] == 1
