"""Says in words, and not in hashes, why two numbers of the same name must not be compared."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from imtok.measures.report.origin import describe_data

_HASH = re.compile(r"[0-9a-f]{8,}")
_WEIGHTS = {"ema": "averaged weights", "raw": "raw weights"}
_OF_PROTOCOL = ("resize", "dtype")  # in the hash of the extractor, without an entry of their own
_LEFT_OUT = ("id", "metric", "extractor_hash")


def difference(metric: str, reports: Sequence[Mapping[str, Any]], names: Sequence[str]) -> str:
    """What was different in each of several reports.

    Args:
        metric: A number that all of them have.
        reports: Contents of ``report.json`` files whose numbers have different protocol ids.
        names: What to call each; several reports that were measured alike have one name together.
    """
    facts = [_facts(report, metric) for report in reports]
    keys = [key for key in dict.fromkeys(key for one in facts for key in one) if key not in _LEFT_OUT]
    differing = [key for key in keys if len({str(one.get(key)) for one in facts}) > 1]
    differing.sort(key=lambda key: key != "preset")  # the name of a protocol first, then what it consists of
    told = [
        [_phrase(key, one.get(key), report) for key in differing] for one, report in zip(facts, reports, strict=True)
    ]
    told = [_distinct(column) for column in zip(*told, strict=True)]
    sides = [
        f"{name} {', '.join(filter(None, (column[place] for column in told)))}" for place, name in enumerate(names)
    ]
    if not any(any(column) for column in told):
        if "data" in differing:
            return f"the images of {' and '.join(names)} differ, although they have the same description"
        return f"{' and '.join(names)} used extractors with different weights or settings"
    return "; ".join(sides)


def _facts(report: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """All facts that a number depends on."""
    facts = dict(report["protocol_ids"].get(metric, {}))
    protocol = report.get("protocol", {})
    if "extractor" in facts and facts["extractor"].startswith(str(protocol.get("extractor"))):
        facts |= {key: protocol[key] for key in _OF_PROTOCOL if key in protocol}
    return facts


def _phrase(key: str, value: Any, report: Mapping[str, Any]) -> str:
    """One fact in words; empty if it means nothing to a reader."""
    if value is None:
        return ""
    if key == "data":
        about = describe_data(report.get("data", {}))
        return f"on {about}" if about else ""
    if key == "n":
        return f"over {value:,} image{'s' * (value != 1)}"
    if key == "size":
        return f"of {value}"
    if key == "weights":
        return f"with {_WEIGHTS.get(str(value), value)}"
    if key == "convention":
        return f"computed as {value}"
    if key == "reference":
        return "against stored statistics" if _HASH.fullmatch(str(value)) else f"against the {value}"
    if key == "preset":
        return f"used {value}"
    return "" if _HASH.fullmatch(str(value)) else f"{key} {value}"


def _distinct(column: Sequence[str]) -> Sequence[str]:
    """Phrases as they are, or nothing where they are all the same."""
    return column if len(set(column)) > 1 else [""] * len(column)
