"""Checkpoints of every source: what is imported, and what is refused."""

import pytest
import torch
from zoo.containers import CASES, WITHOUT, compose, fabricate, imported, named_as, published, small_config, source_of
from zoo.transformer_containers import INSTELLA, ON_MAGE
from zoo.writers import with_averages

from imtok.errors import InputError
from imtok.tokenizer import Tokenizer
from imtok.types import Condition
from imtok.zoo.importing import import_checkpoint
from imtok.zoo.registry import SOURCES
from imtok.zoo.source import State
from imtok.zoo.vfmtok import DINOV2

ANY_SIZE = (  # no shape tells their image size
    "llamagen",
    "taming",
    "ldm",
    "diffusers",
    "ibq",
    "open_magvit2",
    "wetok",
    "simvq",
    "rq_vae",
    "uniwetok",
    "instella",
    "mgvq",
    "elm",
    "maskgit_vqgan",
    "maskbit",
)
each = pytest.mark.parametrize("name", CASES)


def refused(name, path):
    with pytest.raises(InputError) as caught:
        imported(name, path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_every_source_has_a_case():
    assert {name.split()[0] for name in CASES} == set(SOURCES)


@each
def test_an_import_has_the_weights_and_the_sizes_of_its_checkpoint(name, tmp_path):
    tokenizer, _, path = fabricate(name, tmp_path)
    found = imported(name, path)
    assert found.tokenizer.config == small_config(name)
    expected = tokenizer.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in found.tokenizer.state_dict().items())
    found.tokenizer.save(tmp_path / "out")
    side = 16 if name.split()[0] in ANY_SIZE else found.tokenizer.image_size
    image = torch.rand(1, 3, side, side) * 2 - 1
    loaded = Tokenizer.load(tmp_path / "out")
    # what the named text encoder would say; its weights are not here
    told = None if tokenizer.condition is None else Condition(text=torch.randn(1, 77, 768))
    latents, expected_latents = (net.quantize(image, condition=told).latents for net in (loaded, tokenizer))
    assert torch.equal(latents, expected_latents)
    assert torch.equal(loaded.encode(image, condition=told).ids, tokenizer.encode(image, condition=told).ids)
    assert torch.equal(loaded(image, condition=told).image, tokenizer(image, condition=told).image)


@each
def test_converting_there_and_back_is_the_identity(name, tmp_path):
    tokenizer, tensors, _ = fabricate(name, tmp_path)
    table = source_of(name).table(small_config(name))
    shapes = {key: value.shape for key, value in tokenizer.state_dict().items()}
    converted = table.convert(tensors, shapes)
    assert set(converted.mapped) == set(tensors)
    assert not converted.dropped
    back = table.inverse().convert(converted.tensors).tensors
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[key], tensors[key]) for key in tensors)


@each
def test_what_the_table_counts_is_every_key_of_the_file(name, tmp_path):
    _, tensors, path = fabricate(name, tmp_path)
    found = imported(name, path)
    assert sum(found.mapped.values()) == len(tensors)
    assert set(found.mapped) <= {"encoder", "quantizer", "decoder", "space"}


@each
def test_one_error_lists_every_key_that_does_not_fit(name, tmp_path):
    _, tensors, path = fabricate(name, tmp_path)
    bias = [key for key in tensors if key.endswith("bias") and "adaLN" not in key]
    missing, short = bias[0], bias[-1]
    changed = {key: value for key, value in tensors.items() if key != missing}
    changed |= {short: tensors[short][:-1], "encoder.surprise": torch.zeros(1)}
    CASES[name].write(changed, path)
    message = refused(name, path)
    assert f"missing: {missing}" in message
    assert "unknown: encoder.surprise" in message
    assert f"{short} must have shape {list(tensors[short].shape)}, got [{len(tensors[short]) - 1}]" in message


@each
def test_the_checkpoint_of_another_source_is_refused(name, tmp_path):
    _, _, path = fabricate(name, tmp_path)
    other = "bsq_vit" if name != "bsq_vit" else "titok"
    with pytest.raises(InputError, match="is not a checkpoint of"):
        imported(other, path)


