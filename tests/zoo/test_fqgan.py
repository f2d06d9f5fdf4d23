"""FQGAN by hand: what published tensors make of an image, written from facts about the layout alone."""

import pytest
import torch
from torch.nn import functional as F
from zoo.containers import compose, fabricate

from imtok.zoo.importing import import_checkpoint
from imtok.zoo.registry import SOURCES

CODES = {
    "fqgan": {"vis": "visual_head", "sem": "semantic_head"},
    "fqgan with three codes": {
        "vis": "visual_head",
        "sem_mid": "semantic_head_mid",
        "sem_high": "semantic_head_high",
    },
}


class Net:
    """Functions of tensors by their names."""

    def __init__(self, tensors):
        self.tensors = {name: value.double() for name, value in tensors.items()}

    def convolution(self, name, maps, stride=1):
        weight = self.tensors[f"{name}.weight"]
        padding = 0 if stride == 2 else weight.shape[-1] // 2
        return F.conv2d(maps, weight, self.tensors[f"{name}.bias"], stride, padding)

    def activated(self, name, maps):
        return F.silu(self.group_norm(name, maps))

    def group_norm(self, name, maps):
        return F.group_norm(maps, 32, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], 1e-6)

    def layer_norm(self, name, tokens):
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return F.layer_norm(tokens, tokens.shape[-1:], weight, bias, 1e-5)

    def linear(self, name, tokens):
        return F.linear(tokens, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def residual(self, name, maps):
        hidden = self.convolution(f"{name}.conv1", self.activated(f"{name}.norm1", maps))
        hidden = self.convolution(f"{name}.conv2", self.activated(f"{name}.norm2", hidden))
        wide = f"{name}.nin_shortcut"
        return hidden + (self.convolution(wide, maps) if f"{wide}.weight" in self.tensors else maps)

    def attention(self, name, maps):
        normed = self.group_norm(f"{name}.norm", maps)
        query, key, value = (self.convolution(f"{name}.{part}", normed).flatten(2) for part in "qkv")
        weights = (query.mT @ key / maps.shape[1] ** 0.5).softmax(-1)
        seen = (value @ weights.mT).unflatten(2, maps.shape[2:])
        return maps + self.convolution(f"{name}.proj_out", seen)

    def middle(self, name, maps):
        return self.residual(f"{name}.2", self.attention(f"{name}.1", self.residual(f"{name}.0", maps)))

    def level(self, name, maps, blocks, attends):
        for block in range(blocks):
            maps = self.residual(f"{name}.res.{block}", maps)
            maps = self.attention(f"{name}.attn.{block}", maps) if attends else maps
        return maps

    def trunk(self, image):
        """Two levels, of which the second attends, and the middle."""
        maps = self.level("encoder.conv_blocks.0", self.convolution("encoder.conv_in", image), 2, False)
        maps = self.convolution("encoder.conv_blocks.0.downsample.conv", F.pad(maps, (0, 1, 0, 1)), stride=2)
        return self.middle("encoder.mid", self.level("encoder.conv_blocks.1", maps, 2, True))

    def adapter(self, name, maps, heads):
        tokens = maps.flatten(2).mT + self.tensors[f"{name}.positional_embedding"]
        tokens = self.layer_norm(f"{name}.ln_pre", tokens)
        for block in (f"{name}.transformer.0", f"{name}.transformer.1"):
            joined = self.layer_norm(f"{block}.ln_1", tokens)
            joined = joined @ self.tensors[f"{block}.attn.in_proj_weight"].T
            joined = joined + self.tensors[f"{block}.attn.in_proj_bias"]
            query, key, value = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in joined.chunk(3, -1))
            seen = (query @ key.mT / query.shape[-1] ** 0.5).softmax(-1) @ value
            tokens = tokens + self.linear(f"{block}.attn.out_proj", seen.transpose(1, 2).flatten(2))
            hidden = F.gelu(self.linear(f"{block}.mlp.c_fc", self.layer_norm(f"{block}.ln_2", tokens)))
            tokens = tokens + self.linear(f"{block}.mlp.c_proj", hidden)
        return self.layer_norm(f"{name}.ln_post", tokens).mT.unflatten(2, maps.shape[2:])

    def quantized(self, code, head, maps, heads):
        """Ids of one kind of code, and the map of its codes of unit length."""
        written = self.activated(f"encoder.norm_out_{code}", self.adapter(f"encoder.{head}.0", maps, heads))
        written = self.convolution(f"quant_conv_{code}", self.convolution(f"encoder.conv_out_{code}", written))
        table = F.normalize(self.tensors[f"quantize_{code}.embedding.weight"], dim=-1)
        ids = (F.normalize(written, dim=1).flatten(2).mT @ table.T).argmax(-1)
        return ids, table[ids].mT.unflatten(2, maps.shape[2:])

    def picture(self, codes):
        """The level that attends, nearest neighbours and a convolution, and the other level."""
        maps = self.convolution("decoder.conv_in", self.convolution("post_quant_conv", codes))
        maps = self.level("decoder.conv_blocks.0", self.middle("decoder.mid", maps), 3, True)
        maps = F.interpolate(maps, scale_factor=2.0, mode="nearest")
        maps = self.convolution("decoder.conv_blocks.0.upsample.conv", maps)
        maps = self.level("decoder.conv_blocks.1", maps, 3, False)
        return self.convolution("decoder.conv_out", self.activated("decoder.norm_out", maps))


@pytest.mark.parametrize("name", CODES)
def test_an_imported_tokenizer_of_fqgan_is_what_its_tensors_say(name, tmp_path):
    _, tensors, path = fabricate(name, tmp_path)
    tokenizer = import_checkpoint(SOURCES["fqgan"], path, compose, given={"heads": 4}).tokenizer.double()
    image = torch.rand(2, 3, 16, 16, dtype=torch.float64) * 2 - 1
    net = Net(tensors)
    with torch.no_grad():
        maps = net.trunk(image)
        parts = [net.quantized(code, head, maps, 4) for code, head in CODES[name].items()]
        expected = net.picture(torch.cat([codes for _, codes in parts], 1))
        found = tokenizer(image)
    assert torch.equal(found.quantized.ids, torch.stack([ids for ids, _ in parts], -1))
    torch.testing.assert_close(found.image, expected, rtol=0, atol=1e-9)
