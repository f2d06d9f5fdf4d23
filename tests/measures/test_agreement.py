"""Agreement of a classifier on originals and reconstructions, counted by hand."""

import pytest
import torch
from measures.tiny import SIDE, Tiny, batches, tokenizer

from imtok.errors import InputError
from imtok.extractors.base import Extractor, Features
from imtok.extractors.inception import Inception
from imtok.measures.agreement import AgreementMeasure
from imtok.measures.evaluate import evaluate
from imtok.measures.named import sections
from imtok.measures.protocol import Protocol
from imtok.measures.settings import Settings
from imtok.pixels import to_float, to_uint8
from imtok.tokenizer import Tokenizer


@pytest.fixture(autouse=True)
def _small_extractor(monkeypatch):
    monkeypatch.setattr(Protocol, "build", lambda self: Tiny())


def measured(given, made=None, **arguments):
    return evaluate(made or tokenizer(), given, settings=Settings(sections(("agreement",), agreement=arguments)))


def classes(image):
    return Tiny()(image).logits.argmax(1)


def test_agreement_and_both_accuracies_are_the_counts_of_equal_classes():
    given, made = batches(range(40), 7), tokenizer()
    images = torch.cat([batch.image for batch in given])
    with torch.no_grad():
        originals, others = classes(images), classes(to_uint8(made(to_float(images)).image))
    labels = (torch.arange(40) % 6).sub(1)  # the first of six has none
    for batch in given:
        batch.label.copy_(labels[batch.index])
    known = labels >= 0
    report = measured(given, made, labels="same")
    assert report.metrics == {
        "agreement_tiny": (originals == others).double().mean().item(),
        "accuracy_originals_tiny": (originals == labels)[known].double().mean().item(),
        "accuracy_reconstructions_tiny": (others == labels)[known].double().mean().item(),
    }
    assert 0 < report.metrics["agreement_tiny"] < 1
    assert report.metrics["accuracy_originals_tiny"] != report.metrics["accuracy_reconstructions_tiny"]
    assert report.ids["accuracy_originals_tiny"]["labelled"] == int(known.sum())


def test_what_changes_nothing_agrees_everywhere():
    part = {"patch_size": 1, "width": 3, "depth": 0}
    made = Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **part},
            "quantizer": {"_target_": "imtok.quantizers.continuous.Continuous", "dim": 3},
            "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **part},
            "image_size": SIDE,
        }
    )
    for net in (made.encoder, made.decoder):
        for layer in net.modules():
            if isinstance(layer, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                layer.weight.data.copy_(torch.eye(3).view(3, 3, 1, 1))
                torch.nn.init.zeros_(layer.bias)
    assert measured(batches(range(9)), made).metrics == {"agreement_tiny": 1.0}


def test_labels_are_classes_of_the_net_only_where_that_is_said():
    given = batches(range(6))
    assert list(measured(given).metrics) == ["agreement_tiny"]
    given[1].label[2] = 5
    with pytest.raises(InputError, match=r"image 5: its label 5 is none of the 5 classes of tiny; give measure\.agree"):
        measured(given, labels="same")
    for batch in given:
        batch.label.fill_(-1)
    assert measured(given, labels="same").absent == {
        f"accuracy_{what}_tiny": "no image has a label" for what in ("originals", "reconstructions")
    }
    with pytest.raises(ValueError, match="labels must be one of other, same, got 'mine'"):
        AgreementMeasure(labels="mine")


def test_a_net_without_classes_or_with_an_order_of_its_own_is_refused(monkeypatch):
    class Blind(Tiny):
        def extract(self, levels):
            return Features(super().extract(levels).features)

    class Old(Inception):
        name, hash, dim = "old", "1" * 64, 12

        def __init__(self):
            Extractor.__init__(self)

    monkeypatch.setattr(Protocol, "build", lambda self: Blind())
    with pytest.raises(InputError, match="agreement: the net has no classes"):
        measured(batches(range(3)))
    monkeypatch.setattr(Protocol, "build", lambda self: Old())
    with pytest.raises(InputError, match=r"measure\.agreement\.labels=same: old has 1,008 classes in an order of its"):
        measured(batches(range(3)), labels="same")
