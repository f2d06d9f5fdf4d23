"""Every published setting of an alignment composes, passes the check, and fits the teacher that it names."""

from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from imtok.config import check_command, register_schemas
from imtok.construct import construct
from imtok.folders import config_folder
from imtok.losses.alignment.alignment import Alignment
from imtok.losses.alignment.remaining import RemainingLayers
from imtok.options import option
from imtok.training.told_sizes import tell_sizes
from imtok.types import Quantized

FOLDER = config_folder() / "objective" / "alignment"
FILES = sorted(path.stem for path in FOLDER.glob("*.yaml"))
TEXTS = [name for name in FILES if name.startswith("captions")]  # their teacher is a text tower
OWN = ["vfmtok"]  # the target is a part of the tokenizer
NAMES = [name for name in FILES if name not in (*TEXTS, *OWN)]
GIVEN = {"repa": ["source=decoder.blocks"]}
WIDTH = 64  # of the features that a head is told of
PLACES = {"gigatok": 256, "retok": 256, "imagefolder": 121, "repa": 256, "uniwetok_pre": 64, "uniwetok_post": 64}
PLACES |= {
    "features": 256,
    "gram": 256,
    "flextok": 512,
    "semanticist": 320,
}  # patches, and tokens that are not looked at


class Wide:
    """A tokenizer of which only widths are known."""

    channels = 3
    quantizer = SimpleNamespace(dim=WIDTH, in_dim=WIDTH, vocab_sizes=(2,))
    encoder = SimpleNamespace(num_latents=lambda size: 1)
    named_modules = {"quantizer": quantizer}.items


def overrides(name):
    key = "objective.alignments.teacher"
    return [f"+objective/alignment@{key}={name}", *(f"{key}.{given}" for given in GIVEN.get(name, []))]


@pytest.mark.parametrize("name", NAMES)
def test_its_widths_are_those_of_the_teacher_and_of_the_features(name, monkeypatch):
    """On the meta device, from the teacher's own image size to a loss."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # the meta device knows none
    check_command("train", overrides(name))
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", overrides=overrides(name)), resolve=True)
    section = config["objective"]["alignments"]["teacher"]
    section["teacher"]["weights"] = "random"
    assert not [head for head in ("head", "teacher_head") if {"in_dim", "out_dim"} & set(section.get(head) or {})]
    tell_sizes({"alignments": {"x": {**section, "source": "quantizer"}}}, Wide, 64)
    with torch.device("meta"):
        if name == "dualtoken":
            assert tell_sizes({"alignments": {"x": section}}, Wide, 64) is None
            loss = construct(section)
            assert isinstance(loss, RemainingLayers)
            codes = torch.empty(2, 729, WIDTH)
            quantized = Quantized(codes, torch.empty(2, 729, 1, dtype=torch.long))
            assert loss(torch.empty(2, 3, 64, 64), quantized, {"quantizer": codes}, 0).shape == ()
            assert (loss.widen.shortcut.in_features, len(loss.rest.blocks)) == (32, 1)
            return
        alignment = construct(section)
        assert isinstance(alignment, Alignment)
        width = alignment.head.in_dim if alignment.head is not None else alignment.width
        width += alignment.channels.start if alignment.channels is not None else 0
        places = PLACES.get(name) or len(alignment.head.positions)
        features = torch.empty(2, places, width)
        if alignment.channels is not None:
            assert width == alignment.channels.stop
        quantized = Quantized(features, torch.empty(2, places, 1, dtype=torch.long))
        image = torch.empty(2, 3, 64, 64)
        value = alignment(image, quantized, {alignment.source: features}, 0)
        assert value.shape == ()


@pytest.mark.parametrize("name", TEXTS)
def test_a_contrast_with_captions_is_told_the_width_of_what_it_looks_at(name):
    check_command("train", overrides(name))
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = OmegaConf.to_container(compose("train", overrides=overrides(name)), resolve=True)
    section = config["objective"]["alignments"]["teacher"]
    tell_sizes({"alignments": {"x": section}}, Wide, 64)
    assert section["head"]["in_dim"] == WIDTH
    if name == "captions_learned":  # ids by CLIP's byte pairs need a library
        section["text"] |= {"cut": "words", "width": 16, "depth": 1, "heads": 2}
    else:
        section["text"] = option("condition", "words")  # no machine has CLIP's weights by itself
    contrast = construct(section)
    codes = torch.randn(2, 4, WIDTH)
    quantized = Quantized(codes, torch.zeros(2, 4, 1, dtype=torch.long))
    assert contrast(torch.zeros(2, 3, 8, 8), quantized, {"quantizer": codes}, 0, ["a fox", "a jar"]) > 0


@pytest.mark.parametrize("name", FILES)
def test_it_says_what_it_is(name):
    first = (FOLDER / f"{name}.yaml").read_text().splitlines()[0]
    assert first.startswith("# ")
    assert "arXiv" in first
