"""A number of tokens is chosen hard, and learns as if it had been soft."""

import math

import pytest
import torch

from imtok.nn.length import LengthPredictor


@pytest.fixture
def predictor():
    torch.manual_seed(0)
    return LengthPredictor(8).double()


def probabilities(predictor, tokens, query):
    """That each place is the last one, image by image and token by token."""
    rows = []
    for image in range(len(tokens)):
        asked, scores = predictor.query(query[image]), []
        for token in tokens[image]:
            key = predictor.value(token) * torch.sigmoid(predictor.gate(token))
            scores.append((asked * key).sum() * math.sqrt(8))
        rows.append(torch.stack(scores).softmax(0))
    return torch.stack(rows)


@pytest.mark.parametrize("scale", [0.1, 1.0, 4.0])
def test_tokens_are_taken_up_to_the_expected_place(predictor, scale):
    tokens, query = scale * torch.randn(20, 12, 8).double(), scale * torch.randn(20, 8).double()
    chunk = predictor(tokens, query)
    last = probabilities(predictor, tokens, query)
    expected = (last * torch.arange(12)).sum(1)
    torch.testing.assert_close(chunk.share, expected / 12)
    assert torch.equal(chunk.length, expected.ceil().long() + 1)
    assert torch.equal(chunk.present, (torch.arange(12) < chunk.length[:, None]).double())
    assert chunk.length.min() >= 1
    assert chunk.length.max() <= 12


def test_the_gradient_is_that_of_the_probability_that_the_end_is_not_before(predictor):
    tokens, query = torch.randn(3, 6, 8).double().requires_grad_(), torch.randn(3, 8).double()
    worth = torch.randn(3, 6).double()
    (found,) = torch.autograd.grad((predictor(tokens, query).present * worth).sum(), tokens)
    last = probabilities(predictor, tokens, query)
    present = torch.stack([1 - last[:, :place].sum(1) for place in range(6)], 1)
    (expected,) = torch.autograd.grad((present * worth).sum(), tokens)
    torch.testing.assert_close(found, expected)
    assert found.abs().max() > 0


def test_one_token_is_always_taken(predictor):
    chunk = predictor(torch.randn(4, 1, 8).double(), torch.randn(4, 8).double())
    assert chunk.length.tolist() == [1] * 4
    assert chunk.share.tolist() == [0.0] * 4
