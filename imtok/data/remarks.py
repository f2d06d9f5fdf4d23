"""Reports data that is not read, each remark once."""

import logging
from collections.abc import Iterable

from imtok.distributed import launched_rank

log = logging.getLogger(__name__)


def say_remarks(remarks: Iterable[str], said: Iterable[str] = ()) -> None:
    """Log the remarks of data sets, each once, in the first process only.

    Args:
        remarks: Of one or more data sets.
        said: What was said before.
    """
    if launched_rank() == 0:
        for remark in dict.fromkeys(remarks):
            if remark not in said:
                log.warning("%s", remark)
