"""What only a checkpoint of AliTok has."""

import pytest
from zoo.containers import CASES, compose, fabricate, imported, source_of

from imtok.errors import InputError
from imtok.zoo.importing import import_checkpoint
from imtok.zoo.registry import SOURCES


@pytest.mark.parametrize(("name", "order"), [("alitok", "full"), ("alitok first stage", "causal")])
def test_the_order_of_the_decoder_shows_in_the_file(name, order, tmp_path):
    _, _, path = fabricate(name, tmp_path)
    assert imported(name, path).tokenizer.config["decoder"]["order"] == order


def test_fewer_tokens_than_patches_are_refused(tmp_path):
    _, tensors, path = fabricate("alitok", tmp_path)
    CASES["alitok"].write(tensors | {"latent_tokens": tensors["latent_tokens"][:15]}, path)
    with pytest.raises(InputError, match="latent_tokens must be at least the 16 patches of the image, got 15"):
        imported("alitok", path)


@pytest.mark.parametrize(("name", "other"), [("alitok", "titok"), ("titok one-stage", "alitok")])
def test_files_of_titok_and_alitok_are_told_apart(name, other, tmp_path):
    _, _, path = fabricate(name, tmp_path)
    with pytest.raises(InputError, match=f"give source={source_of(name).name}"):
        import_checkpoint(SOURCES[other], path, compose, others=tuple(SOURCES.values()))
