"""CLIP's text transformer as a tower that learns: equal to that of transformers, from a file of each layout."""

from importlib.util import find_spec

import pytest
import torch
import transformers
from encoders.presets import unchecked
from safetensors.torch import save_file

from imtok.conditions.learned import LearnedText
from imtok.errors import InputError
from imtok.nn.clip_text import CLIPTextNet
from imtok.nn.clip_text_files import read_clip_text

ROWS, LENGTH, WIDTH, DEPTH, OUT = 40, 9, 16, 2, 12
IDS = torch.tensor([[38, 5, 7, 39, 0, 0, 0, 0, 0], [38, 1, 2, 3, 4, 5, 6, 7, 39], [38, 39, 0, 0, 0, 0, 0, 0, 0]])
NOBODY = torch.tensor([-1, -1, -1])


def net(mlp="quick_gelu"):
    return CLIPTextNet(ROWS, LENGTH, WIDTH, DEPTH, 2, OUT, mlp)


def theirs(activation="quick_gelu"):
    text = {"vocab_size": ROWS, "hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": DEPTH}
    text |= {"num_attention_heads": 2, "max_position_embeddings": LENGTH, "hidden_act": activation}
    config = transformers.CLIPTextConfig(**text, projection_dim=OUT, bos_token_id=38, eos_token_id=39, pad_token_id=0)
    torch.manual_seed(3)
    model = transformers.CLIPTextModelWithProjection(config).eval()
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(std=0.3)
    return model


def as_transformers(model):
    beside = {"vision_model.embeddings.class_embedding": torch.zeros(2), "logit_scale": torch.ones(1)}
    return dict(model.state_dict()) | beside | {"visual_projection.weight": torch.zeros(2, 2)}


def as_authors(model, prefix=""):
    """The same weights as OpenAI and OpenCLIP call them, an image tower beside them."""
    state, found = model.state_dict(), {"visual.conv1.weight": torch.zeros(2), "logit_scale": torch.ones(1)}
    own = {name.removeprefix("text_model."): value for name, value in state.items()}
    text = {
        "token_embedding.weight": own["embeddings.token_embedding.weight"],
        "positional_embedding": own["embeddings.position_embedding.weight"],
        "text_projection": own["text_projection.weight"].T.contiguous(),
        **{f"ln_final.{kind}": own[f"final_layer_norm.{kind}"] for kind in ("weight", "bias")},
    }
    for block in range(DEPTH):
        start, end = f"encoder.layers.{block}", f"transformer.resblocks.{block}"
        for kind in ("weight", "bias"):
            parts = [own[f"{start}.self_attn.{name}_proj.{kind}"] for name in "qkv"]
            text[f"{end}.attn.in_proj_{kind}"] = torch.cat(parts)
            for old, new in (
                ("layer_norm1", "ln_1"),
                ("layer_norm2", "ln_2"),
                ("self_attn.out_proj", "attn.out_proj"),
                ("mlp.fc1", "mlp.c_fc"),
                ("mlp.fc2", "mlp.c_proj"),
            ):
                text[f"{end}.{new}.{kind}"] = own[f"{start}.{old}.{kind}"]
    return found | {prefix + name: value for name, value in text.items()}