@each
def test_the_checkpoint_of_another_family_is_refused_with_its_own_name(name, tmp_path):
    _, _, path = fabricate(name, tmp_path)
    own = source_of(name)
    other = SOURCES["llamagen" if own.name != "llamagen" else "gigatok"]
    with pytest.raises(InputError) as caught:
        import_checkpoint(other, path, compose, others=tuple(SOURCES.values()))
    meant = {"one_d_piece": "titok", "ldm": "taming", "wetok": "open_magvit2"}.get(
        own.name, own.name
    )  # whose names are the same
    assert f"is not a checkpoint of {other.title}, but of {SOURCES[meant].title}; give source={meant}" in str(
        caught.value
    )


def test_names_that_two_families_share_are_said_to_be_so(tmp_path):
    for name, other in (("titok", "One-D-Piece"), ("one_d_piece", "TiTok"), ("taming", "IBQ"), ("ibq", "VQGAN")):
        _, _, path = fabricate(name, tmp_path)
        (said,) = [words for words in imported(name, path).assumed if "the names are the same in" in words]
        assert f"the names are the same in {other}" in said


PUBLISHED = {
    "llamagen": ["llamagen_vq16", "llamagen_vq8"],
    "ibq": ["ibq"],
    "open_magvit2": ["open_magvit2"],
    "wetok": ["wetok", "wetok_generative"],
    "simvq": ["simvq"],
    "rq_vae": ["rq_vae"],
    "var": ["var"],
    "titok": ["titok_l32", "titok_b64", "titok_s128", "titok_bl64", "ta_titok", "ta_titok_kl"],
    "one_d_piece": ["one_d_piece_s256", "one_d_piece_b256", "one_d_piece_l256"],
    "gigatok": ["gigatok_ss", "gigatok_sb", "gigatok_bl", "gigatok_xlxxl", "retok"],
    "flextok": ["flextok_d12", "flextok_d18", "flextok_d18_d28"],
    "bsq_vit": ["bsq_vit"],
    "vfmtok": ["vfmtok"],
    "xqgan": ["robusttok"],
    "fqgan": ["fqgan_dual", "fqgan_triple"],
    "uniwetok": ["uniwetok"],
    "tokenset": ["tokenset"],
    "instella": ["instella_1d"],
    "hita": ["hita"],
    "alit": ["alit"],
    "karl": ["karl"],
    "semanticist": ["semanticist"],
    "mgvq": ["mgvq"],
    "elm": ["elm"],
    "maskgit_vqgan": ["maskgit_vqgan"],
    "maskbit": ["maskbit", "vqgan_plus"],
    "tokenflow": ["tokenflow"],
    "unitok": ["unitok"],
    "alitok": ["alitok", "alitok_stage1"],
}


AS_IMPORTED = {
    "flextok": ["space.weights=random"],
    "vfmtok": ["encoder.net.weights=null"],
    "xqgan": WITHOUT,
    "instella": INSTELLA,
    "hita": ["space.weights=null"],
    "alit": ON_MAGE,
    "karl": ON_MAGE,
    "semanticist": ["decoder=semanticist_l", "space.weights=random"],
    "mgvq": ["regularizer=none"],
    "tokenflow": ["encoder.semantic.weights=null"],
}


@pytest.mark.parametrize(("name", "recipe"), [(name, recipe) for name in PUBLISHED for recipe in PUBLISHED[name]])
def test_full_size_weights_are_known_by_their_shapes_as_their_recipe(name, recipe):
    config = published([f"experiment={recipe}", *AS_IMPORTED.get(name, [])])
    with torch.device("meta"):
        state = Tokenizer.from_config(config).state_dict()
    found = State(named_as(name, config, state))
    source = source_of(name)
    recognised = source.settings(found, published(source.recipe(found)))
    assert recognised == config


