"""Every quantizer compiles to one graph, and the graph computes the same.

In a process of its own: the shape checks that the test run puts around every function cannot be traced.
"""

import subprocess
import sys
from pathlib import Path

import pytest
from encoders.presets import one_of_each_class
from quantizers.contract import NAMES, NESTED, WITHOUT_IDS

SCRIPT = """
import sys, torch
sys.path.insert(0, "tests")
from imtok.construct import construct
from quantizers.contract import config, length, smaller

torch.manual_seed(0)
torch.set_num_threads(1)
for name in sys.argv[1:]:
    torch.compiler.reset()
    quantizer = construct(smaller(config(name))).eval()
    latents = torch.randn(2, length(quantizer), quantizer.in_dim)
    compiled, plain = torch.compile(quantizer, backend="eager", fullgraph=True)(latents), quantizer(latents)
    assert torch.equal(compiled.ids, plain.ids) and torch.equal(compiled.latents, plain.latents), name
    print(name)
"""


ONE_OF_EACH = [name for name in one_of_each_class("quantizer") if name not in WITHOUT_IDS]


@pytest.mark.parametrize(
    "names", [[*ONE_OF_EACH, *NESTED], pytest.param(NAMES, marks=pytest.mark.slow)], ids=["one_of_each_class", "all"]
)
def test_quantizers_compile_to_one_graph(names):
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *names], cwd=root, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == names