LAYOUTS = {
    "transformers": as_transformers,
    "authors": as_authors,
    "beside an image tower": lambda model: as_authors(model, "text."),
    "unitok": lambda model: as_authors(model, "text_encoder."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_features_are_those_of_transformers_from_a_file_of_each_layout(layout, activation, tmp_path):
    model, own = theirs(activation), net(activation)
    save_file(LAYOUTS[layout](model), tmp_path / "model.safetensors")
    read_clip_text(own, tmp_path / "model.safetensors")
    for dtype, bound in ((torch.float32, 1e-5), (torch.float64, 1e-12)):
        expected = model.to(dtype)(input_ids=IDS).text_embeds
        torch.testing.assert_close(own.to(dtype)(IDS), expected, rtol=bound, atol=bound)


def test_a_checkpoint_of_unitok_is_opened_down_to_its_tower(tmp_path):
    model, own = theirs(), net()
    torch.save({"epoch": 1, "trainer": {"unitok": LAYOUTS["unitok"](model)}}, tmp_path / "unitok.pth")
    read_clip_text(own, tmp_path / "unitok.pth")
    torch.testing.assert_close(own(IDS), model(input_ids=IDS).text_embeds, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_weight_has_to_find_its_place(layout, tmp_path):
    whole, path = LAYOUTS[layout](theirs()), tmp_path / "model.safetensors"
    before = {name: value.clone() for name, value in net().state_dict().items()}
    own = net()
    own.load_state_dict(before)
    of_text = [name for name in whole if not name.startswith(("vis", "logit"))]
    for name in of_text:
        save_file({other: value for other, value in whole.items() if other != name}, path)
        with pytest.raises(InputError, match=r"model\.safetensors (is of another text tower|must hold one text tower)"):
            read_clip_text(own, path)
        save_file(whole | {name: torch.zeros(3, 3)}, path)
        with pytest.raises(InputError, match="must have shape"):
            read_clip_text(own, path)
        if ".1." in name:  # of a third block, and of a thing that no tower has
            for foreign in (name.replace(".1.", ".2."), name.replace(".1.", ".1.gate.")):
                save_file(whole | {foreign: whole[name].clone()}, path)
                with pytest.raises(InputError, match=r"which no text tower of CLIP has$|more weights$|got none$"):
                    read_clip_text(own, path)
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())


def test_a_token_sees_no_later_one_and_what_follows_the_end_changes_nothing():
    own, other = net().double(), IDS.clone()
    other[0, 4:] = 9
    torch.testing.assert_close(own(other), own(IDS))
    other[0, 1] = 9
    assert not torch.allclose(own(other)[0], own(IDS)[0])


def words(**settings):
    return LearnedText(
        "words", **({"rows": 64, "length": 5, "width": 16, "depth": 1, "heads": 2, "out_dim": 8} | settings)
    )


def test_words_stand_between_the_marks_of_start_and_end_and_what_does_not_fit_is_not_read():
    ids = words().ids(["A red fox.", "a RED fox in the snow", ""])
    assert ids[0].tolist() == ids[1].tolist()
    assert (ids[0, 0], ids[0, -1]) == (62, 63)
    assert ids[2].tolist() == [62, 63, 0, 0, 0]
    assert ids[0, 1:-1].min() >= 1
    assert ids[0, 1:-1].max() <= 61


def test_a_caption_has_one_feature_and_none_is_marked_as_none():
    tower = words()
    made = tower(["a fox", "", "a jar"], NOBODY)
    assert made.text.shape == (3, 1, 8)
    assert made.mask.tolist() == [[True], [False], [True]]
    torch.testing.assert_close(made.text[0, 0], tower.net(tower.ids(["a fox"]))[0])
    assert tower([], NOBODY[:0]).text.shape == (0, 1, 8)


def test_a_folder_is_searched_for_its_file_and_no_path_is_stored(tmp_path):
    tower = words(weights=str(tmp_path))
    assert tower.find_weights() is None
    save_file({"weight": torch.zeros(1)}, tmp_path / "open_clip_model.safetensors")
    assert tower.find_weights() == tmp_path / "open_clip_model.safetensors"
    assert tower.stored == {"weights": None}
    with pytest.raises(
        InputError, match="is of a tower that reads CLIP's byte pairs; give cut=clip, or weights=random"
    ):
        tower.read_weights(tmp_path / "open_clip_model.safetensors")


@pytest.mark.skipif(find_spec("open_clip") is not None, reason="open_clip is installed")
def test_without_the_library_that_cuts_captions_it_is_asked_for():
    with pytest.raises(
        InputError, match=r"open_clip is missing.* pip install open_clip_torch \(imtok's extra `clip`\)"
    ):
        LearnedText(length=5, width=8, depth=1, heads=1, out_dim=4).prepare()


@pytest.mark.skipif(find_spec("open_clip") is None, reason="open_clip is not installed")
def test_clips_byte_pairs_end_with_the_last_id():
    ids = LearnedText(length=5, width=8, depth=1, heads=1, out_dim=4).ids(["a fox", "a very long caption of a fox"])
    assert ids[:, 0].tolist() == [49406, 49406]
    assert ids.argmax(1).tolist() == [3, 4]
    assert ids.max(1).values.tolist() == [49407, 49407]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cut": "letters"}, "cut must be clip or words, got 'letters'"),
        ({"mlp": "swiglu"}, "mlp must be gelu or quick_gelu, got 'swiglu'"),
        ({"out_dim": 0}, "width, depth, heads and out_dim must be positive"),
        ({"length": 2}, "length must be at least 3 and rows at least 4, 49408 for clip, got 2 and 64"),
        ({"cut": "clip"}, "49408 for clip, got 5 and 64"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    sizes = {"cut": "words", "rows": 64, "length": 5, "width": 16, "depth": 1, "heads": 2, "out_dim": 8}
    with unchecked(), pytest.raises(ValueError, match=message):
        LearnedText(**(sizes | settings))
