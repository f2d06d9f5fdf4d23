"""Tokens are cropped and mirrored as the pixels of their images would be, by a net that learns this from views."""

import json
import shutil

import pytest
import torch
from classifiers.runs import classifier_run
from export.stores import small_store
from hydra import compose, initialize_config_dir
from priors.stores import KEYS, TINY, store
from torch.nn import functional as F

from imtok.classifiers.adapter import TokenAdapter, ViewRows
from imtok.classifiers.adapting import AdapterNet, Between, covered, moved, relative_error
from imtok.classifiers.embedded import Embedded
from imtok.classifiers.net import StoredClassifier
from imtok.classifiers.token_adapt import TokenAdapt
from imtok.commands.adapt import build_adapter_run
from imtok.config import register_schemas
from imtok.errors import InputError
from imtok.export.views import AUGMENTS, Views
from imtok.folders import config_folder
from imtok.priors.rows import TokenRows
from imtok.training.token_run import train_on_tokens

SMALL = [word for word in TINY if not word.startswith("prior.")]


def adapter_run(folder, tokens, *words):
    register_schemas("adapt")
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        config = compose("adapt", ["adapter.width=8", *SMALL, f"store={tokens}", f"out={folder}", *words])
    return build_adapter_run(config, folder)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    return small_store(tmp_path_factory.mktemp("stores") / "views", augment="ten_crop", keys=KEYS).folder


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokens):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    return folder, train_on_tokens(adapter_run(folder, tokens))


@pytest.mark.parametrize("augment", [name for name in AUGMENTS if name != "centre"])
def test_a_move_from_one_view_to_another_is_that_of_the_pixels(augment):
    """Of pictures that are linear in place, so that interpolation is exact."""
    size, views = 20, Views(augment)
    side = views.square(size)
    down, across = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    cut = views(torch.stack([down * 3.0, across * 5.0, down + across])[None].float(), size)[0]
    count = len(views)
    source, target = (
        part.flatten() for part in torch.meshgrid(torch.arange(count), torch.arange(count), indexing="ij")
    )
    rows, columns = Between(augment, size)(source, target)
    found = moved(cut[source].float(), rows, columns)
    inside = covered(size, rows)[:, None, :, None] & covered(size, columns)[:, None, None, :]
    assert inside.float().mean() > 0.7
    torch.testing.assert_close(found * inside, cut[target].float() * inside, rtol=1e-4, atol=2e-3)
    errors = relative_error(found, cut[target].float(), rows, columns)
    assert errors.shape == (count * count,)
    assert errors.max() < 1e-5


def test_an_adapter_starts_as_moves_of_the_plain_map():
    net, maps = AdapterNet(3, width=4, depth=2), torch.randn(2, 3, 5, 5)
    move = torch.tensor([1.0, -1.0]), torch.tensor([0.25, 0.9])
    assert torch.equal(net(maps, move, move), moved(maps, move, move))


def test_outside_of_a_map_its_edge_goes_on_and_errors_are_means_of_what_is_inside():
    one, third = torch.ones(1), torch.full((1,), 1 / 3)
    line = torch.tensor([[[[1.0, 2.0, 3.0]]]])
    torch.testing.assert_close(moved(line, (one, 0 * one), (one, third)), torch.tensor([[[[2.0, 3.0, 3.0]]]]))
    found = torch.randn(1, 5, 3, 3)
    wanted = found + 2
    wanted[..., 2] += 100  # not seen
    torch.testing.assert_close(relative_error(found, wanted, (one, 0 * one), (one, third)), torch.full((1,), 4.0))


