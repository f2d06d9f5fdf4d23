"""What is held between two rows of the log: sums and counts, which do not grow, and are those of all tokens."""

import io

import pytest
import torch

from imtok.measures.code_statistics import CodeUsage
from imtok.training.meters import TokenizerMeters
from imtok.training.progress import codes_in_use
from imtok.types import Loss, Losses, Quantized, StepOutput

SIZES = (16, 40)


def note(meters, ids, keep=None):
    image = torch.zeros(len(ids), 3, 4, 4)
    shown = StepOutput(image, image, Quantized(torch.zeros(*ids.shape[:2], 2), ids, keep))
    total = torch.tensor(2.0)
    meters.note_losses(Losses(total, {"l2": Loss(total, 1.0)}, shown))
    meters.commit({"lr": 0.1})


def random_ids(number=3, tokens=10):
    return torch.stack([torch.randint(0, size // 2, (number, tokens)) for size in SIZES], -1)


def stored(meters):
    file = io.BytesIO()
    torch.save(meters.state_dict(), file)
    return file.tell()


def test_usage_and_perplexity_are_those_of_all_tokens_that_are_kept():
    meters, usage, counted = TokenizerMeters(SIZES), CodeUsage(SIZES), 0
    for step in range(5):
        ids, keep = random_ids(), torch.rand(3, 10) < 0.5 if step else None
        note(meters, ids, keep)
        usage.update(ids, keep)
        counted += 30 if keep is None else int(keep.sum())
    expected, row = usage.compute(), meters.read()
    for name in ("usage", "perplexity"):
        assert row[name] == pytest.approx(sum(expected[name]) / 2, rel=1e-12)
    assert row["tokens"] == counted
    assert row["usage_ceiling"] == 1
    assert meters.read() == {}


def test_the_ceiling_of_usage_is_what_the_tokens_seen_could_use():
    meters = TokenizerMeters(SIZES)
    note(meters, torch.zeros(1, 10, 2, dtype=torch.long))
    row = meters.read()
    assert row["usage_ceiling"] == pytest.approx((10 / 16 + 10 / 40) / 2)
    assert codes_in_use(row) == "usage 0.04 of 0.44  perplexity 1.0"


def test_what_is_held_and_stored_does_not_grow_with_the_steps():
    meters = TokenizerMeters(SIZES)
    note(meters, random_ids(64, 256))
    early = stored(meters)
    for _ in range(30):
        note(meters, random_ids(64, 256))
    assert stored(meters) <= early + 500
    assert meters._codes.shape == (sum(SIZES),)


def test_nothing_is_counted_where_there_are_no_ids_or_too_many():
    for sizes, ids in (((), torch.zeros(1, 4, 0).long()), ((2**40,), torch.zeros(1, 4, 1).long())):
        meters = TokenizerMeters(sizes)
        note(meters, ids)
        assert meters.read() == {"l2": 2.0, "loss": 2.0, "lr": 0.1}


@pytest.mark.parametrize("ranks", [1, 3])
def test_a_stored_state_goes_on_and_so_does_one_that_holds_all_ids(ranks):
    ids, keep = [random_ids() for _ in range(4)], torch.rand(3, 10) < 0.5
    whole = TokenizerMeters(SIZES)
    for one in ids:
        note(whole, one, keep)
    begun = TokenizerMeters(SIZES)
    for one in ids[:3]:
        note(begun, one, keep)
    state, nothing = begun.state_dict(), {**TokenizerMeters(SIZES).state_dict(), "sums": {}, "images": {}}
    nothing |= {name: {key: 0 * value for key, value in state[name].items()} for name in ("sums", "images")}
    older = {**state, "codes": [(one, keep) for one in ids[:3]]}
    expected = whole.read()
    for first in (state, older):
        others = [{**nothing, "codes": [] if first is older else nothing["codes"]}] * (ranks - 1)
        meters = TokenizerMeters(SIZES)
        meters.load_state_dicts([first, *others], torch.device("cpu"))
        note(meters, ids[3], keep)
        assert meters.read() == expected


def test_an_id_of_no_code_is_refused():
    with pytest.raises(ValueError, match=r"ids of slot 1 must lie in \[0, 40\), got 40 to 40"):
        note(TokenizerMeters(SIZES), torch.tensor([[[0, 40]]]))


def test_every_weight_but_one_has_a_weighted_value_even_zero():
    """What reads a log takes a term without one at its full value."""
    meters, image, ids = TokenizerMeters(SIZES), torch.zeros(3, 3, 4, 4), random_ids()
    shown = StepOutput(image, image, Quantized(torch.zeros(3, 10, 2), ids))
    value = torch.tensor(4.0)
    terms = {"plain": Loss(value, 1.0), "half": Loss(value, 0.5), "idle": Loss(value, 0.0)}
    meters.note_losses(Losses(torch.tensor(6.0), terms, shown))
    meters.commit({})
    row = meters.read()
    assert (row["plain"], row["half"], row["idle"]) == (4, 4, 4)
    assert (row["half_weighted"], row["idle_weighted"]) == (2, 0)
    assert "plain_weighted" not in row
