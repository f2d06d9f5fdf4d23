"""Lengths from the command line: what is exported, decoded and measured of tokenizers of variable length."""

import json
import tarfile

import numpy as np
import pytest
import torch
from export import readers
from export.stores import tokenizer_of
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from training.runs import write_images

from imtok.build import build_tokenizer
from imtok.config import register_schemas
from imtok.data.order.loader import evaluation_loader
from imtok.data.sources.folder import Folder
from imtok.export.feed import ListFeed
from imtok.export.restore import restore
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.folders import config_folder
from imtok.measures.length import decode_kept, possible_lengths
from imtok.measures.psnr import PSNR
from imtok.measures.spending import Spending, read_target
from imtok.pixels import to_float, to_uint8
from imtok.tokenizer import Tokenizer
from imtok.types import Tokens

IMAGES = 5
LENGTHS = {
    "one_d_piece_s256": (1, 4, 16),
    "flextok_d12": (1, 4, 16),
    "retok": (1, 4, 16),
    "semanticist": (1, 4, 16),
    "alit": (4, 8, 16),
    "karl": (1, 4, 16),
}
FAST = ("flextok_d12", "karl")
BUDGETED = ("alit", "karl")
ON = ("threads=1", "device=cpu", f"batch_size={IMAGES}")


def made(recipe, folder):
    """A recipe's tokenizer at size=tiny, with weights at random that show."""
    register_schemas("train")
    more = ["quantizer=fsq"] if recipe == "semanticist" else []
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("train", overrides=[f"experiment={recipe}", "size=tiny", *more])
    tokenizer = build_tokenizer(OmegaConf.to_container(config, resolve=True)).eval()
    with torch.no_grad():
        for name, parameter in tokenizer.named_parameters():
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
            if name.startswith("encoder.halting"):
                parameter.mul_(8)
    tokenizer.save(folder)
    return Tokenizer.load(folder).eval()


@pytest.fixture(params=[one if one in FAST else pytest.param(one, marks=pytest.mark.slow) for one in LENGTHS])
def recipe(request):
    return request.param


@pytest.fixture
def run(tmp_path, monkeypatch, command):
    """Run a command in a folder that holds images."""
    write_images(tmp_path / "images", IMAGES)
    monkeypatch.chdir(tmp_path)
    return command


DATA = ("tokenizer=tokenizer", "data=folder", "data.path=images", "split=all", *ON)


def export(run, out, *more, code=0):
    return run("export", *DATA, f"out={out}", *more, code=code)


def batch_of(store, tokenizer):
    """The images of a store as its tokenizer takes them."""
    images = Folder(path="images").evaluation(tokenizer.image_size, "all")
    (batch,) = evaluation_loader(images, IMAGES, 0)
    assert batch.key == store.shard(0).keys
    return to_float(batch.image)


def pictures(folder):
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def as_pictures(image):
    return to_uint8(image).permute(0, 2, 3, 1).numpy()


@pytest.fixture(scope="module")
def varying(tmp_path_factory):
    """A tokenizer whose first tokens stand alone, and a store in which images have as many as a target asked for."""
    folder = tmp_path_factory.mktemp("varying")
    tokenizer = made("flextok_d12", folder / "tokenizer")
    write_images(folder / "images", IMAGES)
    images = Folder(path=str(folder / "images")).evaluation(tokenizer.image_size, "all")
    feed = ListFeed(images, 3, IMAGES)
    with torch.inference_mode():
        values = PSNR().per_image(*(to_uint8(one) for one in (_full(tokenizer, feed), _images(feed))))
    export_tokens(tokenizer, feed, folder / "tokens", spending=Spending.of(target=float(values.median()) - 0.01))
    store = TokenStore(folder / "tokens")
    assert len({int(keep.sum()) for shard in store.shards() for keep in shard.keep}) > 1
    return tokenizer, store


def _images(feed):
    return torch.cat([to_float(batch.image) for _, batch in feed.batches(lambda _: True) if batch is not None])


def _full(tokenizer, feed):
    return tokenizer(_images(feed)).image


