"""The label of one study, from the objects or the file that hold it, on the reference's grid.

`labels.source` names the one kind that counts: SEG, RTSTRUCT or NIfTI beside. Others are not looked at, so kinds are
never mixed. Several objects make one label map where together they give each concept once (`concepts.merge_maps`): many
tools write an object a structure. One that holds a concept and cannot be used keeps the study out: without it, the
label would say that there is nothing where nobody knows.

A label may have been drawn on a series that is no channel: another one for the same modality, a copy that was worked
on. If that series is in the study and in the reference's frame of reference it is read, too, as a witness of the
label's geometry and of nothing else: every image that the label names must be there, and the label lie within them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from messages.reasons import Reason
from site_agent.dicom.base import LabelMap, Object, ObjectRefused, Volume
from site_agent.dicom.config import DicomDataset, Labels
from site_agent.dicom.labels import concepts, nifti, segmentations, structures
from site_agent.dicom.labels.concepts import MOST_LOST, Known, outline_of
from site_agent.dicom.roles.study import Study
from site_agent.dicom.volumes import assembly, grid


@dataclass(frozen=True, slots=True)
class _Kind:
    """How one kind of label object is read; see `segmentations` for each."""

    modality: str
    read: Callable[[Object, Volume, Labels, Sequence[Volume]], LabelMap]
    described: Callable[[Object, Labels], frozenset[str]]
    named: Callable[[Object], Mapping[str, Sequence[str]]]


_KINDS = {
    "seg": _Kind("SEG", segmentations.read_segmentation, segmentations.described_concepts, segmentations.named_images),
    "rtstruct": _Kind(
        "RTSTRUCT", structures.read_structure_set, structures.described_concepts, structures.named_images
    ),
}
LABEL_MODALITY = {source: kind.modality for source, kind in _KINDS.items()}
"""Modality (0008,0060) of the objects that hold labels, by `labels.source`."""
_OF_OTHERS = (Reason.LABEL_REFERENCES_OTHERS, Reason.OTHER_FRAME_OF_REFERENCE)
_SAYS_LEAST = (*_OF_OTHERS, Reason.UNMATCHED_LABEL)
"""Of several labels none of which can be used, those left out for one of these are not the ones to complain of."""
_NO_LABEL = (Reason.UNSUPPORTED_IMAGE, Reason.SECONDARY_CAPTURE, Reason.BURNED_IN_ANNOTATION)
"""What the door refuses for one of these is no label of voxels or contours: a surface, a picture."""
_UNFINISHED = (Reason.RETRIEVE_FAILED, Reason.INCOMPLETE_SERIES)


@dataclass(frozen=True, slots=True)
class _Unusable:
    """A label object that is not used, and the concepts it gives; None where that cannot be told."""

    error: ObjectRefused
    gives: frozenset[str] | None

    def hinders(self, given: frozenset[str]) -> bool:
        """Whether the study's label is not known without it, given what the usable objects give.

        What is drawn on other images is a label of those, unless it gives what nothing else does.
        """
        if self.gives is None:
            return True
        return bool(self.gives - given if self.error.reason in _OF_OTHERS else self.gives)


def read_label_map(study: Study, config: DicomDataset, reference: Volume, drawn_on: Sequence[Volume]) -> LabelMap:
    """The study's label.

    Args:
        drawn_on: outlines of the case's other channels, on which a label may have been drawn.

    Raises:
        Refused: NO_LABEL, SEVERAL_LABELS, OVERLAPPING_LABELS, or what keeps a label from being used (`segmentations`,
            `structures`, `nifti_labels`, the door).
    """
    rules = config.labels
    if rules.source == "nifti":
        if study.nifti is None:
            raise ObjectRefused(Reason.NO_LABEL, "no file in labels.folder is named after the study or the patient")
        return nifti.read_nifti_label(study.nifti, reference, rules)
    kind = _KINDS[rules.source]
    images = _Images(study, config, reference, drawn_on)
    found: list[LabelMap] = []
    unusable: list[_Unusable] = []
    for series in sorted(series for series, modality in study.modalities.items() if modality == kind.modality):
        if series in study.broken:
            reason = study.broken[series]
            what = "a label did not come whole" if reason in _UNFINISHED else "a label object cannot be used"
            error = ObjectRefused(reason, what)
            unusable.append(_Unusable(error, frozenset() if reason in _NO_LABEL else None))
            continue
        for obj in study.objects(series):
            try:
                found.append(_draw_object(obj, kind, rules, images))
            except ObjectRefused as error:
                unusable.append(_Unusable(error, _given_concepts(obj, kind, rules)))
    given = frozenset[str]().union(*(one.described for one in found))
    if hindering := [one.error for one in unusable if not found or one.hinders(given)]:
        raise next((error for error in hindering if error.reason not in _SAYS_LEAST), hindering[0])
    if not found:
        raise ObjectRefused(Reason.NO_LABEL, "the study holds no label")
    return concepts.merge_maps(found, rules)


def _given_concepts(obj: Object, kind: _Kind, rules: Labels) -> frozenset[str] | None:
    try:
        return kind.described(obj, rules)
    except ObjectRefused:
        return None


def _draw_object(obj: Object, kind: _Kind, rules: Labels, images: _Images) -> LabelMap:
    """One object's label map.

    Raises:
        Refused: as `read_label_map`.
    """
    witnesses = images.drawn_beside(kind.named(obj))
    label = kind.read(obj, images.reference, rules, (*images.drawn_on, *witnesses))
    lost = min((grid.share_beyond(label.voxels, images.reference.affine, one) for one in witnesses), default=0.0)
    if lost > MOST_LOST:
        what = f"{lost:.1%} of the label lies outside the images that it says it was drawn on"
        raise ObjectRefused(Reason.LABEL_REFERENCES_OTHERS, what)
    return label


class _Images:
    """The volumes that labels may have been drawn on: the channels', and the study's other series when one is named."""

    def __init__(self, study: Study, config: DicomDataset, reference: Volume, drawn_on: Sequence[Volume]) -> None:
        self.reference, self.drawn_on = reference, tuple(drawn_on)
        self._study = study
        self._known = Known.from_volumes((reference, *drawn_on))
        self._others = [
            series
            for series, modality in study.modalities.items()
            if modality in config.query.modalities and series not in self._known.series
        ]
        self._built: dict[str, tuple[Volume, ...]] = {}

    def drawn_beside(self, named: Mapping[str, Sequence[str]]) -> tuple[Volume, ...]:
        """Outlines of what a label was drawn on where that is none of the channels; empty where it is not there.

        Args:
            named: as `concepts.require_known`.

        Raises:
            Refused: OTHER_FRAME_OF_REFERENCE; LABEL_REFERENCES_OTHERS (the series is no volume); RETRIEVE_FAILED,
                INCOMPLETE_SERIES (it may come whole another time).
        """
        if concepts.is_related(named, self._known):
            return ()
        wanted = [series for series in self._others if series in named] or self._series_holding(
            frozenset(named.get("", ()))
        )
        return tuple(volume for series in wanted for volume in self._read_volumes(series))

    def _series_holding(self, instances: frozenset[str]) -> list[str]:
        """The series that images belong to of which a label does not say to which."""
        return [
            series
            for series in self._others
            if instances and not instances.isdisjoint(str(obj.SOPInstanceUID) for obj in self._study.objects(series))
        ]

    def _read_volumes(self, series: str) -> tuple[Volume, ...]:
        if series in self._built:
            return self._built[series]
        reason = self._study.broken.get(series)
        if reason in _UNFINISHED:
            raise ObjectRefused(reason, "the series that a label was drawn on did not come whole")
        if reason is not None:
            raise ObjectRefused(Reason.LABEL_REFERENCES_OTHERS, f"the series it was drawn on cannot be used ({reason})")
        objects = self._study.objects(series)
        try:
            found = assembly.build_volumes(objects, announced=self._study.announced.get(series))
        except ObjectRefused as error:
            what = f"the series it was drawn on is no volume ({error.reason})"
            raise ObjectRefused(Reason.LABEL_REFERENCES_OTHERS, what) from None
        for volume in found:
            grid.require_same_frame(volume, self.reference)
        self._built[series] = tuple(outline_of(volume) for volume in found)
        return self._built[series]
