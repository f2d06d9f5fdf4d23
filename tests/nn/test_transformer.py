"""The trunk against torch's layer, and what its options promise."""

import pytest
import torch
from encoders.presets import unchecked
from torch import nn

from imtok.nn.modulation import Modulation
from imtok.nn.positions import rotations
from imtok.nn.transformer import Block, BlockStyle, Transformer
from imtok.nn.visibility import visibility

WIDTH, HEADS, TOKENS = 24, 4, 7
PLAIN = BlockStyle()
FLEXTOK = BlockStyle(norm="layer_plain", mlp="swiglu", mlp_ratio=8 / 3, bias=False, query_key_norm="layer_plain")
INSTELLA = BlockStyle(norm="rms", eps=1e-6, mlp="swiglu", bias=False, query_key_norm="rms")
STYLES = {"plain": PLAIN, "flextok": FLEXTOK, "instella": INSTELLA}


def tokens(images=2):
    return torch.randn(images, TOKENS, WIDTH, dtype=torch.float64)


def woken(trunk):
    """Every weight away from its start, so that nothing is zero by accident."""
    for parameter in trunk.parameters():
        nn.init.normal_(parameter, std=0.2)
    return trunk.double()


def test_it_is_torchs_pre_norm_layer_with_its_weights():
    reference = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(
            WIDTH, HEADS, 4 * WIDTH, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        ),
        num_layers=2,
        enable_nested_tensor=False,
    ).double()
    for parameter in reference.parameters():
        nn.init.normal_(parameter, std=0.3)
    trunk = Transformer(WIDTH, depth=2, heads=HEADS).double()
    for block, layer in zip(trunk.blocks, reference.layers, strict=True):
        names = {
            "norm1": layer.norm1,
            "norm2": layer.norm2,
            "mlp.0": layer.linear1,
            "mlp.2": layer.linear2,
            "attention.project": layer.self_attn.out_proj,
        }
        weights = {f"{name}.{key}": value for name, part in names.items() for key, value in part.state_dict().items()}
        weights["attention.query_key_value.weight"] = layer.self_attn.in_proj_weight
        weights["attention.query_key_value.bias"] = layer.self_attn.in_proj_bias
        block.load_state_dict(weights)
    x, visible = tokens(), torch.ones(TOKENS, TOKENS, dtype=torch.bool).tril()
    torch.testing.assert_close(trunk(x), reference(x), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(trunk(x, visible), reference(x, mask=~visible), rtol=1e-10, atol=1e-10)


def test_a_gated_style_has_the_published_hidden_widths():
    """FlexTok: hidden int(2 x 4 x width / 3), where 1792 gives 4778 and 768 and 1152 whole numbers."""
    style = BlockStyle(mlp="swiglu", mlp_ratio=8 / 3)
    for width, hidden in ((768, 2048), (1152, 3072), (1792, 4778)):
        with torch.device("meta"):
            trunk = Transformer(width, depth=1, heads=width // 64, style=style)
        assert trunk.blocks[0].mlp.gate.out_features == hidden


def test_a_modulated_block_is_the_identity_at_the_start():
    trunk = Transformer(WIDTH, depth=2, heads=HEADS, modulated_segments=2).double()
    x, condition = tokens(), torch.randn(2, WIDTH, dtype=torch.float64)
    assert torch.equal(trunk(x, condition=condition, lengths=[4, 3]), x)
    changed = woken(trunk)(x, condition=condition, lengths=[4, 3])
    assert not torch.allclose(changed, x)


def test_a_modulated_block_is_the_formula():
    """Shift, scale and gate in that order, for attention and then for the MLP; norm, modulate, transform, gate, add."""
    trunk = woken(Transformer(WIDTH, depth=1, heads=HEADS, modulated_segments=1))
    (block,), x, condition = trunk.blocks, tokens(), torch.randn(2, WIDTH, dtype=torch.float64)
    linear = block.modulation.linear
    parts = (nn.functional.silu(condition) @ linear.weight.T + linear.bias)[:, None].chunk(6, -1)
    expected = x + parts[2] * block.attention(block.norm1(x) * (1 + parts[1]) + parts[0])
    expected = expected + parts[5] * block.mlp(block.norm2(expected) * (1 + parts[4]) + parts[3])
    torch.testing.assert_close(trunk(x, condition=condition), expected, rtol=1e-12, atol=1e-12)


def test_without_a_condition_a_modulated_trunk_is_a_plain_one():
    trunk = woken(Transformer(WIDTH, depth=1, heads=HEADS, modulated_segments=1))
    plain = Transformer(WIDTH, depth=1, heads=HEADS).double()
    plain.load_state_dict({k: v for k, v in trunk.state_dict().items() if "modulation" not in k})
    x = tokens()
    assert torch.equal(trunk(x), plain(x))


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("segments", [0, 2])
def test_checkpointing_changes_no_number(style, segments):
    arguments = {"width": WIDTH, "depth": 3, "heads": HEADS, "style": STYLES[style], "modulated_segments": segments}
    plain, saving = Transformer(**arguments), Transformer(**arguments, checkpoint=True)
    woken(plain)
    saving.double().load_state_dict(plain.state_dict())
    x = tokens()
    condition = torch.randn(2, WIDTH, dtype=torch.float64) if segments else None
    visible, rotation = (
        visibility([4, 3], [["full", "none"], ["full", "causal"]]),
        rotations(torch.arange(TOKENS, dtype=torch.float64)[:, None], [WIDTH // HEADS]),
    )
    gradients = []
    for trunk in (plain, saving):
        leaf = x.clone().requires_grad_()
        out = trunk(leaf, visible, rotation, condition, [4, 3])
        out.square().sum().backward()
        gradients.append([out, leaf.grad, *(parameter.grad for parameter in trunk.parameters())])
    for one, other in zip(*gradients, strict=True):
        assert torch.equal(one, other)


def test_checkpointing_keeps_fewer_activations():
    """What is saved for the backward pass, counted by the hooks of autograd."""
    kept = []
    for checkpoint in (False, True):
        trunk = Transformer(WIDTH, depth=4, heads=HEADS, checkpoint=checkpoint)
        sizes = []

        def note(value, sizes=sizes):
            sizes.append(value.numel())
            return value

        with torch.autograd.graph.saved_tensors_hooks(note, lambda value: value):
            trunk(torch.randn(2, TOKENS, WIDTH, requires_grad=True))
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 5


def test_checkpointing_draws_the_same_paths_in_both_passes():
    arguments = {"width": WIDTH, "depth": 3, "heads": HEADS, "drop_path": 0.5}
    plain, saving = Transformer(**arguments), Transformer(**arguments, checkpoint=True)
    saving.load_state_dict(plain.state_dict())
    gradients = []
    for trunk in (plain, saving):
        torch.manual_seed(7)
        leaf = torch.ones(4, TOKENS, WIDTH).cumsum(1).requires_grad_()
        trunk(leaf).square().sum().backward()
        gradients.append(leaf.grad)
    assert torch.equal(*gradients)


def test_stochastic_depth_skips_halves_at_its_rate_and_keeps_the_mean():
    """A block whose attention and MLP return ones adds 0, 1/(1-p) or 2/(1-p) to a sample."""
    rate = 0.3
    trunk = Transformer(WIDTH, depth=3, heads=HEADS, drop_path=rate)
    assert [getattr(block.drop_path, "p", 0.0) for block in trunk.blocks] == [0.0, rate / 2, rate]
    block = trunk.blocks[-1]
    for part in (block.attention.project, block.mlp[2]):
        nn.init.zeros_(part.weight)
        nn.init.ones_(part.bias)
    images = 4000
    added = block(torch.zeros(images, 1, WIDTH))
    assert torch.equal(added, added[:, :, :1].expand_as(added))  # a sample goes as a whole
    halves = (added[:, 0, 0] * (1 - rate)).round()
    shares = torch.bincount(halves.long(), minlength=3) / images
    expected = torch.tensor([rate**2, 2 * rate * (1 - rate), (1 - rate) ** 2])
    torch.testing.assert_close(shares, expected, atol=0.03, rtol=0)
    assert added.mean().item() == pytest.approx(2, abs=0.05)
    assert torch.equal(block.eval()(torch.zeros(2, 1, WIDTH)), torch.full((2, 1, WIDTH), 2.0))


def allowed(trunk, visible):
    """Which inputs reach which outputs, found by gradients: True at (out, in)."""
    x = torch.randn(1, len(visible), WIDTH, dtype=torch.float64, requires_grad=True)
    out = trunk(x, visible)
    rows = []
    for index in range(len(visible)):
        (gradient,) = torch.autograd.grad(out[0, index].square().sum(), x, retain_graph=True)
        rows.append(gradient[0].ne(0).any(-1))
    return torch.stack(rows)


RULES = {
    "full": ([3, 4], [["full", "full"], ["full", "full"]]),
    "causal registers": ([3, 4], [["full", "none"], ["full", "causal"]]),
    "all causal": ([3, 4], [["causal", "none"], ["full", "causal"]]),
    "blind": ([3, 4], [["full", "none"], ["none", "full"]]),
    "middle": ([2, 2, 3], [["full", "none", "none"], ["full", "causal", "none"], ["none", "full", "full"]]),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("depth", [1, 3])
def test_nothing_leaks_past_a_mask(rule, depth):
    """The gradient is exactly zero where the mask (and what follows from it in a row of blocks) says so, else not."""
    visible = visibility(*RULES[rule])
    trunk = woken(Transformer(WIDTH, depth=depth, heads=HEADS))
    reach = torch.linalg.matrix_power(visible.double(), depth) > 0
    assert torch.equal(allowed(trunk, visible), reach)


def test_the_leak_test_finds_a_leak():
    trunk = woken(Transformer(WIDTH, depth=1, heads=HEADS))
    causal = visibility([TOKENS], [["causal"]])
    leaking = causal.clone()
    leaking[2, 5] = True
    assert not torch.equal(allowed(trunk, leaking), causal)


@pytest.mark.parametrize("style", STYLES)
def test_every_style_compiles_as_one_graph(style):
    trunk = Transformer(WIDTH, depth=2, heads=HEADS, style=STYLES[style], modulated_segments=2)
    for parameter in trunk.parameters():
        nn.init.normal_(parameter, std=0.2)
    x, condition = torch.randn(2, TOKENS, WIDTH), torch.randn(2, WIDTH)
    visible = visibility([4, 3], [["full", "none"], ["full", "causal"]])
    rotation = rotations(torch.arange(float(TOKENS))[:, None], [WIDTH // HEADS])
    torch.compiler.reset()
    with unchecked():
        compiled = torch.compile(trunk, backend="eager", fullgraph=True)(x, visible, rotation, condition, [4, 3])
        torch.testing.assert_close(compiled, trunk(x, visible, rotation, condition, [4, 3]))


def test_modulated_segments_are_told_apart():
    trunk = woken(Transformer(WIDTH, depth=1, heads=HEADS, modulated_segments=2))
    assert isinstance(trunk.blocks[0].modulation, Modulation)
    x, condition = tokens(), torch.randn(2, WIDTH, dtype=torch.float64)
    one = trunk(x, condition=condition, lengths=[4, 3])
    other = trunk(x, condition=condition, lengths=[5, 2])
    assert not torch.allclose(one[:, 4], other[:, 4])


def test_the_scales_of_both_halves_begin_small_and_are_learned():
    style = BlockStyle(layer_scale=1e-5)
    block, tokens = Block(16, 2, style), torch.randn(1, 3, 16)
    assert 0 < (block(tokens) - tokens).abs().max() < 1e-4
    with torch.no_grad():
        block.scale1.scale.zero_()
        block.scale2.scale.zero_()
    assert torch.equal(block(tokens), tokens)
    assert {name for name, _ in block.named_parameters() if "scale" in name} == {"scale1.scale", "scale2.scale"}


def test_the_tokens_behind_each_block_are_given_to_who_wants_them():
    trunk, seen = Transformer(16, 3, 2), []
    last = trunk(torch.randn(1, 4, 16), seen=seen)
    assert len(seen) == 3
    assert torch.equal(seen[-1], last)
    assert not torch.equal(seen[0], seen[1])
