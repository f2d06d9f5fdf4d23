"""What the probe of encoder features looks at, on a tokenizer whose latents lose what its features hold."""

import pytest
import torch
from measures.tiny import SIDE, batches, tokenizer

from imtok.errors import InputError
from imtok.measures.evaluate import evaluate
from imtok.measures.linear_probe import probe
from imtok.measures.named import sections
from imtok.measures.settings import Settings
from imtok.nn.taps import tapped
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer


def vit():
    torch.manual_seed(0)
    net = {"patch_size": 8, "width": 16, "depth": 1, "heads": 2}
    made = Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.vit.ViTEncoder", **net},
            "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5]},
            "decoder": {"_target_": "imtok.decoders.vit.ViTDecoder", **net},
            "image_size": SIDE,
        }
    )
    with torch.no_grad():
        made.encoder.project.weight.zero_()  # latents say nothing, features all that they did
        made.encoder.patches.weight.mul_(20)
    return made.eval()


def measured(made, features):
    given = batches(range(64), 8)
    for batch in given:
        batch.label.copy_(batch.image.float().mean((1, 2, 3)) > 127)  # told by the mean level
    asked = Settings(sections(("linear_probe",), linear_probe={"features": features}))
    return evaluate(made, given, settings=asked)


def test_features_are_probed_where_latents_say_nothing():
    report = measured(vit(), "encoder")
    found, chance = report.metrics, report.tables["probe"]["chance"]
    assert set(found) == {"probe_codes", "probe_latents", "probe_encoder"}
    assert found["probe_latents"] <= chance < 0.7
    assert found["probe_encoder"] > 0.8
    assert report.ids["probe_encoder"]["features"] == "encoder.project:input"
    assert set(measured(vit(), None).metrics) == {"probe_codes", "probe_latents"}
    norm = measured(vit(), "encoder.norm_out").metrics
    assert norm["probe_encoder"] == found["probe_encoder"]  # what the map takes is what the norm makes


def test_maps_are_pooled_over_their_places_and_an_unknown_part_is_named():
    assert measured(tokenizer(), "encoder.patches").metrics["probe_encoder"] > 0.8
    with pytest.raises(InputError, match=r"encoder: PatchEncoder has no last map of the name encoder\.project"):
        measured(tokenizer(), "encoder")
    with pytest.raises(InputError, match=r"got encoder\.pachtes; did you mean encoder\.patches\?"):
        measured(tokenizer(), "encoder.pachtes")
    made = tokenizer()
    made.encoder.idle = torch.nn.Linear(1, 1)
    with pytest.raises(InputError, match=r"features=encoder\.idle gives nothing of an image"):
        measured(made, "encoder.idle")
    made.encoder.patches.register_forward_hook(lambda *_: (made.encoder.idle(torch.zeros(2, 1)), None)[1])
    with pytest.raises(InputError, match=r"features=encoder\.idle gives \(2, 1\) of an image"):
        measured(made, "encoder.idle")


def test_what_a_sub_module_takes_can_be_noted():
    made, image = vit(), to_float(batches(range(2))[0].image)
    with torch.no_grad(), tapped(made, ["encoder.project:input", "encoder.norm_out", "encoder.patches:input"]) as taps:
        made(image)
    assert torch.equal(taps["encoder.project:input"], taps["encoder.norm_out"])
    assert torch.equal(taps["encoder.patches:input"], image)


def test_the_norm_is_a_batch_norm_without_weights_over_all_training_images():
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    features = torch.randn(90, 5, generator=draws) * torch.tensor([1.0, 90.0, 1.0, 1.0, 1.0]) + 3
    features[:, 0] += labels
    norm = torch.nn.BatchNorm1d(5, eps=1e-12, affine=False, momentum=None)
    norm(features[:60])
    norm.running_var.mul_(59 / 60)  # it normalises by the biased variance, and keeps the other
    normed = norm.eval()(features).numpy()
    parts = [(part[:60], labels[:60].numpy(), part[60:], labels[60:].numpy()) for part in (features.numpy(), normed)]
    assert 0.5 < probe(*parts[0]) == probe(*parts[1])


def test_about_every_fifth_image_is_held_out_by_its_name_alone(monkeypatch):
    sizes = []

    def noted(features, labels, others, answers):
        sizes.append((len(features), len(labels), len(others), len(answers)))
        return 1.0

    monkeypatch.setattr("imtok.measures.linear_probe.probe", noted)
    report = measured(tokenizer(), None)
    (one, other) = sizes
    assert one == other
    assert one[0] == one[1]
    assert one[2] == one[3]
    assert one[0] + one[2] == report.tables["probe"]["images"] == 64
    assert 0.1 < one[2] / 64 < 0.3
