"""The further nets of an objective, each with an optimiser of its own: whether a run can train and save them."""

from imtok.errors import InputError
from imtok.objectives.base import Objective
from imtok.training.settings import OptimizerSettings


def check_nets(objective: Objective, settings: OptimizerSettings) -> None:
    """Refuse nets whose names, weights or settings a run cannot keep apart.

    Args:
        objective: Whose nets they are.
        settings: The optimizer's, which may name some.

    Raises:
        InputError: If so: one line that names the net.
    """
    nets, kind = dict(objective.nets()), type(objective).__name__
    known = {id(parameter) for parameter in objective.parameters()}
    heads = objective.heads()
    owners = {} if heads is None else {id(parameter): "heads" for parameter in heads.parameters()}
    for name, net in nets.items():
        if not name.isidentifier() or name in ("tokenizer", "heads"):
            raise InputError(f"nets of {kind} must have names that are words, and not tokenizer or heads, got {name!r}")
        learning = [parameter for parameter in net.parameters() if parameter.requires_grad]
        if not learning:
            raise InputError(f"the net {name} of {kind} has nothing that learns")
        if any(id(parameter) not in known for parameter in learning):
            raise InputError(f"the net {name} of {kind} must be a sub-module of it, or no checkpoint would hold it")
        for parameter in learning:
            if owners.setdefault(id(parameter), name) != name:
                raise InputError(
                    f"the nets of {kind} must share no weights, and {name} has some of {owners[id(parameter)]}"
                )
    strangers = sorted(settings.nets.keys() - nets.keys())
    if strangers:
        have = f"has {', '.join(nets)}" if nets else "has none"
        raise InputError(
            f"optimizer.nets.{strangers[0]}: the objective ({kind}) {have}; ~optimizer.nets.{strangers[0]} removes it"
        )
