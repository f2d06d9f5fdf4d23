"""What each further metric finds where the answer is known, and one clear line where there is none."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from measures.batches import batch_of
from measures.by_rows import ROWS, RowEncoder, pictures, psnr_by_length, rows_tokenizer
from measures.tiny import SIDE, Tiny, batches, tokenizer

from imtok.errors import InputError
from imtok.measures.choose import choose
from imtok.measures.codecs import available, compress, header_bytes
from imtok.measures.corpus import LanguageMeasure
from imtok.measures.evaluate import evaluate
from imtok.measures.inception_score import inception_scores
from imtok.measures.language import fit_zipf, language
from imtok.measures.length import search_length
from imtok.measures.linear_probe import probe
from imtok.measures.making import make
from imtok.measures.named import sections
from imtok.measures.protocol import INCEPTION, Protocol
from imtok.measures.settings import Settings
from imtok.measures.stored import load_statistics
from imtok.pixels import to_float, to_uint8
from imtok.quantizers.continuous import Continuous
from imtok.quantizers.fsq import FSQ
from imtok.tokenizer import Tokenizer


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


def test_images_whose_ids_are_kept_are_of_all_parts_of_the_data_whoever_saw_them(monkeypatch):
    """Neighbours are often of one class. Ranks that saw other images keep what one process keeps."""

    def kept(parts):
        found = []
        for part in parts:
            measure = LanguageMeasure(most=20)
            measure.vocab_sizes, measure.seed = (512,), 0
            for some in np.array_split(part, 7):
                measure.keep(some.tolist(), some[:, None, None] % 512)
                assert len(measure.kept) <= 40 + len(some)
            found.append((measure.kept, measure.flexible))
        monkeypatch.setattr("imtok.measures.corpus.gather_values", lambda _: found)
        return measure.finish().arrays["ids"][:, 0, 0]

    images = np.arange(400)
    ids = kept([images])
    assert len(ids) == 20
    assert ids.tolist() == sorted(ids)
    assert all(((ids >= start) & (ids < start + 200)).sum() >= 5 for start in (0, 200))
    assert kept([images[0::2], images[1::2]]).tolist() == ids.tolist()
    assert kept([images[:7]]).tolist() == images[:7].tolist()


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
    found = evaluate(
        rows_tokenizer(), batch_of(image), settings=Settings(sections(("rate", "length"), length={"target": 10.0}))
    )
    rows = {row["tokens"]: row["psnr"] for row in found.tables["rate"] if row["kind"] == "tokens"}
    expected = psnr_by_length(image).mean(0)
    assert list(rows) == [1, 2, 4, 8]
    for length in (1, 2, 4):
        assert rows[length] == pytest.approx(expected[length - 1].item(), rel=1e-6)
    least = 2 ** ((psnr_by_length(image) < 10).sum(1) + 1).double().log2().ceil()
    assert found.tables["length"]["mean_of_reached"] == pytest.approx(least.mean().item())
    assert found.tables["length"]["reached"] == 1


class RolloutEncoder(RowEncoder):
    """Takes multiples of 4 latents only, as ALIT's rollouts do, and says of each image which it transmits."""

    def forward(self, image, length=None, condition=None):
        if length is not None and length % 4:
            raise ValueError(f"length must be a multiple of 4, got {length}")
        latents = super().forward(image, length)
        return replace(latents, keep=torch.arange(ROWS).expand(len(image), -1) % 4 < 3)


