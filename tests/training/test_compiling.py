"""What of a run is compiled, and that a compiled run learns what an eager one learns."""

import csv
import logging
import re

import pytest
import torch
import torch._dynamo.config as dynamo
import torch._functorch.config as functorch
from encoders.presets import unchecked
from recipes import composed
from torch import nn
from torch._dynamo.utils import counters
from training.compiled import STEPS
from training.launch import Launched

from imtok.commands.train import build_run
from imtok.nn.qformer import QFormer
from imtok.nn.taps import tapped
from imtok.nn.transformer import Transformer
from imtok.training import compiling
from imtok.training.compiling import compiled, compiles, parts_of
from imtok.training.records import SPEED

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FAMILIES = ("llamagen_vq16", "titok_bl64", "flextok_d12", "bsq_vit", "gigatok_ss", "open_magvit2", "ibq", "retok")


@pytest.mark.parametrize("device", [CPU, CUDA])
def test_false_is_never_and_true_wherever_there_is_a_compiler(device, monkeypatch):
    monkeypatch.setattr(compiling, "has_triton", lambda: True)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: f"/bin/{name}")
    assert not compiles(False, device)
    assert compiles(True, device)
    assert compiles("auto", device) == (device == CUDA)


@pytest.mark.parametrize(
    ("device", "triton", "compiler", "line"),
    [
        (CUDA, False, True, "nothing is compiled: triton is not installed"),
        (CUDA, True, False, r"there is no C compiler \(gcc, clang, cc, or the one that CC names\)"),
        (CPU, False, False, r"there is no C compiler \(g\+\+, clang\+\+, c\+\+, or the one that CXX names\)"),
    ],
)
def test_without_a_compiler_one_line_says_so(device, triton, compiler, line, monkeypatch, caplog):
    monkeypatch.setattr(compiling, "has_triton", lambda: triton)
    monkeypatch.setattr(compiling.shutil, "which", lambda name: name if compiler else None)
    for variable in ("CC", "CXX"):
        monkeypatch.delenv(variable, raising=False)
    with caplog.at_level(logging.WARNING):
        assert not compiles(True, device)
    (message,) = caplog.messages
    assert re.search(line, message)


def test_torch_is_set_for_the_length_of_a_run_alone():
    before = functorch.backward_pass_autocast, dynamo.skip_nnmodule_hook_guards
    with compiled([]):
        assert (functorch.backward_pass_autocast, dynamo.skip_nnmodule_hook_guards) == ("off", False)
    assert (functorch.backward_pass_autocast, dynamo.skip_nnmodule_hook_guards) == before


def test_encoder_quantizer_decoder_critics_and_losses_are_compiled(tmp_path):
    run = build_run(composed("llamagen_vq16", *STEPS), tmp_path)
    names = [type(part).__name__ for part in parts_of(run.tokenizer, run.objective)]
    assert names == ["CNNEncoder", "VQ", "CNNDecoder", "PatchGAN", "L2Loss", "LPIPSLoss"]
    with_tf32 = [type(part).__name__ for part in parts_of(run.tokenizer, run.objective, tf32=True)]
    assert with_tf32 == ["CNNEncoder", "CNNDecoder", "PatchGAN"]


@pytest.mark.parametrize("block", [Transformer, QFormer])
def test_a_tap_in_blocks_that_are_computed_again_breaks_no_graph(block):
    """GigaTok's largest nets align a block of theirs and keep no activations (arXiv 2504.08736)."""
    net = nn.ModuleDict({"trunk": block(width=16, depth=3, heads=2, checkpoint=True)}).train()
    inputs = [torch.randn(2, 5, 16)]
    if block is QFormer:
        inputs += [torch.randn(2, 7, 16), torch.randn(5, 16), torch.randn(7, 16)]

    def gradients():
        net.zero_grad()
        with tapped(net, ["trunk.blocks.1"]) as outputs:
            made = net["trunk"](*inputs)
        (made.square().mean() + outputs["trunk.blocks.1"].pow(3).mean()).backward()
        return [parameter.grad.clone() for parameter in net.parameters()]

    eager = gradients()
    counters.clear()
    with compiled([]):
        net["trunk"].compile(backend="aot_eager")
        with unchecked():
            torch.testing.assert_close(gradients(), eager)
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 1


def rows_of(folder):
    rows = csv.DictReader((folder / "metrics.csv").read_text().splitlines())
    return [{key: float(value) for key, value in row.items() if key not in SPEED and value} for row in rows]


def require_alike(recipe, folder, backend):
    process = Launched("training.compiled:train_both", [recipe, str(folder), backend], folder / "log.txt")
    assert process.wait(1800) == 0, process.output
    eager, fast = rows_of(folder / "eager"), rows_of(folder / "compiled")
    assert len(eager) == 3
    for one, other in zip(eager, fast, strict=True):
        assert one == pytest.approx(other, rel=1e-4, abs=1e-6)
    return (folder / "parts.txt").read_text().splitlines()


def test_a_run_with_a_critic_learns_the_same_compiled(tmp_path):
    """With the compiler's graphs and the kernels of eager torch."""
    parts = require_alike("llamagen_vq16", tmp_path, "aot_eager")
    assert parts == ["CNNEncoder", "VQ", "CNNDecoder", "PatchGAN", "L2Loss", "LPIPSLoss"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", FAMILIES)
def test_a_run_compiled_for_the_cpu_learns_what_an_eager_one_learns(recipe, tmp_path):
    require_alike(recipe, tmp_path, "inductor")
