"""Studies that could be read in two ways, or not at all: none of them becomes a case, and each says why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from dicom_rig import CHANNELS, SECRET, SPACING, contents, series_of, settings, write
from pydicom.pixels import pack_bits, pixel_array

from deploy.demo.phantoms import dicom
from messages.reasons import Reason
from site_agent.datasets import source
from site_agent.dicom.base import SeriesFound, StudyFound
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.prepared import accounts
from site_agent.dicom.prepared.looks import Terms
from site_agent.dicom.preparing import build
from site_agent.dicom.preparing.studies import StudyReader


def again(obj: Any, **values: Any) -> Any:
    """Another object like it."""
    other = deepcopy(obj)
    other.SOPInstanceUID = other.file_meta.MediaStorageSOPInstanceUID = dicom.make_uid(
        obj.SOPInstanceUID, *values.items()
    )
    for keyword, value in values.items():
        setattr(other, keyword, value)
    return other


def two_labels(obj: Any) -> list[Any]:
    """A second reader took one thing for the other."""
    if obj.Modality != "SEG":
        return [obj]
    other = again(obj, InstanceNumber=2)
    first, second, *_ = other.SegmentSequence
    first.SegmentNumber, second.SegmentNumber = second.SegmentNumber, first.SegmentNumber
    return [obj, other]


def split(obj: Any) -> list[Any]:
    """A segmentation a structure, each in a series of its own, as many tools export them."""
    if obj.Modality != "SEG":
        return [obj]
    masks = pixel_array(obj)
    numbers = [int(f.SegmentIdentificationSequence[0].ReferencedSegmentNumber) for f in frames_of(obj)]
    made = []
    for segment in obj.SegmentSequence:
        own = [n for n, number in enumerate(numbers) if number == segment.SegmentNumber]
        one = again(obj, SeriesInstanceUID=dicom.make_uid("structure", segment.SegmentNumber), NumberOfFrames=len(own))
        one.SegmentSequence = [segment]
        one.PerFrameFunctionalGroupsSequence = [frames_of(obj)[n] for n in own]
        one.PixelData = pack_bits(masks[own].ravel())
        made.append(one)
    return made


def frames_of(obj: Any) -> Any:
    return obj.PerFrameFunctionalGroupsSequence


def two_alike(obj: Any) -> list[Any]:
    """T2 was acquired twice, and nothing tells which is better."""
    return [obj, again(obj, SeriesInstanceUID=dicom.make_uid("second"))] if "t2_tse" in series_of(obj) else [obj]


def two_times(obj: Any) -> list[Any]:
    if "t2_tse" not in series_of(obj):
        return [obj]
    obj.TemporalPositionIdentifier, obj.NumberOfTemporalPositions = 1, 2
    return [obj, again(obj, TemporalPositionIdentifier=2)]


def elsewhere(obj: Any) -> list[Any]:
    if "t2_tse" in series_of(obj):
        obj.FrameOfReferenceUID = dicom.make_uid("the patient got up in between")
    return [obj]


def of_another(obj: Any) -> list[Any]:
    if "t2_tse" in series_of(obj):
        obj.PatientID = "KH-9999"
    return [obj]


def burned_in(obj: Any) -> list[Any]:
    if "t2_tse" in series_of(obj):
        obj.BurnedInAnnotation = "YES"
    return [obj]


def of_another_study(obj: Any) -> list[Any]:
    if obj.Modality == "SEG":
        for item in obj.ReferencedSeriesSequence:
            item.SeriesInstanceUID = dicom.make_uid("another study's")
    return [obj]


def cut_short(obj: Any) -> list[Any]:
    """T2 ends below the tumour; nothing is missing of what was acquired."""
    if "t2_tse" not in series_of(obj):
        return [obj]
    obj.ImagesInAcquisition = 2
    return [obj] if obj.InstanceNumber <= 2 else []


STUDIES: dict[str, tuple[Callable[[Any], list[Any]], Reason]] = {
    "two labels": (two_labels, Reason.SEVERAL_LABELS),
    "two series alike": (two_alike, Reason.AMBIGUOUS_SERIES),
    "a series over two times": (two_times, Reason.TIME_SERIES),
    "another frame of reference": (elsewhere, Reason.OTHER_FRAME_OF_REFERENCE),
    "a modality that does not reach the tumour": (cut_short, Reason.AFFINE_MISMATCH),
    "two patients in one study": (of_another, Reason.MIXED_PATIENTS),
    "burned-in annotation": (burned_in, Reason.MISSING_CHANNEL),
    "a label of images that are not there": (of_another_study, Reason.LABEL_REFERENCES_OTHERS),
}


def made(state: Path, config: Any) -> Any:
    dataset = build.prepare_dataset("glioma", config, state, SECRET, lambda *_: None, processes=1)
    return dataset, accounts.read_accounting(state, "glioma")


@pytest.mark.parametrize("what", STUDIES)
def test_a_study_that_is_not_clear_is_left_out_with_its_reason(what: str, tmp_path: Path) -> None:
    change, reason = STUDIES[what]
    write(tmp_path / "export", [0], change=change)
    _, found = made(tmp_path, settings(tmp_path / "export"))
    assert (found.found, found.used, found.left_out) == (1, 0, Counter({reason: 1}))


def test_a_segmentation_a_structure_gives_the_case_that_one_of_all_gives(tmp_path: Path) -> None:
    write(tmp_path / "whole", [0])
    write(tmp_path / "split", [0], change=split)
    assert len(list((tmp_path / "split").rglob("IM*"))) == len(list((tmp_path / "whole").rglob("IM*"))) + 2
    found = [contents(made(tmp_path / f"state {name}", settings(tmp_path / name))[0]) for name in ("whole", "split")]
    assert found[0] == found[1]
    assert found[0]


def test_a_segmentation_drawn_on_a_series_that_is_no_channel_is_taken(tmp_path: Path) -> None:
    (written,) = write(tmp_path / "export", [0])  # drawn on T1c
    dataset, found = made(tmp_path, settings(tmp_path / "export", channels=["FLAIR"]))
    assert (found.used, found.left_out) == (1, {})
    (case,) = source.survey_cases(dataset, ["FLAIR"], ["ED", "ET", "NCR"]).cases
    loaded = source.load_case(case, dataset)
    assert loaded.image.shape[0] == 1
    sizes = np.bincount(loaded.label.ravel(), minlength=4)[1:]
    assert tuple(sizes) == tuple(np.bincount(written.label.ravel(), minlength=4)[[2, 3, 1]])


def test_an_override_says_which_of_two_series_it_is(tmp_path: Path) -> None:
    def renamed(obj: Any) -> list[Any]:
        if "t2_tse" not in series_of(obj):
            return [obj]
        second = again(obj, SeriesInstanceUID=dicom.make_uid("second"), SeriesDescription="t2_tse_tra_wdh")
        return [obj, second]

    write(tmp_path / "export", [0], change=renamed)
    override = {"description": "_wdh$", "role": "ignore"}
    _, found = made(tmp_path, settings(tmp_path / "export", overrides=[override]))
    assert (found.used, found.left_out) == (1, {})
    assert found.series_left_out[Reason.IGNORED_SERIES] == 1


def test_a_coarser_series_is_put_on_the_references_grid(tmp_path: Path) -> None:
    def halved(obj: Any) -> list[Any]:
        if "t2_tse" not in series_of(obj):
            return [obj]
        if obj.InstanceNumber % 2:
            return []
        obj.ImagesInAcquisition //= 2
        obj.SliceThickness = obj.SpacingBetweenSlices = 2 * SPACING[2]
        return [obj]

    write(tmp_path / "export", [0], change=halved)
    dataset, found = made(tmp_path, settings(tmp_path / "export"))
    assert (found.used, found.left_out) == (1, {})
    (case,) = source.survey_cases(dataset, CHANNELS, ["ED", "ET", "NCR"]).cases
    assert source.load_case(case, dataset).image.shape[1:] == source.load_case(case, dataset).label.shape


def test_a_nifti_label_of_which_nobody_can_say_whose_study_it_is_is_not_taken(tmp_path: Path) -> None:
    values = {"1": "NCR", "2": "ED", "3": "ET"}
    config = settings(tmp_path, labels={"source": "nifti", "folder": str(tmp_path), "values": values})
    reader = StudyReader(config, Pseudonyms(b"s" * 16), Terms(config, b"s" * 16))
    series = (SeriesFound("1.2.3", "1.2.3.1", "MR"),)
    first, second = StudyFound("1.2.3", "PAT1", series), StudyFound("1.2.4", "PAT1", series)
    (tmp_path / "PAT1.NII.GZ").write_bytes(b"")
    reader.see_found([first])
    assert reader.find_lack(reader.tell_study(first)) is None
    reader.see_found([first, second])
    assert [reader.find_lack(reader.tell_study(one)) for one in (first, second)] == [Reason.SEVERAL_LABELS] * 2
    (tmp_path / "1.2.4.nii").write_bytes(b"")
    told = reader.tell_study(second)
    assert reader.find_lack(told) is Reason.SEVERAL_LABELS
    assert "one named after its patient" in told.unclear
    (tmp_path / "PAT1.NII.GZ").unlink()
    assert reader.find_lack(reader.tell_study(second)) is None


def test_labels_as_nifti_beside_are_found_by_the_studys_uid_or_the_patients_id(tmp_path: Path) -> None:
    folder, labels = tmp_path / "export", tmp_path / "labels"
    labels.mkdir()
    written = write(folder, range(3), keep=lambda obj: obj.Modality != "SEG")
    affine = np.diag([*SPACING, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * s for n, s in zip(written[0].label.shape, SPACING, strict=True)]
    for one, name in zip(written, (written[0].examined.uid, "KH-0001"), strict=False):
        nib.save(nib.Nifti1Image(one.label, affine), labels / f"{name}.nii.gz")
    values = {"1": "NCR", "2": "ED", "3": "ET"}
    config = settings(folder, labels={"source": "nifti", "folder": str(labels), "values": values})
    dataset, found = made(tmp_path, config)
    assert (found.used, found.left_out) == (2, {Reason.NO_LABEL: 1})
    cases = source.survey_cases(dataset, CHANNELS, ["ED", "ET", "NCR"]).cases
    sizes = {tuple(np.bincount(source.load_case(case, dataset).label.ravel(), minlength=4)[1:]) for case in cases}
    assert sizes == {tuple(np.bincount(one.label.ravel(), minlength=4)[[2, 3, 1]]) for one in written[:2]}
    nib.save(nib.Nifti1Image(written[2].label, affine), labels / "KH-0002.nii")
    made(tmp_path, settings(folder, refresh="0s", labels=config.labels.model_dump(mode="json")))
    counted = accounts.read_accounting(tmp_path, "glioma")
    assert counted is not None
    assert (counted.used, counted.left_out) == (3, {})
