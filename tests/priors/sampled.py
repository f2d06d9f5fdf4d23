"""Samples of a prior."""

from hydra import compose, initialize_config_dir

from imtok.commands import sample
from imtok.config import register_schemas
from imtok.folders import config_folder


def sampled(folder, prior, tokenizer, *words):
    register_schemas("sample")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        given = [f"generator={prior}", f"tokenizer={tokenizer}", f"out={folder}", "n=3", "threads=1", *words]
        sample.run(compose("sample", given))
