"""Float32 that is float32: TF32 for the length of a block, and never inside what computes exactly."""

import pytest
import torch

from imtok.measures.inference import evaluating
from imtok.nn.exact import exactly, has_tf32, with_tf32
from imtok.nn.noise import normal_like
from imtok.tokenizer import Tokenizer

PLACES = (torch.backends.cuda.matmul, torch.backends.cudnn)
PATCHES = {"patch_size": 8, "width": 8, "depth": 1}


@pytest.fixture(autouse=True)
def _as_before():
    before = [place.allow_tf32 for place in PLACES]
    yield
    assert [place.allow_tf32 for place in PLACES] == before


def test_tf32_holds_for_a_block_also_where_it_fails():
    for on in (True, False):
        with with_tf32(on):
            assert has_tf32() is on
            assert [place.allow_tf32 for place in PLACES] == [on, on]
    with pytest.raises(KeyError), with_tf32(True):
        raise KeyError


def test_what_computes_exactly_on_a_gpu_has_none():
    with with_tf32(True):
        with exactly(torch.device("cpu")):  # which has none at all
            assert has_tf32()
        with exactly(torch.device("cuda")):
            assert not has_tf32()
            assert not torch.is_autocast_enabled("cuda")
        assert has_tf32()


def test_nothing_is_measured_or_exported_with_it():
    tokenizer = Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **PATCHES},
            "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [4, 4]},
            "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **PATCHES},
            "image_size": 16,
        }
    )
    with with_tf32(True), evaluating(tokenizer):
        assert not has_tf32()


def test_noise_of_a_processor_is_that_of_the_generator():
    values = torch.zeros(2, 3, dtype=torch.float64)
    drawn = torch.randn(2, 3, generator=torch.Generator().manual_seed(3))
    assert torch.equal(normal_like(values, torch.Generator().manual_seed(3)), drawn.double())


@pytest.mark.cuda
def test_noise_of_a_gpu_is_drawn_there_and_belongs_to_the_seed():
    values = torch.zeros(2, 3, device="cuda")
    one, same, other = (normal_like(values, torch.Generator().manual_seed(seed)) for seed in (3, 3, 4))
    assert one.is_cuda
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
