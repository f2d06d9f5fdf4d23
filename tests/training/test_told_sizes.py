"""Sizes that an objective, its alignments and their heads are told, so that no width stands twice in a config."""

import sys

import pytest
import torch
from hydra import compose, initialize_config_dir
from training.runs import run_tiny, tiny_overrides, tiny_run

from imtok.config import check_config, register_schemas
from imtok.errors import InputError
from imtok.folders import config_folder
from imtok.losses.alignment.alignment import Alignment
from imtok.training.told_sizes import tell_sizes

TEACHER = "{_target_:imtok.losses.teachers.Teacher,name:test_vit,weights:random,image_size:32}"
HEAD = "{_target_:imtok.losses.alignment.heads.MLPHead,width:8,layers:2}"
OWN = '''
from torch import nn

from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.alignment.heads import Head
from imtok.objectives.reconstruction import ReconstructionObjective


class Told(ReconstructionObjective):
    def __init__(self, dim: int, vocab_sizes: list[int], num_latents: int, image_size: int, losses, alignments=None):
        super().__init__(losses, alignments=alignments)
        self.told = (dim, vocab_sizes, num_latents, image_size)


class Towards(AlignmentLoss):
    """Its own map of the latents, drawn to zero; and its head's of a layer, drawn there, too."""

    needs = ("quantizer", "decoder.blocks")

    def __init__(self, dim: int, head: Head, source: str = "decoder.blocks"):
        super().__init__(0.1)
        self.map, self.head = nn.Linear(dim, 1), head

    def forward(self, target, quantized, taps, step):
        found = self.head(taps["decoder.blocks"].flatten(2).mT)
        return self.map(taps["quantizer"]).square().mean() + found.square().mean()


class OwnHead(Head):
    def __init__(self, in_dim: int, out_dim: int = 2):
        super().__init__()
        self.in_dim, self.out_dim, self.map = in_dim, out_dim, nn.Linear(in_dim, out_dim)

    def forward(self, features, keep=None):
        return self.map(features)
'''

TEACHERS = """
from imtok.losses.teachers import TeacherFeatures, TeacherNet


class Silent(TeacherNet):
    dim = summary_dim = 3

    def forward(self, image):
        return TeacherFeatures(image.flatten(2).mT, image.mean((2, 3)))


class Absent(Silent):
    @classmethod
    def widths(cls):
        raise ValueError("nothing is known of it")
"""
ALIGNMENT = "imtok.losses.alignment.alignment.Alignment"


def aligned(source, *more):
    return (
        "+objective.alignments.x={_target_:imtok.losses.alignment.alignment.Alignment,"
        f"teacher:{TEACHER},source:{source},feature:summary,head:{HEAD}{''.join(more)}}}"
    )


@pytest.mark.parametrize(
    ("source", "more", "width"),
    [("quantizer", (), 4), ("encoder", (), 4), ("quantizer", (",channels:[1,3]",), 2), ("decoder.blocks", (), 16)],
)
def test_a_head_is_told_the_width_of_what_it_looks_at(tmp_path, source, more, width):
    run = tiny_run(tmp_path, "quantizer=fsq", aligned(source, *more))
    alignment = run.objective.alignments["x"]
    assert isinstance(alignment, Alignment)
    assert alignment.head is not None
    assert alignment.head.in_dim == width
    assert run.config["objective"]["alignments"]["x"]["head"]["in_dim"] == width  # as if it had been given


