"""A text encoder, an encoder, a decoder and an objective in a package of one's own, from training to publishing."""

import json
import sys

import pytest
import torch
from export.stores import content
from training.runs import write_images

from imtok import cli
from imtok.export.store import TokenStore
from imtok.tokenizer import Tokenizer

PARTS = '''
import torch
from torch import nn

from imtok.conditions.base import Conditioner
from imtok.decoders.patch import PatchDecoder
from imtok.encoders.patch import PatchEncoder
from imtok.losses.total import total
from imtok.objectives.base import Objective
from imtok.pixels import to_float
from imtok.types import Condition, Latents, Loss, Losses, StepOutput


class Letters(Conditioner):
    """A vector for each of the first letters."""

    reads, gives = ("caption",), ("text",)

    def __init__(self, dim: int = 6, length: int = 12) -> None:
        super().__init__()
        self.text_dim, self.text_length = dim, length
        self.table = nn.Embedding(128, dim)

    def forward(self, captions, labels):
        texts = [caption[: self.text_length].ljust(self.text_length) for caption in captions]
        rows = [[ord(letter) % 128 for letter in text] for text in texts]
        rows = torch.tensor(rows, dtype=torch.int64, device=labels.device).reshape(len(captions), self.text_length)
        return Condition(text=self.table(rows), mask=rows != 32)


def mean(condition, project):
    if condition is None or condition.text is None:
        raise ValueError("text is needed here, got none")
    return project((condition.text * condition.mask[..., None]).mean(1))


class TextEncoder(PatchEncoder):
    needs = takes = ("text",)

    def __init__(self, out_dim: int, text_dim: int, patch_size: int = 8, width: int = 16, depth: int = 1) -> None:
        super().__init__(out_dim, patch_size, width, depth)
        self.read = nn.Linear(text_dim, out_dim)

    def forward(self, image, length=None, condition=None):
        latents = super().forward(image).values
        return Latents(latents + mean(condition, self.read)[:, None])


class TextDecoder(PatchDecoder):
    needs = takes = ("text",)

    def __init__(self, in_dim: int, text_dim: int, patch_size: int = 8, width: int = 16, depth: int = 1) -> None:
        super().__init__(in_dim, patch_size, width, depth)
        self.read = nn.Linear(text_dim, 3)

    def forward(self, latents, size, keep=None, condition=None):
        return super().forward(latents, size) + mean(condition, self.read)[:, :, None, None]


class TextObjective(Objective):
    """Squared error."""

    def forward(self, tokenizer, batch, step, generator):
        target = to_float(batch.image)
        made = tokenizer(target, condition=tokenizer.condition_of(batch), step=step, generator=generator)
        terms = {"l2": Loss((made.image - target).square().mean(), 1.0), **made.quantized.losses}
        return Losses(total(terms), terms, StepOutput(target, made.image, made.quantized))
'''
SECTIONS = {"encoder": "TextEncoder", "decoder": "TextDecoder", "objective": "TextObjective", "condition": "Letters"}
SHORT = (
    "quantizer=fsq", "image_size=16", "trainer.max_steps=2", "trainer.batch_size=4", "trainer.accelerator=cpu",
    "trainer.workers=0", "trainer.pictures_every=2", "trainer.log_every=1", "trainer.threads=1",
)  # fmt: skip


@pytest.fixture
def package(tmp_path, monkeypatch):
    """``toy_text.parts`` with a YAML file for each part, and images with captions."""
    (tmp_path / "toy_text").mkdir()
    (tmp_path / "toy_text/__init__.py").write_text("")
    (tmp_path / "toy_text/parts.py").write_text(PARTS)
    for section, name in SECTIONS.items():
        (tmp_path / "conf" / section).mkdir(parents=True)
        (tmp_path / "conf" / section / "toy.yaml").write_text(f"_target_: toy_text.parts.{name}\n")
    images = write_images(tmp_path / "images", 12)
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        path.with_suffix(".txt").write_text(f"thing {number}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("IMTOK_PACKAGES", "toy_text")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in ("toy_text", "toy_text.parts"):
        sys.modules.pop(name, None)


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["imtok", *map(str, words)])
    cli.main()


def train(monkeypatch, out):
    parts = [f"{section}=toy" for section in SECTIONS]
    conf = "hydra.searchpath=[file://conf]"
    run(monkeypatch, "train", conf, *parts, *SHORT, "data=folder", "data.path=images", f"out={out}")
    rows = (out / "metrics.csv").read_text().splitlines()
    return float(dict(zip(rows[0].split(","), rows[1].split(","), strict=True))["loss"])


def test_captions_go_all_the_way_with_parts_of_ones_own(package, monkeypatch):
    loss = train(monkeypatch, package / "run")
    assert (package / "run/images/step_2.png").is_file()

    run(
        monkeypatch,
        "eval",
        "tokenizer=run",
        "out=report",
        "metrics=[psnr,codes,rate,looks,linear_probe]",
        "skip_missing=true",
    )
    assert json.loads((package / "report/report.json").read_text())["metrics"]["psnr"] > 0
    run(monkeypatch, "export", "tokenizer=run", "out=tokens")
    assert sorted(caption for caption, _ in TokenStore(package / "tokens").told())[:2] == ["thing 0", "thing 1"]
    run(monkeypatch, "decode", "tokenizer=run", "ids=tokens", "out=pictures")
    assert len(content(package / "pictures")) == 13
    run(monkeypatch, "verify", "tokens", "tokenizer=run", "out=sample")
    run(monkeypatch, "publish", "tokenizer=run", "out=hub")

    tokenizer = Tokenizer.load(package / "hub")
    image, told = torch.rand(2, 3, 16, 16) * 2 - 1, tokenizer.condition_for(2, ["thing 1", "a fox"])
    features = {"text": told.text.detach(), "mask": told.mask}
    ids = torch.export.load(package / "hub/encoder.pt2").module()(image, **features)
    assert torch.equal(ids, tokenizer.encode(image, condition=told).ids)
    found = torch.export.load(package / "hub/decoder.pt2").module()(ids, **features)
    expected = tokenizer.decode(tokenizer.encode(image, condition=told), (16, 16), told)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)

    captions = sorted((package / "images").rglob("*.txt"))
    texts = [path.read_text() for path in captions]
    for path, text in zip(captions, texts[1:] + texts[:1], strict=True):
        path.write_text(text)
    assert train(monkeypatch, package / "shuffled") != loss
