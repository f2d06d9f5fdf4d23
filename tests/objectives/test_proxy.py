"""Learning to predict a frozen net's codes, and going on from there."""

import pytest
import torch
from torch.nn import functional as F

from imtok.losses.pixel import L2Loss
from imtok.objectives.proxy import ProxyObjective
from imtok.objectives.reconstruction import ReconstructionObjective
from imtok.pixels import to_float
from imtok.regularizers.prefix import NestedDropout
from imtok.spaces.maskgit import MaskGIT
from imtok.tokenizer import Tokenizer
from imtok.training.optimizers import make_optimizer
from imtok.training.settings import OptimizerSettings
from imtok.types import Batch

CNN = {"channels": 16, "multipliers": [1, 1, 2], "blocks": 1, "codes": 16, "code_dim": 8}
CONFIG = {
    "encoder": {
        "_target_": "imtok.encoders.titok.TiTokEncoder", "latents": 6, "patch_size": 8, "width": 16, "depth": 1,
        "heads": 2,
    },
    "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 4, "codebook_size": 32},
    "decoder": {
        "_target_": "imtok.decoders.titok_codes.TiTokCodeDecoder", "width": 16, "depth": 1, "heads": 2,
        "flexible": True, **CNN,
    },
    "image_size": 32,
}  # fmt: skip


@pytest.fixture
def tokenizer():
    return Tokenizer.from_config(CONFIG)


@pytest.fixture
def objective():
    return ProxyObjective(MaskGIT(**CNN), weight=0.5)


@pytest.fixture
def batch():
    image = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    return Batch(image, torch.tensor([0, 1]), torch.tensor([0, 1]), ["a", "b"])


def step(tokenizer, objective, batch):
    optimizer = make_optimizer(tokenizer, OptimizerSettings(lr=1e-2))
    losses = objective(tokenizer.train(), batch, 0, torch.Generator())
    losses.total.backward()
    optimizer.step()
    return losses


def changed(tokenizer, before):
    return {name for name, value in tokenizer.state_dict().items() if not torch.equal(value, before[name])}


def test_the_total_is_the_cross_entropy_to_the_frozen_codes_and_the_quantizers_losses(tokenizer, objective, batch):
    losses = objective(tokenizer, batch, 0, torch.Generator())
    image = to_float(batch.image)
    scores = tokenizer.decoder.logits(tokenizer.quantize(image).latents, (32, 32)).log_softmax(-1)
    entropy = -scores.gather(2, objective.space.ids(image)[..., None]).mean()
    torch.testing.assert_close(losses.terms["codes"].value, entropy)
    assert {name: loss.weight for name, loss in losses.terms.items()} == {"codes": 0.5, "codebook": 1.0, "commit": 0.25}
    torch.testing.assert_close(losses.total, sum(value * weight for value, weight in losses.terms.values()))
    assert losses.shown.image is None


def test_it_learns_the_codes_of_a_batch(tokenizer, objective, batch):
    optimizer = torch.optim.Adam(tokenizer.parameters(), lr=1e-2)
    entropies = []
    for index in range(40):
        optimizer.zero_grad()
        losses = objective(tokenizer.train(), batch, index, torch.Generator())
        losses.total.backward()
        optimizer.step()
        entropies.append(losses.terms["codes"].value.item())
    assert entropies[-1] < 0.5 * entropies[0]


def test_stage_one_leaves_the_frozen_nets_decoder_as_it_is(tokenizer, objective, batch):
    tokenizer.freeze(["decoder.codebook", "decoder.pixels"])
    before = {name: value.clone() for name, value in tokenizer.state_dict().items()}
    space = {name: value.clone() for name, value in objective.space.state_dict().items()}
    step(tokenizer, objective, batch)
    moved = changed(tokenizer, before)
    assert not any(name.startswith(("decoder.codebook", "decoder.pixels")) for name in moved)
    assert {"encoder.latents", "quantizer.weight", "decoder.head.2.weight"} <= moved
    assert all(torch.equal(value, space[name]) for name, value in objective.space.state_dict().items())


def test_stage_two_starts_from_stage_one_and_leaves_encoder_and_quantizer_as_they_are(tokenizer, batch):
    second = Tokenizer.from_config(CONFIG)
    second.load_state_dict(tokenizer.state_dict())
    second.freeze(["encoder", "quantizer"])
    before = {name: value.clone() for name, value in second.state_dict().items()}
    step(second, ReconstructionObjective({"l2": L2Loss()}), batch)
    moved = changed(second, before)
    assert not any(name.startswith(("encoder", "quantizer")) for name in moved)
    assert {name for name in before if name.startswith("decoder")} - moved == set()
    assert not second.encoder.training


def test_a_dropped_tail_shortens_the_sequence_in_stage_one_too(tokenizer, objective, batch):
    tokenizer.regularizer = NestedDropout("uniform", fewest=2, most=2, scope="batch")
    losses = objective(tokenizer.train(), batch, 0, torch.Generator().manual_seed(0))
    assert losses.shown.quantized.latents.shape[1] == 2
    image = to_float(batch.image)
    logits = tokenizer.decoder.logits(tokenizer.quantize(image).latents[:, :2], (32, 32))
    expected = F.cross_entropy(logits.flatten(0, 1), objective.space.ids(image).flatten())
    torch.testing.assert_close(losses.terms["codes"].value, expected)


def test_a_decoder_without_codes_or_with_another_number_is_refused(tokenizer, batch):
    with pytest.raises(
        ValueError, match="must be of 64 positions and 20 codes, as the frozen net has them, got 64 and 16"
    ):
        ProxyObjective(MaskGIT(**CNN | {"codes": 20}))(tokenizer, batch, 0, torch.Generator())
    plain = {"_target_": "imtok.decoders.titok.TiTokPixelDecoder", "width": 16, "depth": 1, "heads": 2}
    with pytest.raises(ValueError, match="decoder must predict codes for this objective, got TiTokPixelDecoder"):
        ProxyObjective(MaskGIT(**CNN))(Tokenizer.from_config(CONFIG | {"decoder": plain}), batch, 0, torch.Generator())
