"""Perturbation: nothing at alpha 0 or delta 1, the right part otherwise, and the same whatever the batches."""

import math

import pytest
import torch
from measures.tiny import QUANTIZERS, Tiny, batches, tokenizer

from imtok.errors import InputError
from imtok.measures.evaluate import evaluate
from imtok.measures.named import sections
from imtok.measures.pfid import Draws, perturb
from imtok.measures.protocol import Protocol
from imtok.measures.settings import Settings
from imtok.pixels import to_float


@pytest.fixture(autouse=True)
def _small_extractor(monkeypatch):
    monkeypatch.setattr(Protocol, "build", lambda self: Tiny())


def measure(quantizer="vq", rows=range(12), size=5, alphas=(0.0, 1.0), deltas=(1, 8), preset="adm"):
    asked = Settings(sections(("rfid", "pfid"), pfid={"alphas": alphas, "deltas": deltas}), Protocol(preset))
    return evaluate(tokenizer(quantizer), batches(rows, size), settings=asked)


@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize("preset", ["adm", "pytorch_fid"])
def test_without_perturbation_it_is_the_rfid_bit_for_bit(quantizer, preset):
    report = measure(quantizer, preset=preset)
    values = {(row["alpha"], row["delta"]): row["value"] for row in report.tables["pfid"]["grid"]}
    rfid = report.metrics["fd_tiny"]
    assert values[0.0, 1] == values[0.0, 8] == values[1.0, 1] == rfid
    assert values[1.0, 8] != rfid
    assert report.metrics["pfd_tiny"] == math.fsum(values.values()) / 4
    assert report.tables["pfid"]["paper_grid_verified"] is False


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_the_part_that_changes_is_alpha_times_one_minus_one_over_delta(quantizer):
    made = tokenizer(quantizer)
    (batch,) = batches(range(64), 64)
    with torch.no_grad():
        ids = made.quantize(to_float(batch.image)).ids
    neighbours = made.quantizer.neighbours(ids, 9)
    draws = Draws(batch.key, tuple(ids.shape[1:]), 0)
    for alpha, delta in ((0.5, 9), (1.0, 4), (0.9, 2), (0.3, 9)):
        changed = perturb(ids, neighbours, draws, alpha, delta)
        expected = alpha * (1 - 1 / delta)
        sigma = math.sqrt(expected * (1 - expected) / ids.numel())
        assert abs((changed != ids).double().mean().item() - expected) < 3 * sigma
        assert made.quantizer.decode(changed).isfinite().all()
        near = neighbours[..., :delta]
        assert (changed[..., None] == near).any(-1).all()


def test_it_depends_on_neither_batches_nor_order():
    whole, parts, backwards = measure(size=12), measure(size=2), measure(rows=reversed(range(12)), size=5)
    for other in (parts, backwards):
        for one, two in zip(whole.tables["pfid"]["grid"], other.tables["pfid"]["grid"], strict=True):
            assert one["changed"] == two["changed"]
            assert one["value"] == pytest.approx(two["value"], rel=1e-6)


def test_draws_belong_to_the_image_and_the_seed():
    first, second = Draws(["a", "b", "c"], (6, 2), 0), Draws(["c", "a"], (6, 2), 0)
    assert torch.equal(first.chosen[[2, 0]], second.chosen)
    assert torch.equal(first.which[[2, 0]], second.which)
    assert not torch.equal(first.chosen[0], first.chosen[1])
    assert not torch.equal(Draws(["a"], (6, 2), 1).chosen[0], first.chosen[0])


def test_a_larger_alpha_perturbs_the_same_tokens_and_more():
    ids = torch.zeros(4, 50, 1, dtype=torch.int64)
    neighbours = torch.arange(8).expand(4, 50, 1, 8)
    draws = Draws(list("abcd"), (50, 1), 0)
    few, many = (perturb(ids, neighbours, draws, alpha, 8) for alpha in (0.4, 0.8))
    assert torch.equal(few[few > 0], many[few > 0])
    assert (many > 0).sum() > (few > 0).sum()


def test_what_is_not_transmitted_stays():
    ids = torch.zeros(2, 5, 1, dtype=torch.int64)
    keep = torch.tensor([[True] * 2 + [False] * 3] * 2)
    changed = perturb(ids, torch.arange(1, 9).expand(2, 5, 1, 8), Draws(["a", "b"], (5, 1), 0), 1.0, 8, keep)
    assert (changed[keep] > 0).all()
    assert (changed[~keep] == 0).all()


def test_more_neighbours_than_codes_are_refused_before_anything_runs():
    def forbidden():
        raise AssertionError("the data was read")
        yield

    asked = Settings(sections(("pfid",), pfid={"deltas": [8, 33]}))
    with pytest.raises(InputError, match=r"pfid\.deltas must not exceed the 32 codes of the smallest slot, got 33"):
        evaluate(tokenizer(), forbidden(), settings=asked)
    made = tokenizer("segments")
    ran = []
    made.decoder.register_forward_hook(lambda *_: ran.append(1))
    with pytest.raises(InputError, match=r"pfid\.deltas"):  # 72 ids, but 32 of them in the first segment
        evaluate(made, batches(range(4)), settings=Settings(sections(("pfid",), pfid={"deltas": [33]})))
    assert not ran


def test_grids_out_of_range_are_refused():
    for wrong in ({"alphas": [1.5]}, {"deltas": [0]}, {"alphas": []}):
        with pytest.raises(InputError, match=r"measure.pfid: (alphas|deltas) must be some"):
            evaluate(tokenizer(), batches(range(4)), settings=Settings(sections(("pfid",), pfid=wrong)))
