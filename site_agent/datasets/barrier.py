"""The barrier around one case: whatever goes wrong while it is read or made leaves out that case alone, by name."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from messages.ground.durable import is_out_of_space
from messages.ground.errors import DataError, KonsilError
from messages.reasons import ADVICE, Reason
from site_agent.datasets.opening import show_name


class CaseError(DataError):
    """One case cannot be used; `reason` is the code to count it under."""

    def __init__(self, reason: Reason, what: str, *, where: str = "", advice: str = "") -> None:
        self.reason = reason
        super().__init__(what, where=show_name(where), advice=advice or ADVICE[reason])


@contextmanager
def hold_faults(name: str) -> Iterator[None]:
    """Around the work on one case: what is raised within becomes CaseError, and its neighbours never notice.

    Passes on what no case can bring about: errors of Konsil's own that are not of one case, a full disk, a library that
    is not there.

    Raises:
        CaseError: as it was raised; OUT_OF_MEMORY, or UNREADABLE with type and place of what was not foreseen.
    """
    try:
        with np.errstate(all="ignore"):  # what overflows is judged; numpy's own line would name no file
            yield
    except (KonsilError, ImportError):
        raise
    except Exception as error:
        if isinstance(error, OSError) and is_out_of_space(error):
            raise
        if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error):  # PyTorch's is a RuntimeError
            raise CaseError(Reason.OUT_OF_MEMORY, "there is not enough memory for it", where=name) from None
        # Type and place, never the message: it may hold what the file says.
        place = traceback.extract_tb(error.__traceback__)[-1]
        what = f"cannot be processed ({type(error).__name__} in {Path(place.filename).name}, line {place.lineno})"
        raise CaseError(Reason.UNREADABLE, what, where=name) from None
