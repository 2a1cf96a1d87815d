"""Which updates of a round stand out: how long each is beside the others, and whether it points their way; pure.

An update stands out where it is `LONG` times as long as the round's median, or where it points against the others
(`AGAINST`). Nothing follows from that but words: what is refused, the operator decides (`limits.norm_factor`). Of two
updates none can be told from the other, so that nothing is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any

LONG = 5.0
AGAINST = -0.5
LEAST = 3
"""Updates of a round below which none stands out."""


@dataclass(frozen=True, slots=True)
class UpdateCheck:
    """One site's update beside the others of its round; None: not measured.

    Attributes:
        share: of the mean, from 0 to 1; None where it is not used.
        norm: length of what training changed.
        ratio: that, as a multiple of the round's median.
        cosine: of it and the mean of the others' directions.
    """

    share: float | None = None
    norm: float | None = None
    ratio: float | None = None
    cosine: float | None = None
    compared: bool = False

    @property
    def stands_out(self) -> bool:
        """Whether somebody should look at it."""
        long = self.ratio is not None and self.ratio >= LONG
        return self.compared and (long or (self.cosine is not None and self.cosine <= AGAINST))

    @property
    def words(self) -> str:
        """ "33 %, norm 1.2 (0.9 x the median), cosine 0.41"."""
        parts = ["not used" if self.share is None else f"{100 * self.share:.0f} %"]
        if self.norm is not None:
            beside = "" if self.ratio is None else f" ({self.ratio:.3g} x the median)"
            parts.append(f"norm {self.norm:.3g}{beside}")
        if self.cosine is not None:
            parts.append(f"cosine {self.cosine:.2f}")
        return ", ".join(parts)

    def as_plain(self) -> dict[str, Any]:
        """For --json."""
        return {"share": self.share, "norm": self.norm, "ratio": self.ratio, "cosine": self.cosine}


UNUSUAL_ADVICE = (
    "its data, labels or software may differ, or it means harm: `konsil experiment exclude` takes it out of the rest,"
    " and limits.norm_factor in coordinator.toml refuses what is too long"
)


def check_updates(
    shares: Mapping[str, float], norms: Mapping[str, float], cosines: Mapping[str, float]
) -> dict[str, UpdateCheck]:
    """Each update of a round by its site.

    Args:
        shares: of those that are used. norms: of all that were measured. cosines: of those that were compared.
    """
    middle = median(norms.values()) if norms else 0.0
    return {
        site: UpdateCheck(
            shares.get(site),
            norm := norms.get(site),
            None if norm is None or not middle else norm / middle,
            cosines.get(site),
            len(norms) >= LEAST,
        )
        for site in sorted({*shares, *norms})
    }
