"""A published folder loads, its programs run alone, and its card says how numbers were made."""

import json

import pytest
import torch
from export.stores import PARTS, tokenizer_of
from huggingface_hub import ModelCard

from imtok.card import card
from imtok.errors import InputError
from imtok.export.codebook import read_codebook
from imtok.export.programs import write_programs
from imtok.export.publish import publish
from imtok.measures.evaluate import evaluate
from imtok.measures.report.writing import write_report
from imtok.quantizers.layout import layout
from imtok.text import markdown
from imtok.tokenizer import Tokenizer
from imtok.types import Batch

QUANTIZERS = {
    "vq": {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32},
    "fsq": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5, 5]},
    "bsq": {"_target_": "imtok.quantizers.bsq.BSQ", "slot_bits": [3, 3]},
    "ibq, whose entropy goes through tokens in blocks": {
        "_target_": "imtok.quantizers.ibq.IBQ",
        "dim": 4,
        "codebook_size": 32,
    },
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    root = tmp_path_factory.mktemp("published")
    tokenizer = tokenizer_of("one slot")
    tokenizer.save(root / "run/tokenizer")
    pixels = torch.randint(0, 256, (5, 3, 16, 16), dtype=torch.uint8)
    batch = Batch(pixels, torch.zeros(5, dtype=torch.int64), torch.arange(5), [str(number) for number in range(5)])
    write_report(evaluate(tokenizer, [batch]), root / "run/evaluation")
    absent = publish(root / "run", root / "hub", licence="apache-2.0")
    assert absent == {}
    return root


def test_the_folder_loads_as_the_tokenizer_that_it_is(published):
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    before, after = Tokenizer.load(published / "run"), Tokenizer.load(published / "hub")
    assert torch.equal(before.encode(image).ids, after.encode(image).ids)
    assert len(read_codebook(published / "hub/codebook.safetensors")[0]) == 32
    assert (published / "hub/config.json").read_bytes() == (published / "run/tokenizer/config.json").read_bytes()


def test_the_programs_compute_what_the_tokenizer_does_for_any_number_of_images(published):
    tokenizer = Tokenizer.load(published / "run")
    encode = torch.export.load(published / "hub/encoder.pt2").module()
    decode = torch.export.load(published / "hub/decoder.pt2").module()
    for number in (1, 2, 5):
        image = torch.rand(number, 3, 16, 16) * 2 - 1
        tokens = tokenizer.encode(image)
        with torch.no_grad():
            assert torch.equal(encode(image), tokens.ids)
            torch.testing.assert_close(decode(tokens.ids), tokenizer.decode(tokens, (16, 16)), atol=1e-5, rtol=0)


def test_the_card_has_the_hubs_fields_and_the_protocol_of_every_number(published):
    card = ModelCard.load(published / "hub/README.md")
    assert card.data.license == "apache-2.0"
    assert card.data.library_name == "imtok"
    report = json.loads((published / "run/evaluation/report.json").read_text())
    for name in report["metrics"]:
        assert markdown(report["conventions"].get(name, "")) in card.text
    for facts in report["protocol_ids"].values():
        assert facts["id"] in card.text
    assert "5 images of 16x16 pixels" in card.text
    assert "| tokens per image | 4 (20 bits) |" in card.text
    assert str(published) not in card.text


def test_the_card_holds_no_path_of_the_machine_and_no_list_of_what_is_absent(published):
    tokenizer = Tokenizer.load(published / "run")
    tokenizer.config = {**tokenizer.config, "space": {"weights": "/home/me/secret/vae.pth"}, "name": "<b>x`|"}
    report = json.loads((published / "run/evaluation/report.json").read_text())
    report["data"] |= {"kind": "folder", "path": "/home/me/secret/photos", "split": "val"}
    report["absent"] = {"rfid": "pt_inception.pth is not in /root/.cache/torch; download it"}
    report["tokenizer"], report["command"] = "/home/me/secret/run", "imtok eval tokenizer=/home/me/secret/run"
    text = card(tokenizer, {}, 16, report, None, None)
    for word in ("/home", "secret", "/root", "pt_inception", "rfid"):
        assert word not in text, word
    assert '"weights": "vae.pth"' in text
    assert "5 images of 16x16 pixels (folder, split val); protocol adm" in text
    ends = [line for line in text.splitlines() if line.startswith("```")]
    assert ends == ["```python", "```", "```json", "```"]


def test_a_report_of_another_tokenizer_is_refused(published, tmp_path):
    path = published / "run/evaluation/report.json"
    report = json.loads(path.read_text())
    (tmp_path / "report.json").write_text(json.dumps({**report, "vocab_sizes": [1024]}))
    with pytest.raises(InputError, match="is the report of another tokenizer"):
        publish(published / "run", tmp_path / "hub", tmp_path / "report.json")
    assert not (tmp_path / "hub").exists()


def test_a_report_of_other_weights_is_refused(published, tmp_path):
    other = tokenizer_of("one slot")
    with torch.no_grad():
        other.decoder.last_layer.add_(0.01)  # the next step of the same run
    other.save(tmp_path / "tokenizer")
    with pytest.raises(InputError, match="was measured with other weights"):
        publish(tmp_path, tmp_path / "hub", published / "run/evaluation")
    assert not (tmp_path / "hub").exists()


def test_rows_are_said_to_add_up_to_latents_only_where_they_do():
    vq = QUANTIZERS["vq"]
    scales = {"quantizer": vq, "sizes": [1, 2], "convolutions": 1}
    kinds = {
        "latents are the sum over slots": [{"_target_": "imtok.quantizers.residual.Residual", "stages": [vq]}, vq],
        "only the quantizer makes latents": [{"_target_": "imtok.quantizers.multiscale.MultiScale", **scales}],
    }
    for words, sections in kinds.items():
        for section in sections:
            tokenizer = Tokenizer.from_config({**PARTS, "quantizer": section}).eval()
            assert words in layout(tokenizer.quantizer)["slots"]
            ids = tokenizer.encode(torch.rand(2, 3, 16, 16)).ids
            latents = tokenizer.quantizer.decode(ids)
            rows = sum(table[ids[..., slot]] for slot, table in enumerate(tokenizer.quantizer.codebook()))
            assert (rows.shape == latents.shape and torch.allclose(rows, latents)) == words.startswith("latents")


@pytest.mark.parametrize("name", QUANTIZERS)
def test_programs_of_every_kind_of_quantizer(name, tmp_path):
    tokenizer = Tokenizer.from_config({**PARTS, "quantizer": QUANTIZERS[name]}).eval()
    assert write_programs(tokenizer, tmp_path, (16, 16)) == {}
    image = torch.rand(4, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        found = torch.export.load(tmp_path / "encoder.pt2").module()(image)
    assert torch.equal(found, tokenizer.encode(image).ids)


def test_a_tokenizer_of_variable_length_takes_and_gives_its_mask(tmp_path):
    tokenizer = tokenizer_of("variable")
    absent = write_programs(tokenizer, tmp_path, (16, 16))
    assert absent == {}
    image = torch.rand(4, 3, 16, 16) * 2 - 1
    tokens = tokenizer.encode(image)
    with torch.no_grad():
        ids, keep = torch.export.load(tmp_path / "encoder.pt2").module()(image)
        shown = torch.export.load(tmp_path / "decoder.pt2").module()(ids, keep)
    assert torch.equal(ids, tokens.ids)
    assert torch.equal(keep, tokens.keep)
    torch.testing.assert_close(shown, tokenizer.decode(tokens, (16, 16)), atol=1e-5, rtol=0)
