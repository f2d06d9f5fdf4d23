"""What two processes that train together see of a contrast; ``test_contrast_ranks.py`` compares it with one process.

Run as ``python -m losses.alignment.two_ranks FILE RANK PORT``: writes what this rank has seen to FILE.
"""

import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn

from imtok.conditions.learned import LearnedText
from imtok.conditions.words import Words
from imtok.distributed import rank
from imtok.losses.alignment.alignment import Alignment
from imtok.losses.alignment.captions import CaptionContrast
from imtok.losses.alignment.contrasts import LearnedContrastive, SigmoidContrastive
from imtok.losses.alignment.distances import Contrastive, Cosine
from imtok.losses.alignment.heads import MLPHead
from imtok.losses.teachers import Teacher, TeacherFeatures
from imtok.types import Quantized

BATCH, SYMMETRIC = 4, (False, True)
LEARNED = {"clip": LearnedContrastive, "siglip": SigmoidContrastive}
CAPTIONS = ["a fox", "a red jar", "", "two foxes", "sky", "", "a jar of sky", "red"]
NONE = ["", "", "", "", "sky", "a jar", "", "fox"]  # the first rank has no caption at all


class Given(Teacher):
    """A teacher whose features are the pixels."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.dim = self.summary_dim = 12

    def forward(self, image: Tensor) -> TeacherFeatures:
        return TeacherFeatures(image.flatten(1)[:, None], image.flatten(1))


def look(part: slice) -> dict[str, Tensor]:
    """Values and gradients of the head that a part of the global batch gives."""
    generator = torch.Generator().manual_seed(5)
    image = torch.randn(2 * BATCH, 3, 2, 2, generator=generator, dtype=torch.float64)[part]
    features = torch.randn(2 * BATCH, 5, 6, generator=generator, dtype=torch.float64)[part]
    keep = torch.arange(5) < torch.randint(1, 6, (2 * BATCH, 1), generator=generator)[part]
    found = {}
    for name, distance in {
        "cosine": Cosine(),
        **{str(kind): Contrastive(0.5, True, kind) for kind in SYMMETRIC},
    }.items():
        torch.manual_seed(1)
        heads = {"head": MLPHead(6, 7, layers=2, width=8), "teacher_head": MLPHead(12, 7, layers=1)}
        if not distance.in_batch:
            heads = {"head": MLPHead(6, 12, layers=2, width=8)}
        alignment = Alignment(Given(), loss=distance, feature="summary", by_length=[1.0, 0.3], **heads).double()
        quantized = Quantized(features, torch.zeros(len(features), 5, 1, dtype=torch.long), keep)
        value = alignment(image, quantized, {"quantizer": features}, 0)
        gradients = torch.autograd.grad(value, list(alignment.parameters()))
        found |= {f"{name} value": value.detach()}
        found |= {f"{name} gradient {index}": gradient for index, gradient in enumerate(gradients)}
    for name, kind in LEARNED.items():
        for texts, given in {"some": CAPTIONS, "none on a rank": NONE}.items():
            torch.manual_seed(1)
            head = MLPHead(6, 7, layers=2, width=8)
            contrast = CaptionContrast(Words(5, 4, 64), head, kind(0.2), tokens=[0, 4]).double()
            quantized = Quantized(features, torch.zeros(len(features), 5, 1, dtype=torch.long), keep)
            value = contrast(image, quantized, {"quantizer": features}, 0, given[part])
            gradients = torch.autograd.grad(value, list(contrast.parameters()))
            found |= {f"{name}, {texts}, value": value.detach()}
            found |= {f"{name}, {texts}, gradient {index}": gradient for index, gradient in enumerate(gradients)}
    torch.manual_seed(1)
    tower = LearnedText("words", rows=64, length=6, width=8, depth=1, heads=2, out_dim=7)
    contrast = CaptionContrast(tower, MLPHead(6, 7, layers=1), LearnedContrastive(0.2), join="none").double()
    quantized = Quantized(features, torch.zeros(len(features), 5, 1, dtype=torch.long))
    value = contrast(image, quantized, {"quantizer": features}, 0, CAPTIONS[part])
    gradients = torch.autograd.grad(value, list(contrast.parameters()))
    found |= {"tower value": value.detach()}
    return found | {f"tower gradient {index}": gradient for index, gradient in enumerate(gradients)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    file, this, port = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=this, world_size=2)
    torch.save(look(slice(rank() * BATCH, (rank() + 1) * BATCH)), file)
    dist.destroy_process_group()