def test_encoders_that_take_some_budgets_are_asked_for_those_and_pay_for_what_they_send():
    made = rows_tokenizer()
    made.encoder = RolloutEncoder()
    asked = Settings(sections(("rate", "length"), length={"target": 90.0}))
    found = evaluate(made, batch_of(pictures()), settings=asked)
    rows = [row for row in found.tables["rate"] if row["kind"] == "tokens"]
    assert [row["tokens"] for row in rows] == [4, 8]
    bits = made.quantizer.bits_per_token
    assert [row["bytes"] for row in rows] == [3 * bits / 8, 6 * bits / 8]  # of each four, three are sent
    length = found.tables["length"]
    assert (length["reached"], length["missed"], length["mean_of_reached"]) == (0, len(pictures()), None)
    assert length["lengths"] == []
    assert length["mean_with_all_where_missed"] == 8
    with pytest.raises(InputError, match="lengths: length must be a multiple of 4, got 3; give other lengths"):
        evaluate(made, batch_of(pictures()), settings=Settings(sections(("rate",), rate={"lengths": [3, 4]})))


def test_lengths_of_an_encoder_with_a_budget_are_of_codes_that_it_makes_for_them():
    made, image = rows_tokenizer(shift=0.1), pictures()
    found = evaluate(made, batch_of(image), settings=Settings(sections(("length",), length={"target": 12.0})))
    each = search_length(made, to_float(to_uint8(image)), 12.0, lengths=[1, 2, 4, 8], encode="each").lengths
    once = search_length(made, to_float(to_uint8(image)), 12.0, lengths=[1, 2, 4, 8]).lengths
    assert each.double().mean() != once.double().mean()
    assert found.tables["length"]["mean_with_all_where_missed"] == each.double().mean().item()


def test_a_continuous_tokenizer_has_no_lengths_and_all_else():
    made = rows_tokenizer()
    made.quantizer = Continuous(1)
    found = evaluate(made, batch_of(pictures()), settings=Settings(("psnr", "length"), skip_missing=True))
    assert "psnr" in found.metrics
    assert found.absent == {"length": "latents are continuous: there are no ids"}


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
    report = evaluate(tokenizer(), batches(range(40), 8), settings=Settings(("linear_probe",)))
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
    asked = Settings(sections(("psnr", "ssim", "codes", "positions", "rfid", "pfid", "rate"), pfid={"deltas": [4]}))
    sizes = []
    for count in (18, 60):
        made, held = tokenizer(), []

        def spy(*arguments, held=held):
            held.append(choose(*arguments))
            return held[0]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("imtok.measures.evaluate.choose", spy)
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
    asked = Settings(sections(("rfid", "pfid"), pfid={"deltas": [4]}), cache=tmp_path, data="some images")
    first = evaluate(tokenizer(), batches(range(9)), settings=asked)
    (stored,) = tmp_path.iterdir()
    second = evaluate(tokenizer(), batches(range(9)), settings=asked)
    assert first.metrics == second.metrics
    assert first.ids == second.ids
    stored.write_bytes(stored.read_bytes()[:-8])
    with pytest.raises(InputError, match="is damaged"):
        evaluate(tokenizer(), batches(range(9)), settings=asked)


@pytest.mark.usefixtures("_small_extractor")
def test_a_cache_that_cannot_be_written_is_refused_at_once_and_a_full_one_costs_no_numbers(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"cache=.*/file cannot be a folder"):
        choose(Settings(("rfid",), cache=tmp_path / "file", data="x"), tokenizer(), *[torch.device("cpu")] * 2)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("imtok.measures.net.save_reference", full)
    report = evaluate(tokenizer(), batches(range(9)), settings=Settings(("rfid",), cache=tmp_path / "new", data="x"))
    assert "fd_tiny" in report.metrics
    assert any("could not be written (No space left on device)" in note for note in report.warnings)


@pytest.mark.usefixtures("_small_extractor")
def test_stored_statistics_are_the_reference_of_the_distance_alone(tmp_path):
    np.savez(tmp_path / "reference.npz", mu=np.zeros(12), sigma=np.eye(12))
    stored = load_statistics(tmp_path / "reference.npz")
    ids = []
    for settings in ({}, {"reference": stored, "reference_name": "f00d"}):
        asked = Settings(("rfid", "kid", "is"), protocol=Protocol("adm"), **settings)
        report = evaluate(tokenizer(), batches(range(12)), settings=asked)
        ids.append({name: facts["id"] for name, facts in report.ids.items()})
    assert {name for name in ids[0] if ids[0][name] != ids[1][name]} == {"fd_tiny"}


