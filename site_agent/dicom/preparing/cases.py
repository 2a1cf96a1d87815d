"""A study's series → one case on the reference modality's grid, or the reason why there is none.

Nothing is guessed: where two series could be one modality, a series that is needed holds several volumes, or two labels
fit, the study is left out and says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from messages.reasons import Reason
from site_agent.dicom.base import LabelMap, LeftOut, ObjectRefused, Volume
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.labels import label_map
from site_agent.dicom.labels.concepts import MOST_LOST, outline_of
from site_agent.dicom.prepared.copies import digest_volumes
from site_agent.dicom.roles import assignment
from site_agent.dicom.roles.study import Study
from site_agent.dicom.volumes import assembly, grid


@dataclass(frozen=True, slots=True)
class Made:
    """One case: modality → volume, in the order of `channels` and on one grid; the label on the same grid.

    Attributes:
        unverified: volumes of which nothing but their slices says that none is missing at the ends.
        images: keyed digests of the volumes as they came (`copies`); () without a secret.
    """

    channels: Mapping[str, Volume]
    label: LabelMap
    unverified: int
    images: tuple[str, ...] = ()


def assemble_case(study: Study, config: DicomDataset, left_out: Counter[Reason], secret: bytes = b"") -> Made:
    """Make one case.

    Args:
        left_out: counts the series that are not used, whatever becomes of the study.
        secret: the site's, where digests of its images are wanted.

    Raises:
        Refused: the study gives no case.
    """
    chosen = _choose_series(study, config, left_out)
    channels: dict[str, Volume] = {}
    reference: Volume | None = None
    drawn_on: list[Volume] = []
    images: list[str] = []
    unverified = 0
    for role in config.channels:  # one series at a time: its objects are gone before the next one's are read
        volume = _build_volume(study, chosen[role], role)
        unverified += not volume.extent_verified
        images += digest_volumes([volume], secret) if secret else ()
        reference = reference or volume
        channels[role] = volume if volume is reference else grid.resample_onto(volume, reference)
        drawn_on.append(outline_of(volume))
    assert reference is not None  # noqa: S101 (for mypy: the configuration names a channel)
    label = label_map.read_label_map(study, config, reference, drawn_on[1:])
    for role, volume in zip(config.channels[1:], drawn_on[1:], strict=True):
        _require_reach(volume, role, label, reference)
    return Made(channels, label, unverified, tuple(images))


def _require_reach(volume: Volume, role: str, label: LabelMap, reference: Volume) -> None:
    """Raise Refused where a modality does not show what is labelled: its voxels there would be zeros."""
    lost = grid.share_beyond(label.voxels, reference.affine, volume)
    if lost > MOST_LOST:
        raise ObjectRefused(Reason.AFFINE_MISMATCH, f"{lost:.1%} of the label lies outside the image of {role}")


def _choose_series(study: Study, config: DicomDataset, left_out: Counter[Reason]) -> dict[str, str]:
    """Role → series, for every channel."""
    decided = assignment.assign_roles(study.facts)
    chosen: dict[str, str] = {}
    reasons: Counter[Reason] = Counter()
    for series, what in decided.items():
        if isinstance(what, LeftOut):
            reasons[what.reason] += 1
        elif what in config.channels:
            chosen[what] = series
    left_out.update(reasons)
    lacking = [role for role in config.channels if role not in chosen]
    if not lacking:
        return chosen
    if reasons[Reason.AMBIGUOUS_SERIES]:
        raise ObjectRefused(Reason.AMBIGUOUS_SERIES, f"{reasons[Reason.AMBIGUOUS_SERIES]} series could be {lacking[0]}")
    why = ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))
    raise ObjectRefused(
        Reason.MISSING_CHANNEL, f"no series is {', '.join(lacking)}" + (f" (left out: {why})" if why else "")
    )


def _build_volume(study: Study, series: str, role: str) -> Volume:
    if series in study.broken:
        reason = study.broken[series]
        unfinished = reason in (Reason.RETRIEVE_FAILED, Reason.INCOMPLETE_SERIES)
        what = "did not come whole" if unfinished else "holds an object that cannot be used"
        raise ObjectRefused(reason, f"the series for {role} {what}")
    found = assembly.build_volumes(study.objects(series), announced=study.announced.get(series))
    if len(found) > 1:
        parts = ", ".join(volume.part for volume in found[:4])
        several = f"the series for {role} holds {len(found)} volumes ({parts})"
        timed = any(volume.part.startswith("time") for volume in found)
        raise ObjectRefused(Reason.TIME_SERIES if timed else Reason.AMBIGUOUS_SERIES, several)
    return found[0]
