"""Whole images of 64 x 96 and of 37 x 101 pixels through evaluation, export and decode."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from imtok.commands.eval import Keys
from imtok.commands.export import Keys as ExportKeys
from imtok.data.images import ImageSet
from imtok.data.order.loader import evaluation_loader
from imtok.data.reading.transforms import WholeImage
from imtok.data.sources.folder import FileSource, Folder
from imtok.data.sources.photos import photograph
from imtok.errors import InputError
from imtok.export.feed import ListFeed
from imtok.export.pictures import decode_ids
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.export.verify import decode_sample
from imtok.measures.evaluate import evaluate
from imtok.measures.named import sections
from imtok.measures.protocol import Protocol, prepare
from imtok.measures.report.arrays import read_pictures
from imtok.measures.report.writing import write_report
from imtok.measures.settings import Settings
from imtok.measures.spending import Spending
from imtok.pixels import to_float, to_uint8
from imtok.tokenizer import Tokenizer
from imtok.whole import cut, grown, interpolate_positions, readable_size

SIZES = {"a": (64, 96), "b": (37, 101), "c": (101, 37)}  # height and width
FSQ = {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [8, 5]}
VIT = {"image_size": 64, "patch_size": 8, "width": 16, "depth": 1, "heads": 2}
CNN = {"channels": 32, "multipliers": [1, 1, 1], "blocks": 1, "attention": "none", "middle": ["residual"]}


def made(name: str) -> Tokenizer:
    torch.manual_seed(0)
    part = {"cnn": CNN, "vit": VIT}[name]
    kind = {"cnn": "CNN", "vit": "ViT"}[name]
    head = {"hidden": 32} if name == "vit" else {}
    config = {
        "encoder": {"_target_": f"imtok.encoders.{name}.{kind}Encoder", **part},
        "quantizer": FSQ,
        "decoder": {"_target_": f"imtok.decoders.{name}.{kind}Decoder", **part, **head},
        "image_size": 64,
    }
    return Tokenizer.from_config(config).eval()


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "pictures"
    place.mkdir()
    pixels = photograph("chelsea").permute(1, 2, 0).numpy()
    for name, (height, width) in SIZES.items():
        Image.fromarray(pixels[100 : 100 + height, 100 : 100 + width].copy()).save(place / f"{name}.png")
    return place


@pytest.mark.parametrize("name", ["cnn", "vit"])
def test_whole_images_go_through_every_command(name, folder, tmp_path):
    tokenizer = made(name)
    if name == "vit":
        with pytest.raises(InputError, match=r"cannot read whole images of 96x64 pixels .*positions=interpolated"):
            readable_size(tokenizer, (64, 96))
        interpolate_positions(tokenizer)
    # evaluation: each number is the mean of what images have alone, at their own size
    protocol = Protocol("offline", crop="none")
    images = prepare(Folder(folder).evaluation(64, "all"), protocol, None)
    settings = Settings(sections(["psnr", "ssim", "codes"]), protocol)
    report = evaluate(tokenizer, evaluation_loader(images, 1, 0), settings=settings)
    values, tokens = [], []
    for key, size in SIZES.items():
        image = load_file(folder / f"{key}.png")
        read = readable_size(tokenizer, size)
        assert read == tuple(-(-side // tokenizer_factor(name)) * tokenizer_factor(name) for side in size)
        with torch.no_grad():
            pixels = to_uint8(cut(tokenizer(grown(image, read)).image, size))
        error = (pixels.double() - to_uint8(image).double()).square().mean()
        values.append(10 * np.log10(255**2 / error.item()))
        tokens.append(tokenizer.num_tokens(read))
    assert abs(report.metrics["psnr"] - np.mean(values)) < 1e-6
    assert abs(report.metrics["tokens_per_image"] - np.mean(tokens)) < 1e-6
    area = sum(height * width for height, width in SIZES.values())
    bits = sum(tokens) * tokenizer.quantizer.bits_per_token
    assert abs(report.metrics["bits_per_pixel"] - bits / area) < 1e-6
    write_report(report, tmp_path / "report")
    kept = read_pictures(tmp_path / "report")
    assert {key[0]: tuple(one.shape[1:]) for key, one in zip(kept.keys, kept.originals, strict=True)} == SIZES
    assert "3 images of many sizes" in (tmp_path / "report" / "report.md").read_text()
    # export, decode and a sample
    store = tmp_path / "tokens"
    whole = ImageSet(FileSource(folder), WholeImage(64))
    feed = ListFeed(whole, shard_size=2, batch_size=1)
    feed.side = None
    said = {"crop": "none"} | ({"positions": "interpolated"} if name == "vit" else {})
    export_tokens(tokenizer, feed, store, shape=said)
    opened = TokenStore(store, whole=True)
    opened.verify()
    assert [size for _, size in opened.single()] == list(SIZES.values())
    assert [part.ids.shape[1] for part, _ in opened.single()] == tokens
    assert decode_ids(made(name), store, tmp_path / "again", (64, 64)) == 3  # positions as the store says
    for number, (key, size) in enumerate(SIZES.items()):
        image = load_file(folder / f"{key}.png")
        with torch.no_grad():
            expected = to_uint8(cut(tokenizer(grown(image, readable_size(tokenizer, size))).image, size))[0]
        with Image.open(tmp_path / "again" / f"{number:06d}.png") as picture:
            assert np.array_equal(np.asarray(picture), expected.permute(1, 2, 0).numpy())
    assert decode_sample(store, made(name), tmp_path / "sample", 3) == 3
    with Image.open(tmp_path / "sample" / "000001.png") as picture:
        assert picture.size == (101, 37)
    with pytest.raises(InputError, match="holds whole images of many sizes, which only imtok decode and imtok verify"):
        TokenStore(store)


def tokenizer_factor(name: str) -> int:
    return {"cnn": 4, "vit": 8}[name]


def load_file(path):
    with Image.open(path) as picture:
        return to_float(torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None])


def test_images_grow_to_the_right_and_below_by_their_last_column_and_row():
    image = torch.rand(2, 3, 5, 7)
    made = grown(image, (8, 11))
    assert torch.equal(made[..., :5, :7], image)
    assert torch.equal(made[..., :5, 7:], image[..., -1:].expand(-1, -1, -1, 4))
    assert torch.equal(made[..., 5:, :], made[..., 4:5, :].expand(-1, -1, 3, -1))
    assert torch.equal(cut(made, (5, 7)), image)


def test_a_measure_that_wants_one_size_is_refused(folder):
    protocol = Protocol("offline", crop="none")
    images = prepare(Folder(folder).evaluation(64, "all"), protocol, None)
    settings = Settings(sections(["psnr", "positions", "rate"]), protocol)
    with pytest.raises(InputError, match=r"metrics=\[positions,rate\] cannot be measured on whole images"):
        evaluate(made("cnn"), evaluation_loader(images, 1, 0), settings=settings)


def test_a_store_whose_sizes_were_lost_is_damaged(folder, tmp_path):
    feed = ListFeed(ImageSet(FileSource(folder), WholeImage(64)), shard_size=9, batch_size=1)
    feed.side = None
    export_tokens(made("cnn"), feed, tmp_path / "tokens", shape={"crop": "none"})
    path = tmp_path / "tokens" / "shard-00000.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"sizes": record["sizes"][:2]}))
    with pytest.raises(InputError, match="lacks sizes of images"):
        TokenStore(tmp_path / "tokens", whole=True).check_contents()


def test_keys_of_commands_say_what_they_take():
    said = Keys(tokenizer="a", protocol={}, crop="all", positions="learned").check()
    assert any("crop must be none" in line for line in said)
    assert any("positions must be interpolated" in line for line in said)
    assert any(
        "leave image_size out" in line for line in Keys(tokenizer="a", protocol={}, crop="none", image_size=9).check()
    )


def test_nets_without_learned_positions_say_so():
    with pytest.raises(InputError, match="this tokenizer has none"):
        interpolate_positions(made("cnn"))


@pytest.mark.parametrize("words", [{"length": 4}, {"target": "25dB"}])
def test_whole_images_keep_all_of_their_tokens(words):
    alone = ["crop=none takes all tokens of each image; leave length and target out"]
    assert Keys(tokenizer="a", protocol={}, crop="none", **words).check()[-1:] == alone
    assert ExportKeys(tokenizer="a", crop="none", **words).check() == alone
    with pytest.raises(InputError, match=r"of whole images \(crop=none\), of which each keeps all; leave length"):
        Spending.of(**words).require_square(whole=True)
    Spending.of(**words).require_square(whole=False)
