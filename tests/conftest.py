"""Fixtures shared by all tests, and what ``pytest -m quick`` collects."""

from pathlib import Path

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    """``pytest -m quick`` imports only modules that hold quick tests: to collect all takes longer than to run them."""
    if config.option.markexpr == "quick" and config.args_source is pytest.Config.ArgsSource.TESTPATHS:
        modules = sorted(Path(__file__).parent.rglob("test_*.py"))
        config.args = [str(module) for module in modules if "pytest.mark.quick" in module.read_text()]


@pytest.fixture(autouse=True)
def _same_conditions():
    """The same random numbers and one thread for every test."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
