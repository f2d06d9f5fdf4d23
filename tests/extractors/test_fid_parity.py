"""The whole way from pixels to FID, on the same random Inception, beside torch-fidelity and torchmetrics."""

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance

from imtok.extractors.inception import Inception
from imtok.measures.frechet import FeatureStatistics, FrechetDistance


def compressed(images):
    copies = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=20)
        copies.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return torch.stack(copies)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:a Fréchet distance over")
def test_two_hundred_pairs_have_the_same_fid(inception_file, crops):
    real = crops(200, 256)
    fake = compressed(real)
    ours, originals = Inception(inception_file, sha256=None), FeatureStatistics(2048)
    distance = FrechetDistance(2048, originals)
    fidelity = FeatureExtractorInceptionV3("x", ["2048"], str(inception_file))
    torchmetrics, antialiased = (
        FrechetInceptionDistance(2048, feature_extractor_weights_path=str(inception_file), antialias=antialias)
        for antialias in (False, True)
    )
    features = {True: [], False: []}
    for rows in torch.arange(200).split(20):
        for images, is_real in ((real[rows], True), (fake[rows], False)):
            (originals if is_real else distance).update(ours(images).features)
            features[is_real].append(fidelity(images)[0])
            torchmetrics.update(images, real=is_real)
            antialiased.update(images, real=is_real)
    statistics = [fid_features_to_statistics(torch.cat(features[is_real])) for is_real in (True, False)]
    theirs = fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    value = distance.compute().item()
    assert value == pytest.approx(theirs, rel=1e-4)
    assert value == pytest.approx(torchmetrics.compute().item(), rel=1e-4)
    # the default of torchmetrics resizes otherwise
    assert abs(value / antialiased.compute().item() - 1) > 1e-3
