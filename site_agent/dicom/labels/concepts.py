"""Which concept a coded label is, what images it may refer to, and how concepts share voxels.

What the three kinds of labels have in common (`segmentations`, `structures`, `nifti_labels`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from messages.reasons import Reason
from site_agent.dicom.base import LabelMap, Object, ObjectRefused, Volume
from site_agent.dicom.config import Labels
from site_agent.dicom.door.codes import WITHHELD, is_private_scheme
from site_agent.dicom.volumes import grid

Mask = npt.NDArray[np.bool_]
MOST_LOST = 0.01
"""Largest share of a label's voxels that may lie outside the image: more, and it was drawn on another one."""


@dataclass(frozen=True, slots=True)
class Known:
    """The images that a label may refer to: the reference, and what else of the study it may have been drawn on.

    Attributes:
        series: Series Instance UIDs. instances: SOP Instance UIDs of every slice.
    """

    series: frozenset[str]
    instances: frozenset[str]

    @classmethod
    def from_volumes(cls, volumes: Iterable[Volume]) -> Known:
        """All that these volumes are made of."""
        volumes = list(volumes)
        return cls(
            frozenset(volume.series for volume in volumes),
            frozenset(instance for volume in volumes for instance, _ in volume.frames),
        )


def outline_of(volume: Volume) -> Volume:
    """A volume's geometry and references without its voxels, to be kept at no cost (for `drawn_on`)."""
    return replace(volume, voxels=np.broadcast_to(np.float32(0), volume.voxels.shape))


@contextmanager
def refuse_unreadable(what: str) -> Iterator[None]:
    """Raises Refused (`UNREADABLE`) for whatever a malformed object makes pydicom raise."""
    try:
        yield
    except (ObjectRefused, MemoryError):
        raise
    except Exception:  # noqa: BLE001 - pydicom raises anything for a malformed object, and quotes its values
        raise ObjectRefused(Reason.UNREADABLE, f"a {what} whose elements cannot be read") from None


def is_related(named: Mapping[str, Sequence[str]], known: Known) -> bool:
    """Whether a label names no image, or a known series, or known images without their series; see `require_known`."""
    if not named or any(series in known.series for series in named if series):
        return True
    return "" in named and known.instances.issuperset(named[""])


def require_known(named: Mapping[str, Sequence[str]], known: Known) -> None:
    """Raise unless the images that a label names are there.

    Some of its series must be known, and of the known ones every image that it names: an image that is missing there
    means that the volume is not the one that was drawn on.

    Args:
        named: Series Instance UID → SOP Instance UIDs; "" where only images are named. Empty: it names none.

    Raises:
        Refused: `LABEL_REFERENCES_OTHERS`.
    """
    if not named:
        return
    here = [series for series in named if series == "" or series in known.series]
    if not here:
        raise ObjectRefused(
            Reason.LABEL_REFERENCES_OTHERS, f"the label refers to {len(named)} series that are not there"
        )
    wanted = {instance for series in here for instance in named[series]}
    if missing := len(wanted - known.instances):
        raise ObjectRefused(
            Reason.LABEL_REFERENCES_OTHERS, f"{missing} of {len(wanted)} images it refers to are not there"
        )


def codes_of(items: Iterable[Object] | None) -> tuple[tuple[str, str], ...]:
    """(coding scheme designator, code value) of a code sequence's items; long and URN values too (PS3.3, 8.8)."""
    found = []
    for item in items or ():
        value = item.get("CodeValue") or item.get("LongCodeValue") or item.get("URNCodeValue")
        scheme = item.get("CodingSchemeDesignator")
        if value and scheme:
            found.append((str(scheme).strip(), str(value).strip()))
    return tuple(found)