def test_a_number_of_tokens_is_exported_and_decoded_as_the_tokenizer_itself_does_it(recipe, run, tmp_path):
    tokenizer = made(recipe, tmp_path / "tokenizer")
    for length in LENGTHS[recipe]:
        export(run, f"tokens{length}", f"length={length}")
        store = TokenStore(tmp_path / f"tokens{length}")
        with torch.inference_mode():
            tokens = tokenizer.encode(batch_of(store, tokenizer), length)
            expected = as_pictures(tokenizer.decode(tokens, tokenizer.image_size))
        shard = store.shard(0)
        assert store.manifest["tokens"] == length
        assert np.array_equal(shard.ids[:, 0], tokens.ids.numpy())
        slots = len(tokenizer.quantizer.vocab_sizes)
        assert shard.ids.dtype.itemsize * shard.ids.size == IMAGES * length * slots * 2
        assert (shard.keep is not None) == (recipe == "karl")
        if tokens.keep is not None:
            assert np.array_equal(shard.keep[:, 0], tokens.keep.numpy())
        run("decode", "tokenizer=tokenizer", f"ids=tokens{length}", f"out=pictures{length}", "threads=1", "device=cpu")
        assert np.array_equal(pictures(tmp_path / f"pictures{length}"), expected)


def test_a_target_gives_each_image_the_fewest_tokens_that_reach_it(recipe, run, tmp_path):
    tokenizer = made(recipe, tmp_path / "tokenizer")
    size = (tokenizer.image_size, tokenizer.image_size)
    image = None
    with torch.inference_mode():
        tried = possible_lengths(tokenizer, size)
        export(run, "whole")
        image = batch_of(TokenStore(tmp_path / "whole"), tokenizer)
        by_length = torch.stack(
            [
                PSNR().per_image(to_uint8(tokenizer.decode(tokenizer.encode(image, length), size)), to_uint8(image))
                for length in tried
            ],
            1,
        )
    target = float(by_length.max(1).values.median()) - 1e-3  # some images reach it, some do not
    export(run, "tokens", f"target={target}dB")
    store = TokenStore(tmp_path / "tokens")
    shard = store.shard(0)
    reaches = by_length >= target
    first = torch.where(reaches.any(1), reaches.int().argmax(1), len(tried) - 1)
    expected = [tokenizer.encode(image[row : row + 1], tried[place]) for row, place in enumerate(first.tolist())]
    for row, tokens in enumerate(expected):
        own = np.ones(tokens.ids.shape[1], bool) if tokens.keep is None else tokens.keep[0].numpy()
        assert np.array_equal(shard.keep[row, 0], np.pad(own, (0, tried[-1] - len(own))))
        assert np.array_equal(shard.ids[row, 0][shard.keep[row, 0]], tokens.ids[0].numpy()[own])
    assert 0 < int(reaches.any(1).sum()) < IMAGES
    # decoded as it was measured, and measured as it is decoded
    tokens = Tokens(torch.from_numpy(shard.ids[:, 0].astype(np.int64)), torch.from_numpy(np.array(shard.keep[:, 0])))
    with torch.inference_mode():
        decoded = decode_kept(tokenizer, tokens, size)
    run("decode", "tokenizer=tokenizer", "ids=tokens", "out=pictures", "threads=1", "device=cpu")
    assert np.array_equal(pictures(tmp_path / "pictures"), as_pictures(decoded))
    run("eval", *DATA, f"target={target}dB", "metrics=[psnr,codes]", "protocol=offline", "out=report")
    metrics = json.loads((tmp_path / "report/report.json").read_text())["metrics"]
    assert metrics["tokens_per_image"] == pytest.approx(float(shard.keep.sum() / IMAGES))
    values = PSNR().per_image(to_uint8(decoded), to_uint8(image))
    assert metrics["psnr"] == pytest.approx(float(values.mean()), abs=1e-6)
    assert f"{shard.keep.sum() / IMAGES:.1f} in the mean" in run("verify", "tokens")


def columns(store):
    """Ids and ``keep`` of all images of a store."""
    shards = list(store.shards())
    ids = np.concatenate([np.asarray(shard.ids[:, 0]) for shard in shards]).astype(np.int64)
    keep = None if shards[0].keep is None else np.concatenate([np.asarray(shard.keep[:, 0]) for shard in shards])
    return ids, keep


def parquet_rows(folder):
    parquet = pytest.importorskip("pyarrow.parquet")
    return [row for path in sorted(folder.glob("data/*")) for row in parquet.read_table(path)["input_ids"].to_pylist()]


def maskgen_rows(folder):
    with tarfile.open(folder / "tokens-000000.tar") as archive:
        members = [one for one in archive if one.name.endswith("token.npy")]
        return [np.frombuffer(archive.extractfile(one).read(), np.int64) for one in members]


def vocab(folder):
    return json.loads((folder / "vocab.json").read_text())


