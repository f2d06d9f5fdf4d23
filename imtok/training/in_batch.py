"""Terms that look at a whole batch at once: in micro-batches they are not those of one big batch."""

from imtok.critics.dino import DinoCritic
from imtok.critics.stylegan import StyleGANCritic
from imtok.objectives.base import Objective
from imtok.quantizers.base import Quantizer


def in_batch_terms(objective: Objective, quantizer: Quantizer) -> list[str]:
    """In plain words, each term that differs between one big batch and several micro-batches; empty = none does.

    Means over images are exact under accumulation; these terms are functions of a whole micro-batch. LeCam is not among
    them: its running means move once per step, over all micro-batches. Other modules say of themselves that they
    compare the images of a batch by an attribute ``in_batch``.
    """
    found = []
    if any(getattr(part, "entropy_weight", 0) for part in quantizer.modules()):
        found.append("the codebook's entropy (quantizer.entropy_weight)")
    for part in objective.modules():
        if getattr(part, "balance", None) == "adaptive":
            found.append("the adaptive adversarial weight (objective.adversary.balance)")
        if isinstance(part, StyleGANCritic) or (isinstance(part, DinoCritic) and part.norm == "local"):
            found.append(f"{type(part).__name__} (it takes statistics over a few images of a micro-batch)")
        if getattr(part, "in_batch", False):
            found.append(f"{type(part).__name__} (it compares the images of a batch with each other)")
    return list(dict.fromkeys(found))
