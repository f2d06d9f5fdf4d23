"""Every recipe runs: on the meta device at its published size, and from images to a saved tokenizer at size=tiny."""

import csv
import json
import math
import re
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from recipes import composed

from imtok.build import build_tokenizer
from imtok.commands.train import Keys, build_run
from imtok.config import check_config, read_keys
from imtok.data.order.loader import evaluation_loader
from imtok.data.told import told, with_channels
from imtok.decoders.base import GenerativeDecoder
from imtok.encoders.cat import CATEncoder
from imtok.measures.psnr import PSNR
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.training.outlook import unlikely
from imtok.training.run import train
from imtok.training.steps import Task
from imtok.types import Tokens

CONFIGS = Path(__file__).parents[1] / "configs"
RECIPES = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))
QUICK = (
    "size=tiny",
    "data.crops_per_photo=4",
    "data.held_out=[chelsea]",
    "trainer.max_steps=2",
    "trainer.batch_size=2",
    "trainer.log_every=1",
    "trainer.save_every=2",
    "trainer.pictures_every=2",
    "trainer.accelerator=cpu",
    "trainer.workers=0",
)
PICTURES = [name for name in RECIPES if not name.endswith("_stage1")]  # stage 1 learns codes
EAGER = {"critic_start": 0, "generator_start": 0, "ramp_steps": 0}
TRAINED: set[str] = set()


@cache
def published(recipe):
    """The config of a recipe with what the user must give: where images and published weights are."""
    config = composed(recipe)
    needed = OmegaConf.missing_keys(config) | ({"init_from"} if config.freeze else set())
    for key in needed:
        OmegaConf.update(config, key, "somewhere")
    return config


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("recipe", RECIPES)
def test_its_published_config_has_no_mistake(recipe):
    config = published(recipe)
    assert check_config(config, "train") == []
    typed: Any = read_keys(config, Keys)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    assert unlikely(typed.trainer, typed.optimizer, plain) == []


@pytest.mark.parametrize("size", ["full", "small", "tiny"])
def test_seed_contrasts_captions_with_the_token_that_has_seen_all_others(size):
    config = composed("seed", f"size={size}")
    last = config.encoder.latents
    assert config.objective.alignments.text.source == "encoder"
    assert config.objective.alignments.text.tokens == [last - 1, last]


@pytest.mark.parametrize("recipe", RECIPES)
def test_its_first_lines_name_the_paper_and_the_published_figures(recipe):
    rows = (CONFIGS / "experiment" / f"{recipe}.yaml").read_text().splitlines()
    comment = [row for row in rows[: rows.index("defaults:")] if row.startswith("# ")]
    assert comment[0] == "# @package _global_"
    assert sum(row.startswith("# Published: ") for row in comment) == 1
    assert re.search(r"\(arXiv \d{4}\.\d{5}", " ".join(row.removeprefix("# ") for row in comment))
    assert published(recipe).name == recipe


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_page_of_recipes_has_it(recipe):
    """Written by ``python benchmarks/recipes.py --page``."""
    assert f"\n| `{recipe}` |" in (CONFIGS.parent / "docs" / "recipes.md").read_text()


