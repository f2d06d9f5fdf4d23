"""Every quantizer compiles to one graph, and the graph computes the same.

In a process of its own: the shape checks that the test run puts around every function cannot be traced.
"""

import subprocess
import sys
from pathlib import Path

from quantizers.contract import NAMES

SCRIPT = """
import sys, torch
sys.path.insert(0, "tests")
from imtok.construct import construct
from quantizers.contract import NAMES, config, length, smaller

torch.manual_seed(0)
torch.set_num_threads(1)
for name in NAMES:
    torch.compiler.reset()
    quantizer = construct(smaller(config(name))).eval()
    latents = torch.randn(2, length(quantizer), quantizer.dim)
    compiled, plain = torch.compile(quantizer, backend="eager", fullgraph=True)(latents), quantizer(latents)
    assert torch.equal(compiled.ids, plain.ids) and torch.equal(compiled.latents, plain.latents), name
    print(name)
"""


def test_quantizers_compile_to_one_graph():
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", SCRIPT], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.split() == NAMES
