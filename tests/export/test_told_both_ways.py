"""Tokenizers whose encoder and decoder, or decoder alone, are told captions: every way gives the bits of forward."""

import numpy as np
import pytest
import torch
from PIL import Image
from training.runs import tiny_run, write_images

from imtok import cli
from imtok.export.store import TokenStore
from imtok.pixels import to_uint8
from imtok.tokenizer import Tokenizer
from imtok.training.run import train

PARTS = {  # encoder and decoder that read the text, or the decoder alone
    "textok": ("encoder=textok", "encoder.context_dim=8", "encoder.context_length=4", "encoder.patch_size=8"),
    "ta_titok": ("encoder=titok_s", "encoder.latent_layout=tokens", "encoder.patch_size=8"),
}
RUN = (
    *(f"{part}.{size}" for part in ("encoder", "decoder") for size in ("width=16", "depth=1", "heads=2")),
    "encoder.latents=4", "decoder=textok", "decoder.context_dim=8", "decoder.context_length=4", "decoder.patch_size=8",
    "condition=words", "condition.dim=8", "condition.length=4", "condition.drop=0.1", "quantizer=fsq", "data=folder",
    "trainer.max_steps=2",
)  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_export_decode_publish_and_programs_give_the_bits_of_forward_with_captions(name, tmp_path, monkeypatch):
    images = write_images(tmp_path / "images", 6)
    for number, path in enumerate(sorted(images.rglob("*.png"))):
        path.with_suffix(".txt").write_text(f"thing number {number}")
    train(tiny_run(tmp_path / "run", *PARTS[name], *RUN, f"data.path={images}", "data.val_fraction=0.3"))
    tokenizer = Tokenizer.load(tmp_path / "run")
    for words in (
        ("export", f"tokenizer={tmp_path}/run", f"out={tmp_path}/tokens"),
        ("decode", f"tokenizer={tmp_path}/run", f"ids={tmp_path}/tokens", f"out={tmp_path}/pictures"),
        ("publish", f"tokenizer={tmp_path}/run", f"out={tmp_path}/hub"),
    ):
        monkeypatch.setattr("sys.argv", ["imtok", *words])
        cli.main()
    programs = [torch.export.load(tmp_path / f"hub/{part}.pt2").module() for part in ("encoder", "decoder")]
    for row, (caption, ids) in enumerate(stored(tmp_path / "tokens")):
        condition = tokenizer.condition_for(1, [caption])
        told = {"text": condition.text.detach(), "mask": condition.mask}
        decoded = tokenizer.decode(ids, 16, condition)
        picture = np.asarray(Image.open(tmp_path / "pictures" / f"{row:06d}.png"))
        assert np.array_equal(to_uint8(decoded)[0].permute(1, 2, 0).numpy(), picture)
        image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(row)) * 2 - 1
        with torch.no_grad():
            whole = tokenizer(image, condition=condition)
            assert torch.equal(programs[0](image, **told), whole.quantized.ids)
            assert torch.equal(programs[1](whole.quantized.ids, **told), whole.image.clamp(-1, 1))
        assert torch.equal(tokenizer.encode(image, condition=condition).ids, whole.quantized.ids)
        other = tokenizer.decode(ids, 16, tokenizer.condition_for(1, ["another thing"]))
        assert not torch.equal(decoded, other)
    hub = Tokenizer.load(tmp_path / "hub")
    assert hub.fingerprint() == tokenizer.fingerprint()
    assert hub.condition.drop == 0.1


def stored(folder):
    """Caption and ids of each image of a store."""
    for shard in TokenStore(folder).shards():
        yield from (
            (caption, torch.from_numpy(ids.astype(np.int64)))
            for caption, ids in zip(shard.captions, shard.ids, strict=True)
        )
