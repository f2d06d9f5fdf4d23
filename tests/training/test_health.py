"""A run says in plain words, once per episode, what goes wrong in it; and it says nothing while all is well."""

import json
import logging
import math

import pytest
import torch
from training.runs import run_tiny, tiny_run

from imtok.quantizers.binary import Binary
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.vq import VQ
from imtok.training.health import Health
from imtok.training.run import train

VOCABULARY = 1024


def health():
    return Health(VQ(dim=8, codebook_size=VOCABULARY))


def said(rows, terms=(), reader=None):
    """What is said at each row, by its number."""
    reader = reader or health()
    return {number: lines for number, row in enumerate(rows) if (lines := reader.read(row, terms))}


def codes(*perplexities):
    return [{"perplexity": value, "usage": value / VOCABULARY, "tokens": 1e6} for value in perplexities]


def test_a_collapse_is_said_once_and_again_after_it_was_over():
    found = said(codes(300, 310, 3, 3, 2, 2, 300, 305, 4, 4, 4))
    assert list(found) == [3, 9]  # in the second row of each episode
    assert "the codebook has collapsed: perplexity 3.0 of 1024 codes (it was 300), usage 0.00293" in found[3][0]
    assert "restart_below" in found[3][0]


def test_a_fall_to_a_quarter_of_what_was_usual_is_a_collapse():
    assert list(said(codes(800, 780, 790, 800, 700, 190, 150, 120))) == [6]


def test_a_start_by_k_means_that_training_does_not_keep_up_is_none():
    """What the default run does within its first fifty steps."""
    assert said(codes(209, 29, 25, 33, 52, 70, 80)) == {}


def test_one_bad_row_is_none():
    assert said(codes(300, 3, 300, 3, 300)) == {}


def test_a_codebook_that_starts_small_and_grows_is_well():
    assert said(codes(15, 30, 60, 90, 200, 400)) == {}


def test_few_tokens_cannot_use_many_codes():
    rows = [{"perplexity": 60.0, "usage": 60 / 2**18, "tokens": 64.0}] * 4
    assert said(rows, reader=Health(VQ(dim=8, codebook_size=2**18))) == {}


@pytest.mark.parametrize("tokens", [64, 256, 1024, 12800])
def test_a_large_codebook_that_falls_to_five_codes_is_told_however_few_tokens_are_seen(tokens):
    """``vq_8192`` at batch 4: thirty per cent of the bits of 64 tokens would be a perplexity of 3.5."""
    row = {"perplexity": 5.0, "usage": 5 / 8192, "tokens": tokens, "usage_ceiling": min(1, tokens / 8192)}
    found = said([row] * 4, reader=Health(VQ(dim=8, codebook_size=8192)))
    assert list(found) == [1]
    assert "perplexity 5.0 of 8192 codes, usage 0.00061 of" in found[1][0]
    assert "that the tokens seen allow" in found[1][0]
    well = row | {"perplexity": min(0.5 * tokens, 40.0)}
    assert said([well] * 4, reader=Health(VQ(dim=8, codebook_size=8192))) == {}


@pytest.mark.parametrize(
    ("quantizer", "well", "ill"),
    [(FSQ(levels=[8, 5, 5, 5]), 700.0, 5.0), (Binary(slot_bits=[1] * 6), 1.9, 1.05)],
    ids=["implicit", "binary"],
)
def test_vocabularies_of_every_size_are_judged_by_their_bits(quantizer, well, ill):
    rows = [{"perplexity": value, "tokens": 1e6} for value in (well, well, ill, ill)]
    found = said(rows, reader=Health(quantizer))
    assert list(found) == [3]
    assert "restart_below" not in found[3][0]  # which these have not


def game(real, fake, critic, generator):
    return {"score_real": real, "score_fake": fake, "critic": critic, "adversarial": generator}


EVEN = [game(0.4, -0.3, 0.8, 0.3 + 0.02 * math.sin(number)) for number in range(6)]
TERMS = ("adversarial", "critic")


