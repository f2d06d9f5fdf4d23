"""Weights of another tokenizer: all of them, with what differs in one line, or none."""

import logging

import pytest
import torch
import torch.nn.functional as F
from training.runs import tiny_run

from imtok.config import check_command
from imtok.errors import InputError
from imtok.overrides import as_typed, in_full
from imtok.training.init_from import take_weights
from imtok.training.run import train
from imtok.training.settings import InitFrom

FSQ = ("quantizer=fsq", "quantizer.levels=[8,5]")


@pytest.fixture
def source(tmp_path):
    tiny_run(tmp_path / "unused").tokenizer.save(tmp_path / "source")
    return str(tmp_path / "source")


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        (
            ["quantizer.codebook_size=64"],
            [r"quantizer \(quantizer.codebook_size 32 there, 64 here, quantizer\.\w+ is \["],
        ),
        (list(FSQ), [r"encoder \(", r"quantizer \(quantizer VQ there, FSQ here, quantizer\.\w+ is .* absent here"]),
        (["encoder.depth=2"], [r"encoder \(encoder.depth 1 there, 2 here, encoder\.\S+ is absent there and \["]),
        (["image_size=16", "decoder.width=32"], [r"decoder \(decoder.width 16 there, 32 here, decoder\."]),
    ],
)
def test_other_parts_are_one_line_with_their_settings_and_first_weights(tmp_path, source, overrides, parts):
    run = tiny_run(tmp_path / "run", *overrides, f"init_from={source}")
    before = {name: value.clone() for name, value in run.tokenizer.state_dict().items()}
    with pytest.raises(InputError, match=f"init_from={source} has other parts than this config") as caught:
        train(run)
    for part in parts:
        caught.match(part)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    for name, value in run.tokenizer.state_dict().items():
        assert torch.equal(value, before[name])  # nothing of it was taken


def test_settings_that_differ_while_the_weights_fit_are_said(tmp_path, source, caplog):
    run = tiny_run(tmp_path / "run", "quantizer.usage_decay=0.9")
    take_weights(run.tokenizer, source)
    assert "took all " in caplog.text
    assert "; differs in quantizer.usage_decay (0.5 there, 0.9 here)" in caplog.text


def test_the_same_parts_are_taken_without_a_word(tmp_path, source, caplog):
    run = tiny_run(tmp_path / "run", "seed=5")
    take_weights(run.tokenizer, source)
    wanted = tiny_run(tmp_path / "unused").tokenizer.state_dict()
    for name, value in run.tokenizer.state_dict().items():
        assert torch.equal(value, wanted[name])
    assert not caplog.text


def drawn(run):
    return {name: value.clone() for name, value in run.tokenizer.state_dict().items()}


def test_single_parts_are_taken_and_the_others_stay_as_they_were_drawn(tmp_path, source, caplog):
    run = tiny_run(tmp_path / "run", "seed=5", f"init_from={source}", "init_from.parts=[encoder]")
    assert run.init_from == InitFrom(source, ("encoder",))
    before, wanted = drawn(run), drawn(tiny_run(tmp_path / "unused"))
    with caplog.at_level(logging.INFO):
        take_weights(run.tokenizer, source, run.init_from.parts)
    for name, value in run.tokenizer.state_dict().items():
        assert torch.equal(value, (wanted if name.startswith("encoder.") else before)[name]), name
    count = sum(name.startswith("encoder.") for name in before)
    assert caplog.messages == [f"init_from={source}: took {count} of {count} weights of encoder"]


def test_a_run_starts_from_single_parts_and_its_codebook_from_images_unless_that_is_taken(tmp_path, source):
    own = ("seed=5", "quantizer.kmeans_start=true", "trainer.max_steps=1", "optimizer.lr=1e-12", f"init_from={source}")
    wanted = drawn(tiny_run(tmp_path / "unused"))
    codebook = next(name for name in wanted if name.startswith("quantizer.") and wanted[name].shape == (32, 8))
    for parts, kept in (("encoder,decoder", False), ("quantizer", True)):
        run = tiny_run(tmp_path / str(kept), *own, f"init_from.parts=[{parts}]")
        before = drawn(run)[codebook]
        train(run)
        found = run.tokenizer.state_dict()
        taken = "quantizer." if kept else "encoder."
        for name, value in wanted.items():
            if name.startswith(taken) and value.ndim > 1:
                torch.testing.assert_close(found[name], value, atol=1e-6, rtol=0)
        assert torch.allclose(found[codebook], wanted[codebook], atol=1e-6) == kept
        assert not torch.allclose(found[codebook], before, atol=1e-6)


VIT = (
    "encoder=vit", "decoder=vit", *(f"{part}.{key}" for part in ("encoder", "decoder") for key in (
        "patch_size=8", "width=16", "depth=1", "heads=2"))
)  # fmt: skip