def test_a_layout_flag_that_the_weights_deny_is_refused(tmp_path):
    _, _, path = fabricate("one_d_piece", tmp_path)
    (tmp_path / "config.json").write_text('{"model": {"vq_model": {"is_legacy": false}}}')
    assert "is_legacy" in refused("one_d_piece", path)


def test_titok_without_a_config_beside_it_reads_the_layout_off_the_head(tmp_path):
    _, _, path = fabricate("titok one-stage", tmp_path)
    (tmp_path / "config.json").unlink()
    assert imported("titok", path).tokenizer.config["encoder"]["latent_layout"] == "tokens"


def test_a_mode_that_the_weights_deny_is_refused(tmp_path):
    _, _, path = fabricate("titok continuous", tmp_path)
    (tmp_path / "config.json").write_text('{"model": {"vq_model": {"quantize_mode": "vq"}}}')
    assert "says quantize_mode: vq, but it has no codebook" in refused("titok", path)
    (tmp_path / "config.json").unlink()
    _, _, path = fabricate("titok one-stage", tmp_path)
    (tmp_path / "config.json").write_text('{"model": {"vq_model": {"quantize_mode": "vae"}}}')
    assert "says quantize_mode: vae, but it has a codebook" in refused("titok", path)


@pytest.mark.parametrize("name", ["titok", "titok one-stage"])
def test_a_codebook_that_is_missing_makes_no_continuous_tokenizer_of_it(name, tmp_path):
    _, tensors, path = fabricate(name, tmp_path)
    CASES[name].write({key: value for key, value in tensors.items() if key != "quantize.embedding.weight"}, path)
    (tmp_path / "config.json").unlink(missing_ok=True)
    assert "quantize.embedding.weight is missing" in refused("titok", path)


def test_live_weights_are_taken_where_there_are_no_averages(tmp_path):
    tokenizer, tensors, path = fabricate("bsq_vit", tmp_path)
    torch.save({"state_dict": {f"module.{key}": value for key, value in tensors.items()}}, path)
    found = imported("bsq_vit", path).tokenizer.state_dict()
    assert all(torch.equal(found[key], value) for key, value in tokenizer.state_dict().items())


def test_a_file_of_vfmtok_without_dinov2_beside_it_is_refused_with_where_to_get_it(tmp_path):
    _, _, path = fabricate("vfmtok", tmp_path)
    (tmp_path / "dinov2_vitl14_reg4_pretrain.pth").unlink()
    message = refused("vfmtok", path)
    assert "leaves out the weights of DINOv2-L, which VFMTok reads; put the authors' dinov2_vitl14_reg4" in message


@pytest.mark.parametrize(
    ("name", "beside", "said"),
    [
        ("hita", "dinov2_vitl14_reg4_pretrain.pth", "leaves out the weights of DINOv2-L, which Hita reads; put the"),
        ("semanticist", "diffusion_pytorch_model.safetensors", "leaves out the weights of MAR's autoencoder, which"),
    ],
)
def test_a_file_without_the_frozen_net_beside_it_is_refused_with_where_to_get_that(name, beside, said, tmp_path):
    _, _, path = fabricate(name, tmp_path)
    (tmp_path / beside).unlink()
    assert said in refused(name, path)


@pytest.mark.parametrize("key", ["cls_token", "register_tokens"])
def test_a_frozen_net_in_another_layout_or_without_registers_is_refused(key, tmp_path):
    _, _, path = fabricate("hita", tmp_path)
    net = torch.load(tmp_path / DINOV2, weights_only=True)
    torch.save({name: value for name, value in net.items() if name != key}, tmp_path / DINOV2)
    with pytest.raises(InputError, match=f"{DINOV2} has no {key}; give DINOv2 with registers"):
        imported("hita", path)


def test_averages_of_ldm_are_taken_and_another_family_of_the_same_names_is_not_named_alone(tmp_path):
    _, tensors, path = fabricate("ldm", tmp_path)
    torch.save({"state_dict": with_averages(tensors)}, path)
    with pytest.raises(InputError, match=r"give source=taming or, as the names are the same, of .* \(source=ldm\)"):
        import_checkpoint(SOURCES["llamagen"], path, compose, others=tuple(SOURCES.values()))
    assert imported("ldm", path).kept.startswith("averages")