def test_a_discriminator_that_wins_is_named_with_its_scores_and_what_to_do():
    won = [game(3.0 + number, -2.5 - number, 0.02, 2.5 + number) for number in range(4)]
    found = {row: [line for line in lines if "wins" in line] for row, lines in said(EVEN + won, TERMS).items()}
    assert [row for row, lines in found.items() if lines] == [7]
    (line,) = found[7]
    assert "photographs 4.00 and reconstructions -3.50 (its loss is 0.020)" in line
    assert "optimizer.critic.lr" in line


def test_a_head_start_is_no_win():
    """Before the generator looks at it, the discriminator learns alone and is to be far ahead."""
    rows = [{"score_real": 4.0, "score_fake": -4.0, "critic": 0.01, "l2": 0.1}] * 8
    assert said(rows, ("critic", "l2")) == {}


def test_an_even_game_is_none():
    assert said(EVEN * 4, TERMS) == {}


def test_with_an_adaptive_weight_the_raw_term_counts():
    """The weighted one falls as the weight does, whoever wins."""
    rows = [{**row, "adversarial_raw": row["adversarial"], "adversarial": 0.5} for row in EVEN]
    rows += [{**game(4, -4, 0.01, 0.5), "adversarial_raw": 4.0 + number} for number in range(3)]
    assert any("wins" in line for lines in said(rows, TERMS).values() for line in lines)


def losses(*values):
    return [{"l2": value, "commit": 0.01} for value in values]


def test_a_jump_is_said_in_its_row_and_a_new_level_ends_it():
    steady = [0.1 + 0.003 * math.sin(number) for number in range(10)]
    found = said(losses(*steady, 0.4, *[0.4] * 12, *steady, 0.4), ("l2", "commit"))
    assert 10 in found
    assert "the loss l2 jumped to 0.4 from 0.1" in found[10][0]
    assert all(number in (10, 33) for number in found)


def test_a_falling_loss_and_a_noisy_one_do_not_jump():
    falling = [math.exp(-number / 5) for number in range(30)]
    noisy = [0.1 * (1.5 + math.sin(17 * number)) for number in range(30)]
    assert said(losses(*falling), ("l2", "commit")) == {}
    assert said(losses(*noisy), ("l2", "commit")) == {}


def test_a_term_that_does_not_matter_to_the_total_does_not_jump():
    rows = [{"l2": 1.0, "commit": 0.001, "commit_weighted": 0.0002}] * 8
    rows += [{"l2": 1.0, "commit": 0.1, "commit_weighted": 0.02}]
    assert said(rows, ("l2", "commit")) == {}


def test_a_run_that_collapses_says_so_in_its_log_and_events(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    run = tiny_run(tmp_path / "run", "trainer.log_every=2", "quantizer.restart_below=0.0")
    with torch.no_grad():
        for parameter in run.tokenizer.encoder.parameters():
            parameter.zero_()
    run.tokenizer.freeze(["encoder"])  # every latent is the same for ever
    train(run)
    lines = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    noted = [line["said"] for line in lines if line["event"] == "health"]
    assert [line.split(":")[0] for line in noted] == ["the codebook has collapsed"]
    assert f"step 4: {noted[0]}" in caplog.text


def test_a_run_that_is_well_says_nothing_and_tells_speed_memory_and_time_left(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    run_tiny(tmp_path / "run", "trainer.log_every=1")
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    header, *rows = [line.split(",") for line in (tmp_path / "run/metrics.csv").read_text().splitlines()]
    first, last = (dict(zip(header, row, strict=True)) for row in (rows[0], rows[-1]))
    assert 0.1 < float(last["memory_gb"]) < 100
    assert float(first["images_per_second"]) > 0
    assert float(first["seconds_left"]) > 0
    assert float(last["seconds_left"]) == 0
    assert "GB  0:00 left" in caplog.text
