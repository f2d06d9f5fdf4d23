"""A decoder learns to jump from noise to the map of an image, drawn to the jumps of its own average."""

import pytest
import torch
from encoders.presets import unchecked
from recipes import composed
from training.runs import state_of, tiny_run

from imtok.commands.train import build_run
from imtok.data.order.loader import evaluation_loader
from imtok.errors import InputError
from imtok.losses.pixel import L2Loss
from imtok.objectives.consistency import ConsistencyObjective
from imtok.pixels import to_float
from imtok.tokenizer import Tokenizer
from imtok.training.run import train
from imtok.types import Batch


def tokenizer_of(**process) -> Tokenizer:
    torch.manual_seed(0)
    shape = {"width": 16, "depth": 1, "heads": 2}
    made = Tokenizer.from_config(
        {
            "encoder": {"_target_": "imtok.encoders.patch.PatchEncoder", "patch_size": 8, "width": 16, "depth": 1},
            "quantizer": {"_target_": "imtok.quantizers.vq.VQ", "dim": 8, "codebook_size": 16},
            "decoder": {
                "_target_": "imtok.decoders.flow.FlowDecoder", "patch_size": 4, **shape, "condition_dropout": 0.0,
                "process": {"_target_": "imtok.decoders.consistency.Consistency", **process},
            },
            "space": {"_target_": "imtok.spaces.patches.Patches"},
            "image_size": 16,
        }
    )  # fmt: skip
    with torch.no_grad():
        made.decoder.head.weight.normal_(std=0.1)  # it is zero at the start
    return made