def test_figures_are_means_over_images_and_pairs_of_views(whole, tokens, tmp_path, monkeypatch):
    folder, outcome = whole
    net, rows = TokenAdapter.load(folder), adapter_run(tmp_path / "run", tokens).held_out
    plain, learnt = [], []
    for image in range(len(rows)):
        vectors = net.embedding(torch.from_numpy(rows[image][0])[None])[0]
        maps = vectors.unflatten(0, (10, 2, 2)).permute(0, 3, 1, 2)  # views, then rows, then columns
        for step in (1, 5):
            target = (torch.arange(10) + step) % 10
            moves = net.between(torch.arange(10), target)
            plain.append(relative_error(moved(maps, *moves), maps[target], *moves))
            learnt.append(relative_error(net.net(maps, *moves), maps[target], *moves))
    assert outcome.found["plain_error"] == pytest.approx(torch.cat(plain).mean().item(), rel=1e-4)
    assert outcome.found["error"] == pytest.approx(torch.cat(learnt).mean().item(), rel=1e-4)
    assert outcome.found["error"] != pytest.approx(outcome.found["plain_error"], rel=1e-4)
    steps, pair = [], net._pair
    monkeypatch.setattr(
        net, "_pair", lambda maps, *views: steps.extend((views[1] - views[0]) % 10) or pair(maps, *views)
    )
    for _ in range(40):
        net.losses(next(rows.batches(5)), 0.0)
    assert {int(step) for step in steps} == set(range(1, 10))  # never a view and itself


