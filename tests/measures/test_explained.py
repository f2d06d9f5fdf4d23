"""Explained variance, against principal components and against its formula."""

import pytest
import torch
from measures.by_rows import ROWS, RowDecoder, RowEncoder
from torch import nn

from imtok.decoders.base import Decoder
from imtok.encoders.base import Encoder
from imtok.errors import InputError
from imtok.measures.base import EvaluationBatch
from imtok.measures.evaluate import evaluate
from imtok.measures.explained import ExplainedVarianceMeasure
from imtok.measures.named import sections
from imtok.measures.settings import Settings
from imtok.measures.spending import Spending
from imtok.pixels import to_float, to_uint8
from imtok.quantizers.continuous import Continuous
from imtok.tokenizer import Tokenizer
from imtok.types import Batch, Latents

COMPONENTS = 6


class Projection(Encoder):
    """A latent per direction: how far an image goes in it."""

    def __init__(self, mean, directions):
        super().__init__()
        self.mean, self.directions = mean, directions

    def forward(self, image, length=None, condition=None):
        return Latents(((image.flatten(1) - self.mean) @ self.directions.T)[..., None])

    def num_latents(self, size):
        return len(self.directions)


class Sum(Decoder):
    """The mean image, and as much of each direction as its latent says."""

    flexible = True

    def __init__(self, mean, directions):
        super().__init__()
        self.mean, self.directions = mean, directions
        self.weight = nn.Parameter(torch.ones(1))

    @property
    def last_layer(self):
        return self.weight

    def forward(self, latents, size, keep=None, condition=None):
        flat = self.mean + latents[..., 0] @ self.directions[: latents.shape[1]]
        return flat.view(len(latents), 3, *size) * self.weight


def images():
    """Grey images that differ in a few smooth directions, each less than the one before."""
    draws = torch.Generator().manual_seed(0)
    basis = nn.functional.interpolate(torch.randn(COMPONENTS, 3, 4, 4, generator=draws), (16, 16), mode="bilinear")
    sizes = torch.randn(48, COMPONENTS, generator=draws) * 0.16 * 0.7 ** torch.arange(COMPONENTS)
    return to_uint8(torch.einsum("n k, k c h w -> n c h w", sizes, basis).clamp(-1, 1))


def components(levels):
    """The mean, the principal directions and the shares of the variance that these explain, by their definition."""
    flat = to_float(levels).flatten(1).double()
    _, values, directions = torch.linalg.svd(flat - flat.mean(0), full_matrices=False)
    shares = values.square() / values.square().sum()
    return flat.mean(0).float(), directions[:COMPONENTS].float(), shares[:COMPONENTS].cumsum(0)


def exact(mean, directions):
    """Where no level hangs on the order in which single precision sums."""
    mean, directions = mean.double(), directions.double()
    return Tokenizer(Projection(mean, directions), Continuous(1), Sum(mean, directions)).double()


def given(levels, size=7):
    index = torch.arange(len(levels))
    return [
        Batch(levels[part], part * 0 - 1, part, [f"image {n}" for n in part.tolist()]) for part in index.split(size)
    ]


def measured(made, levels, size=7, lengths=tuple(range(1, COMPONENTS + 1)), **settings):
    section = sections(("explained_variance",), explained_variance={"lengths": lengths and list(lengths)})
    return evaluate(made, given(levels, size), settings=Settings(section, **settings))


def test_principal_components_explain_what_their_singular_values_say_in_falling_order():
    levels = images()
    mean, directions, shares = components(levels)
    report = measured(Tokenizer(Projection(mean, directions), Continuous(1), Sum(mean, directions)), levels)
    table = report.tables["explained_variance"]
    assert [row["tokens"] for row in table] == list(range(1, COMPONENTS + 1))
    found = torch.tensor([row["explained_variance"] for row in table], dtype=torch.float64)
    torch.testing.assert_close(found, shares, rtol=0, atol=2e-3)  # reconstructions are rounded to levels
    assert report.metrics["explained_variance"] == found[-1].item() > 0.98
    assert report.metrics["explained_variance_order"] == 1