def concept_of(codes: Sequence[tuple[str, str]], name: str | None, rules: Labels) -> str | None:
    """The concept that `rules` know by one of these codes; by its exact name only where the label carries no code of a
    public scheme. Planning systems give every structure a code of their own, alike for all that are of a kind.

    SNOMED's retired codes (designator SRT) count as their SNOMED CT code (PS3.16, 8.1; pydicom's own table).

    Args:
        name: None where a label is never known by its name.

    Raises:
        Refused: the codes stand for two concepts (`UNMATCHED_LABEL`).
    """
    public = [code for code in codes if code == WITHHELD or not is_private_scheme(code[0])]
    found = {
        concept
        for concept, rule in rules.concepts.items()
        if any(_equals_known(code, known) for code in codes for known in rule.codes)
        or (not public and name is not None and name in rule.names)
    }
    if len(found) > 1:
        raise ObjectRefused(Reason.UNMATCHED_LABEL, f"one label stands for {len(found)} concepts of site.toml")
    return found.pop() if found else None


def _equals_known(code: tuple[str, str], known: str) -> bool:
    from pydicom.sr.coding import Code

    scheme, _, value = known.partition(":")
    # Code's own equality knows which retired SNOMED codes mean which SNOMED CT code; meanings play no part.
    return bool(Code(code[1], code[0], "") == Code(value, scheme, ""))


def merge_masks(masks: Mapping[str, Mask], shape: tuple[int, ...], rules: Labels) -> LabelMap:
    """One label map of concepts' masks (I, J, K): value = position in `rules.names` plus one.

    Where two concepts claim a voxel, the later one in `rules.order` has it.

    Raises:
        Refused: two claim a voxel and `rules.order` does not name both (`OVERLAPPING_LABELS`).
    """
    names = rules.names
    voxels = np.zeros(shape, dtype=np.uint8)
    ranked = sorted(masks, key=lambda concept: rules.order.index(concept) if concept in rules.order else -1)
    for concept in ranked:
        mask = masks[concept]
        there = voxels[mask]
        others = {names[value - 1] for value in np.unique(there).tolist() if value}
        if others and not others | {concept} <= set(rules.order):
            shared = int(np.count_nonzero(there))
            raise ObjectRefused(Reason.OVERLAPPING_LABELS, f"two concepts claim {shared} voxels and no order is given")
        voxels[mask] = names.index(concept) + 1
    return LabelMap(voxels, names, frozenset(masks))


def merge_maps(maps: Sequence[LabelMap], rules: Labels) -> LabelMap:
    """The label maps of several objects on one grid as one; none of them changes, whatever their order.

    Each gives other concepts than the others do; what two give alike, voxel by voxel, is the same label twice and
    counts once. Which of two that differ is right (a second reader's, a revision) nothing says: dates tell when, not
    why. What `rules.order` took from a concept within its own object it would have taken here.

    Raises:
        Refused: two give a concept otherwise (`SEVERAL_LABELS`); as `merge_masks` (`OVERLAPPING_LABELS`).
    """
    if len(maps) == 1:
        return maps[0]
    masks: dict[str, Mask] = {}
    for one in maps:
        for concept in sorted(one.described):
            mask = one.voxels == one.concepts.index(concept) + 1
            if concept in masks and not np.array_equal(masks[concept], mask):
                raise ObjectRefused(
                    Reason.SEVERAL_LABELS, f"{len(maps)} labels fit, and two give one concept otherwise"
                )
            masks[concept] = mask
    return merge_masks(masks, maps[0].voxels.shape, rules)


def put_on_grid(drawn: LabelMap, affine: grid.Affine, reference: Volume) -> LabelMap:
    """A label map of another grid on the reference's, by the nearest voxel.

    Raises:
        Refused: too much of it lies outside the image (`LABEL_REFERENCES_OTHERS`).
    """
    require_inside(grid.share_beyond(drawn.voxels, affine, reference), MOST_LOST)
    return replace(drawn, voxels=grid.resample_nearest(drawn.voxels, affine, reference))


def require_inside(lost: float, most: float) -> None:
    """Raise where a larger share than `most` of a label lies outside the image (`LABEL_REFERENCES_OTHERS`)."""
    if lost > most:
        raise ObjectRefused(Reason.LABEL_REFERENCES_OTHERS, f"{lost:.1%} of the labelled voxels lie outside the image")
