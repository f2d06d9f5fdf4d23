"""Captions, labels and a wanted quality on their way from images to tokens and back."""

import json
import tarfile
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
import torch
from export.conditioned import karl
from export.stores import batches, content
from measures.conditioned import CONFIG, noted
from training.runs import write_images

from imtok import cli
from imtok.conditions.given import ConditionConfig, DecodeConditionConfig
from imtok.data.archives.remote import read_remote
from imtok.data.archives.transport import RemoteShard
from imtok.data.sources.folder import Folder
from imtok.data.sources.webdataset import WebDataset
from imtok.errors import InputError
from imtok.export.feed import BatchFeed, make_feed
from imtok.export.pictures import decode_ids
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.export.verify import decode_sample, verify
from imtok.export.views import Views
from imtok.tokenizer import Tokenizer

KEYS = [f"{number}.png" for number in range(6)]
CAPTIONS = [f"thing number {number}" for number in range(6)]


@pytest.fixture
def tokenizer():
    torch.manual_seed(0)
    return Tokenizer.from_config(CONFIG).eval()


def feed(captions=CAPTIONS, shard_size=4):
    found = [replace(batch, caption=[captions[row] for row in batch.index]) for batch in batches(KEYS, side=32)]
    return BatchFeed(found, shard_size, side=32)


def test_what_encodes_an_image_and_what_decodes_it_are_told_the_same(tokenizer, tmp_path):
    told = [noted(tokenizer.encoder), noted(tokenizer.decoder)]
    export_tokens(tokenizer, feed(), tmp_path / "tokens", Views("flip"))
    assert decode_ids(tokenizer, tmp_path / "tokens", tmp_path / "pictures", (32, 32)) == 12
    of_encoder, of_decoder = (torch.cat([condition.text for condition in conditions]) for conditions in told)
    assert torch.equal(of_encoder, of_decoder)
    assert torch.equal(of_encoder[::2], of_encoder[1::2])  # both views of an image
    assert not torch.equal(of_encoder[0], of_encoder[2])


def test_decoded_pictures_are_the_reconstructions_with_their_captions(tokenizer, tmp_path):
    export_tokens(tokenizer, feed(), tmp_path / "tokens")
    decode_ids(tokenizer, tmp_path / "tokens", tmp_path / "pictures", (32, 32))
    export_tokens(tokenizer, feed(CAPTIONS[::-1]), tmp_path / "others")
    decode_ids(tokenizer, tmp_path / "others", tmp_path / "other_pictures", (32, 32))
    pictures, others = content(tmp_path / "pictures"), content(tmp_path / "other_pictures")
    assert pictures["000000.png"] != others["000000.png"]
    stored = TokenStore(tmp_path / "tokens")
    assert [caption for caption, _ in stored.told()] == CAPTIONS
    verify(tmp_path / "tokens")
    decode_sample(tmp_path / "tokens", tokenizer, tmp_path / "sample", 2)
    assert content(tmp_path / "sample").keys() >= {"000000.png", "000003.png"}


def test_an_image_without_a_caption_is_refused_by_name_when_it_is_exported_and_decoded(tokenizer, tmp_path):
    some = ["", *CAPTIONS[1:]]
    with pytest.raises(
        InputError, match=r"^0\.png has no caption, which the condition of the tokenizer \(Words\) reads"
    ):
        export_tokens(tokenizer, feed(some), tmp_path / "tokens")
    assert not (tmp_path / "tokens").exists()
    export_tokens(tokenizer, feed(some), tmp_path / "tokens", told=ConditionConfig(missing=True))
    with pytest.raises(InputError, match=r"image 0 has no caption, which the tokenizer is told; give condition"):
        decode_ids(tokenizer, tmp_path / "tokens", tmp_path / "pictures", (32, 32))
    told = DecodeConditionConfig(missing=True)
    assert decode_ids(tokenizer, tmp_path / "tokens", tmp_path / "pictures", (32, 32), told=told) == 6