def batch_of() -> Batch:
    image = torch.randint(0, 256, (2, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Batch(image, torch.tensor([-1, -1]), torch.arange(2), ["a", "b"])


def losses_of(objective: ConsistencyObjective, tokenizer: Tokenizer):
    return objective(tokenizer, batch_of(), 0, torch.Generator().manual_seed(0))


def test_where_the_other_map_is_the_data_jumps_are_compared_with_it():
    tokenizer, objective = tokenizer_of(), ConsistencyObjective(skip=1000, huber=1e-6)
    objective.begin(tokenizer)
    found = losses_of(objective, tokenizer)
    image, drawn = to_float(batch_of().image), torch.Generator().manual_seed(0)
    maps = tokenizer.space.encode(image)
    noise, decoder = torch.randn(maps.shape, generator=drawn), tokenizer.decoder
    steps = decoder.process.draw_steps(2, drawn)
    codes = tokenizer.quantize(image).latents
    jumped = decoder.process.jump(decoder.predictor(codes), decoder.process.mixed(maps, noise, steps), steps)
    torch.testing.assert_close(found.terms["consistency"].value, (jumped - maps).abs().mean(), rtol=1e-3, atol=1e-4)
    assert found.shown.image is None


@pytest.mark.parametrize("way", ["training", "distillation"])
def test_jumps_from_two_maps_on_one_way_are_compared(way):
    """The decoder's own, and its average's from a map that is 20 steps nearer: given, or where the teacher goes."""
    tokenizer = tokenizer_of()
    objective = ConsistencyObjective(way, weight=0.5, losses={"l2": L2Loss()})
    objective.begin(tokenizer)
    decoder, image, drawn = tokenizer.decoder, to_float(batch_of().image), torch.Generator().manual_seed(0)
    with torch.no_grad():
        decoder.head.weight.add_(0.05)  # neither the average nor the teacher
        objective.target.head.weight.add_(0.02)
    losses = losses_of(objective, tokenizer)
    found, weight = losses.terms["consistency"]
    assert weight == 0.5
    maps, codes, process = tokenizer.space.encode(image), tokenizer.quantize(image).latents, decoder.process
    noise, far = torch.randn(maps.shape, generator=drawn), process.draw_steps(2, drawn)
    near, start = (far - 20).clamp(min=0), process.mixed(maps, noise, far)
    given = process.mixed(maps, noise, near)
    if way == "distillation":
        given = process.back(objective.teacher.predictor(codes), start, far, near)
    error = process.jump(decoder.predictor(codes), start, far) - process.jump(
        objective.target.predictor(codes), given, near
    )
    torch.testing.assert_close(found, ((error.square() + 1e-6).sqrt() - 1e-3).mean())
    jumped = process.jump(decoder.predictor(codes), noise, torch.tensor([1000, 1000]))
    torch.testing.assert_close(losses.shown.image, decoder.pictured(jumped))


@pytest.mark.parametrize("way", ["training", "distillation"])
def test_the_tokenizer_learns_and_its_copies_do_not(way):
    tokenizer, objective = tokenizer_of(), ConsistencyObjective(way, losses={"l2": L2Loss(1.0)})
    objective.begin(tokenizer)
    found = losses_of(objective, tokenizer)
    assert set(found.terms) >= {"consistency", "l2", "codebook"}
    assert found.shown.image.shape == (2, 3, 16, 16)
    found.total.backward()
    unreached = [name for name, value in tokenizer.named_parameters() if value.requires_grad and value.grad is None]
    assert [name for name in unreached if "missing" not in name] == []
    assert all(value.grad is None and not value.requires_grad for value in objective.parameters())
    assert objective.target.space is tokenizer.space  # frozen nets are large
    assert (objective.teacher is not None) == (way == "distillation")


def test_the_target_is_the_running_average_of_the_decoder_and_the_teacher_stays():
    tokenizer, objective = tokenizer_of(), ConsistencyObjective("distillation", target_decay=0.75)
    objective.begin(tokenizer)
    before = tokenizer.decoder.head.weight.detach().clone()
    with torch.no_grad():
        tokenizer.decoder.head.weight.add_(1)
    objective.follow(tokenizer)
    torch.testing.assert_close(objective.target.head.weight, before + 0.25)
    assert torch.equal(objective.teacher.head.weight, before)


def test_a_run_goes_on_with_the_same_bits(tmp_path):
    def run(folder, *keys):
        words = ("size=tiny", "trainer.accelerator=cpu", "trainer.pictures_every=0", "trainer.batch_size=4")
        small = (
            "data.crops_per_photo=2",
            "data.held_out=[chelsea]",
            "encoder.depth=1",
            "decoder.depth=1",
            "~objective.losses.lpips",
        )
        return train(build_run(composed("layton", *words, *small, f"out={folder}", *keys), folder))

    run(tmp_path / "straight", "trainer.max_steps=4")
    run(tmp_path / "parts", "trainer.max_steps=4", "trainer.stop_at=2")
    run(tmp_path / "parts", "trainer.max_steps=4", "ckpt=last")
    whole, parts = state_of(tmp_path / "straight", 4), state_of(tmp_path / "parts", 4)
    assert any(name.startswith("model.objective.target.") for name in whole)
    assert {name: value for name, value in whole.items() if name != "losses"} == {
        name: value for name, value in parts.items() if name != "losses"
    }


@pytest.mark.usefixtures("rehearsed")
def test_what_cannot_be_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"decoder must draw by the process of consistency.*give decoder=layton"):
        train(tiny_run(tmp_path / "run", "objective=consistency"))
    for arguments, message in (
        ({"way": "guessing"}, "way must be one of training, distillation, got 'guessing'"),
        ({"skip": 0}, "skip must be at least 1"),
        ({"losses": {"consistency": L2Loss(1.0)}}, "names of losses must differ from the other terms, got consistency"),
    ):
        with unchecked(), pytest.raises(ValueError, match=message):
            ConsistencyObjective(**arguments)


def errors(run) -> dict[int, float]:
    """Mean squared error of the maps that are drawn of held-out photographs, by the number of steps."""
    tokenizer, found = run.tokenizer.eval(), {}
    decoder = tokenizer.decoder
    for steps in (1, 4):
        wrong, count = 0.0, 0
        with torch.no_grad():
            for batch in evaluation_loader(run.data.validation(32), 64, 0):
                image = to_float(batch.image)
                maps, codes = decoder.maps(image), tokenizer.quantize(image).latents
                generator = torch.Generator().manual_seed(steps)
                noise = torch.randn(steps, *maps.shape, generator=generator)
                drawn = decoder.process.sample(decoder.predictor(codes), noise, steps)
                wrong += (drawn - maps).square().mean((1, 2, 3)).sum().item()
                count += len(maps)
        found[steps] = wrong / count
    return found


@pytest.mark.slow
def test_one_step_and_four_steps_draw_held_out_photographs_better_than_before(tmp_path):
    """``experiment=layton size=tiny`` to its last step."""
    run = build_run(composed("layton", "size=tiny", "trainer.accelerator=cpu", "trainer.pictures_every=0"), tmp_path)
    before = errors(run)
    train(run)
    after = errors(run)
    assert after[1] < before[1] / 2
    assert after[4] < before[4] / 2
