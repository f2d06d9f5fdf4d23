"""Averaged weights as Lightning codes of the latent-diffusion line store them: without the dots of their names."""

from collections.abc import Mapping

from torch import Tensor

from imtok.zoo.table import TableError

_PREFIX = "model_ema."
TAKEN = "live weight, its average was taken"
_COUNTERS = ("decay", "num_updates")


def averaged(
    tensors: Mapping[str, Tensor], ignored: tuple[str, ...] = ("loss",), frozen: tuple[str, ...] = ()
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The averaged weights under the names of the live ones, which tell where the dots were.

    Args:
        tensors: A state dict, live and averaged weights together.
        ignored: How the names of averages begin that nobody wants; their live weights may be missing.
        frozen: Weights that may lack an average where others of their part have one, since they do not learn.

    Returns:
        The weights, the live ones where there is no average (what was frozen has none), and the keys that have no
        place among them, with the reason.

    Raises:
        TableError: If an average belongs to no live weight, or to two; or if some weights of a part have one and others
            do not, as in a file that lost some of them.

    Example:
        >>> import torch
        >>> tensors = {"conv.weight": torch.zeros(1), "model_ema.convweight": torch.ones(1)}
        >>> averaged(tensors)[0]
        {'conv.weight': tensor([1.])}
    """
    live = {key: value for key, value in tensors.items() if not key.startswith(_PREFIX)}
    names: dict[str, list[str]] = {}
    for key in live:
        names.setdefault(key.replace(".", ""), []).append(key)
    weights, dropped, unknown = dict(live), dict[str, str](), list[str]()
    for key, value in tensors.items():
        short = key.removeprefix(_PREFIX)
        if short == key:
            continue
        if short in _COUNTERS:
            dropped[key] = "counter of the average"
        elif short.startswith(ignored):
            dropped[key] = "loss"
        elif len(names.get(short, [])) == 1:
            weights[names[short][0]] = value
            dropped[names[short][0]] = TAKEN
        else:
            unknown.append(key)
    if unknown:
        raise TableError(f"{len(unknown)} averages belong to no live weight, or to two: {', '.join(unknown[:6])}")
    taken = {key for key, reason in dropped.items() if reason == TAKEN}
    parts = {key.split(".")[0] for key in taken}
    learnt = [key for key in live if key.endswith((".weight", ".bias")) and key not in frozen]
    without = [key for key in learnt if key.split(".")[0] in parts and key not in taken]
    if without:
        raise TableError(f"the average is not whole: {len(without)} weights have none: {', '.join(without[:6])}")
    return weights, dropped
