"""What commands write can be read by whom the umask lets read, and a link to a folder is written through."""

import os

import pytest
from export.stores import folder_feed
from training.runs import run_tiny, write_images

from imtok.data.archives.pack import pack
from imtok.data.sources.folder import FileSource
from imtok.errors import InputError
from imtok.export.convert import convert
from imtok.export.formats.llamagen import LlamaGen
from imtok.export.pictures import decode_ids
from imtok.export.publish import publish
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.measures.evaluate import evaluate
from imtok.measures.report.writing import write_report
from imtok.tokenizer import Tokenizer


def write_all(root, out):
    """A run, and everything that is made of it, each into a folder below ``out``."""
    images = write_images(root / "images", 8)
    run_tiny(out / "run", "trainer.max_steps=2", "trainer.pictures_every=1", "trainer.evaluate_every=1")
    tokenizer, feed = Tokenizer.load(out / "run"), folder_feed(images, 16)
    export_tokens(tokenizer, feed, out / "tokens")
    convert(TokenStore(out / "tokens"), LlamaGen(), out / "codes")
    decode_ids(tokenizer, out / "tokens", out / "pictures", (16, 16))
    publish(out / "run", out / "hub", programs=False)
    write_report(
        evaluate(tokenizer, (batch for _, batch in feed.batches(lambda _: True) if batch is not None)), out / "report"
    )
    pack(FileSource(images), out / "packed")


NAMES = ("run", "tokens", "codes", "pictures", "hub", "report", "packed")


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_everything_that_is_written_has_the_mode_of_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_all(tmp_path, tmp_path / "out")
    finally:
        os.umask(before)
    found = [path for path in (tmp_path / "out").rglob("*") if not path.is_symlink()]
    assert len(found) > 60
    wrong = {
        str(path): oct(path.stat().st_mode)
        for path in found
        if path.stat().st_mode & 0o777 != (0o777 if path.is_dir() else 0o666) & ~mask
    }
    assert not wrong


def test_a_link_to_a_folder_is_an_output_like_any_other(tmp_path):
    for name in NAMES:
        (tmp_path / "disk" / name).mkdir(parents=True)
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out" / name).symlink_to(tmp_path / "disk" / name)
    write_all(tmp_path, tmp_path / "out")
    for name in NAMES:
        assert (tmp_path / "out" / name).is_symlink()
        assert any((tmp_path / "disk" / name).iterdir())
    assert {path.name for path in (tmp_path / "disk").iterdir()} == set(NAMES)
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(NAMES)


def test_an_export_to_where_no_folder_can_be_is_one_line(tmp_path):
    tokenizer = run_tiny_tokenizer(tmp_path)
    with pytest.raises(InputError, match="out=/proc/x cannot be written to"):
        export_tokens(tokenizer, folder_feed(write_images(tmp_path / "images", 4), 16), type(tmp_path)("/proc/x"))


def run_tiny_tokenizer(folder):
    run_tiny(folder / "run", "trainer.max_steps=1")
    return Tokenizer.load(folder / "run")
