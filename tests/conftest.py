"""Fixtures shared by all tests."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _same_conditions():
    """The same random numbers and one thread for every test."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
