"""What goes wrong in a run, in plain words, read off the rows of its log: a collapse, a lost balance, a jump."""

import math
from collections import deque
from collections.abc import Collection, Mapping
from statistics import median

from imtok.quantizers.base import Quantizer

_MEMORY = 20  # rows that medians are taken over
_ENOUGH = 5  # rows before a median is trusted
_BITS = 0.3  # of the bits that a code could carry; below that the codebook has collapsed
_SHARE = 0.25  # of the tokens seen: where these are few, so many different ones are asked for at most
_LOST = 4.0  # times fewer codes in use than so far
_SEPARATED = 0.2  # critic's loss; knowing nothing costs 1 by hinge and 0.69 by logistic
_APART = 2.0  # between mean scores: beyond it hinge sees nothing left to learn
_PATIENCE = 2  # rows in a row before it is said
_PAGE = "docs/troubleshooting.md"  # whose sections say more


class Health:
    """Reads row after row, and says what is wrong once per episode, with what to do.

    It costs no step anything: rows are means that were read anyway.

    Args:
        quantizer: Whose codes are counted; its settings decide what helps against a collapse. None = no codes are.

    Example:
        >>> from imtok.quantizers.vq import VQ
        >>> health = Health(VQ(dim=8, codebook_size=1024))
        >>> [health.read({"perplexity": 2.0, "usage": 0.01, "tokens": 9999.0}, []) for _ in range(2)][1][0][:63]
        'the codebook has collapsed: perplexity 2.0 of 1024 codes, usage'
    """

    def __init__(self, quantizer: Quantizer | None) -> None:
        sizes = quantizer.vocab_sizes if quantizer is not None else ()
        self._codes = sum(sizes) / max(1, len(sizes))
        self._remedy = _against_collapse(quantizer) if quantizer is not None else ""
        self._past: dict[str, deque[float]] = {}
        self._rows_bad: dict[str, int] = {}

    def read(self, row: Mapping[str, float], terms: Collection[str]) -> list[str]:
        """What is wrong since this row, and was not before it.

        Args:
            row: Means since the last row, as ``metrics.csv`` has them; besides, ``tokens`` may tell over how many of
                them the codes were counted.
            terms: Names of losses among them.
        """
        jumps = [self._jump(row, name, terms) for name in terms if name in row and name != "adversarial"]
        found = [("collapse", self._collapse(row)), ("discriminator-wins", self._critic_wins(row))]
        found += [("a-loss-jumps", jump) for jump in jumps]
        for name in ("adversarial", "adversarial_raw", *terms):
            if name in row:
                self._past.setdefault(f"raw {name}", deque(maxlen=_MEMORY)).append(row[name])
                weighted = row.get(f"{name}_weighted", row[name])
                self._past.setdefault(name, deque(maxlen=_MEMORY)).append(weighted)
        return [f"{said} ({_PAGE}#{section})" for section, said in found if said]

    def _collapse(self, row: Mapping[str, float]) -> str:
        if "perplexity" not in row or self._codes < 2:
            return ""
        perplexity = row["perplexity"]
        limit = min(self._codes**_BITS, _SHARE * row.get("tokens", math.inf))
        past = self._past.setdefault("perplexity", deque(maxlen=_MEMORY))
        before = median(past) if past else perplexity
        # a k-means start uses more codes than the first steps of training do: so few rows are no measure
        lost = len(past) >= _ENOUGH and perplexity < before / _LOST
        past.append(perplexity)
        bad = lost or perplexity < limit
        if not self._said_now("collapse", bad, _PATIENCE):
            return ""
        ceiling = f" of {row['usage_ceiling']:.3g} that the tokens seen allow" if "usage_ceiling" in row else ""
        fell = f" (it was {before:.3g})" if before > 1.5 * perplexity else ""
        return (
            f"the codebook has collapsed: perplexity {perplexity:.1f} of {self._codes:.0f} codes{fell}, usage "
            f"{row.get('usage', math.nan):.3g}{ceiling}; {self._remedy}"
        )

    def _critic_wins(self, row: Mapping[str, float]) -> str:
        name = "adversarial_raw" if "adversarial_raw" in row else "adversarial"
        past = self._past.get(f"raw {name}", ())
        if not {"score_real", "score_fake", "critic", name} <= row.keys():
            return ""
        apart = row["score_real"] - row["score_fake"] > _APART and row["critic"] < _SEPARATED
        rising = len(past) > 0 and row[name] > median(past)
        if not self._said_now("critic", apart and rising, _PATIENCE):
            return ""
        return (
            f"the discriminator wins: it scores photographs {row['score_real']:.2f} and reconstructions "
            f"{row['score_fake']:.2f} (its loss is {row['critic']:.3f}), and the generator's term rises "
            f"({median(past):.3g} -> {row[name]:.3g}); lower optimizer.critic.lr, or give objective.adversary "
            "lecam_weight, r1_weight or augment, or a later critic_start"
        )

    def _jump(self, row: Mapping[str, float], name: str, terms: Collection[str]) -> str:
        """A jump is far from what the term did so far, and matters to the total."""
        past = self._past.get(name, ())
        if len(past) < _ENOUGH:
            return ""
        usual, now = median(past), row.get(f"{name}_weighted", row[name])
        spread = 1.4826 * median([abs(value - usual) for value in past])
        total = sum(abs(median(self._past[other])) for other in terms if self._past.get(other))
        bad = now - usual > max(8 * spread, 0.5 * abs(usual), 0.25 * total)
        if not self._said_now(f"jump {name}", bad, 1):
            return ""
        before = median(self._past[f"raw {name}"])
        return (
            f"the loss {name} jumped to {row[name]:.4g} from {before:.4g} (median of the last {len(past)} rows); if it "
            "stays there, go on from an earlier checkpoint (ckpt=RUN/checkpoints/step_N) with a lower optimizer.lr or "
            "trainer.clip"
        )

    def _said_now(self, what: str, bad: bool, patience: int) -> bool:
        """Whether this is the row at which something that has been bad for so many rows is to be said."""
        self._rows_bad[what] = self._rows_bad.get(what, 0) + 1 if bad else 0
        return self._rows_bad[what] == patience


def _against_collapse(quantizer: Quantizer) -> str:
    parts = list(quantizer.modules())
    remedies = ["lower optimizer.lr"]
    for name, advice in (
        ("restart_below", "restart codes that are not used (quantizer.restart_below)"),
        ("entropy_weight", "raise quantizer.entropy_weight"),
    ):
        if any(hasattr(part, name) for part in parts):
            remedies.insert(0, advice)
    return " or ".join(remedies)
