"""What each further metric finds where the answer is known, and one clear line where there is none."""

import numpy as np
import pytest
import torch
from evaluation.test_length import pictures, psnr_by_length, rows_tokenizer
from evaluation.tiny import Tiny, batches, tokenizer

from imtok.errors import InputError
from imtok.evaluation.choose import choose
from imtok.evaluation.codecs import available, compress, header_bytes
from imtok.evaluation.evaluate import evaluate
from imtok.evaluation.language import fit_zipf, language
from imtok.evaluation.probe import probe
from imtok.evaluation.protocol import Protocol
from imtok.evaluation.settings import Settings
from imtok.pixels import to_uint8
from imtok.types import Batch


@pytest.fixture
def _small_extractor(monkeypatch):
    monkeypatch.setattr(Protocol, "build", lambda self: Tiny())


def test_uniform_codes_cannot_be_compressed_and_zipfs_can():
    """Published check values for 16,384 codes: 0.001 % and 28.7 % (exponent 1)."""
    numbers, size = np.random.default_rng(0), 16384
    uniform = language(numbers.integers(0, size, (2000, 256)), size)
    assert uniform["compression"] < 3e-3
    assert uniform["entropy_bits"] == pytest.approx(13.977, abs=4e-3)  # 14 less (K - 1) / (2 N ln 2)
    weights = 1 / np.arange(1, size + 1)
    ids = numbers.choice(size, (2000, 256), p=weights / weights.sum())
    zipf = language(ids, size)
    assert zipf["compression"] == pytest.approx(0.287, abs=0.01)
    assert zipf["zipf"]["exponent"] == pytest.approx(1, abs=0.03)
    assert zipf["heaps"]["beta"] < 1
    assert zipf["heaps"]["codes"] == sorted(zipf["heaps"]["codes"])
    assert zipf["heaps"]["codes"][-1] == zipf["seen"] == len(np.unique(ids))


def test_a_shifted_law_is_found():
    ranks = np.arange(1, 2000)
    fit = fit_zipf(np.round(1e9 * (ranks + 30.0) ** -1.4).astype(np.int64))
    assert fit.exponent == pytest.approx(1.4, abs=0.01)
    assert fit.shift == pytest.approx(30, rel=0.03)


def test_entropy_rates_fall_where_the_next_token_is_known():
    ids = (np.arange(4000).reshape(-1, 1) + np.arange(8)) % 16
    found = language(ids, 16)
    assert found["entropy_rates"][0] == pytest.approx(4, abs=1e-3)
    assert found["entropy_rates"][1] == pytest.approx(0, abs=1e-3)


def test_quality_rises_with_the_number_of_tokens_as_it_must():
    image = pictures()
    found = evaluate(rows_tokenizer(), batch_of(image), settings=Settings(("rate", "length"), length_target=10.0))
    rows = {row["tokens"]: row["psnr"] for row in found.tables["rate"] if row["kind"] == "tokens"}
    expected = psnr_by_length(image).mean(0)
    assert list(rows) == [1, 2, 4, 8]
    for length in (1, 2, 4):
        assert rows[length] == pytest.approx(expected[length - 1].item(), rel=1e-6)
    least = 2 ** ((psnr_by_length(image) < 10).sum(1) + 1).double().log2().ceil()
    assert found.tables["length"]["mean"] == pytest.approx(least.mean().item())
    assert found.tables["length"]["reached"] == 1


def batch_of(image):
    index = torch.arange(len(image))
    return [Batch(to_uint8(image), index, index, [f"image {number}" for number in index.tolist()])]


def test_codecs_take_the_bytes_that_they_say():
    image = batches([0], 1)[0].image[0]
    for codec, qualities in available().items():
        sizes = [compress(image, codec, quality)[1] for quality in qualities]
        errors = [(compress(image, codec, q)[0].float() - image.float()).square().mean() for q in qualities]
        assert sizes == sorted(sizes), codec
        assert errors[-1] < errors[0], codec
        assert header_bytes(codec, qualities[0]) < sizes[0] + 16


def test_a_probe_finds_what_is_there_and_nothing_else():
    numbers = np.random.default_rng(0)
    labels = np.arange(600) % 3
    shifted = numbers.standard_normal((600, 8)) + 6 * np.eye(8)[labels]
    assert probe(shifted[:400], labels[:400], shifted[400:], labels[400:]) > 0.98
    noise = numbers.standard_normal((600, 8))
    assert probe(noise[:400], labels[:400], noise[400:], labels[400:]) < 0.5


