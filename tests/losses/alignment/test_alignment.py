"""Semantic alignment: the distances against their formulas, what is compared with what, and what learns."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from imtok.losses.alignment.alignment import Alignment
from imtok.losses.alignment.distances import Contrastive, Cosine, SquaredError, find_distance
from imtok.losses.alignment.heads import MeanHead, MLPHead, TransformerHead
from imtok.losses.teachers import Teacher, TeacherFeatures
from imtok.tokenizer import Tokenizer
from imtok.types import Quantized


class Given(Teacher):
    """A teacher whose features are given."""

    def __init__(self, patches, summary=None):
        nn.Module.__init__(self)
        self.given = TeacherFeatures(patches, patches.mean(1) if summary is None else summary)
        self.dim, self.summary_dim = patches.shape[-1], self.given.summary.shape[-1]

    def forward(self, image):
        return self.given


IMAGE = torch.zeros(3, 3, 32, 32)


def seen(features, keep=None, source="quantizer"):
    """Codes, and a tap that holds those features."""
    latents = features if features.ndim == 3 else features.flatten(2).mT
    quantized = Quantized(latents.detach(), torch.zeros(*latents.shape[:2], 1, dtype=torch.long), keep)
    return quantized, {source: features}


@pytest.mark.parametrize("number", [1, 4, 16])
def test_cosine_is_1_minus_the_mean_cosine_of_each_token_with_its_patch(number):
    features, patches = torch.randn(3, number, 5), torch.randn(3, number, 5)
    expected = 1 - (F.normalize(features, dim=-1) * F.normalize(patches, dim=-1)).sum(-1).mean()
    value = Alignment(Given(patches), loss="cosine")(IMAGE, *seen(features), 0)
    torch.testing.assert_close(value, expected)
    assert Alignment(Given(patches))(IMAGE, *seen(3 * patches), 0).abs() < 1e-6
    torch.testing.assert_close(Alignment(Given(patches))(IMAGE, *seen(-patches), 0), torch.tensor(2.0))


def test_mse_is_the_mean_squared_error():
    features, patches = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    torch.testing.assert_close(
        Alignment(Given(patches), loss="mse")(IMAGE, *seen(features), 0), F.mse_loss(features, patches)
    )


def test_a_map_is_read_row_by_row():
    maps = torch.randn(3, 5, 4, 4)
    patches = maps.permute(0, 2, 3, 1).reshape(3, 16, 5)
    alignment = Alignment(Given(patches), source="decoder.blocks")
    assert alignment.needs == ("decoder.blocks",)
    assert alignment(IMAGE, *seen(maps, source="decoder.blocks"), 0).abs() < 1e-6


def test_the_teachers_map_is_resized_to_the_tokens():
    rows = torch.linspace(0, 1, 8).view(1, 8, 1).expand(3, 8, 8)
    large = torch.stack([rows, 1 - rows], -1).reshape(3, 64, 2)
    small = F.avg_pool2d(large.view(3, 8, 8, 2).permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).reshape(3, 16, 2)
    assert Alignment(Given(large), loss="mse")(IMAGE, *seen(small), 0) < 1e-3
    with pytest.raises(ValueError, match="tokens must be 64"):
        Alignment(Given(large))(IMAGE, *seen(torch.randn(3, 15, 2)), 0)


def test_a_branch_and_a_piece_of_the_sequence_are_compared_alone():
    patches, features = torch.randn(3, 4, 5), torch.randn(3, 10, 12, requires_grad=True)
    alignment = Alignment(Given(patches), loss="mse", channels=[7, 12], tokens=[2, 6])
    value = alignment(IMAGE, *seen(features), 0)
    torch.testing.assert_close(value, F.mse_loss(features[:, 2:6, 7:], patches))
    value.backward()
    outside = features.grad.clone()
    outside[:, 2:6, 7:] = 0
    assert not outside.any()
    assert features.grad[:, 2:6, 7:].all()


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("normalize", [False, True])
def test_contrast_is_the_cross_entropy_of_the_right_image(symmetric, normalize):
    features, wanted = torch.randn(6, 4), torch.randn(6, 4)
    value = Contrastive(0.2, normalize, symmetric)(features, wanted).mean()
    one, two = (F.normalize(rows, dim=-1) if normalize else rows for rows in (features, wanted))
    scores = torch.exp(one.double() @ two.double().T / 0.2)
    expected = -(scores.diag() / scores.sum(1)).log().mean()
    if symmetric:
        expected = (expected - (scores.diag() / scores.sum(0)).log().mean()) / 2
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)


def test_contrast_of_a_single_image_is_0_and_of_equal_ones_ln_of_their_number():
    assert Contrastive()(torch.randn(1, 4), torch.randn(1, 4)).item() == 0
    same = torch.ones(5, 4)
    torch.testing.assert_close(Contrastive(0.1)(same, same).mean(), torch.tensor(math.log(5)))


def test_a_head_on_the_teachers_side_learns_too():
    summary = torch.randn(3, 6)
    head = MLPHead(6, 5, layers=1)
    alignment = Alignment(
        Given(torch.randn(3, 4, 6), summary), loss=Contrastive(symmetric=True), feature="summary", teacher_head=head
    )
    features = torch.randn(3, 4, 5, requires_grad=True)
    alignment(IMAGE, *seen(features), 0).backward()
    assert features.grad.any()
    assert head.maps[0].weight.grad is not None
    assert head.maps[0].weight.grad.any()


@pytest.mark.parametrize("distance", [Cosine(), SquaredError(), Contrastive(0.05)])
def test_zero_features_give_a_finite_loss_and_gradient(distance):
    features = torch.zeros(3, 5, requires_grad=True)
    value = distance(features, torch.randn(3, 5)).sum()
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(features.grad).all()


def test_distances_are_computed_in_float32_under_autocast():
    features, wanted = torch.randn(4, 64), torch.randn(4, 64)
    for name in ("cosine", "mse", "contrastive", "symmetric_contrastive"):
        expected = find_distance(name)(features, wanted)
        with torch.autocast("cpu", torch.bfloat16):
            found = find_distance(name)(features, wanted)
        assert found.dtype == torch.float32
        assert torch.equal(found, expected), name


def test_tokens_that_are_not_kept_do_not_count():
    patches, features = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    keep = torch.tensor([[True, True, True, True], [True, False, True, False], [True, False, False, False]])
    value = Alignment(Given(patches), loss="mse")(IMAGE, *seen(features, keep), 0)
    errors = (features - patches).square().mean(-1)
    torch.testing.assert_close(value, torch.stack([errors[row][keep[row]].mean() for row in range(3)]).mean())
    changed = torch.where(keep[..., None], features, 1e6)
    head = TransformerHead(5, 5, tokens=4, queries=1, width=16, depth=2, heads=2)
    alignment = Alignment(Given(patches), feature="summary", head=head)
    torch.testing.assert_close(alignment(IMAGE, *seen(changed, keep), 0), alignment(IMAGE, *seen(features, keep), 0))


def test_a_mask_of_latents_says_nothing_about_places_of_the_decoder():
    """Also where there are as many of them."""
    patches, features = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    keep = torch.zeros(3, 4, dtype=torch.bool)
    keep[:, 0] = True
    alignment = Alignment(Given(patches), source="decoder.blocks", loss="mse")
    value = alignment(IMAGE, *seen(features, keep, "decoder.blocks"), 0)
    torch.testing.assert_close(value, F.mse_loss(features, patches))


def test_the_weight_falls_linearly_with_the_number_of_latents():
    patches, features = torch.randn(3, 5, 4), torch.randn(3, 5, 4)
    keep = torch.arange(5) < torch.tensor([[1], [3], [5]])
    source = "decoder.blocks"
    alignment = Alignment(Given(patches), source=source, loss="mse", by_length=[1.0, 0.2])
    errors = (features - patches).square().mean((1, 2))
    value = alignment(IMAGE, *seen(features, keep, source), 0)
    torch.testing.assert_close(value, (errors * torch.tensor([1.0, 0.6, 0.2])).mean())
    torch.testing.assert_close(alignment(IMAGE, *seen(features, None, source), 0), errors.mean() * 0.2)


def test_outside_its_steps_the_loss_is_0_and_its_gradients_are_there():
    head = MLPHead(5, 5, layers=1)
    alignment = Alignment(Given(torch.randn(3, 4, 5)), head=head, start_step=2, stop_step=4)
    values = [alignment(IMAGE, *seen(torch.randn(3, 4, 5)), step) for step in range(6)]
    assert [value.item() > 0 for value in values] == [False, False, True, True, False, False]
    values[0].backward()
    assert head.maps[0].weight.grad is not None


@pytest.mark.parametrize("queries", [0, 1, 9])
def test_a_transformer_head_reads_at_its_queries_or_at_the_tokens(queries):
    head = TransformerHead(in_dim=5, out_dim=7, tokens=16, queries=queries, width=16, depth=1, heads=2)
    assert head(torch.randn(2, 12, 5)).shape == (2, queries or 12, 7)
    assert head.per_token == (queries == 0)
    with pytest.raises(ValueError, match="tokens must be at least 17"):
        head(torch.randn(2, 17, 5))


def test_one_linear_map_and_the_three_of_repa():
    features = torch.randn(2, 3, 4)
    single = MLPHead(4, 6, layers=1)
    torch.testing.assert_close(single(features), F.linear(features, single.maps[0].weight, single.maps[0].bias))
    three = MLPHead(4, 6, width=8)
    assert [layer.weight.shape for layer in three.maps[::2]] == [(8, 4), (8, 8), (6, 8)]
    assert sum(isinstance(layer, nn.SiLU) for layer in three.maps) == 2


@pytest.mark.parametrize("source", ["encoder", "quantizer", "decoder.norm_out"])
def test_some_steps_bring_a_tokenizer_nearer_to_its_teacher(source):
    """And only what lies before the tap learns, with the head."""
    parts = {
        "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 16, "depth": 1},
        "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 8, "codebook_size": 64},
        "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", "patch_size": 8, "width": 16, "depth": 1},
    }
    tokenizer = Tokenizer.from_config(parts)
    teacher = Teacher("test_vit", weights="random", image_size=64)
    head = MLPHead(16 if source == "decoder.norm_out" else 8, teacher.dim, width=32)
    alignment = Alignment(teacher, source, head=head)
    image = torch.rand(8, 3, 32, 32) * 2 - 1
    learning = [*tokenizer.parameters(), *alignment.parameters()]
    optimizer = torch.optim.Adam(learning, lr=3e-3)
    values = []
    for step in range(25):
        found = tokenizer(image, taps=alignment.needs)
        value = alignment(image, found.quantized, found.taps, step)
        optimizer.zero_grad()
        value.backward()
        if step == 0:
            assert all(parameter.grad is not None for parameter in tokenizer.encoder.parameters())
            assert (tokenizer.decoder.conv_in.weight.grad is None) == (source != "decoder.norm_out")
            assert tokenizer.decoder.last_layer.grad is None
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.8 * values[0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "angle"}, "loss must be one of cosine"),
        ({"loss": "contrastive"}, "feature must be summary"),
        ({"teacher_head": MLPHead(5, 5, layers=1)}, "teacher_head must be null"),
        ({"head": MLPHead(4, 6)}, "head.out_dim must be 5"),
        ({"channels": [4, 2]}, "channels"),
        ({"tokens": [0, 2, 4]}, "tokens"),
        ({"by_length": [1.0]}, "by_length"),
        ({"start_step": 5, "stop_step": 5}, "start_step"),
        ({"weight": -1.0}, "weight"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, said):
    with pytest.raises(ValueError, match=said):
        Alignment(Given(torch.randn(3, 4, 5)), **settings)


def test_features_of_another_width_are_refused_with_both_widths():
    with pytest.raises(ValueError, match="in_dim must be 6, that of quantizer, got 4"):
        Alignment(Given(torch.randn(3, 4, 5)), head=MLPHead(4, 5))(IMAGE, *seen(torch.randn(3, 4, 6)), 0)
    with pytest.raises(ValueError, match="must be 6, that of quantizer, got 5"):
        Alignment(Given(torch.randn(3, 4, 5)))(IMAGE, *seen(torch.randn(3, 4, 6)), 0)


def test_a_temperature_near_0_is_refused():
    with pytest.raises(ValueError, match="temperature"):
        Contrastive(temperature=0.001)


def test_the_head_of_the_mean_norms_what_is_kept_on_average_and_maps_it():
    head, features = MeanHead(6, 4), torch.randn(2, 5, 6)
    keep = torch.arange(5) < torch.tensor([[2], [0]])
    mean = torch.stack([features[0, :2].mean(0), torch.zeros(6)])
    expected = head.out(F.layer_norm(mean, (6,), eps=1e-6))
    torch.testing.assert_close(head(features, keep)[:, 0], expected)
    torch.testing.assert_close(head(features)[:, 0], head.out(F.layer_norm(features.mean(1), (6,), eps=1e-6)))
