"""A trained classifier of a small store."""

from hydra import compose, initialize_config_dir
from priors.stores import TINY

from imtok.commands.classify import build_classifier_run
from imtok.config import register_schemas
from imtok.folders import config_folder

SMALL = [word.replace("prior.", "classifier.") for word in TINY]


def classifier_run(folder, tokens, *words):
    register_schemas("classify")
    groups = [word for word in words if word.split("=")[0] == "augmentation"]
    given = [*groups, *SMALL, f"store={tokens}", f"out={folder}", *(word for word in words if word not in groups)]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("classify", given)
    return build_classifier_run(config, folder)
