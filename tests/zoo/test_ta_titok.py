"""TA-TiTok with text, from the published layout through every command, against its own modules with random weights."""

import json

import numpy as np
import pytest
import torch
from einops import rearrange
from PIL import Image
from safetensors.torch import save_file
from torch import nn
from training.runs import write_images

from imtok import cli
from imtok.conditions.clip import CLIPText
from imtok.conditions.named import Told
from imtok.data.order.loader import evaluation_loader
from imtok.data.sources.folder import Folder
from imtok.data.told import told
from imtok.export.store import TokenStore
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer

SIDE, PATCH, WIDTH, HEADS, DEPTH, LATENTS, CODES, DIM = 32, 8, 128, 2, 2, 6, 40, 12
GRID = SIDE // PATCH


class PublishedBlock(nn.Module):
    """A block by torch's own attention, with the published names."""

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(WIDTH, 4 * WIDTH), "c_proj": nn.Linear(4 * WIDTH, WIDTH)})

    def forward(self, tokens):
        normed = self.ln_1(tokens)
        tokens = tokens + self.attn(normed, normed, normed, need_weights=False)[0]
        return tokens + self.mlp["c_proj"](nn.functional.gelu(self.mlp["c_fc"](self.ln_2(tokens))))


class PublishedTrunk(nn.Module):
    """What both halves have."""

    def __init__(self):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.empty(1, WIDTH))
        self.positional_embedding = nn.Parameter(torch.empty(GRID**2 + 1, WIDTH))
        self.latent_token_positional_embedding = nn.Parameter(torch.empty(LATENTS, WIDTH))
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = nn.ModuleList(PublishedBlock() for _ in range(DEPTH))

    def blocks(self, grid, *others):
        first = self.class_embedding.expand(len(grid), 1, WIDTH)
        tokens = self.ln_pre(torch.cat([torch.cat([first, grid], 1) + self.positional_embedding, *others], 1))
        for block in self.transformer:
            tokens = block(tokens)
        return tokens


class PublishedEncoder(PublishedTrunk):
    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.conv_out = nn.Conv2d(WIDTH, DIM, 1)

    def forward(self, pixels, latents):
        latents = latents.expand(len(pixels), -1, -1) + self.latent_token_positional_embedding
        tokens = self.blocks(self.patch_embed(pixels).flatten(2).transpose(1, 2), latents)
        read = self.ln_post(tokens[:, 1 + GRID**2 :])
        return self.conv_out(read.transpose(1, 2)[..., None]).squeeze(-1).transpose(1, 2)


class PublishedDecoder(PublishedTrunk):
    def __init__(self):
        super().__init__()
        self.decoder_embed = nn.Linear(DIM, WIDTH)
        self.mask_token = nn.Parameter(torch.empty(1, 1, WIDTH))
        self.text_guidance_proj = nn.Linear(768, WIDTH)
        self.text_guidance_positional_embedding = nn.Parameter(torch.empty(77, WIDTH))
        self.ffn = nn.ModuleList([nn.Conv2d(WIDTH, 3 * PATCH**2, 1)])
        self.conv_out = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, codes, text):
        latents = self.decoder_embed(codes) + self.latent_token_positional_embedding
        words = self.text_guidance_proj(text) + self.text_guidance_positional_embedding
        tokens = self.blocks(self.mask_token.expand(len(codes), GRID**2, WIDTH), latents, words)
        features = rearrange(self.ln_post(tokens[:, 1 : 1 + GRID**2]), "b (h w) d -> b d h w", h=GRID)
        patches = rearrange(self.ffn[0](features), "b (p q c) h w -> b c (h p) (w q)", p=PATCH, q=PATCH)
        return self.conv_out(patches)