def test_ids_of_a_generator_are_decoded_with_the_captions_of_a_file(tokenizer, tmp_path):
    np.save(tmp_path / "ids.npy", np.zeros((3, 4), np.int64))
    (tmp_path / "captions.txt").write_text("a fox\na cat\na dog\n")
    told = DecodeConditionConfig(captions=str(tmp_path / "captions.txt"))
    with pytest.raises(InputError, match="image 0 has no caption"):
        decode_ids(tokenizer, tmp_path / "ids.npy", tmp_path / "pictures", (32, 32))
    conditions = noted(tokenizer.decoder)
    assert decode_ids(tokenizer, tmp_path / "ids.npy", tmp_path / "pictures", (32, 32), 2, told=told) == 3
    expected = tokenizer.condition_for(3, ["a fox", "a cat", "a dog"])
    assert torch.equal(torch.cat([condition.text for condition in conditions]), expected.text)
    (tmp_path / "captions.txt").write_text("a fox\n")
    with pytest.raises(InputError, match=r"captions\.txt must have a line for each of 3 images, got 1"):
        decode_ids(tokenizer, tmp_path / "ids.npy", tmp_path / "more", (32, 32), told=told)


def test_of_several_captions_export_takes_the_first_and_keeps_all(tokenizer, tmp_path):
    folder = write_images(tmp_path / "images", 4)
    rows = [
        {"file_name": path.relative_to(folder).as_posix(), "text": [f"{path.stem} {number}" for number in range(3)]}
        for path in sorted(folder.rglob("*.png"))
    ]
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    conditions = noted(tokenizer.encoder)
    export_tokens(tokenizer, make_feed(Folder(folder).evaluation(32), 10, 4, 0), tmp_path / "tokens")
    shard = TokenStore(tmp_path / "tokens").shard(0)
    assert shard.captions == [row["text"][0] for row in rows]
    assert shard.texts == [row["text"] for row in rows]
    assert torch.equal(conditions[-1].text, tokenizer.condition_for(4, shard.captions).text)


def test_a_caption_that_is_too_long_is_named_and_never_cut(tmp_path):
    folder = write_images(tmp_path / "images", 2)
    (folder / "a/000.txt").write_text("x" * 2**16)
    assert len(Folder(folder).evaluation(16).source.texts(0)[0]) == 2**16
    (folder / "a/000.txt").write_text("x" * 2**16 + "y")
    with pytest.raises(InputError, match=r"a/000\.txt is a caption of more than 65536 bytes; shorten it"):
        Folder(folder).evaluation(16).source.texts(0)
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for name, data in (("1.png", (folder / "a/000.png").read_bytes()), ("1.txt", b"x" * (2**16 + 1))):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, BytesIO(data))
    (tmp_path / "shard.tar").write_bytes(archive.getvalue())
    source = WebDataset(str(tmp_path / "shard.tar")).evaluation(16).source
    with pytest.raises(InputError, match=r"shard .*shard\.tar cannot be used: it holds 1\.txt, a caption of more"):
        source.texts(0)
    archive.seek(0)
    (image,) = read_remote([RemoteShard("", "shard.tar")], lambda _: archive)
    assert (image.texts, "holds 1.txt, a caption of more than" in image.unread) == ((), True)


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["imtok", *map(str, words)])
    cli.main()


def test_two_wanted_qualities_of_karl_give_two_numbers_of_tokens(tmp_path, monkeypatch):
    """From the command line, of a tokenizer that has no condition of its own."""
    karl().save(tmp_path / "karl")
    images, tokenizer, counts = write_images(tmp_path / "images", 6), f"tokenizer={tmp_path / 'karl'}", []
    for quality in (0.02, 0.3):
        out = tmp_path / f"tokens_{quality}"
        told = f"condition.quality={quality}"
        run(monkeypatch, "export", tokenizer, "data=folder", f"data.path={images}", f"out={out}", told)
        store = TokenStore(out)
        counts.append(sum(int(shard.keep.sum()) for shard in store.shards()))
        assert store.manifest["condition"] == {"quality": quality}
    assert counts[0] != counts[1]
    run(monkeypatch, "decode", tokenizer, f"ids={out}", f"out={tmp_path / 'pictures'}")
    assert len(content(tmp_path / "pictures")) == 7


def test_the_rest_of_an_export_at_another_quality_is_not_gone_on_with(tokenizer, tmp_path):
    export_tokens(tokenizer, feed(), tmp_path / "tokens")
    plan = json.loads((tmp_path / "tokens/plan.json").read_text())
    assert "condition" not in plan
    (tmp_path / "more.partial").mkdir()
    (tmp_path / "more.partial/.lock").touch()
    (tmp_path / "more.partial/plan.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match=r"holds shards of other settings \(another condition\)"):
        export_tokens(tokenizer, feed(), tmp_path / "more", told=ConditionConfig(quality=0.1))