def test_a_run_leaves_an_adapter_and_goes_on_bit_for_bit(whole, tokens, tmp_path):
    folder, outcome = whole
    found = json.loads((folder / "summary.json").read_text())
    assert found == outcome.found
    assert (found["images"], found["learnt_from"]) == (5, 19)
    net = TokenAdapter.load(folder)
    again = net.counts(adapter_run(tmp_path / "other", tokens).held_out.batches(2))
    assert again[0] / again[2] == pytest.approx(found["error"])
    shutil.copytree(folder, tmp_path / "again")
    for step in (4, 6):
        shutil.rmtree(tmp_path / f"again/checkpoints/step_{step}")
    (tmp_path / "again/summary.json").unlink()
    assert train_on_tokens(adapter_run(tmp_path / "again", tokens, "ckpt=last")).found == found
    for name in ("adapter/model.safetensors", "checkpoints/step_6/model.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()


def test_a_row_has_all_views_of_an_image_and_its_own_label(tokens):
    run = adapter_run("nowhere", tokens)
    plain = TokenRows(run.rows.store, run.rows.images)
    assert (len(run.rows), len(plain)) == (19, 190)
    assert isinstance(run.rows, ViewRows)
    for image in (0, 7):
        ids, _, label, _, key, _ = run.rows[image]
        assert ids.reshape(10, 4, 1).tolist() == [plain[image * 10 + view][0].tolist() for view in range(10)]
        assert (label, key) == plain[image * 10][2:5:2]


def test_what_mirroring_does_to_vectors_is_learnt(tokens, tmp_path):
    """Here the mirror image of a token is its negative, which moves of the plain map cannot know."""
    run = adapter_run(tmp_path / "run", tokens)
    net = run.net
    assert isinstance(net, TokenAdapter)
    torch.manual_seed(1)
    flip = Between("flip", 16)
    optimizer = torch.optim.Adam(net.net.parameters(), lr=0.01)
    for _ in range(150):
        left = torch.randn(32, net.net.dim, 4, 4)
        right = -left.flip(-1)
        move = flip(torch.zeros(32, dtype=torch.int64), torch.ones(32, dtype=torch.int64))
        loss = relative_error(net.net(left, *move), right, *move).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert relative_error(moved(left, *move), right, *move).mean() > 3
    assert loss < 0.3


def adapted(folder, **settings):
    return TokenAdapt(**{"weights": str(folder), "probability": 1.0, "scale": (1.0, 1.0), "flip": 0.0, **settings})


def embedded(run, count=8):
    vectors = torch.randn(count, 4, run.net.embedding.mean.shape[0])
    return Embedded(vectors, torch.ones(count, 4, dtype=torch.bool), F.one_hot(torch.zeros(count).long(), 3), (2, 2))


def test_images_are_changed_as_the_adapter_says_in_the_vectors_of_the_classifier(whole, tokens, tmp_path):
    run = classifier_run(tmp_path / "run", tokens)
    given, net = embedded(run), TokenAdapter.load(whole[0])
    own, other = run.net.embedding, net.embedding
    part = adapted(whole[0], flip=1.0)
    for stored in (other, part.adapter.embedding):  # the adapter's store has other vectors
        stored.mean.add_(0.3)
        stored.deviation.mul_(1.7)
    raw = given.vectors * own.deviation + own.mean
    maps = ((raw - other.mean) / other.deviation).transpose(1, 2).unflatten(2, (2, 2))
    one, nought = torch.ones(8), torch.zeros(8)
    expected = net.net(maps, (one, nought), (-one, one)).flatten(2).transpose(1, 2) * other.deviation + other.mean
    part.meet(own, (2, 2))
    found = part(given).vectors * own.deviation + own.mean
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    none = adapted(whole[0], probability=0.0, scale=(0.3, 0.6), flip=1.0)
    none.meet(own, (2, 2))
    assert torch.equal(none(given).vectors, given.vectors)


def test_windows_have_their_area_and_lie_in_the_image_mirrored_or_not(whole, tokens, tmp_path, monkeypatch):
    run, seen = classifier_run(tmp_path / "run", tokens), []
    part = adapted(whole[0], scale=(0.25, 0.25), flip=0.3)
    part.meet(run.net.embedding, (2, 2))
    monkeypatch.setattr(part.adapter.net, "forward", lambda maps, *moves: seen.append(moves) or maps)
    part(embedded(run, 400))
    (((down, top), (across, left)),) = seen
    assert (down == 0.5).all()
    assert (across.abs() == 0.5).all()
    assert (across < 0).float().mean().item() == pytest.approx(0.3, abs=0.08)
    for starts in (top, left[across > 0], (left + across)[across < 0]):  # of the window's edges, the lesser one
        assert (starts >= 0).all()
        assert (starts <= 0.5).all()
        assert starts.max() - starts.min() > 0.4


def test_a_classifier_learns_with_crops_and_is_read_without_the_adapter(whole, tokens, tmp_path):
    adapter = tmp_path / "adapter"
    shutil.copytree(whole[0], adapter)
    words = ("augmentation=seit_adapt", f"augmentation.parts.adapt.weights={adapter}")
    train_on_tokens(classifier_run(tmp_path / "run", tokens, *words))
    shutil.rmtree(adapter)
    assert StoredClassifier.load(tmp_path / "run").augmentation is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"probability": 1.5}, "probability and flip"), ({"scale": (0.9, 0.2)}, "the smaller one first")],
)
def test_settings_out_of_range_are_refused(whole, settings, message):
    with pytest.raises(ValueError, match=message):
        adapted(whole[0], **settings)


def test_stores_that_teach_no_moves_are_refused(tmp_path, whole, tokens):
    one = store(tmp_path / "one").folder
    with pytest.raises(InputError, match="one view of each image"):
        adapter_run(tmp_path / "run", one)
    with pytest.raises(InputError, match="a grid"):
        adapter_run(tmp_path / "run", tokens, "grid=[1,4]")
    flips = small_store(tmp_path / "flips", augment="flip", keys=KEYS).folder
    with pytest.raises(InputError, match="other views than"):
        adapter_run(tmp_path / "run", tokens, f"val={flips}")
    words = ("augmentation=seit_adapt", f"augmentation.parts.adapt.weights={whole[0]}")
    two = store(tmp_path / "two", "two slots").folder
    with pytest.raises(InputError, match="another codebook"):
        classifier_run(tmp_path / "run", two, *words)
    variable = small_store(tmp_path / "variable", "variable", augment="flip", keys=KEYS).folder
    with pytest.raises(InputError, match="all tokens of an image"):
        adapter_run(tmp_path / "run", variable, "grid=[2,2]")
