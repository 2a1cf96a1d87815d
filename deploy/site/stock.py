"""What `site datasets` says: of a data set, and of one case. Printed, or as plain types for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from deploy.console import format_moment, say_line

if TYPE_CHECKING:
    from site_agent.data.inventory import Stock
    from site_agent.data.shown import CaseShown
    from site_agent.datasets.consent import Consent
    from site_agent.dicom.base import Accounting


def stock_as_plain(stock: Stock, contradictions: Sequence[str]) -> dict[str, Any]:
    """A data set for programs. `contradictions`: lines about volumes that contradict other sites'."""
    plain: dict[str, Any] = {
        "found": stock.found,
        "used": stock.used,
        "left_out": stock.left_out,
        "details": list(stock.details),
        "channels": list(stock.channels),
        "concepts": list(stock.concepts),
        "remarks": list(stock.remarks),
        "classes": dict(stock.classes),
        "volumes": {one.concept: one.as_plain() for one in stock.volumes},
        "contradictions": list(contradictions),
    }
    if stock.consent is not None:
        plain["withdrawn"] = _consent_as_plain(stock.consent)
    if stock.prepared is not None:
        plain |= {
            "series_left_out": _named_counts(stock.prepared.series_left_out),
            "extent_unverified": stock.prepared.extent_unverified,
            "fingerprint": stock.prepared.fingerprint,
            "as_of": stock.prepared.as_of,
        }
    return plain


def say_stock(name: str, stock: Stock, contradictions: Sequence[str]) -> None:
    """Print a data set."""
    from site_agent.datasets.opening import show_name

    say_line(f"{name}: {stock.used} of {stock.found} cases usable")
    concepts = f"; concepts {', '.join(stock.concepts)}" if stock.concepts else ""
    say_line(f"  channels {', '.join(stock.channels)}{concepts}")
    if stock.classes:
        told = ", ".join(f"{show_name(name)} {count}" for name, count in stock.classes.items())
        say_line(f"  the table says {told}")
    for volume in stock.volumes:
        say_line(f"  volume of {volume.describe()}")
    for line in contradictions:
        say_line(f"  CONTRADICTS the other sites: {line}")
    if stock.prepared is not None:
        _say_prepared(stock.left_out, stock.prepared)
    else:
        _say_counts("left out", stock.left_out)
    for line in stock.details:
        say_line(f"  left out: {line}")
    if stock.consent is not None:
        say_line(f"  {stock.consent.say_counts()}")
        for line in stock.consent.texts:
            say_line(f"    {line}")
    for line in stock.remarks:
        say_line(f"  note: {line}")


def say_case(dataset: str, shown: CaseShown) -> None:
    """Print one case."""
    from site_agent.data.shown import MOST_FILES
    from site_agent.datasets.opening import show_name

    say_line(f"{dataset}: {show_name(shown.key)}, patient {show_name(shown.patient)}: {shown.decided}")
    for line in shown.why:
        say_line(f"  {line}")
    if shown.shape:
        sizes = " × ".join(f"{one:g}" for one in shown.spacing)
        say_line(f"  {' × '.join(map(str, shown.shape))} voxels of {sizes} mm")
        say_line(f"  axes {shown.orientation}")
    for channel, (low, middle, high) in shown.intensity.items():
        say_line(f"  {channel}: {low:g} to {high:g}, median {middle:g}")
    for concept, voxels in shown.label.items():
        say_line(f"  {concept}: {voxels} voxels, {voxels * shown.voxel_ml:.3g} ml")
    if shown.digest:
        say_line(f"  digest {shown.digest}")
    for path in shown.files[:MOST_FILES]:
        say_line(f"  file {path}")
    if len(shown.files) > MOST_FILES:
        say_line(f"  and {len(shown.files) - MOST_FILES} files more")


def _say_prepared(left_out: Mapping[str, int], prepared: Accounting) -> None:
    """What only a data set from DICOM has."""
    if prepared.as_of is not None:
        say_line(f"  as of {format_moment(prepared.as_of)}: the PACS could not be reached")
    _say_counts("studies left out", left_out)
    _say_counts("series left out", _named_counts(prepared.series_left_out))
    if prepared.extent_unverified:
        say_line(f"  series whose first and last slice nothing verifies: {prepared.extent_unverified}")
    say_line(f"  fingerprint {prepared.fingerprint[:16]}")


def _say_counts(what: str, counts: Mapping[str, int]) -> None:
    if counts:
        say_line(f"  {what}: " + ", ".join(f"{count} {reason}" for reason, count in counts.items()))


def _named_counts(counts: Mapping[Any, int]) -> dict[str, int]:
    return {str(key): count for key, count in sorted(counts.items())}


def _consent_as_plain(consent: Consent) -> dict[str, Any]:
    """What became of the list of the withdrawn; lines are counted from 1."""
    return {
        "entries": consent.entries,
        "matched": consent.matched,
        "nobody": list(consent.nobody),
        "texts": list(consent.texts),
        "copies": consent.copies,
        "uncompared": consent.uncompared,
        "used_copies": consent.used_copies,
        "fewer": list(consent.fewer),
    }