@pytest.mark.usefixtures("_small_extractor")
def test_titoks_inception_score_is_over_all_images_at_once():
    found = {}
    for name in ("adm", "titok"):
        asked = Settings(("is",), protocol=Protocol(name))
        found[name] = evaluate(tokenizer(), batches(range(24)), settings=asked)
    made = tokenizer()
    images = torch.cat([batch.image for batch in batches(range(24))])
    with torch.no_grad():
        logits = Tiny()(to_uint8(made(to_float(images)).image)).logits
    name = "inception_score_tiny"
    assert found["titok"].metrics[name] == pytest.approx(inception_scores(logits, 1)[0], rel=1e-6)
    assert found["titok"].metrics[name] != pytest.approx(found["adm"].metrics[name], rel=1e-5)
    assert "splits: 1" in found["titok"].conventions[name]
    assert "inception_score_std_tiny" not in found["titok"].metrics


def test_a_vocabulary_that_is_too_large_to_count_has_no_language():
    made = rows_tokenizer()
    made.quantizer = FSQ([2**33])
    found = evaluate(made, batch_of(pictures()), settings=Settings(("psnr", "language"), skip_missing=True))
    assert found.absent["language"] == "a vocabulary of 8589934592 ids is too large to count"
    assert "psnr" in found.metrics


def test_a_sequence_of_a_square_number_of_tokens_has_no_patches():
    config = tokenizer().config
    net = {"width": 32, "depth": 1, "heads": 2}
    parts = {
        "encoder": {"_target_": "imtok.encoders.titok.TiTokEncoder", "latents": 16, "patch_size": 8, **net},
        "decoder": {"_target_": "imtok.decoders.titok.TiTokPixelDecoder", "patch_size": 8, **net},
    }
    sequence = Tokenizer.from_config({**config, **parts}).eval()
    assert sequence.num_tokens((SIDE, SIDE)) == tokenizer().num_tokens((SIDE, SIDE)) == 16
    found = [evaluate(made, batches(range(6)), settings=Settings(("looks",))) for made in (tokenizer(), sequence)]
    assert ["frequent_codes" in report.tables for report in found] == [True, False]
    assert found[1].absent["patches"] == "tokens do not stand for patches of a grid"


def test_lengths_below_one_are_named():
    with pytest.raises(InputError, match=r"measure.rate: lengths must be some numbers .* or null, got \[0, 4\]"):
        make("rate", sections(["rate"], rate={"lengths": [0, 4]})["rate"])


def test_an_unknown_metric_is_refused_with_the_nearest():
    with pytest.raises(InputError, match=r"there is no rfdi; did you mean rfid\?"):
        Settings(("psnr", "rfdi"))


def test_missing_weights_leave_a_reason_and_wrong_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    asked = Settings(("psnr", "rfid", "kid", "lpips"), skip_missing=True)
    report = evaluate(tokenizer(), batches(range(4)), settings=asked)
    assert set(report.metrics) == {"psnr"}
    for name, key in (
        ("rfid", "protocol.extractor.weights=PATH"),
        ("kid", "protocol.extractor.weights=PATH"),
        ("lpips", "measure.lpips.backbone=PATH"),
    ):
        assert key in report.absent[name]
    wrong = tmp_path / "wrong.pth"
    wrong.write_bytes(b"not weights")
    for path, reason in (
        (wrong, r"is not the expected weight file: .* or give protocol\.extractor\.sha256=null to take it as it is"),
        ("gone.pth", r"^protocol\.extractor\.weights=gone\.pth is not a file"),
    ):
        protocol = Protocol("adm", extractor={**INCEPTION, "weights": str(path)})
        with pytest.raises(InputError, match=reason):
            evaluate(tokenizer(), batches(range(4)), settings=Settings(("rfid",), protocol, skip_missing=True))
