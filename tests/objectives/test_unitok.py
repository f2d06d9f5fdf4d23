"""UniTok's loss, as its recipe sets it, against the same written out by hand."""

import pytest
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from imtok.build import build_part, build_tokenizer
from imtok.config import register_schemas
from imtok.folders import config_folder
from imtok.pixels import to_float
from imtok.training.told_sizes import tell_sizes
from imtok.types import Batch

TEXTS = ["a red fox in the snow", "two jars", "", "the sky over a jar"]


@pytest.fixture(scope="module")
def built():
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        plain = OmegaConf.to_container(compose("train", overrides=["experiment=unitok", "size=tiny"]), resolve=True)
    plain["objective"]["adversary"] = None
    tokenizer = build_tokenizer(plain)
    tell_sizes(plain["objective"], tokenizer, plain["image_size"])
    return tokenizer.train(), build_part(plain, "objective")


def vector_quantized(latents, table):
    """Codes of one part, and codebook loss plus a quarter of the commitment loss."""
    latents, table = F.normalize(latents, dim=-1), F.normalize(table, dim=-1)
    codes = table[(latents @ table.T).argmax(-1)]
    return codes, 1.25 * (codes - latents).square().mean()


def clip(images, texts, scale):
    logits = scale * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    right = torch.arange(len(logits))
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def tower_by_hand(net, ids):
    """CLIP's text transformer block by block, read at the end of the text; two heads."""
    tokens = net.tokens.weight[ids] + net.positions[: len(ids)]
    later = torch.ones(len(ids), len(ids), dtype=torch.bool).triu(1)
    for block in net.trunk.blocks:
        parts = block.attention.query_key_value(block.norm1(tokens)).chunk(3, -1)
        heads = []
        for query, key, value in zip(*(part.chunk(2, -1) for part in parts), strict=True):
            scores = (query @ key.T / query.shape[-1] ** 0.5).masked_fill(later, -torch.inf)
            heads.append(scores.softmax(-1) @ value)
        tokens = tokens + block.attention.project(torch.cat(heads, -1))
        inner = F.linear(block.norm2(tokens), block.mlp[0].weight, block.mlp[0].bias)
        tokens = tokens + F.linear(F.gelu(inner), block.mlp[2].weight, block.mlp[2].bias)
    return F.layer_norm(tokens[-1], tokens.shape[-1:], net.norm.weight, net.norm.bias) @ net.project.weight.T


def test_the_total_is_pixels_lpips_the_mean_of_the_parts_and_a_contrast_of_the_mean_token_with_a_learned_tower(built):
    tokenizer, objective = built
    image = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    empty = torch.zeros(4, dtype=torch.long)
    batch = Batch(image, empty, empty, list("abcd"), caption=TEXTS)
    losses = objective(tokenizer, batch, 0, torch.Generator().manual_seed(0))

    target = to_float(image)
    latents = tokenizer.encoder(target).values
    found = [
        vector_quantized(own, part.weight)
        for own, part in zip(latents.split(8, -1), tokenizer.quantizer.parts, strict=True)
    ]
    codes = torch.cat([code for code, _ in found], -1)
    made = tokenizer.decoder(codes, (32, 32), None, None)
    contrast = objective.alignments["text"]
    head, tower = contrast.head, contrast.text
    mean = tokenizer.decoder.embed(codes).mean(1)
    images = F.layer_norm(mean, (64,), head.norm.weight, head.norm.bias, 1e-6) @ head.out.weight.T + head.out.bias
    images = images[[0, 1, 3]]  # the third has no caption
    ids = [[row for row in tower.ids([text])[0].tolist() if row] for text in TEXTS if text]
    texts = torch.stack([tower_by_hand(tower.net, torch.tensor(own)) for own in ids])
    expected = {
        "l1": 0.2 * (made - target).abs().mean(),
        "l2": (made - target).square().mean(),
        "lpips": 0.1 * objective.losses["lpips"](made, target),
        "quantizer": sum(loss for _, loss in found) / 4,
        "text": 0.1 * clip(images, texts, 1 / 0.07),
    }
    for name in ("l1", "l2", "text"):
        value, weight = losses.terms[name]
        torch.testing.assert_close(value * weight, expected[name], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(losses.total, torch.stack(list(expected.values())).sum(), rtol=1e-5, atol=1e-7)


def test_the_contrast_teaches_the_tower_and_nothing_stands_between_it_and_the_loss(built):
    tokenizer, objective = built
    image = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    empty = torch.zeros(4, dtype=torch.long)
    objective(tokenizer, Batch(image, empty, empty, list("abcd"), caption=TEXTS), 0, torch.Generator()).total.backward()
    contrast = objective.alignments["text"]
    assert not list(contrast.project.parameters())
    assert all(value.grad is not None and value.grad.any() for value in contrast.text.parameters())