def test_positions_of_another_grid_are_resized_and_said(tmp_path, caplog):
    small = tiny_run(tmp_path / "small", *VIT)
    small.tokenizer.save(tmp_path / "source")
    large = tiny_run(tmp_path / "large", *VIT, "image_size=32")
    take_weights(large.tokenizer, str(tmp_path / "source"))
    table = small.tokenizer.state_dict()["encoder.positions.table"].reshape(1, 2, 2, 16).permute(0, 3, 1, 2)
    wanted = F.interpolate(table, (4, 4), mode="bicubic", align_corners=False).permute(0, 2, 3, 1).reshape(16, 16)
    assert torch.equal(large.tokenizer.state_dict()["encoder.positions.table"], wanted)
    (said,) = caplog.messages
    assert "resized decoder.positions.table from 2 x 2 to 4 x 4 (bicubic), encoder.positions.table from 2 x 2" in said
    assert "differs in image_size (16 there, 32 here)" in said


def titok(tmp_path, latents):
    small = ("width=16", "depth=1", "heads=2")
    run = tiny_run(
        tmp_path / f"{latents}", "encoder=titok_s", f"encoder.latents={latents}", "decoder=titok_pixels",
        *(f"encoder.{key}" for key in small), *(f"decoder.{key}" for key in small),
    )  # fmt: skip
    return run.tokenizer


@pytest.mark.parametrize(("there", "here", "how"), [(8, 4, "the first ones"), (4, 8, "linear")])
def test_tokens_in_a_row_are_cut_or_stretched(tmp_path, there, here, how, caplog):
    source, tokenizer = titok(tmp_path, there), titok(tmp_path, here)
    source.save(tmp_path / "source")
    take_weights(tokenizer, str(tmp_path / "source"))
    for name in ("encoder.latents", "encoder.latent_positions", "decoder.latent_positions"):
        table, found = source.state_dict()[name], tokenizer.state_dict()[name]
        if here < there:
            assert torch.equal(found, table[:here])
        else:
            longer = F.interpolate(table.T[None], here, mode="linear", align_corners=False)[0].T
            assert torch.equal(found, longer)
        assert f"{name} from {there} to {here} ({how})" in caplog.text
    assert tokenizer.encode(torch.zeros(1, 3, 16, 16)).ids.shape[1] == here


def test_what_does_not_fit_of_a_part_is_said_and_stays_as_it_was_drawn(tmp_path, source, caplog):
    run = tiny_run(tmp_path / "run", "seed=5", "encoder.depth=2")
    before = drawn(run)
    take_weights(run.tokenizer, source, ["encoder", "decoder"])
    wanted = drawn(tiny_run(tmp_path / "unused"))
    for name, value in run.tokenizer.state_dict().items():
        same = name in wanted and not name.startswith("quantizer.")
        assert torch.equal(value, (wanted if same else before)[name]), name
    (said,) = caplog.messages
    assert "weights of encoder, decoder; did not fit: encoder." in said
    assert said.count(" is absent there and [") == 6
    assert " here and " in said  # more
    assert "differs in encoder.depth (1 there, 2 here)" in said


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["encoder.width=32"], r"has other parts than this config: encoder \(encoder.width 16 there, 32 here"),
        (["encoder=vit", "encoder.heads=2"], r"encoder \(encoder PatchEncoder there, ViTEncoder here"),
    ],
)
def test_a_part_of_which_next_to_nothing_fits_is_refused(tmp_path, source, overrides, said):
    run = tiny_run(tmp_path / "run", *overrides)
    before = drawn(run)
    with pytest.raises(InputError, match=said):
        take_weights(run.tokenizer, source, ["encoder", "decoder"])
    for name, value in run.tokenizer.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["init_from.parts=[encoder]"],
            "init_from.parts needs the tokenizer whose parts they are; give init_from.path=RUN",
        ),
        (["init_from.path=RUN", "++init_from.part=[encoder]"], "init_from.part: nothing reads it"),
        (["init_from=RUN", "init_from.parts=[decoder]", "freeze=[encoder]"], "needs init_from.parts to hold encoder"),
    ],
)
def test_mistakes_in_the_section_are_named(words, said):
    with pytest.raises(InputError, match=said):
        check_command("train", as_typed(in_full("train", words)))


def test_a_part_that_is_not_there_is_named(tmp_path, source):
    with pytest.raises(InputError, match=r"init_from.parts must name parts of the tokenizer \(encoder, .*'encodr'"):
        take_weights(tiny_run(tmp_path / "run").tokenizer, source, ["encodr"])


def test_both_spellings_of_the_command_line_mean_the_same():
    for words in (
        ["init_from=runs/my run", "init_from.parts=[encoder,decoder.blocks]"],
        ["init_from.path=runs/my run", "init_from.parts=[encoder,decoder.blocks]"],
    ):
        given = as_typed(in_full("train", words))
        assert given == ["++init_from.path=runs/my run", "++init_from.parts=[encoder,decoder.blocks]"]
    assert InitFrom.read("runs/mine") == InitFrom("runs/mine")
    assert InitFrom.read({"path": "runs/mine", "parts": "encoder"}) == InitFrom("runs/mine", ("encoder",))
    assert InitFrom.read(None) is None