def test_a_model_of_diffusers_without_its_config_says_what_is_assumed(tmp_path):
    _, _, path = fabricate("diffusers", tmp_path)
    (tmp_path / "config.json").unlink()
    assert any("no config.json beside it: 32 groups" in words for words in imported("diffusers", path).assumed)


def test_a_file_of_alit_without_critics_may_be_of_its_first_stage(tmp_path):
    _, tensors, path = fabricate("alit", tmp_path)
    assert not any("stage 1" in words for words in imported("alit", path).assumed)
    torch.save({"model": tensors}, path)
    assert any("if it is of stage 1" in words for words in imported("alit", path).assumed)


def test_scales_of_var_do_not_fill_images_of_another_size(tmp_path):
    tokenizer, _, path = fabricate("var", tmp_path)
    with pytest.raises(InputError, match=f"its scales fill images of {tokenizer.image_size} pixels and no others"):
        import_checkpoint(SOURCES["var"], path, compose, image_size=2 * tokenizer.image_size)


def test_latents_of_alit_without_codes_are_named_as_such(tmp_path):
    _, tensors, path = fabricate("alit", tmp_path)
    CASES["alit"].write({name: value for name, value in tensors.items() if "quantize." not in name}, path)
    assert "its latents are continuous" in refused("alit", path)


def test_positions_of_dinov2_are_resized_as_the_code_of_vfmtok_does_it(tmp_path):
    _, _, path = fabricate("vfmtok", tmp_path)
    net = torch.load(tmp_path / "dinov2_vitl14_reg4_pretrain.pth", weights_only=True)
    table = torch.randn(1, 1 + 6**2, 64)  # of a net for 84 pixels, where the tokenizer is for 56
    torch.save(net | {"pos_embed": table}, tmp_path / "dinov2_vitl14_reg4_pretrain.pth")
    found = imported("vfmtok", path).tokenizer.encoder.net.net
    maps = table[:, 1:].mT.reshape(1, 64, 6, 6)
    expected = torch.nn.functional.interpolate(maps, scale_factor=(4.1 / 6, 4.1 / 6), mode="bicubic")
    assert torch.equal(found.positions.table, expected.flatten(2).mT[0])
    assert torch.equal(found.class_position, table[0, :1])


def test_latents_of_karl_that_its_code_never_asks_for_are_left_out(tmp_path):
    _, tensors, path = fabricate("karl", tmp_path)
    queries, places = torch.randn(300, 64), torch.randn(300, 64)
    more = {"latent_tokens": queries, "decoder_latent_tokens_timestep_embed": places}
    CASES["karl"].write(tensors | more, path)
    found = imported("karl", path)
    assert torch.equal(found.tokenizer.encoder.queries, queries[:256])
    assert torch.equal(found.tokenizer.decoder.latent_positions, places[:256])
    assert "256 latents of 300: the public code asks for no more" in found.assumed


def test_binary_codes_of_another_length_are_refused(tmp_path):
    _, _, path = fabricate("xqgan with binary codes", tmp_path)
    content = torch.load(path, weights_only=False)
    content["ema"]["quantizes.1.scaler"][3] *= 2
    torch.save(content, path)
    assert "quantizes.1.scaler must be 10 times 1 / sqrt(5), the length of its binary codes" in refused("xqgan", path)


@pytest.mark.parametrize(("key", "told"), [("norm_type", "spatial"), ("act_fn", "gelu")])
def test_a_model_of_diffusers_with_other_norms_or_activations_is_refused(key, told, tmp_path):
    _, _, path = fabricate("diffusers", tmp_path)
    (tmp_path / "config.json").write_text(f'{{"{key}": "{told}"}}')
    assert f"config.json beside it says {key}: {told}" in refused("diffusers", path)