READ = {
    "llamagen": lambda folder: [np.load(folder / f"imagenet32_codes/{i}.npy")[0, 0] for i in range(IMAGES)],
    "gigatok": lambda folder: [np.load(folder / f"imagenet32_codes/{i}.npy")[0] for i in range(IMAGES)],
    "fqgan": lambda folder: [np.load(folder / f"imagenet32_codes/{i}_vis.npy")[0, 0] for i in range(IMAGES)],
    "rar": lambda folder: [ids.numpy() for ids, _ in readers.rar(folder / "tokens.jsonl")],
    "nanogpt": lambda folder: [
        row
        for row, _ in readers.nanogpt(folder / "train.bin", json.loads((folder / "vocab.json").read_text()), np.uint32)
    ],
    "maskgen": maskgen_rows,
    "parquet": parquet_rows,
    "huggingface": parquet_rows,
}
MORE = {
    "nanogpt": ("format.val_fraction=0.0", "format.dtype=uint32"),
    "maskgen": ("format.uncaptioned=text", "format.dtype=int64"),
    "fqgan": ("format.names=[vis]",),
    "parquet": ("format.end=70000",),
    "huggingface": ("format.begin=70000", "format.end=70001"),
}


@pytest.mark.parametrize("length", [None, 4])
@pytest.mark.parametrize("form", READ)
def test_every_format_gives_lengths_back(form, length, varying, run, tmp_path):
    store = varying[1]
    more = [*MORE.get(form, ()), *([] if length is None else [f"length={length}"])]
    run("convert", f"store={store.folder}", f"format={form}", "out=out", *more)
    report = json.loads((tmp_path / "out/convert.json").read_text())
    assert report["lengths"] == store.manifest["lengths"]
    ids, keep = columns(store)
    for row, own, kept in zip(READ[form](tmp_path / "out"), ids, keep, strict=True):
        back, found = restore(np.asarray(row)[None], report)
        assert np.array_equal(back[0][: len(found[0])], own[:length])
        assert np.array_equal(found[0], kept[:length])
    if form == "parquet":
        assert all(row[-1] == 70000 and 70000 not in row[:-1] for row in parquet_rows(tmp_path / "out"))


def test_arrays_that_say_apart_which_tokens_there_are_become_the_same_pictures(varying, run, tmp_path):
    store = varying[1]
    run("convert", f"store={store.folder}", "format=webdataset", "out=out")
    rows = [arrays for arrays, _, _ in readers.webdataset(sorted((tmp_path / "out").glob("*.tar")))]
    np.save(tmp_path / "mine.npy", np.stack([row["npy"] for row in rows]))
    decode = ("decode", f"tokenizer={store.folder.parent}/tokenizer", "threads=1", "device=cpu", "batch_size=5")
    assert "put mine.keep.npy beside it" in run(*decode, "ids=mine.npy", "layout=out", "out=a", code=2)
    np.save(tmp_path / "mine.keep.npy", np.stack([row["keep.npy"] for row in rows]))
    run(*decode, "ids=mine.npy", "layout=out", "out=a")
    run(*decode, f"ids={store.folder}", "out=b")
    assert np.array_equal(pictures(tmp_path / "a"), pictures(tmp_path / "b"))
    assert len(pictures(tmp_path / "a")) == IMAGES


def test_the_first_tokens_of_a_store_are_decoded_and_learnt(varying, run, tmp_path):
    tokenizer, store = varying
    ids = columns(store)[0]
    decode = ("decode", f"tokenizer={store.folder.parent}/tokenizer", "threads=1", "device=cpu", "batch_size=5")
    run(*decode, f"ids={store.folder}", "length=1", "out=a")
    with torch.inference_mode():
        first = tokenizer.decode(torch.from_numpy(ids[:, :1]), 32)
    assert np.array_equal(pictures(tmp_path / "a"), as_pictures(first))
    np.save(tmp_path / "first.npy", ids[:, :1])
    run(*decode, "ids=first.npy", "length=1", "out=b")
    assert np.array_equal(pictures(tmp_path / "a"), pictures(tmp_path / "b"))
    assert "length=17: this tokenizer has 16 tokens at most" in run(
        *decode, f"ids={store.folder}", "length=17", "out=c", code=2
    )
    # against the picture of all tokens: a target that none reaches takes all of them
    run(*decode, f"ids={store.folder}", "target=99dB", "out=d")
    run(*decode, f"ids={store.folder}", "out=e")
    assert np.array_equal(pictures(tmp_path / "d"), pictures(tmp_path / "e"))
    run("verify", str(store.folder), f"tokenizer={store.folder.parent}/tokenizer", "out=f", "length=1")
    assert np.abs(pictures(tmp_path / "f").astype(int) - pictures(tmp_path / "a")).max() <= 1
    train = ("trainer.max_steps=2", "trainer.batch_size=2", "prior.trunk.width=16", "prior.trunk.depth=1")
    train += ("prior.trunk.heads=2", "val_fraction=0.4", "trainer.accelerator=cpu")
    run("prior", f"store={store.folder}", "length=4", *train, "out=prior")
    sample = ("sample", "prior=prior", f"tokenizer={store.folder.parent}/tokenizer", "n=3", "device=cpu")
    run(*sample, "out=samples")
    run(*sample, "length=2", "out=fewer")
    drawn = {name: np.load(tmp_path / name / "ids.npy") for name in ("samples", "fewer")}
    assert drawn["samples"].shape == (3, 4, 1)
    assert np.array_equal(drawn["fewer"], drawn["samples"][:, :2])
    run(*decode, "ids=samples/ids.npy", "length=4", "out=g")
    shown = np.stack([np.asarray(Image.open(tmp_path / f"samples/{number:06d}.png")) for number in range(3)])
    assert np.abs(pictures(tmp_path / "g").astype(int) - shown).max() <= 1


