"""Contrasts of images and captions against formulas written out by hand; pairs without a caption take no part."""

import math

import pytest
import torch
from encoders.presets import unchecked
from torch import nn

from imtok.conditions.label import Label
from imtok.conditions.words import Words
from imtok.losses.alignment.base import AlignmentLoss
from imtok.losses.alignment.captions import CaptionContrast
from imtok.losses.alignment.contrasts import LearnedContrastive, SigmoidContrastive
from imtok.losses.alignment.heads import MLPHead
from imtok.losses.pixel import L2Loss
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.types import Quantized

TEXTS = ["a fox", "a red jar", "two foxes", "sky"]


def rows(count=4, width=6):
    return torch.randn(2, count, width, dtype=torch.float64).unbind()


def unit(vector):
    return vector / vector.square().sum().sqrt()


def by_hand(kind, images, texts, scale, bias=0.0):
    """Pair by pair, as the papers write it."""
    images, texts = ([row.detach() for row in side] for side in (images, texts))
    count, total = len(images), 0.0
    logits = [[scale * float(unit(image) @ unit(text)) + bias for text in texts] for image in images]
    for one in range(count):
        if kind == "clip":
            row = math.log(sum(math.exp(logits[one][other]) for other in range(count)))
            column = math.log(sum(math.exp(logits[other][one]) for other in range(count)))
            total += (row + column) / 2 - logits[one][one]
        else:
            signs = [1 if one == other else -1 for other in range(count)]
            total += sum(math.log(1 + math.exp(-sign * logits[one][other])) for other, sign in enumerate(signs))
    return total / count


@pytest.mark.parametrize("temperature", [0.07, 0.5, 0.01])
def test_clip_is_the_mean_of_the_cross_entropies_of_rows_and_columns(temperature):
    images, texts = rows()
    value = LearnedContrastive(temperature).double()(images, texts).mean().item()
    assert value == pytest.approx(by_hand("clip", images, texts, 1 / temperature), rel=1e-6)


@pytest.mark.parametrize(("temperature", "bias"), [(0.1, -10.0), (1.0, 0.0), (0.3, 2.0)])
def test_siglip_asks_of_every_pair_by_itself(temperature, bias):
    images, texts = rows()
    value = SigmoidContrastive(temperature, bias).double()(images, texts).mean().item()
    assert value == pytest.approx(by_hand("siglip", images, texts, 1 / temperature, bias), rel=1e-6)


@pytest.mark.parametrize("contrast", [LearnedContrastive(0.2), SigmoidContrastive(0.2, -1.0)])
def test_gradients_are_those_of_finite_differences_scale_and_bias_included(contrast):
    contrast = contrast.double()
    images, texts = (one.requires_grad_() for one in rows())
    assert torch.autograd.gradcheck(lambda one, two: contrast(one, two).mean(), (images, texts))
    for parameter in contrast.parameters():
        (gradient,) = torch.autograd.grad(contrast(images, texts).mean(), parameter)
        values = []
        for step in (1e-6, -1e-6):
            with torch.no_grad():
                parameter += step
                values.append(contrast(images, texts).mean().item())
                parameter -= step
        assert gradient.item() == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-6)


def test_the_scale_stops_at_a_hundred_and_learns_no_further():
    contrast = LearnedContrastive(0.01).double()
    images, texts = rows()
    before = contrast(images, texts)
    with torch.no_grad():
        contrast.log_scale += 3
    torch.testing.assert_close(contrast(images, texts), before)
    contrast(images, texts).sum().backward()
    assert contrast.log_scale.grad is not None
    assert contrast.log_scale.grad.item() == 0


@pytest.mark.parametrize("contrast", [LearnedContrastive(0.2), SigmoidContrastive(0.2, -1.0)])
def test_what_is_not_present_is_neither_right_nor_wrong(contrast):
    contrast, (images, texts) = contrast.double(), rows(5)
    present = torch.tensor([True, False, True, True, False])
    found = contrast(images, texts, present)
    torch.testing.assert_close(found, contrast(images[present], texts[present]))


def pieces(kind=LearnedContrastive, **settings):
    torch.manual_seed(0)
    contrast = CaptionContrast(Words(8, 4, 64), MLPHead(6, 5, layers=1), kind(0.2), **settings).double()
    codes = torch.randn(4, 3, 6, dtype=torch.float64, requires_grad=True)
    return contrast, codes, Quantized(codes, torch.zeros(4, 3, 1, dtype=torch.long))


