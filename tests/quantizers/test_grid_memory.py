"""Grids and sign codes of any length cost memory linear in tokens: no tokens x codes matrix, no joint table.

In a process of its own, since the peak of a process never falls.
"""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys, torch
from imtok.quantizers.binary import Binary
from imtok.quantizers.bsq import BSQ
from imtok.quantizers.fsq import FSQ
from imtok.quantizers.gq import GQ
from imtok.quantizers.lfq import LFQ

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

def step(quantizer, tokens):
    latents = torch.randn(8, tokens, quantizer.dim, requires_grad=True)
    quantized = quantizer(latents)
    (quantized.latents.sum() + sum(value * weight for value, weight in quantized.losses.values())).backward()

torch.manual_seed(0)
torch.set_num_threads(1)
step(LFQ([4]), 4)  # libraries are loaded now
before = peak()
step({quantizer}, 256)
print(peak() - before)
"""


@pytest.mark.parametrize(
    ("quantizer", "mebibytes"),
    [
        ("LFQ([6, 12])", 96),
        ("LFQ([18, 18])", 96),
        ("BSQ([9] * 4)", 64),
        ("BSQ([16] * 4, entropy_bits=16)", 96),
        ("GQ(8, 8)", 64),
        ("GQ(16, 8)", 96),
        ("Binary([16] * 4)", 32),
        ("FSQ([4] * 16)", 32),
    ],
)
def test_memory_of_2048_tokens_stays_small(quantizer, mebibytes):
    script = SCRIPT.replace("{quantizer}", quantizer)
    root = Path(__file__).parents[2]
    result = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert float(result.stdout) < mebibytes
