"""A preset is all of its settings, and what is changed shows."""

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from torchvision.transforms import CenterCrop, InterpolationMode, Resize

from imtok.build import build_protocol
from imtok.config import check_command, register_schemas
from imtok.errors import InputError
from imtok.extractors.torchvision import TorchvisionExtractor
from imtok.folders import config_folder
from imtok.measures.chosen import require_statistics
from imtok.measures.crops import ResizeCrop
from imtok.measures.protocol import EFFLITE0, FOLLOWED_BY, INCEPTION, PRESETS, Protocol, protocol_id
from imtok.pixels import to_float

TIMM = {"_target_": "imtok.extractors.timm.TimmExtractor", "net": "test_vit.r160_in1k", "dtype": "float32"}


def composed(*words):
    """The protocol and the extractor of a command line."""
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = OmegaConf.to_container(compose("score", ["images=a", "reference=b", *words]))
    return build_protocol(config)


@pytest.mark.parametrize("name", PRESETS)
def test_the_file_of_a_preset_says_what_the_preset_is(name):
    protocol = composed(f"protocol={name}")
    assert protocol == Protocol(name)
    assert protocol.title == name
    assert not protocol.overrides
    assert FOLLOWED_BY[name]


def test_any_change_makes_it_custom_and_another_id():
    changes = {
        "crop=lanczos instead of adm": {"crop": "lanczos"},
        "rounding=none instead of round": {"rounding": "none"},
        "resize=antialiased instead of tf1": {"extractor": {**INCEPTION, "resize": "antialiased"}},
        "dtype=float64 instead of float32": {"extractor": {**INCEPTION, "dtype": "float64"}},
        "extractor=timm instead of inception_tf": {"extractor": {**TIMM, "resize": "tf1"}},
    }
    ids = {protocol_id(Protocol("adm").settings)}
    for words, change in changes.items():
        changed = Protocol("adm", **change)
        assert changed.title == "custom"
        assert changed.overrides == [words]
        ids.add(protocol_id(changed.settings))
    assert len(ids) == 6


def test_another_extractor_is_custom_and_the_weight_file_of_the_usual_one_is_not():
    assert composed("protocol=offline", "extractor=efflite0").title == "offline"
    assert composed("protocol.extractor.weights=mine.pth", "protocol.extractor.sha256=null").title == "adm"
    for option in ("dinov2", "torchvision", "inception_tf"):
        protocol = composed("protocol=offline", f"extractor={option}")
        assert (protocol.title, protocol.key) == ("custom", "extractor")
        assert protocol.overrides[0].endswith("instead of efflite0")
    assert composed("extractor=dinov2").settings == {
        **{"preset": "custom", "crop": "adm", "rounding": "round", "extractor": "timm"},
        **{"net": "vit_large_patch14_dinov2.lvd142m", "image_size": 224, "resize": "bicubic"},
        **{"mean": None, "std": None, "dtype": "float32"},
    }


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["protocol.weights=a.pth"], "protocol.weights: no such key; it is now protocol.extractor.weights, or"),
        (["protocol.sha256=null"], "protocol.sha256: no such key; it is now protocol.extractor.sha256, or"),
        (["protocol.resize=tf1"], "protocol.resize: no such key; it is now protocol.extractor.resize, or"),
        (["+protocol.dtype=float64"], "protocol.dtype: Protocol has no argument dtype; it is now protocol.extractor"),
        (["protocol.extractor=efflite0"], "protocol.extractor: is a section with _target_; give extractor=efflite0 in"),
        (["extractor=efflite"], "extractor=efflite: no such option; did you mean efflite0?"),
        (["extractor=timm"], "extractor.net: required and not set; give extractor.net=VALUE"),
        (["extractor=dinov2", "protocol.extractor.weights=a"], "protocol.extractor.weights: nothing reads it, since"),
        (["+extractor={net:a}"], "extractor._target_: required and not set"),
        (["+extractor={_target_:imtok.measures.psnr.PSNR}"], "extractor._target_ must name a subclass of imtok.extr"),
        (["+extractor={_target_:collections.OrderedDict}"], "extractor._target_ must name a subclass of imtok.extr"),
        (["+extractor={_target_:imtok.extractors.base.Extractor}"], "extractor._target_ must name a class that can be"),
        (["+extractor={_target_:nowhere.Net}"], "extractor._target_: cannot import nowhere.Net (No module named"),
    ],
)
def test_keys_of_earlier_versions_and_what_is_no_extractor_are_refused_in_one_line(words, said):
    for command, needed in (("eval", ["tokenizer=a"]), ("score", ["images=a", "reference=b"])):
        with pytest.raises(InputError) as caught:
            check_command(command, [*needed, *words])
        head, *lines = str(caught.value).splitlines()
        assert (head, len(lines)) == ("1 mistake in the config:", 1)
        assert lines[0].strip().startswith(said)


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
    for wrong in ({"preset": "mine"}, {"crop": "nearest"}, {"rounding": "up"}):
        with pytest.raises(ValueError, match="must be one of"):
            Protocol(**wrong)
    with pytest.raises(ValueError, match="extractor must be a section with _target_, got 'vgg'"):
        Protocol(extractor="vgg")
    with pytest.raises(InputError, match=r"^protocol\.extractor: resize must be one of tf1, .*, got 'nearest'"):
        Protocol("offline", extractor={**EFFLITE0, "resize": "nearest"}).build()


def test_statistics_of_the_inception_are_not_taken_for_those_of_a_net_of_the_same_length():
    resnet = TorchvisionExtractor("resnet50", "random", image_size=32)
    with pytest.raises(InputError, match=r"^reference has 2048 values, as the statistics of the Inception have, and"):
        require_statistics(resnet, 2048, "reference")
    with pytest.raises(
        InputError, match=r"^reference must have 2048 values, got 768; as many are the features of torchvision"
    ):
        require_statistics(resnet, 768, "reference")
