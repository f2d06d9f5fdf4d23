"""Alignment of a decoder that draws: a term of the total, whose gradient ends at the layer, however blocks are run."""

import pytest
import torch
from encoders.presets import unchecked
from objectives.flow import CONFIG, seeded

from imtok.errors import InputError
from imtok.losses.alignment.alignment import Alignment
from imtok.losses.alignment.heads import MLPHead
from imtok.losses.teachers import Teacher
from imtok.objectives.flow import FlowObjective
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.training.compiling import compiled
from imtok.types import Batch

PATCHES = 16  # of the 8 x 8 map of an image of 16 x 16 pixels


def tokenizer(**decoder):
    torch.manual_seed(1)
    built = Tokenizer.from_config(CONFIG | {"decoder": CONFIG["decoder"] | {"depth": 3} | decoder}).train()
    with torch.no_grad():
        for parameter in built.parameters():  # gates and last layers start at zero, which would hide what is behind
            if parameter.requires_grad and not parameter.any():
                parameter.normal_(std=0.1)
    return built


def objective(source="decoder.trunk.blocks.1", weight=0.5, name="repa"):
    torch.manual_seed(2)
    teacher = Teacher("test_vit", weights="random", image_size=64)
    head = MLPHead(32, teacher.dim, width=16)
    return FlowObjective({name: Alignment(teacher, source, weight=weight, head=head, tokens=[0, PATCHES])})


@pytest.fixture
def batch():
    image = torch.randint(256, (6, 3, 16, 16), dtype=torch.uint8)
    return Batch(image, torch.full((6,), -1), torch.arange(6), [str(index) for index in range(6)])


def gradients(module):
    return {name: value.grad for name, value in module.named_parameters() if value.grad is not None}


def test_it_is_a_term_of_the_total_and_moves_no_other(batch):
    net, aligned = tokenizer(), objective()
    losses, plain = aligned(net, batch, 0, seeded()), FlowObjective()(net, batch, 0, seeded())
    assert list(losses.terms) == ["velocity", "repa"]
    assert torch.equal(losses.terms["velocity"].value, plain.total)
    value, weight = losses.terms["repa"]
    assert weight == 0.5
    assert 0 < value < 2
    torch.testing.assert_close(losses.total, plain.total + 0.5 * value)


def test_it_is_the_cosine_between_the_patches_of_the_layer_and_those_of_the_original(batch):
    """The tokens behind the patches do not take part, however many the decoder sees."""
    net, aligned = tokenizer(), objective()
    seen = []
    hook = net.decoder.trunk.blocks[1].register_forward_hook(lambda *run: seen.append(run[-1]))
    losses = aligned(net, batch, 0, seeded())
    hook.remove()
    part = aligned.alignments["repa"]
    assert seen[0].shape[1] > PATCHES
    student = part.head(seen[0][:, :PATCHES])
    wanted, _ = part.teacher(to_float(batch.image))
    cosine = (student * wanted).sum(-1) / student.norm(dim=-1) / wanted.norm(dim=-1)
    torch.testing.assert_close(losses.terms["repa"].value, (1 - cosine).mean())


def test_its_gradient_reaches_all_before_the_layer_and_nothing_behind_it(batch):
    net, aligned = tokenizer(), objective()
    aligned(net, batch, 0, seeded()).terms["repa"].value.backward()
    reached = {name for name, value in gradients(net).items() if value.any()}
    assert {"encoder.registers", "decoder.patch_embedding.weight", "decoder.latent_embedding.weight"} <= reached
    for block in ("decoder.trunk.blocks.0.", "decoder.trunk.blocks.1."):
        assert any(name.startswith(block) for name in reached), block
    assert not any(name.startswith(("decoder.trunk.blocks.2.", "decoder.head", "space.")) for name in reached)
    assert all(parameter.grad.any() for parameter in aligned.heads().parameters())


def test_blocks_that_are_computed_again_give_the_same_gradients(batch):
    found = []
    for checkpoint in (False, True):
        net, aligned = tokenizer(checkpoint=checkpoint), objective()
        losses = aligned(net, batch, 0, seeded())
        losses.total.backward()
        found.append((losses.total, gradients(net) | gradients(aligned)))
    (total, plain), (again, recomputed) = found
    assert torch.equal(total, again)
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # of torch itself
@pytest.mark.parametrize("checkpoint", [False, True])
def test_a_decoder_that_was_compiled_without_taps_is_tapped_all_the_same(checkpoint, batch):
    """Compiled blocks must not forget to look for taps, whatever ran before and runs in between."""
    torch.compiler.reset()
    net, aligned, fast = tokenizer(checkpoint=checkpoint), objective(), tokenizer(checkpoint=checkpoint)
    fast.decoder.compile(backend="eager")
    with compiled([]), unchecked():
        for step in range(3):
            FlowObjective()(fast, batch, step, seeded(step))
            expected, found = aligned(net, batch, step, seeded(step)), aligned(fast, batch, step, seeded(step))
            torch.testing.assert_close(found.total, expected.total)
            with torch.no_grad():
                FlowObjective()(fast.eval(), batch, step, seeded(step))
            fast.train()
        found.total.backward()
        expected.total.backward()
    for name, value in gradients(net).items():
        torch.testing.assert_close(gradients(fast)[name], value, msg=lambda text, name=name: f"{name}: {text}")


def test_without_alignments_it_is_the_decoders_loss_bit_for_bit(batch):
    net = tokenizer()
    for losses in (FlowObjective()(net, batch, 3, seeded()), FlowObjective(None)(net, batch, 3, seeded())):
        generator, image = seeded(), to_float(batch.image)
        quantized = net.regularizer(net.quantize(image), net.quantizer, 3, generator)
        terms = net.decoder.loss(image, quantized.latents, quantized.keep, generator=generator)
        assert torch.equal(losses.total, terms["velocity"].value * terms["velocity"].weight)
        assert losses.terms.keys() == terms.keys()
    assert FlowObjective().heads() is None
    assert FlowObjective().state_dict() == {}


def test_the_teacher_is_in_no_state_and_learns_nothing(batch):
    aligned = objective()
    assert all(name.startswith("alignments.repa.head.") for name in aligned.state_dict())
    assert {id(value) for value in aligned.parameters()} == {id(value) for value in aligned.heads().parameters()}
    aligned(tokenizer(), batch, 0, seeded()).total.backward()
    teacher = aligned.alignments["repa"].teacher
    assert not any(value.requires_grad or value.grad is not None for value in teacher.frozen.net.parameters())
    assert not teacher.frozen.net.training


def test_what_cannot_be_looked_at_and_a_name_that_is_taken_are_refused(batch):
    net = tokenizer()
    with pytest.raises(ValueError, match=r"must look at modules that this objective calls, got decoder$"):
        objective(source="decoder")(net, batch, 0, seeded())
    with pytest.raises(ValueError, match=r"must name sub-modules of the tokenizer, got 'decoder.blocks'"):
        objective(source="decoder.blocks")(net, batch, 0, seeded())
    with pytest.raises(ValueError, match="must differ from those of the other terms, got velocity"):
        objective(name="velocity")(net, batch, 0, seeded())


def test_a_teacher_without_weights_is_one_line_that_says_where_they_are_missing(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(InputError, match=r"vit_large_patch14_dinov2.*weights=PATH") as error:
        Teacher("vit_large_patch14_dinov2.lvd142m", image_size=224)
    assert "\n" not in str(error.value)