def test_the_probe_of_an_evaluation_says_its_chance():
    report = evaluate(tokenizer(), batches(range(40), 8), settings=Settings(("probe",)))
    assert {"probe_codes", "probe_latents"} <= report.metrics.keys()
    assert report.tables["probe"]["classes"] == 2
    assert 0.5 <= report.tables["probe"]["chance"] < 1


def elements(value, known):
    """How many numbers an object holds, in tensors, lists and dicts at any depth."""
    if id(value) in known or isinstance(value, type):
        return 0
    known[id(value)] = value  # kept, so that no other object gets its number
    if isinstance(value, torch.Tensor):
        return value.numel()
    if isinstance(value, dict):
        return sum(1 + elements(one, known) for one in value.values())
    if isinstance(value, (list, tuple, set)):
        return sum(1 + elements(one, known) for one in value)
    holds = isinstance(value, torch.nn.Module) or (hasattr(value, "__dict__") and not callable(value))
    return elements(vars(value), known) if holds else 0


@pytest.mark.usefixtures("_small_extractor")
def test_memory_does_not_grow_with_the_number_of_images():
    asked = Settings(("psnr", "ssim", "codes", "positions", "rfid", "pfid", "rate"), pfid_deltas=(4,))
    sizes = []
    for count in (18, 60):
        made, held = tokenizer(), []

        def spy(*arguments, held=held):
            held.append(choose(*arguments))
            return held[0]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("imtok.evaluation.evaluate.choose", spy)
            evaluate(made, batches(range(count), 6), pictures=0, settings=asked)
        measures, _ = held[0]
        sizes.append(elements([vars(measure) for measure in measures], {}))
    assert sizes[0] == sizes[1] > 1000


@pytest.mark.usefixtures("_small_extractor")
def test_few_images_are_warned_of():
    report = evaluate(tokenizer(), batches(range(6)), settings=Settings(("rfid",)))
    assert any("over 6 measured images is far too large; take 2048" in note for note in report.warnings)
    blank = batches(range(6))
    for batch in blank:
        batch.image.fill_(7)
    report = evaluate(tokenizer(), blank, settings=Settings(("rfid",)))
    assert any("are they constant?" in note for note in report.warnings)
    with pytest.raises(InputError, match="needs at least 2 images on each side, got 1"):
        evaluate(tokenizer(), batches(range(1)), settings=Settings(("rfid",)))


@pytest.mark.usefixtures("_small_extractor")
def test_stored_statistics_give_the_same_number_and_damaged_ones_are_refused(tmp_path):
    asked = Settings(("rfid", "pfid"), cache=tmp_path, data="some images", pfid_deltas=(4,))
    first = evaluate(tokenizer(), batches(range(9)), settings=asked)
    (stored,) = tmp_path.iterdir()
    second = evaluate(tokenizer(), batches(range(9)), settings=asked)
    assert first.metrics == second.metrics
    assert first.ids == second.ids
    stored.write_bytes(stored.read_bytes()[:-8])
    with pytest.raises(InputError, match="is damaged"):
        evaluate(tokenizer(), batches(range(9)), settings=asked)


def test_an_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"there is no rfdi; did you mean rfid\?"):
        Settings(("psnr", "rfdi"))


def test_missing_weights_leave_a_reason_and_wrong_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = Settings(("psnr", "rfid", "kid", "lpips"))
    report = evaluate(tokenizer(), batches(range(4)), settings=asked)
    assert set(report.metrics) == {"psnr"}
    for name, key in (("rfid", "protocol.weights=PATH"), ("kid", "protocol.weights=PATH"), ("lpips", "backbone=PATH")):
        assert key in report.absent[name]
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"not weights")
    with pytest.raises(InputError, match="is not the expected weight file"):
        evaluate(tokenizer(), batches(range(4)), settings=Settings(("rfid",), Protocol("adm", weights=str(wrong))))
    with pytest.raises(InputError, match=r"protocol\.weights=gone\.pth is not a file|weights=gone\.pth is not a file"):
        evaluate(tokenizer(), batches(range(4)), settings=Settings(("rfid",), Protocol("adm", weights="gone.pth")))
