"""Tables of rules: nothing is lost, nothing is filled twice, and every way has its way back."""

import pytest
import torch

from imtok.zoo.averages import averaged
from imtok.zoo.copies import Twice
from imtok.zoo.layouts import Join, Rearrange, Reorder, Split
from imtok.zoo.rules import Drop, Leave, Rename
from imtok.zoo.table import Table, TableError

RULES = [
    Rename("net.conv", "encoder.conv"),
    Rearrange("net.pos", "encoder.pos", "n 1 d", "n d"),
    Rearrange("net.patch", "encoder.patch", "d (c p q)", "d c p q", {"p": 2, "q": 2}),
    Reorder("net.ada", "encoder.ada", (2, 0, 1)),
    Join(("net.q", "net.k"), "encoder.qk"),
    Split("net.fused", ("encoder.a", "encoder.b"), (1, 3)),
    Join(("net.head", "net.tail"), "encoder.table", (2, 1), "n 1 d", "n d"),
    Join(("net.wide", "net.slim"), "encoder.beside", (3, 1), axis=1),
]


def source():
    shapes = {
        "net.conv.weight": (3, 2), "net.conv.bias": (3,), "net.pos": (4, 1, 5), "net.patch": (6, 12), "net.ada": (6, 2),
        "net.q": (2, 2), "net.k": (2, 2), "net.fused": (4, 2), "net.head": (2, 1, 3), "net.tail": (1, 1, 3),
        "net.wide": (5, 3), "net.slim": (5, 1),
    }  # fmt: skip
    return {name: torch.randn(shape) for name, shape in shapes.items()}


def test_every_rule_has_its_way_back():
    tensors = source()
    converted = Table(RULES).convert(tensors)
    back = Table(RULES).inverse().convert(converted.tensors).tensors
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)


def test_rules_do_what_their_words_say():
    tensors = source()
    made = Table(RULES).convert(tensors).tensors
    assert torch.equal(made["encoder.patch"], tensors["net.patch"].view(6, 3, 2, 2))
    first, second, third = tensors["net.ada"].chunk(3)
    assert torch.equal(made["encoder.ada"], torch.cat([third, first, second]))
    assert torch.equal(made["encoder.qk"], torch.cat([tensors["net.q"], tensors["net.k"]]))
    assert torch.equal(made["encoder.b"], tensors["net.fused"][1:])
    assert torch.equal(made["encoder.table"][2], tensors["net.tail"][0, 0])
    assert torch.equal(made["encoder.beside"][:, 3], tensors["net.slim"][:, 0])


def test_a_name_is_a_whole_word():
    with pytest.raises(TableError, match=r"1 unknown: block\.10\.weight"):
        Table([Rename("block.1", "b")]).convert({"block.1.weight": torch.zeros(1), "block.10.weight": torch.zeros(1)})


def test_dropped_keys_carry_their_reason_and_need_not_be_there():
    table = Table([Rename("a", "b"), Drop("loss.*", "loss"), Drop("never", "nothing")])
    converted = table.convert({"a": torch.zeros(1), "loss.x": torch.zeros(1)})
    assert converted.dropped == {"loss.x": "loss"}
    assert converted.mapped == {"a": ("b",)}


@pytest.mark.parametrize(
    "rules", [[Rename("a", "b"), Rename("a", "c")], [Rename("a", "b"), Rename("z", "b")]], ids=["taken", "filled"]
)
def test_a_key_that_is_taken_or_filled_twice_is_an_error(rules):
    with pytest.raises(TableError, match="1 taken or filled twice"):
        Table(rules).convert({"a": torch.zeros(1), "z": torch.zeros(1)})


def test_missing_keys_are_named_as_in_the_source_unless_they_may_stay():
    tensors = source()
    shapes = {name: value.shape for name, value in Table(RULES).convert(tensors).tensors.items()}
    for lost in ("net.fused", "net.k", "net.conv.bias"):
        with pytest.raises(TableError, match="missing") as caught:
            Table(RULES).convert({name: value for name, value in tensors.items() if name != lost}, shapes)
        assert lost in str(caught.value)
    shapes |= {"encoder.usage": torch.Size([3])}
    with pytest.raises(TableError, match=r"1 missing: encoder\.usage"):
        Table(RULES).convert(tensors, shapes)
    assert Table([*RULES, Leave("*.usage", "statistics")]).convert(tensors, shapes)


@pytest.mark.parametrize(
    ("name", "shape"), [("net.pos", (4, 2, 5)), ("net.ada", (7, 2)), ("net.k", (3, 2)), ("net.fused", (5, 2))]
)
def test_a_tensor_that_a_rule_cannot_take_is_one_line(name, shape):
    with pytest.raises(TableError, match=f"{name}.* cannot become") as caught:
        Table(RULES).convert(source() | {name: torch.zeros(shape)})
    assert "\n" not in str(caught.value)


def test_averages_are_found_without_the_dots_of_their_names():
    live = {"a.b.weight": torch.zeros(1), "a.bias": torch.zeros(1), "frozen": torch.zeros(1)}
    averages = {"model_ema.abweight": torch.ones(1), "model_ema.abias": torch.ones(1), "model_ema.decay": torch.ones(1)}
    weights, dropped = averaged(live | averages)
    assert {name: float(value) for name, value in weights.items()} == {"a.b.weight": 1, "a.bias": 1, "frozen": 0}
    assert set(dropped) == {"a.b.weight", "a.bias", "model_ema.decay"}


def test_an_average_of_no_live_weight_or_of_two_is_an_error():
    with pytest.raises(TableError, match=r"model_ema\.gone"):
        averaged({"a": torch.zeros(1), "model_ema.gone": torch.zeros(1)})
    with pytest.raises(TableError, match=r"model_ema\.ab"):
        averaged({"a.b": torch.zeros(1), "ab": torch.zeros(1), "model_ema.ab": torch.zeros(1)})


def test_weights_that_a_file_has_once_must_be_equal_on_the_way_back():
    table = Table([Twice(Rename("net", "space.net"), Rename("net", "decoder.net"))])
    made = table.convert({"net.weight": torch.ones(2)}).tensors
    assert table.inverse().convert(made).tensors.keys() == {"net.weight"}
    with pytest.raises(TableError, match="both places must hold the same"):
        table.inverse().convert(made | {"decoder.net.weight": torch.zeros(2)})
