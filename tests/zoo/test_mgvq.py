"""What only a checkpoint of MGVQ has."""

import pytest
import torch
from zoo.containers import CASES, fabricate, imported

from imtok.errors import InputError


def test_codes_that_do_not_fill_the_groups_are_refused(tmp_path):
    _, tensors, path = fabricate("mgvq", tmp_path)
    CASES["mgvq"].write(tensors | {"quantize.embedding.weight": torch.zeros(49, 8)}, path)
    with pytest.raises(InputError, match="49 x 8 is no codebook for each of 2 groups of 8"):
        imported("mgvq", path)


def test_the_masking_of_its_training_is_off_as_in_the_public_code(tmp_path):
    _, _, path = fabricate("mgvq", tmp_path)
    found = imported("mgvq", path)
    assert found.tokenizer.regularizer is None
    assert "attention: heads of 32 channels, as in the public code" in found.assumed