class Published(nn.Module):
    """TA-TiTok with codes, as its authors lay it out; pixels in [0, 1]."""

    def __init__(self):
        super().__init__()
        self.latent_tokens = nn.Parameter(torch.empty(LATENTS, WIDTH))
        self.encoder, self.decoder = PublishedEncoder(), PublishedDecoder()
        self.quantize = nn.ModuleDict({"embedding": nn.Embedding(CODES, DIM)})
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for value in self.parameters():
                value.normal_(std=0.2, generator=generator)
            images = torch.rand(7, 3, SIDE, SIDE, generator=generator)
            found = self.encoder(images, self.latent_tokens).flatten(0, 1)  # codes where latents are
            self.quantize["embedding"].weight.copy_(found[:CODES])

    @torch.no_grad()
    def ids(self, image):
        latents = self.encoder((image + 1) / 2, self.latent_tokens)
        return torch.cdist(latents, self.quantize["embedding"].weight[None]).argmin(-1)

    @torch.no_grad()
    def image(self, ids, text):
        return (self.decoder(self.quantize["embedding"](ids), text) * 2 - 1).clamp(-1, 1)


def features(captions):
    """What stands for CLIP: numbers that each caption decides."""
    rows = [
        torch.randn(77, 768, generator=torch.Generator().manual_seed(sum(caption.encode()))) for caption in captions
    ]
    return torch.stack(rows)


@pytest.fixture
def clip(monkeypatch):
    """A machine on which CLIP is found."""
    monkeypatch.setattr(CLIPText, "read", lambda self, path: nn.Identity())
    monkeypatch.setattr(CLIPText, "_find", lambda self: None)
    monkeypatch.setattr(CLIPText, "features", lambda self, net, captions, device: Told(features(captions)))


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["imtok", *map(str, words)])
    cli.main()


@pytest.mark.usefixtures("clip")
def test_import_eval_export_and_decode_equal_the_published_modules(tmp_path, monkeypatch):
    published = Published().eval()
    (tmp_path / "hub").mkdir()
    save_file(published.state_dict(), tmp_path / "hub/model.safetensors")
    facts = {"model": {"vq_model": {"is_legacy": False, "use_l2_norm": False}}}
    (tmp_path / "hub/config.json").write_text(json.dumps(facts))
    pictures = write_images(tmp_path / "images", 5)
    for number, path in enumerate(sorted(pictures.rglob("*.png"))):
        path.with_suffix(".txt").write_text(f"picture {number}")
    tokenizer, data = f"tokenizer={tmp_path / 'ours'}", ("data=folder", f"data.path={pictures}")
    run(monkeypatch, "import", "source=titok", f"path={tmp_path / 'hub/model.safetensors'}", f"out={tmp_path / 'ours'}")
    run(monkeypatch, "export", tokenizer, *data, f"out={tmp_path / 'tokens'}")
    run(monkeypatch, "decode", tokenizer, f"ids={tmp_path / 'tokens'}", f"out={tmp_path / 'decoded'}")
    run(
        monkeypatch,
        "eval",
        tokenizer,
        *data,
        "split=all",
        "metrics=[psnr]",
        "skip_missing=true",
        f"out={tmp_path / 'report'}",
    )

    ours = Tokenizer.load(tmp_path / "ours")
    batch = next(iter(evaluation_loader(told(Folder(pictures).evaluation(SIDE, "all"), ours.condition), 5, 0)))
    image, text = to_float(batch.image), features(batch.caption)
    ids = published.ids(image)
    assert len(set(batch.caption)) == 5
    assert ids.unique().numel() > 3
    expected = published.image(ids, text)
    assert not torch.allclose(expected, published.image(ids, text.flip(0)))

    condition = ours.condition_of(batch)
    assert torch.equal(ours.encode(image, condition=condition).ids[..., 0], ids)
    torch.testing.assert_close(ours.decode(ids, SIDE, condition), expected, atol=1e-5, rtol=1e-5)
    shard = TokenStore(tmp_path / "tokens").shard(0)
    assert shard.captions == batch.caption
    assert np.array_equal(shard.ids[:, 0, :, 0], ids.numpy())
    for row in range(5):
        picture = torch.from_numpy(np.array(Image.open(tmp_path / "decoded" / f"{row:06d}.png")))
        assert (to_float(picture.permute(2, 0, 1)) - expected[row]).abs().max() <= 1 / 255 + 1e-5  # half a level
    error = (expected - image).square().mean((1, 2, 3))
    measured = json.loads((tmp_path / "report/report.json").read_text())["metrics"]["psnr"]
    assert measured == pytest.approx(float((10 * torch.log10(4 / error)).mean()), abs=0.02)
