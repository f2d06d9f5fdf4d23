"""``imtok score``."""

from typing import cast

from omegaconf import DictConfig, OmegaConf

from imtok.build import build_protocol
from imtok.command_line import output_folder, pasted
from imtok.files import claim_inside
from imtok.image_commands import find_device, plain_values
from imtok.measures.command import SCORE, run_score
from imtok.measures.schema import ScoreConfig


def run(config: DictConfig) -> None:
    """Measure generated images."""
    plain = plain_values(config)
    protocol, folder = build_protocol(plain), output_folder(config, "score")
    claim_inside(folder, SCORE)
    typed = cast(ScoreConfig, OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(ScoreConfig), config)))
    run_score(typed, protocol, folder, find_device(config), pasted("score"))