def test_components_in_rising_order_are_told_from_falling_ones():
    levels = images()
    mean, directions, shares = components(levels)
    turned = directions.flip(0)
    report = measured(Tokenizer(Projection(mean, turned), Continuous(1), Sum(mean, turned)), levels)
    assert report.metrics["explained_variance_order"] == 0
    assert report.metrics["explained_variance"] == pytest.approx(shares[-1].item(), abs=2e-3)


def test_the_numbers_do_not_depend_on_the_batch():
    levels = images()
    made = exact(*components(levels)[:2])
    one, other = (measured(made, levels, size) for size in (5, 16))
    assert one.metrics == other.metrics
    assert one.tables == other.tables


def test_ranks_find_what_one_process_finds_even_one_without_an_image(monkeypatch):
    levels = images()
    made = exact(*components(levels)[:2])
    alone, measures = measured(made, levels), list[ExplainedVarianceMeasure]()
    for part in (levels[:20], levels[20:], levels[:0]):
        measures.append(ExplainedVarianceMeasure(range(1, COMPONENTS + 1)))
        measures[-1].start(made, (16, 16))
        for batch in given(part) if len(part) else ():
            image = to_float(batch.image).double()
            measures[-1].update(EvaluationBatch(made, batch, image, made(image)))
    states = [(one.tried, one.errors.tolist(), one.squares, one.images, one.sums) for one in measures]
    monkeypatch.setattr("imtok.measures.explained.gather_values", lambda _: states)
    for one in measures:
        found = one.finish()
        assert {name: number.value for name, number in found.numbers.items()} == alone.metrics
        assert found.tables == alone.tables


def test_the_mean_image_alone_explains_nothing():
    levels = images()
    mean, directions, _ = components(levels)
    made = Tokenizer(Projection(mean, directions * 0), Continuous(1), Sum(mean, directions * 0))
    assert measured(made, levels).metrics["explained_variance"] == pytest.approx(0, abs=2e-3)


def test_powers_of_two_are_measured_by_default_and_tokens_between_them_count_alike():
    levels = images()
    made = Tokenizer(RowEncoder(), Continuous(1), RowDecoder())
    table = measured(made, levels[..., :ROWS, :], lengths=None).tables["explained_variance"]
    assert [row["tokens"] for row in table] == [1, 2, 4, 8]
    gains = [table[2][key] - table[1][key] for key in ("explained_variance", "tokens")]
    assert table[2]["added_per_token"] == pytest.approx(gains[0] / gains[1])


def test_images_without_variance_tokenizers_of_one_length_and_lengths_below_one_are_named():
    levels = images()
    mean, directions, _ = components(levels)
    made = Tokenizer(Projection(mean, directions), Continuous(1), Sum(mean, directions))
    assert measured(made, levels[:1].expand(4, -1, -1, -1)).absent == {
        "explained_variance": "all images are the same: there is no variance"
    }
    made.decoder.flexible = False
    with pytest.raises(InputError, match=f"explained_variance: the tokenizer always takes {COMPONENTS} tokens"):
        measured(made, levels)
    with pytest.raises(ValueError, match=r"lengths must be some numbers of at least 1 token or null, got \[0\]"):
        ExplainedVarianceMeasure([0])


def test_all_tokens_are_decoded_anew_where_an_evaluation_gives_fewer():
    levels = images()
    made = exact(*components(levels)[:2])
    fewer = measured(made, levels, spending=Spending.of(length=1))
    assert fewer.tables == measured(made, levels).tables


def test_a_reconstruction_of_a_few_tokens_that_is_no_number_is_named_by_its_image():
    levels = images()
    made = exact(*components(levels)[:2])
    made.decoder.register_forward_hook(lambda _, given, image: image / 0 * 0 if given[0].shape[1] == 2 else image)
    with pytest.raises(InputError, match=r"image 0.*reconstruction from 2 tokens"):
        measured(made, levels)