@pytest.mark.parametrize("recipe", RECIPES)
def test_its_parts_fit_together_at_the_published_size(recipe, monkeypatch):
    """An image on the meta device: its latents are as many and as wide as the quantizer and the decoder expect."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # the meta device knows none
    monkeypatch.setattr(torch.Tensor, "__bool__", lambda _: True)  # nor values: what is asked of one is answered
    plain = OmegaConf.to_container(published(recipe), resolve=True)
    side, channels = plain["image_size"], plain["channels"]
    with torch.device("meta"):
        tokenizer = build_tokenizer(plain).eval()
        latents = tokenizer.encoder(torch.empty(1, channels, side, side)).values
        number = tokenizer.encoder.num_latents((side, side))
        assert latents.shape == (1, number, tokenizer.quantizer.in_dim)
        assert tokenizer.num_tokens((side, side)) == tokenizer.quantizer.num_tokens(number)
        if not isinstance(tokenizer.decoder, GenerativeDecoder):  # samples in many steps: done below
            codes = latents[..., : tokenizer.quantizer.dim]
            assert tokenizer.decoder(codes, (side, side)).shape == (1, channels, side, side)


@pytest.mark.parametrize("recipe", RECIPES)
def test_two_steps_at_size_tiny_train_measure_and_save_a_tokenizer(recipe, tmp_path, monkeypatch):
    """With its full objective: the critic is there from the first step on. DDP needs a gradient for every weight."""
    finish_step = Task._finish_step
    config = composed(recipe, *QUICK)
    assert check_config(config, "train") == []
    if config.objective.get("adversary"):
        config.objective.adversary.update(EAGER)
    same = OmegaConf.to_yaml(OmegaConf.masked_copy(config, [key for key in config if key != "name"]))
    if same in TRAINED:  # sizes of one family are one at size=tiny
        return
    TRAINED.add(same)
    config.out = str(tmp_path)
    run = build_run(config, tmp_path)
    before = weights(run.tokenizer)
    monkeypatch.setattr(Task, "_finish_step", lambda task: task._require_gradients() or finish_step(task))
    outcome = train(run)

    assert (outcome.step, outcome.signal) == (2, 0)
    assert outcome.report is not None
    assert outcome.report.image_size == (config.image_size, config.image_size)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert math.isfinite(summary["psnr"])
    rows = list(csv.DictReader((tmp_path / "metrics.csv").read_text().splitlines()))
    assert [row["step"] for row in rows] == ["1", "2"]
    assert all(math.isfinite(float(row["loss"])) for row in rows)
    assert all(float(row["gradient_norm"]) > 0 for row in rows)
    objective = config.objective
    expected = [*(objective.get("losses") or ()), *(objective.get("alignments") or ())]
    expected += ["adversarial", "critic"] if objective.get("adversary") else []
    named = {re.sub("_(estimate|tokenize)$", "", name) for name in rows[-1]}
    assert named >= set(expected)
    assert list((tmp_path / "images").iterdir())

    after = weights(run.tokenizer)
    trained = {name for name, value in after.items() if not torch.equal(value, before[name])}
    frozen = {name for name, _ in run.tokenizer.named_modules() if run.tokenizer.is_frozen(name)}
    frozen |= {part for part in ("encoder", "decoder") if not _learns(getattr(run.tokenizer, part))}
    if run.tokenizer.space is not None:
        frozen.add("space")
    assert trained
    assert not [name for name in trained if any(name.startswith(f"{part}.") for part in frozen)]
    for part in ("encoder", "decoder"):
        assert part in frozen or any(name.startswith(f"{part}.") for name in trained)

    tokenizer = Tokenizer.load(tmp_path)
    assert not any(module.training for module in tokenizer.modules())
    size = (config.image_size, config.image_size)
    held_out = with_channels(told(run.data.validation(config.image_size), tokenizer.condition), config.channels)
    batch = next(iter(evaluation_loader(held_out, 2, 0)))
    image, condition = to_float(batch.image), tokenizer.condition_of(batch)
    with torch.no_grad():
        reconstruction = tokenizer(image, condition=condition)
    assert torch.isfinite(reconstruction.image).all()
    if tokenizer.quantizer.vocab_sizes:
        tokens = tokenizer.encode(image, condition=condition)
        assert tokens.ids.shape[1:] == (tokenizer.num_tokens(size), len(tokenizer.quantizer.vocab_sizes))
        assert torch.equal(tokenizer.decode(tokens, size, condition), reconstruction.image.clamp(-1, 1))
    if tokenizer.decoder.flexible and tokenizer.quantizer.vocab_sizes:
        least = tokenizer.encoder.counts(size)[-1] if isinstance(tokenizer.encoder, CATEncoder) else 1
        first = tokenizer.decode(Tokens(tokens.ids[:, :least]), size)
        assert torch.isfinite(first).all()
        assert not torch.equal(first, reconstruction.image.clamp(-1, 1))


def _learns(part):
    return any(parameter.requires_grad for parameter in part.parameters())


def mean_colour(data, side, channels):
    """PSNR in dB of the held-out images, each painted in the mean colour of all training photographs."""
    batches = evaluation_loader(with_channels(data.evaluation(side, "train"), channels), 64, 0)
    means = torch.cat([batch.image.double().mean((2, 3)) for batch in batches])
    colour = means.mean(0).round()[None, :, None, None]
    metric = PSNR()
    for batch in evaluation_loader(with_channels(data.validation(side), channels), 64, 0):
        metric.update(colour.to(batch.image.dtype).expand_as(batch.image), batch.image)
    return metric.compute().item()


@pytest.mark.usefixtures("rehearsed")
@pytest.mark.parametrize(
    "recipe", [name if name == "seed" else pytest.param(name, marks=pytest.mark.slow) for name in PICTURES]
)
def test_a_tiny_run_ends_above_the_mean_colour(recipe, tmp_path):
    """As its settings have it, to its last step. One of the fastest is always run."""
    config = composed(recipe, "size=tiny", "trainer.accelerator=cpu", "trainer.workers=0", "trainer.pictures_every=0")
    for name in config.stages or ():
        before = composed(name, "size=tiny", "trainer.accelerator=cpu", "trainer.workers=0", "trainer.pictures_every=0")
        train(build_run(before, tmp_path / name))
        config.init_from = str(tmp_path / name)
    run = build_run(config, tmp_path / recipe)
    outcome = train(run)
    assert outcome.report is not None
    assert outcome.report.metrics["psnr"] > mean_colour(run.data, config.image_size, config.channels)
