"""A small GPT learns from an exported stream what single tokens do not tell, and its samples decode to pictures."""

import json

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn.functional import cross_entropy

from imtok.data.sources.photos import Photos
from imtok.export.convert import convert
from imtok.export.feed import ListFeed
from imtok.export.formats.nanogpt import NanoGPT
from imtok.export.pictures import decode_ids
from imtok.export.sequences import Sequencing
from imtok.export.store import TokenStore
from imtok.export.tokens import export_tokens
from imtok.tokenizer import Tokenizer
from imtok.types import Latents

SIDE, CODES, WIDTH = 32, 64, 64


class GPT(nn.Module):
    """Two blocks of causal attention over embedded tokens and places."""

    def __init__(self, vocabulary, length):
        super().__init__()
        self.tokens, self.places = nn.Embedding(vocabulary, WIDTH), nn.Embedding(length, WIDTH)
        layer = nn.TransformerEncoderLayer(WIDTH, 4, 4 * WIDTH, 0.0, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(WIDTH, vocabulary)

    def forward(self, ids):
        length = ids.shape[1]
        mask = nn.Transformer.generate_square_subsequent_mask(length)
        return self.head(self.blocks(self.tokens(ids) + self.places.weight[:length], mask, is_causal=True))


def mean_colours():
    """A tokenizer that needs no training: a patch is the nearest of 64 colours, which decode to flat patches."""
    part = {"patch_size": 8, "width": 16, "depth": 1}
    torch.manual_seed(0)
    tokenizer = Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", **part},
            "quantizer": {"_target_": "imtok.quantizers.fsq.FSQ", "levels": [4, 4, 4]},
            "decoder": {"_target_": "imtok.decoders.patch.PatchDecoder", **part},
            "image_size": SIDE,
        }
    )

    class Colours(nn.Module):
        def forward(self, image, length=None, condition=None):
            return Latents(2 * nn.functional.avg_pool2d(image, 8).flatten(2).mT)

    tokenizer.encoder.forward = Colours().forward
    return tokenizer.eval()


def test_a_generator_learns_from_an_export_and_its_samples_decode(tmp_path):
    tokenizer = mean_colours()
    images = Photos(held_out=("rocket",)).evaluation(SIDE, "train")
    export_tokens(tokenizer, ListFeed(images, batch_size=256), tmp_path / "tokens")
    store = TokenStore(tmp_path / "tokens")
    convert(store, NanoGPT(val_fraction=0.1), tmp_path / "stream")
    vocab = json.loads((tmp_path / "stream/vocab.json").read_text())
    length = store.manifest["tokens"] + 3
    train, val = (
        torch.from_numpy(np.fromfile(tmp_path / f"stream/{name}.bin", np.uint16).astype(np.int64)).view(-1, length)
        for name in ("train", "val")
    )

    gpt = GPT(vocab["vocab_size"], length)
    optimizer = torch.optim.AdamW(gpt.parameters(), 3e-3)
    for _ in range(150):
        rows = train[torch.randint(len(train), (64,))]
        loss = cross_entropy(gpt(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    gpt.eval()

    codes = slice(2, length - 1)
    counts = torch.bincount(train[:, codes].flatten(), minlength=CODES).double() + 1
    logs = (counts / counts.sum()).log()
    unigram = -logs[val[:, codes]].mean()  # what the frequencies of training say of the held-out tokens
    with torch.no_grad():
        logits = gpt(val[:, :-1])[:, 1:-1]
        entropy = cross_entropy(logits.flatten(0, 1), val[:, codes].flatten())
        assert entropy < 0.9 * unigram

        sampled = torch.tensor([[vocab["begin"], vocab["no_class"]]] * 4)
        for _ in range(store.manifest["tokens"]):
            scores = gpt(sampled)[:, -1, :CODES]
            sampled = torch.cat([sampled, scores.softmax(-1).multinomial(1)], 1)
    ids, _ = Sequencing.of(store, None).split(sampled[:, 2:].numpy())
    np.save(tmp_path / "sampled.npy", ids)
    assert decode_ids(tokenizer, tmp_path / "sampled.npy", tmp_path / "pictures", (SIDE, SIDE)) == 4
    for path in sorted((tmp_path / "pictures").glob("*.png")):
        with Image.open(path) as picture:
            assert picture.size == (SIDE, SIDE)
