"""Recipes see the crops that their papers' code made of the images."""

import pytest
from hydra import compose, initialize_config_dir

from imtok.config import register_schemas
from imtok.folders import config_folder

WHOLE, SCALED = [1.0, 1.0], [0.8, 1.0]
CROPS = {  # part of the short side that shows, and whether images are mirrored
    "vqgan_taming": (WHOLE, False),
    "open_magvit2": (WHOLE, False),
    "ibq": (WHOLE, False),
    "simvq": (WHOLE, False),
    "wetok": (WHOLE, False),
    "bsq_vit": (WHOLE, False),
    "titok_l32_stage1": (WHOLE, True),
    "titok_l32": (WHOLE, True),
    "ta_titok": (WHOLE, True),
    "textok_32": (WHOLE, True),
    "one_d_piece_l256": (WHOLE, True),
    "llamagen_vq16": (SCALED, True),
    "gigatok_bl": (SCALED, True),
    "imagefolder": (SCALED, True),
    "fqgan_dual": (SCALED, True),
    "hita": (SCALED, True),
    "unitok": (WHOLE, False),
    "vfmtok": (SCALED, True),
    "ait_depth": (WHOLE, True),
}


@pytest.mark.parametrize("recipe", CROPS)
def test_a_recipe_crops_and_mirrors_as_published(recipe):
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        for size in ("full", "small"):
            data = compose("train", overrides=[f"experiment={recipe}", f"size={size}"]).data
            assert (list(data.scale), data.flip) == CROPS[recipe]
