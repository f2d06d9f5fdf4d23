"""Any part of a recipe is swapped by name at any size, or refused in one line that names the rule."""

import itertools
import re

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.utils import get_class
from omegaconf import OmegaConf

from imtok.commands.train import build_run
from imtok.config import check_command, register_schemas
from imtok.construct import arguments as arguments_of
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.options import option
from imtok.swaps import fit_parts
from imtok.training.run import train

RECIPES = sorted(path.stem for path in (config_folder() / "experiment").glob("*.yaml"))
SWAPS = [
    *(f"quantizer={name}" for name in ("vq", "fsq", "lfq_14", "bsq_18", "simvq", "rq_8", "gaussian")),
    *("objective=reconstruction", "encoder=cnn decoder=cnn", "encoder=vit decoder=vit"),
]
PAIRS = list(itertools.product(RECIPES, SWAPS))
# The laws of parts, by which some swaps are refused.
RULES = (
    r"encoder must be (ALIT|KARL)'s for this objective",
    r"decoder must (be one that draws|predict codes) for (the|this) objective",
    r"latents must be \d+",
    r"image size must be a positive multiple of \d+",
    r"the quantizer must have scales",
    r"the quantizer must have ids to perturb",
    r"patch_dim must be in \[1, \d+\], the width of the latents",
    r"head\.tokens must be at least \d+",
)


def fitted(*words):
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=list(words))
    return config, fit_parts(config, "train", words)


def composed(*words):
    config, lines = fitted(*words)
    return OmegaConf.to_container(config), lines


def test_a_part_of_another_class_is_what_its_own_file_says():
    config, lines = composed("experiment=titok_bl64", "size=tiny", "quantizer=fsq")
    assert config["quantizer"] == option("quantizer", "fsq")
    assert lines == [
        "quantizer: codebook_size and kmeans_start of the recipe, or of its size, belong to another class and are left "
        "out"
    ]
    assert config["encoder"] == composed("experiment=titok_bl64", "size=tiny")[0]["encoder"]


def test_a_part_of_the_same_class_keeps_what_recipe_and_size_say():
    config, lines = composed("experiment=titok_bl64", "size=tiny", "quantizer=vq_llamagen")
    assert config["quantizer"] == option("quantizer", "vq_llamagen") | {"codebook_size": 256, "kmeans_start": True}
    assert lines == []


def test_what_is_typed_is_kept_and_what_does_not_fit_is_still_a_mistake():
    config, _ = composed("experiment=titok_bl64", "size=tiny", "quantizer=fsq", "quantizer.levels=[4,4]")
    assert config["quantizer"]["levels"] == [4, 4]
    with pytest.raises(InputError, match=r"quantizer\.codebook_size: FSQ has no argument codebook_size"):
        check_command("train", ["experiment=titok_bl64", "size=tiny", "quantizer=fsq", "quantizer.codebook_size=9"])
    with pytest.raises(InputError, match=r"objective\.losses\.lpips: it has no _target_"):
        check_command(
            "train",
            ["experiment=titok_bl64", "size=tiny", "objective=reconstruction", "objective.losses.lpips.weight=1"],
        )


def test_losses_of_a_recipe_go_with_its_objective_and_new_ones_have_the_size_of_their_class():
    config, _ = composed("experiment=titok_bl64", "size=tiny", "objective=reconstruction")
    assert config["objective"] == option("objective", "reconstruction")
    config, _ = composed("size=tiny", "objective=llamagen")
    assert config["objective"]["losses"]["lpips"]["weights"] == "random"
    assert config["objective"]["adversary"]["critic"]["channels"] == 16
    full, _ = composed("objective=llamagen")
    assert full["objective"] == option("objective", "llamagen")
    config, _ = composed("size=tiny", "objective=larp")
    assert config["objective"]["prior"]["depth"] == 1


def test_what_an_objective_says_of_the_inside_of_a_quantizer_goes_with_it():
    config, _ = composed("experiment=bsq_vit", "size=tiny", "quantizer=vq")
    assert config["objective"]["ramps"] is None
    config, _ = composed("experiment=fqgan_dual", "size=tiny", "quantizer=fsq")
    assert config["objective"]["alignments"]["semantic"]["channels"] is None
    config, _ = composed("experiment=titok_b64_stage1", "size=tiny", "decoder=vit")
    assert config["freeze"] == []
    config, _ = composed("experiment=tokenflow", "decoder=cnn")
    assert config["freeze"] == config["init_from"]["parts"] == ["encoder", "quantizer"]


