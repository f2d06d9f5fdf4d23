"""With judges=found, judges whose weights are nowhere are left out and named; nothing else is."""

from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import imtok.losses.lpips
import imtok.nn.efflite0
import imtok.nn.timm_net
from imtok.construct import construct
from imtok.errors import InputError, MissingWeightsError
from imtok.objectives.judges import build_with_found

L1 = {"_target_": "imtok.losses.pixel.L1Loss"}
LPIPS = {"_target_": "imtok.losses.lpips.LPIPSLoss", "net": "alex", "weights": None}
CONVNEXT = {"_target_": "imtok.losses.logits.LogitLoss", "weights": None}
EFFLITE0 = {"_target_": "imtok.losses.efflite0.EffLite0Loss", "weights": None}
PATCHGAN = {
    "_target_": "imtok.losses.adversarial.Adversary",
    "critic": {"_target_": "imtok.critics.patchgan.PatchGAN", "channels": 8},
}
DINO = PATCHGAN | {"critic": {"_target_": "imtok.critics.dino.DinoCritic", "weights": None}}
TEACHER = {"_target_": "imtok.losses.teachers.Teacher", "name": "vit_small_patch14_dinov2.lvd142m", "weights": None}
ALIGNED = {"_target_": "imtok.losses.alignment.alignment.Alignment", "teacher": TEACHER}
RAMP = {"_target_": "imtok.objectives.ramps.Ramp", "first": 3.0, "steps": 2}


def section(losses=None, **others):
    target = "imtok.objectives.reconstruction.ReconstructionObjective"
    return {"_target_": target, "losses": {"l1": L1, **(losses or {})}, **others}


def built(config, before=None) -> tuple[Any, dict[str, str]]:
    return build_with_found(config, before)


@pytest.fixture(autouse=True)
def _nothing_is_here(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(imtok.nn.timm_net, "try_to_load_from_cache", lambda *_: None)


@pytest.mark.parametrize(
    ("given", "key", "cost"),
    [
        ({"losses": {"lpips": LPIPS}}, "objective.losses.lpips", "reconstructions come out smoother"),
        ({"losses": {"convnext": CONVNEXT}}, "objective.losses.convnext", "reconstructions come out smoother"),
        ({"adversary": DINO}, "objective.adversary", "fine texture stays blurred"),
        ({"alignments": {"repa": ALIGNED}}, "objective.alignments.repa", "tokens learn less of what an image means"),
    ],
)
def test_a_judge_without_weights_is_left_out_with_its_key_the_way_to_them_and_what_it_costs(given, key, cost):
    config = section(**given)
    objective, left = built(config)
    assert list(left) == [key]
    assert "weights=PATH" in left[key]
    assert "\n" not in left[key]
    assert left[key].endswith(f"Without it {cost}")
    names = {*objective.losses, *objective.alignments, *(["adversary"] if objective.critic else [])}
    assert names == {"l1"}
    assert config == section(
        **({"adversary": None} if "adversary" in given else {k: {} for k in given if k != "losses"})
    )


def test_what_is_here_stays():
    objective, left = built(section({"efflite0": EFFLITE0, "lpips": LPIPS}, adversary=PATCHGAN))
    assert (list(objective.losses), list(left)) == (["l1", "efflite0"], ["objective.losses.lpips"])
    assert objective.critic is not None


def test_without_a_judge_all_is_as_if_the_config_had_never_had_it():
    states = []
    for losses in ({"efflite0": EFFLITE0}, {"lpips": LPIPS, "efflite0": EFFLITE0}):
        torch.manual_seed(3)
        states.append(build_with_found(section(losses, adversary=PATCHGAN))[0].state_dict())
    torch.manual_seed(3)
    states.append(construct(section({"efflite0": EFFLITE0}, adversary=PATCHGAN)).state_dict())
    for other in states[1:]:
        assert all(torch.equal(value, other[name]) for name, value in states[0].items())
        assert states[0].keys() == other.keys()


def test_the_ramp_of_an_alignment_goes_with_it():
    objective, _ = built(section(alignments={"repa": ALIGNED}, ramps={"repa": RAMP, "commit": RAMP}))
    assert list(objective.ramps) == ["commit"]


@pytest.mark.parametrize("judge", [LPIPS, CONVNEXT, EFFLITE0])
def test_a_file_that_somebody_named_is_not_left_out_in_silence(judge, tmp_path):
    with pytest.raises(InputError, match=r"gone\.pth is not a file"):
        build_with_found(section({"judge": judge | {"weights": str(tmp_path / "gone.pth")}}))


@pytest.mark.parametrize("other", ["weights", "heads"])
def test_a_judge_is_not_left_out_if_one_of_its_two_files_is_named_and_the_other_is_missing(
    other, tmp_path, monkeypatch
):
    monkeypatch.setattr(imtok.losses.lpips, "find_spec", lambda _: None)
    save_file({"some": torch.zeros(1)}, tmp_path / "alex.safetensors")
    with pytest.raises(InputError, match=r"alexnet.* is not in|heads of LPIPS are missing") as caught:
        build_with_found(section({"lpips": LPIPS | {other: str(tmp_path / "alex.safetensors"), "sha256": None}}))
    assert not isinstance(caught.value, MissingWeightsError)


def test_an_adversary_of_which_only_random_weights_are_asked_for_is_not_left_out(monkeypatch):
    monkeypatch.setattr(imtok.nn.timm_net, "find_spec", lambda _: None)
    config = section(adversary=DINO | {"critic": DINO["critic"] | {"weights": "random"}})
    with pytest.raises(InputError, match="timm is missing"):
        build_with_found(config)


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "alexnet-owt-7be5be79.pth").write_bytes(b"half")
    with pytest.raises(InputError, match="not the expected weight file"):
        build_with_found(section({"lpips": LPIPS}))


def test_an_objective_needs_one_image_loss():
    config = section()
    config["losses"] = {"lpips": LPIPS}
    with pytest.raises(InputError, match=r"objective\.losses\.lpips\.weights=PATH"):
        build_with_found(config)


def test_what_a_run_was_begun_without_stays_out_though_it_is_here_now():
    why = {"objective.losses.efflite0": "it was not there"}
    objective, left = built(section({"efflite0": EFFLITE0}), before=why)
    assert (list(objective.losses), left) == (["l1"], why)


def test_what_a_run_was_begun_with_must_be_here(monkeypatch):
    monkeypatch.setattr(imtok.nn.efflite0, "find_spec", lambda _: None)
    with pytest.raises(InputError, match=r"^objective\.losses\.efflite0 has judged this run so far, and its weights"):
        build_with_found(section({"efflite0": EFFLITE0}), before={})
