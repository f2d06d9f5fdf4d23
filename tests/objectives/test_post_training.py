"""Post-training: only the decoder learns, from what the pairs say, and it learns to mend."""

import pytest
import torch

from imtok.errors import InputError
from imtok.losses.alignment.alignment import Alignment
from imtok.losses.pixel import L2Loss
from imtok.losses.teachers import Teacher
from imtok.objectives.post_training import PostTrainingObjective
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

PARTS = {
    "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 16, "depth": 1},
    "quantizer": {"_target_": "imtok.quantizers.ema_vq.EMAVQ", "dim": 8, "codebook_size": 64},
    "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 16, "depth": 1},
}
PERTURB = {"_target_": "imtok.regularizers.perturbation.Perturbation", "alpha": 1.0, "beta": 1.0, "delta": 16}


def frozen(**parts):
    tokenizer = Tokenizer.from_config(PARTS | parts).train()
    tokenizer.freeze(["encoder", "quantizer"])
    return tokenizer


def batch(source=None, image=None, images=6):
    image = torch.randint(0, 256, (images, 3, 32, 32), dtype=torch.uint8) if image is None else image
    empty = torch.zeros(len(image), dtype=torch.long)
    return Batch(image, empty, empty, [str(index) for index in range(len(image))], source=source)


def objective():
    return PostTrainingObjective({"l2": L2Loss()})


def generator():
    return torch.Generator().manual_seed(0)


def sources(tokenizer, image):
    """The same codes as ids, as latents and as a picture."""
    pixels = to_float(image)
    latents = tokenizer.encoder(pixels).values.detach()
    return {"ids": tokenizer.quantizer(latents).ids, "latents": latents, "picture": image}


@pytest.mark.parametrize("kind", ["ids", "latents", "picture"])
def test_every_kind_of_source_is_decoded_and_compared_with_the_target(kind):
    tokenizer = frozen()
    pair = torch.randint(0, 256, (2, 6, 3, 32, 32), dtype=torch.uint8)
    losses = objective()(tokenizer, batch(sources(tokenizer, pair[0])[kind], pair[1]), 0, generator())
    decoded = tokenizer.decoder(tokenizer.quantize(to_float(pair[0])).latents, (32, 32))
    torch.testing.assert_close(losses.total, (decoded - to_float(pair[1])).square().mean())
    assert list(losses.terms) == ["l2"], "what the quantizer would say is no business of the decoder"
    assert losses.shown.quantized.stats == {}


def test_without_a_source_the_codes_are_the_targets_own():
    tokenizer, image = frozen(), torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8)
    losses = objective()(tokenizer, batch(None, image), 0, generator())
    own = objective()(tokenizer, batch(tokenizer.quantize(to_float(image)).ids, image), 0, generator())
    torch.testing.assert_close(losses.total, own.total)


def test_only_the_decoder_learns_and_all_of_it():
    tokenizer = frozen()
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    optimizer = torch.optim.Adam([p for p in tokenizer.parameters() if p.requires_grad], lr=1e-2)
    for step in range(3):
        losses = objective()(tokenizer, batch(torch.randint(0, 64, (6, 16, 1))), step, generator())
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
    for name, value in tokenizer.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("decoder")), name


def test_it_learns_to_mend_what_the_sources_get_wrong():
    """Every source is the id after the right one; no decoder without it could know, and after some steps it does."""
    tokenizer = frozen()
    image = torch.randint(0, 256, (8, 3, 1, 1), dtype=torch.uint8).expand(8, 3, 32, 32).contiguous()
    shifted = (tokenizer.quantize(to_float(image)).ids + 1) % 64
    optimizer = torch.optim.Adam([p for p in tokenizer.parameters() if p.requires_grad], lr=1e-2)
    values = []
    for step in range(60):
        losses = objective()(tokenizer, batch(shifted, image), step, generator())
        optimizer.zero_grad()
        losses.total.backward()
        optimizer.step()
        values.append(losses.total.item())
    assert values[-1] < 0.3 * values[0]


def test_a_regulariser_is_at_work_in_training_only():
    tokenizer, pair = frozen(regularizer=PERTURB), batch()
    losses = objective()(tokenizer, pair, 0, generator())
    assert losses.terms["perturbed"].value > 0.5
    assert "perturbed" not in objective()(tokenizer.eval(), pair, 0, generator()).terms


def test_an_alignment_sees_the_decoder():
    teacher = Teacher("test_vit", weights="random", image_size=64)
    aligned = Alignment(teacher, "decoder.conv_in", feature="summary", loss="contrastive", teacher_head=None)
    with pytest.raises(ValueError, match="must be 16, that of decoder"):  # it was reached: 16 channels against 64
        PostTrainingObjective({"l2": L2Loss()}, alignments={"dino": aligned})(frozen(), batch(), 0, generator())
    with pytest.raises(ValueError, match="must look at the decoder"):
        PostTrainingObjective({"l2": L2Loss()}, alignments={"dino": Alignment(teacher, "quantizer")})


@pytest.mark.parametrize("names", [(), ("encoder",), ("quantizer",)])
def test_parts_that_would_learn_too_are_named(names):
    tokenizer = Tokenizer.from_config(PARTS)
    tokenizer.freeze(names)
    with pytest.raises(InputError, match="would learn too") as caught:
        objective()(tokenizer, batch(), 0, generator())
    assert all((name in str(caught.value).split(";")[0]) == (name not in names) for name in ("encoder", "quantizer"))


def test_ids_outside_the_vocabulary_are_refused():
    with pytest.raises(ValueError, match="slot 0 must lie in"):
        objective()(frozen(), batch(torch.full((6, 16, 1), 64)), 0, generator())