def test_a_prior_learns_tokens_of_which_any_may_be_left_out(run, tmp_path):
    """KARL leaves out tokens in between; the prior has an id for them, and its samples say which there are."""
    tokenizer = made("karl", tmp_path / "tokenizer")
    export(run, "tokens", "condition.quality=0.1")
    _, keep = columns(TokenStore(tmp_path / "tokens"))
    assert (keep[:, 1:] & ~keep[:, :-1]).any()
    train = ("trainer.max_steps=2", "trainer.batch_size=2", "prior.trunk.width=16", "prior.trunk.depth=1")
    train += ("prior.trunk.heads=2", "val_fraction=0.4", "trainer.accelerator=cpu")
    run("prior", "store=tokens", *train, "out=prior")
    run("sample", "prior=prior", "tokenizer=tokenizer", "n=40", "temperature=1", "device=cpu", "out=samples")
    ids, drawn = np.load(tmp_path / "samples/ids.npy"), np.load(tmp_path / "samples/keep.npy")
    assert ids.shape == (40, 16, 1)
    assert ids.max() < tokenizer.quantizer.vocab_sizes[0]
    assert drawn.shape == (40, 16)
    assert not ids[~drawn].any()
    assert "no code of fewer tokens" in run("prior", "store=tokens", "length=4", *train, "out=b", code=2)
    assert "no code of fewer tokens" in run("convert", "store=tokens", "format=rar", "length=4", "out=b", code=2)
    decode = ("decode", "tokenizer=tokenizer", "ids=tokens", "out=c", "device=cpu")
    assert "no code of fewer tokens; export the images with length=4" in run(*decode, "length=4", code=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["length=0"], "length must be at least 1 token, got 0"),
        (["length=2", "target=25dB"], "length=2 and target=psnr:25 cannot both be; give one of them"),
        (["target=good"], "target must be a PSNR as 25dB, or another metric as ssim:0.9 or lpips:0.2, got good"),
        (["target=sharpness:3"], "there is no metric sharpness; give psnr, ssim"),
        (["length=4"], "length=4: this tokenizer always takes 4 tokens; leave it out"),
        (["target=25"], "target=psnr:25: this tokenizer always takes 4 tokens; leave it out"),
    ],
)
def test_what_cannot_be_had_is_refused(words, message, run, tmp_path):
    tokenizer_of("one slot").save(tmp_path / "tokenizer")
    assert message in export(run, "tokens", *words, code=2)
    assert message in run("eval", *DATA, *words, "protocol=offline", "out=report", code=2)
    assert not (tmp_path / "tokens").exists()


def test_alit_refuses_lengths_between_its_rollouts(run, tmp_path):
    made("alit", tmp_path / "tokenizer")
    assert "length=6: length must be a multiple of 4 up to 16" in export(run, "tokens", "length=6", code=2)


@pytest.mark.parametrize(
    ("said", "metric", "value"),
    [
        ("25dB", "psnr", 25),
        (25, "psnr", 25),
        ("24.5 db", "psnr", 24.5),
        ("ssim:0.9", "ssim", 0.9),
        ("psnr:7dB", "psnr", 7),
    ],
)
def test_a_target_is_read_as_people_write_it(said, metric, value):
    assert (read_target(said).metric, read_target(said).value) == (metric, value)
