"""How much so many images can say about a codebook: the ceiling of its usage, and entropies that come out too low."""

import math

from imtok.measures.report.results import Report, counted
from imtok.measures.report.titles import amount, number

_FEW_PER_CODE = 10  # tokens per code below which pairs of tokens are far too few
_BITS_TOO_LOW = 0.05  # from which on an entropy needs more images


def draws(report: Report) -> list[int]:
    """How many tokens were counted in each slot; empty = none were."""
    counts = [report.arrays.get(f"counts_{slot}") for slot in range(len(report.vocab_sizes))]
    found = [int(table.sum()) for table in counts if table is not None]
    return found if len(found) == len(counts) else []


def ceiling(tokens: int, codes: int) -> float:
    """The largest share of ``codes`` that so many tokens can show.

    Example:
        >>> ceiling(tokens=9472, codes=16384)
        0.578125
    """
    return min(tokens, codes) / codes


def even_use(tokens: int, codes: int) -> float:
    """The share of ``codes`` that so many tokens show on average, if each is drawn evenly at random.

    Example:
        >>> round(even_use(tokens=9472, codes=16384), 3)
        0.439
    """
    return -math.expm1(tokens * math.log1p(-1 / codes)) if codes > 1 else float(tokens > 0)


def tokens_for(share: float, codes: int) -> int:
    """How many tokens of even use show so large a share of the codes on average.

    Example:
        >>> tokens_for(0.99, codes=16384)
        75449
    """
    return math.ceil(math.log1p(-share) / math.log1p(-1 / codes)) if codes > 1 else 1


def cautions(report: Report) -> list[str]:
    """Which numbers of a codebook need more images, in sentences."""
    lines, counted_in, most = list[str](), draws(report), max(report.vocab_sizes, default=0)
    if "entropy_bits" in report.metrics and counted_in:
        each = min(tokens / codes for tokens, codes in zip(counted_in, report.vocab_sizes, strict=True))
        low = report.metrics["entropy_bits_corrected"] - report.metrics["entropy_bits"]
        if low >= _BITS_TOO_LOW:
            lines.append(
                f"Entropy and perplexity need more images: there are {number(each)} tokens per code, and the entropy "
                f"comes out too low, by at least about {low:.2g} bits. The corrected entropy adds these."
            )
    if "positions" in report.tables and report.images < most:
        lines.append(
            f"The entropy at a position needs more images: it is estimated from {amount(report.images, 'token')} for "
            f"{most:,} codes. Without the correction it cannot exceed {math.log2(report.images):.2f} bits."
        )
    if "language" in report.tables and counted_in and min(counted_in) < _FEW_PER_CODE * most:
        lines.append(
            f"The statistics of tokens as a language need more images: {counted(report.images)} "
            f"{'is' if report.images == 1 else 'are'} few for {most:,} codes."
        )
    return lines
