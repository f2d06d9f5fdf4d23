"""The Gram loss against its formula, written out channel by channel."""

import pytest
import torch
from encoders.presets import unchecked
from hydra import compose, initialize_config_dir

from imtok.config import check_command, register_schemas
from imtok.construct import construct
from imtok.folders import config_folder
from imtok.losses.style import GramLoss, gram
from imtok.options import option


@pytest.fixture(scope="module")
def loss():
    return GramLoss("alex", weights="random").double()


def test_a_gram_matrix_is_the_mean_product_of_two_channels_over_channels():
    maps = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    found = gram(maps)
    for image in range(2):
        for one in range(3):
            for two in range(3):
                products = [
                    float(a * b) for a, b in zip(maps[image, one].ravel(), maps[image, two].ravel(), strict=True)
                ]
                assert found[image, one, two].item() == pytest.approx(sum(products) / (3 * 4 * 5), rel=1e-12)


def test_the_loss_is_the_sum_over_depths_of_mean_squared_differences(loss):
    image, target = torch.rand(2, 2, 3, 40, 48, dtype=torch.float64) * 2 - 1

    def written_out(depth, own, others):
        left, right = (torch.einsum("bchw,bdhw->bcd", maps, maps) / maps[0].numel() for maps in (own, others))
        return ((left - right) ** 2).mean()

    expected = torch.stack(loss._compared(image, target, written_out)).sum()
    assert loss(image, target).item() == pytest.approx(expected.item(), rel=1e-12)


def test_it_does_not_matter_where_a_texture_is_and_gradients_reach_the_image(loss):
    maps = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(gram(maps.roll((2, 3), (2, 3))), gram(maps))
    image = (torch.rand(1, 3, 40, 40, dtype=torch.float64) * 2 - 1).requires_grad_()
    (gradient,) = torch.autograd.grad(loss(image, torch.zeros_like(image)), image)
    assert gradient.isfinite().all()
    assert gradient.any()
    assert not list(loss.parameters())
    assert not loss.state_dict()


def test_images_too_small_or_of_another_shape_are_refused(loss):
    with pytest.raises(ValueError, match="images must be at least 31 pixels a side for the Gram loss with alex"):
        loss(torch.zeros(1, 3, 16, 16), torch.zeros(1, 3, 16, 16))
    with unchecked(), pytest.raises(ValueError, match="images must have the shape of their targets"):
        loss(torch.zeros(1, 3, 40, 40), torch.zeros(1, 3, 40, 48))


def test_its_file_adds_it_to_any_objective():
    words = ["+objective/loss@objective.losses.gram=gram", "objective.losses.gram.weights=random"]
    check_command("train", words)
    register_schemas()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        losses = compose("train", overrides=words).objective.losses
    assert set(losses) == {"gram", *option("objective", "reconstruction")["losses"]}
    assert isinstance(construct(option("objective/loss", "gram") | {"weights": "random", "net": "alex"}), GramLoss)