@pytest.fixture
def package(tmp_path, monkeypatch):
    (tmp_path / "own_told.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("IMTOK_PACKAGES", "own_told")
    yield tmp_path
    sys.modules.pop("own_told", None)


WORDS = (
    "quantizer=fsq", "objective._target_=own_told.Told",
    "+objective.alignments={own:{_target_:own_told.Towards,head:{_target_:own_told.OwnHead}}}",
    "trainer.max_steps=1",
)  # fmt: skip


def test_an_objective_an_alignment_and_a_head_of_ones_own_are_told_what_their_arguments_name(package):
    words = tiny_overrides(package / "run", *WORDS)
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        assert check_config(compose("train", overrides=words), "train") == []
    run = tiny_run(package / "run", *WORDS)
    assert run.objective.told == (4, [1000], 4, 16)
    assert run.objective.alignments["own"].map.in_features == 4
    assert run.objective.alignments["own"].head.in_dim == 16
    assert run_tiny(package / "run", *WORDS).step == 1


def test_what_is_given_stays_and_no_random_state_moves(tmp_path):
    run = tiny_run(tmp_path)
    section = {
        "_target_": "imtok.objectives.reconstruction.ReconstructionObjective",
        "alignments": {
            name: {
                "_target_": "imtok.losses.alignment.alignment.Alignment",
                "source": "decoder.blocks",
                "head": {"_target_": "imtok.losses.alignment.heads.MLPHead", "out_dim": 64, **given},
            }
            for name, given in {"given": {"in_dim": 9}, "left_out": {}}.items()
        },
    }
    state = torch.get_rng_state()
    tell_sizes(section, run.tokenizer, 16)
    assert [part["head"]["in_dim"] for part in section["alignments"].values()] == [9, 16]
    assert torch.equal(torch.get_rng_state(), state)
    assert "image_size" not in section


def test_a_part_that_is_not_there_is_refused_by_the_key_that_names_it(tmp_path):
    with pytest.raises(InputError, match=r"objective\.alignments\.x\.source must name a part .*, got decoder\.nothing"):
        tiny_run(tmp_path, aligned("decoder.nothing"))


MORE = "{_target_:imtok.losses.alignment.heads.MLPHead,layers:1}"


@pytest.mark.parametrize(
    ("heads", "told"),
    [
        (f"head:{MORE}", {"head": (4, 64)}),
        (f"teacher_head:{MORE}", {"teacher_head": (64, 4)}),
        (f"channels:[1,3],teacher_head:{MORE}", {"teacher_head": (64, 2)}),
        (f"head:{MORE},teacher_head:{MORE[:-1]},out_dim:6}}", {"head": (4, 6), "teacher_head": (64, 6)}),
    ],
)
def test_heads_are_told_the_width_of_the_teacher_on_the_other_side(tmp_path, heads, told):
    alignment = (
        "+objective.alignments.x={_target_:imtok.losses.alignment.alignment.Alignment,"
        f"teacher:{TEACHER},source:quantizer,feature:summary,loss:contrastive,{heads}}}"
    )
    run = tiny_run(tmp_path, "quantizer=fsq", alignment)
    made = run.objective.alignments["x"]
    assert {name: (getattr(made, name).in_dim, getattr(made, name).out_dim) for name in told} == told


def test_a_teacher_of_ones_own_that_does_not_say_its_width_is_asked_for_it(package):
    (package / "own_teachers.py").write_text(TEACHERS)
    head = f"head:{MORE},source:quantizer,feature:summary"
    for kind, line in (
        ("Silent", r"alignments\.x\.head\.out_dim: the width of its teacher is not to be found; give \+objective"),
        ("Absent", r"alignments\.x\.teacher: nothing is known of it"),
    ):
        own = f"teacher:{{_target_:own_teachers.{kind}}}"
        with pytest.raises(InputError, match=line):
            tiny_run(package / "run", f"+objective.alignments.x={{_target_:{ALIGNMENT},{own},{head}}}")
    head = head.replace("layers:1", "layers:1,out_dim:3")
    given = f"{{_target_:{ALIGNMENT},teacher:{{_target_:own_teachers.Silent}},{head}}}"
    assert run_tiny(package / "run", "trainer.max_steps=1", f"+objective.alignments.x={given}").step == 1
    sys.modules.pop("own_teachers", None)
