"""A preset is all of its settings, and what is changed shows."""

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from imtok.config import config_folder
from imtok.measures.crops import ResizeCrop
from imtok.measures.protocol import FOLLOWED_BY, PRESETS, Protocol, protocol_id
from imtok.pixels import to_float


@pytest.mark.parametrize("name", PRESETS)
def test_the_file_of_a_preset_says_what_the_preset_is(name):
    written = yaml.safe_load((config_folder() / f"protocol/{name}.yaml").read_text())
    assert written.pop("_target_") == "imtok.measures.protocol.Protocol"
    protocol = Protocol(**written)
    assert protocol == Protocol(name)
    assert protocol.title == name
    assert not protocol.overrides
    assert {key: written[key] for key in PRESETS[name]} == PRESETS[name]
    assert FOLLOWED_BY[name]


def test_any_change_makes_it_custom_and_another_id():
    changes = {"crop": "lanczos", "rounding": "none", "resize": "antialiased", "dtype": "float64"}
    ids = {protocol_id(Protocol("adm").settings)}
    for name, value in changes.items():
        changed = Protocol("adm", **{name: value})
        assert changed.title == "custom"
        assert changed.overrides == [f"{name}={value} instead of {PRESETS['adm'][name]}"]
        ids.add(protocol_id(changed.settings))
    assert len(ids) == 5


@pytest.mark.parametrize("name", PRESETS)
def test_all_levels_come_back_from_the_tokenizers_range(name):
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16).expand(1, 3, 16, 16).contiguous()
    seen = Protocol(name).levels(to_float(levels))
    assert seen.dtype == (torch.float32 if PRESETS[name]["rounding"] == "none" else torch.uint8)
    assert (seen.double() - levels.double()).abs().max() < 1e-4


def test_values_out_of_range_are_clamped_and_not_wrapped():
    image = torch.tensor([1.1, -1.1, 0.5]).view(1, 3, 1, 1)
    for rounding, last in (("round", 191), ("truncate", 191), ("none", 191.25)):
        assert Protocol("adm", rounding=rounding).levels(image).flatten().tolist() == [255, 0, last]


@pytest.mark.parametrize("resampling", ["bilinear", "bicubic", "lanczos"])
@pytest.mark.parametrize("shape", [(91, 70), (64, 133), (40, 40), (20, 31)])
def test_the_other_crop_is_torchvisions(resampling, shape):
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    mode = InterpolationMode[resampling.upper()]
    expected = np.array(CenterCrop(32)(Resize(32, mode)(Image.fromarray(pixels))))
    found = ResizeCrop(32, resampling)(torch.from_numpy(pixels).permute(2, 0, 1), np.random.default_rng(0))
    assert torch.equal(found.permute(1, 2, 0), torch.from_numpy(expected))


def test_settings_that_do_not_exist_are_refused():
    for wrong in ({"preset": "mine"}, {"crop": "nearest"}, {"rounding": "up"}, {"extractor": "vgg"}, {"resize": "x"}):
        with pytest.raises(ValueError, match="must be one of"):
            Protocol(**wrong)
    with pytest.raises(ValueError, match="resize must be antialiased for efflite0"):
        Protocol("offline", resize="tf1")