@pytest.mark.parametrize("kind", [LearnedContrastive, SigmoidContrastive])
def test_an_image_is_the_mean_of_its_mapped_codes_and_a_caption_that_of_its_words(kind):
    contrast, codes, quantized = pieces(kind)
    value = contrast(torch.zeros(4, 3, 8, 8), quantized, {"quantizer": codes}, 0, TEXTS)
    head = contrast.head.maps[0]
    images = [(code @ head.weight.T + head.bias).mean(0) for code in codes]
    texts = []
    for text in TEXTS:
        found = contrast.text([text], torch.tensor([-1]))
        texts.append(contrast.project.weight @ found.text[0][found.mask[0]].mean(0))
    bias = contrast.distance.bias.item() if kind is SigmoidContrastive else 0.0
    name = "clip" if kind is LearnedContrastive else "siglip"
    assert value.item() == pytest.approx(by_hand(name, images, texts, 5.0, bias), rel=1e-6)


def test_images_without_a_caption_take_no_part_and_without_any_there_is_nothing_to_learn():
    contrast, codes, quantized = pieces()
    image, taps = torch.zeros(4, 3, 8, 8), {"quantizer": codes}
    value = contrast(image, quantized, taps, 0, ["", *TEXTS[1:]])
    (gradient,) = torch.autograd.grad(value, codes)
    assert not gradient[0].any()
    assert gradient[1:].any()
    rest = Quantized(codes[1:], quantized.ids[1:])
    torch.testing.assert_close(value, contrast(image[1:], rest, {"quantizer": codes[1:]}, 0, TEXTS[1:]))
    for nothing in ([""] * 4, ()):
        value = contrast(image, quantized, taps, 0, nothing)
        assert value.item() == 0
        found = torch.autograd.grad(value, list(contrast.parameters()))
        assert not any(gradient.any() for gradient in found)


def test_latents_that_are_not_kept_and_tokens_outside_the_piece_are_not_seen():
    contrast, codes, quantized = pieces()
    keep = torch.tensor([[True, True, False]] * 4)
    masked = Quantized(codes, quantized.ids, keep)
    value = contrast(torch.zeros(4, 3, 8, 8), masked, {"quantizer": codes}, 0, TEXTS)
    contrast.tokens = slice(0, 2)
    torch.testing.assert_close(value, contrast(torch.zeros(4, 3, 8, 8), quantized, {"quantizer": codes}, 0, TEXTS))


def test_text_head_words_and_temperature_learn():
    contrast, codes, quantized = pieces()
    contrast(torch.zeros(4, 3, 8, 8), quantized, {"quantizer": codes}, 0, TEXTS).backward()
    assert {"text.table.weight", "project.weight", "head.maps.0.weight", "distance.log_scale"} <= {
        name for name, value in contrast.named_parameters() if value.grad is not None and value.grad.any()
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LearnedContrastive(0.001), r"temperature must be at least 0\.01, got 0\.001"),
        (lambda: SigmoidContrastive(0.0), r"temperature must be positive, got 0\.0"),
        (
            lambda: CaptionContrast(Label(5), MLPHead(6, 5), LearnedContrastive()),
            "must be a condition .*, got Label",
        ),
        (lambda: pieces(join="twice"), "join must be linear or none, got 'twice'"),
        (lambda: pieces(join="none"), r"head\.out_dim must be 8, the width of the text's features, got 5"),
        (lambda: pieces(tokens=[2, 2]), r"tokens must be a first one and the one after the last, got \[2, 2\]"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with unchecked(), pytest.raises(ValueError, match=message):
        make()


def test_a_source_that_gives_no_tokens_is_refused():
    contrast, codes, quantized = pieces(source="decoder.out")
    with unchecked(), pytest.raises(ValueError, match=r"decoder\.out must give tokens or a map to be contrasted"):
        contrast(torch.zeros(4, 3, 8, 8), quantized, {"decoder.out": nn.Flatten()(codes)}, 0, TEXTS)


class Lengths(AlignmentLoss):
    """A loss of one's own: the mean length of the captions."""

    reads = ("caption",)

    def forward(self, target, quantized, taps, step, captions=()):
        return quantized.latents.mean() * 0 + sum(map(len, captions)) / max(1, len(captions))


def test_a_loss_of_ones_own_that_reads_captions_is_given_them_and_the_objective_asks_the_data_for_them():
    objective = ReconstructionObjective({"l2": L2Loss()}, alignments={"own": Lengths(0.5)})
    assert objective.reads == ("caption",)
    assert ReconstructionObjective({"l2": L2Loss()}).reads == ()
    _, _, quantized = pieces()
    terms = objective.alignments.terms(torch.zeros(4, 3, 8, 8), quantized, {}, 0, TEXTS)
    value, weight = terms["own"]
    assert (value.item(), weight) == (sum(map(len, TEXTS)) / 4, 0.5)
    assert objective.alignments.terms(torch.zeros(4, 3, 8, 8), quantized, {}, 0)["own"].value.item() == 0
