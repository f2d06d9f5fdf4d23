"""Weight files and photographs that several tests of metrics share."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from imtok.data.sources.photos import PACKAGES
from imtok.extractors.inception import InceptionNet


@pytest.fixture(scope="session")
def inception_file(tmp_path_factory, crops):
    """A weight file of the Inception's layout with random weights, calibrated so that no feature vanishes."""
    torch.manual_seed(0)
    net = InceptionNet()
    for module in net.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        net.train()((crops(12, 128).float() - 128) / 128)
    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save(net.state_dict(), path)
    return path


@pytest.fixture(scope="session")
def photographs():
    """The bundled photographs by name, uint8."""
    found = {}
    for _, module, folder, files in PACKAGES:
        place = Path(importlib.util.find_spec(module).origin).parent / folder
        for file in files.split():
            pixels = np.array(Image.open(place / file).convert("RGB"))
            found[Path(file).stem] = torch.from_numpy(pixels).permute(2, 0, 1).contiguous()
    return found


@pytest.fixture(scope="session")
def crops(photographs):
    """A function that gives so many random crops of the photographs, of so many pixels a side."""

    def draw(count, side):
        generator = torch.Generator().manual_seed(0)
        images = []
        for index in range(count):
            photo = list(photographs.values())[index % len(photographs)]
            top, left = (int(torch.randint(edge - side + 1, (), generator=generator)) for edge in photo.shape[1:])
            images.append(photo[:, top : top + side, left : left + side])
        return torch.stack(images)

    return draw
