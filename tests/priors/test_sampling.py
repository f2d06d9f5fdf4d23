"""One id from logits."""

import pytest
import torch

from imtok.priors.sampling import Sampling, draws, log_probabilities, pick

LOGITS = torch.tensor([3.0, 1.0, 2.0, 0.0]).log_softmax(-1)


def left(settings):
    return torch.isfinite(log_probabilities(LOGITS, settings)).tolist()


def test_top_k_and_top_p_leave_the_likeliest_ids():
    assert left(Sampling()) == [True] * 4
    assert left(Sampling(top_k=2)) == [True, False, True, False]
    assert left(Sampling(top_k=9)) == [True] * 4
    assert left(Sampling(top_p=1e-9)) == [True, False, False, False]  # one stays in any case
    first, second = LOGITS.exp()[0].item(), LOGITS.exp()[2].item()
    assert left(Sampling(top_p=first - 1e-6)) == [True, False, False, False]
    assert left(Sampling(top_p=first + 1e-6)) == [True, False, True, False]
    assert left(Sampling(top_p=first + second + 1e-6)) == [True, True, True, False]


@pytest.mark.parametrize("uniform", [0.0, 0.3, 0.64, 0.9, 1 - 2**-53])
def test_no_id_of_no_probability_is_drawn(uniform):
    log = log_probabilities(LOGITS, Sampling(top_k=2)).expand(3, 4)
    ids, likely = pick(log, torch.full((3,), uniform, dtype=torch.float64))
    assert set(ids.tolist()) <= {0, 2}
    assert torch.isfinite(likely).all()


def test_an_id_is_the_inverse_of_the_distribution_function():
    log = torch.tensor([0.25, 0.25, 0.5]).double().log()
    drawn = [pick(log, torch.tensor(u).double())[0].item() for u in (0.0, 0.24, 0.26, 0.49, 0.51, 0.99)]
    assert drawn == [0, 0, 1, 1, 2, 2]


def test_draws_are_those_of_a_sample_whatever_comes_with_it():
    together = draws(3, [0, 1, 7], 2, 3)
    assert torch.equal(together[2], draws(3, [7], 2, 3)[0])
    assert not torch.equal(together[2], draws(4, [7], 2, 3)[0])
    assert ((together >= 0) & (together < 1)).all()


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}, {"guidance": -1}, {"steps": 0}, {"seed": -1}],
)
def test_numbers_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Sampling(**wrong)
