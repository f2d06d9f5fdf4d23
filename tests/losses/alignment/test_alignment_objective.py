"""Alignments in an objective: a term each, trained heads that are no part of the tokenizer, clean codes."""

import pytest
import torch
from encoders.presets import unchecked

from imtok.losses.alignment.alignment import Alignment
from imtok.losses.alignment.heads import MLPHead
from imtok.losses.pixel import L2Loss
from imtok.losses.teachers import Teacher
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.tokenizer import Tokenizer
from imtok.training.compiling import compiled
from imtok.types import Batch

PARTS = {
    "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 16, "depth": 0},
    "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 8, "codebook_size": 64},
    "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 16, "depth": 0},
}
PERTURB = {"_target_": "imtok.regularizers.perturbation.Perturbation", "alpha": 1.0, "beta": 1.0, "delta": 32}


def step(objective, tokenizer, image):
    empty = torch.zeros(len(image), dtype=torch.long)
    batch = Batch(image, empty, empty, [""] * len(image))
    return objective(tokenizer, batch, 0, torch.Generator().manual_seed(0))


def prepared():
    teacher = Teacher("test_vit", weights="random", image_size=64)
    heads = {name: MLPHead(8, teacher.dim, width=16) for name in ("encoder", "quantizer")}
    parts = {name: Alignment(teacher, name, weight=0.5, head=head) for name, head in heads.items()}
    return ReconstructionObjective({"l2": L2Loss()}, alignments={f"{name}_dino": part for name, part in parts.items()})


def test_each_is_a_term_of_the_total_and_its_head_learns_outside_the_tokenizer():
    objective, tokenizer = prepared(), Tokenizer.from_config(PARTS)
    losses = step(objective, tokenizer, torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8))
    assert {"l2", "encoder_dino", "quantizer_dino", "codebook", "commit"} <= losses.terms.keys()
    weighted = [value * weight for value, weight in losses.terms.values() if weight]
    torch.testing.assert_close(losses.total, torch.stack(weighted).sum())
    losses.total.backward()
    heads = objective.heads()
    assert len(list(heads.parameters())) == 12, "those of the heads, none of the teacher"
    assert all(parameter.grad.any() for parameter in heads.parameters())
    assert not any("frozen" in name or "teacher" in name for name in objective.state_dict())


def test_perturbation_changes_the_picture_and_no_term_of_the_codes():
    """As published: after the losses of the quantizer and of the semantics."""
    objective, image = prepared(), torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    tokenizer = Tokenizer.from_config(PARTS | {"regularizer": PERTURB}).train()
    perturbed = step(objective, tokenizer, image).terms
    tokenizer.regularizer = None
    plain = step(objective, tokenizer, image).terms
    assert perturbed.keys() - plain.keys() == {"perturbed"}
    for name in ("encoder_dino", "quantizer_dino", "codebook", "commit"):
        assert torch.equal(perturbed[name].value, plain[name].value), name
    assert perturbed["l2"].value != plain["l2"].value


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of torch itself
def test_parts_that_were_compiled_without_taps_are_tapped_all_the_same():
    """Compiled parts must not forget to look for taps, whatever ran before and runs in between."""
    image = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    parts = PARTS | {"decoder": PARTS["decoder"] | {"depth": 1}}
    teacher = Teacher("test_vit", weights="random", image_size=64)
    places = {"encoder": 8, "quantizer": 8, "decoder.blocks": 16}
    objective = ReconstructionObjective(
        {"l2": L2Loss()},
        alignments={
            name.replace(".", "_"): Alignment(teacher, name, head=MLPHead(width, teacher.dim, width=16))
            for name, width in places.items()
        },
    )
    tokenizer = Tokenizer.from_config(parts)
    plain = step(objective, tokenizer, image)
    torch.compiler.reset()
    with compiled([]), unchecked():
        tokenizer.encoder.compile(backend="eager")
        tokenizer.decoder.compile(backend="eager")
        for _ in range(3):
            tokenizer(torch.zeros(4, 3, 32, 32))
            fast = step(objective, tokenizer, image)
            assert fast.terms.keys() == plain.terms.keys()
            torch.testing.assert_close(fast.total, plain.total)