def test_the_tokens_that_an_alignment_reads_are_those_of_the_recipes_own_encoder():
    seed, titok = ("experiment=seed", "size=tiny"), ("encoder=titok_b", "decoder=titok_pixels")
    for words, tokens in ((seed, [15, 16]), ((*seed, "quantizer=fsq"), [15, 16]), ((*seed, *titok), None)):
        config, _ = composed(*words)
        assert config["objective"]["alignments"]["text"]["tokens"] == tokens
    config, _ = composed(*seed, *titok, "objective.alignments.text.tokens=[3,4]")
    assert config["objective"]["alignments"]["text"]["tokens"] == [3, 4]


def test_an_alignment_goes_with_the_layer_that_it_looks_at_and_is_named():
    words = ("experiment=gigatok_bl", "size=tiny", "decoder=cnn", "encoder=cnn")
    config, lines = composed(*words)
    assert config["objective"]["alignments"] is None
    left = "it looks at decoder.qformer.blocks.1, a layer of another class"
    assert f"objective.alignments.semantic is left out, since {left}" in lines
    given = "objective.alignments.semantic.source=quantizer"
    assert composed(*words, given)[0]["objective"]["alignments"]["semantic"]["source"] == "quantizer"


@pytest.mark.parametrize(
    ("swap", "layer"), [("decoder=titok_pixels", "decoder.features"), ("encoder=vit", "encoder.net")]
)
def test_an_alignment_of_two_layers_goes_with_either(swap, layer):
    config, lines = composed("experiment=vfmtok", "size=tiny", swap)
    assert config["objective"]["alignments"] is None
    assert any(f"since it looks at {layer}, a layer of another class" in line for line in lines)


def test_a_condition_that_no_part_reads_any_more_goes_and_is_named():
    words = ("experiment=ta_titok", "size=tiny", "encoder=vit", "decoder=vit")
    config, lines = composed(*words)
    assert not config["condition"]
    assert "condition is left out, since neither encoder nor decoder reads it" in lines
    assert composed(*words, "condition=words")[0]["condition"]
    assert composed("experiment=ta_titok", "size=tiny", "encoder=vit")[0]["condition"]


def test_a_class_of_ones_own_and_a_part_without_a_recipe_are_left_as_they_are():
    words = ("experiment=titok_bl64", "quantizer=fsq", "quantizer._target_=mine.FSQ")
    config, lines = composed(*words)
    assert config["quantizer"]["_target_"] == "mine.FSQ"
    assert lines == []
    assert composed("quantizer=fsq", "encoder=vit")[1] == []


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_sizes_of_classes_name_arguments_that_the_classes_have(size):
    table = yaml.safe_load((config_folder() / "size" / "classes" / f"{size}.yaml").read_text())
    for name, arguments in table.items():
        assert set(arguments) <= set(arguments_of(get_class(name))[0]), name


def takes_a_step(tmp_path, recipe, swap):
    quick = ["trainer.stop_at=1", "trainer.pictures_every=0", "trainer.workers=0", f"out={tmp_path / 'run'}"]
    words = [f"experiment={recipe}", "size=tiny", *swap.split(), *quick]
    try:
        check_command("train", words)
        outcome = train(build_run(fitted(*words)[0], tmp_path / "run"))
    except InputError as error:
        return str(error)
    assert outcome.step == 1
    return ""


# Of quick recipes, with each swap.
SAMPLE = [
    *zip(itertools.cycle(["llamagen_vq16", "bsq_vit", "titok_bl64"]), SWAPS, strict=False),
    ("fqgan_dual", SWAPS[2]),
]  # all pairs are slow


@pytest.mark.parametrize(("recipe", "swap"), SAMPLE)
def test_a_sample_of_swaps_composes_and_takes_a_step(tmp_path, recipe, swap):
    assert takes_a_step(tmp_path, recipe, swap) == ""


@pytest.mark.slow
@pytest.mark.parametrize(("recipe", "swap"), PAIRS)
def test_every_swap_takes_a_step_or_names_the_rule_that_it_breaks(tmp_path, recipe, swap):
    refused = takes_a_step(tmp_path, recipe, swap)
    assert not refused or any(re.search(rule, refused) for rule in RULES), refused
