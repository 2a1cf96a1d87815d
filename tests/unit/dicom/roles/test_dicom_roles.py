"""Which series is T1, T1c, T2 or FLAIR: protocols as scanners write them, and what is left out with its reason."""

from __future__ import annotations

import itertools
import json
from typing import Any, get_args

import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from places import TEST_DATA
from pydicom.dataset import Dataset

from messages.ground.errors import DataError
from messages.reasons import Reason
from site_agent.dicom.base import LeftOut
from site_agent.dicom.config import Override
from site_agent.dicom.roles import assignment
from site_agent.dicom.roles import table as roles_table
from site_agent.dicom.roles.facts import Facts, listed_words

MR = "1.2.840.10008.5.1.4.1.1.4"
ENHANCED_MR = "1.2.840.10008.5.1.4.1.1.4.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"


def mr(**more: Any) -> Dataset:
    """A single-frame MR object; keywords are DICOM's."""
    obj = Dataset()
    obj.SOPClassUID, obj.Modality = MR, "MR"
    obj.ImageType = ["ORIGINAL", "PRIMARY", "OTHER"]
    obj.MRAcquisitionType, obj.SliceThickness = "2D", 5
    for keyword, value in more.items():
        setattr(obj, keyword, value)
    return obj


# Protocols as the three vendors write them into their objects: (what, attributes of the object).
T1_SE = {"ScanningSequence": "SE", "SequenceVariant": "SK", "RepetitionTime": 550, "EchoTime": 9, "FlipAngle": 90}
MPRAGE = {
    "ScanningSequence": ["GR", "IR"], "SequenceVariant": ["SK", "SP", "MP"], "MRAcquisitionType": "3D",
    "RepetitionTime": 2100, "EchoTime": 2.98, "InversionTime": 1100, "FlipAngle": 12, "SliceThickness": 1,
}  # fmt: skip
BRAVO = {
    "ScanningSequence": "GR", "SequenceVariant": ["SS", "SP", "SK"], "MRAcquisitionType": "3D",
    "RepetitionTime": 6.964, "EchoTime": 2.832, "InversionTime": 400, "FlipAngle": 11, "SliceThickness": 1.2,
}  # fmt: skip
GE_MPRAGE = {
    "ScanningSequence": ["RM", "IR"], "SequenceVariant": "NONE", "MRAcquisitionType": "3D", "ScanOptions": "IR_GEMS",
    "RepetitionTime": 2217.66, "EchoTime": 3.172, "InversionTime": 1000, "FlipAngle": 8, "EchoTrainLength": 1,
}  # fmt: skip
GE_BRAVO_RM = BRAVO | {"ScanningSequence": "RM", "SequenceVariant": "NONE", "InversionTime": 450}
PHILIPS_IR_TFE = MPRAGE | {"ScanningSequence": "IR", "SequenceVariant": "NONE", "EchoTrainLength": 180}
TFE = {
    "ScanningSequence": "GR", "SequenceVariant": "MP", "MRAcquisitionType": "3D",
    "RepetitionTime": 8.1, "EchoTime": 3.7, "FlipAngle": 8, "SliceThickness": 1,
}  # fmt: skip
T1_FLASH_2D = {
    "ScanningSequence": "GR", "SequenceVariant": "SP", "RepetitionTime": 250, "EchoTime": 2.5, "FlipAngle": 70,
}  # fmt: skip
T1_FLAIR_GE = {
    "ScanningSequence": ["SE", "IR"], "SequenceVariant": "SK", "RepetitionTime": 2500, "EchoTime": 24,
    "InversionTime": 860, "FlipAngle": 111, "EchoTrainLength": 8,
}  # fmt: skip
T2_TSE = {"ScanningSequence": "SE", "SequenceVariant": "SK", "RepetitionTime": 4500, "EchoTime": 100, "FlipAngle": 150}
T2_SPACE = {
    "ScanningSequence": "SE", "SequenceVariant": ["SK", "SP"], "MRAcquisitionType": "3D",
    "RepetitionTime": 3200, "EchoTime": 408, "FlipAngle": 120, "SliceThickness": 1,
}  # fmt: skip
FLAIR_2D = {
    "ScanningSequence": ["SE", "IR"], "SequenceVariant": ["SK", "SP", "MP"], "RepetitionTime": 9000, "EchoTime": 120,
    "InversionTime": 2500, "FlipAngle": 150,
}  # fmt: skip
FLAIR_PHILIPS = {
    "ScanningSequence": "IR", "SequenceVariant": "SK", "RepetitionTime": 11000, "EchoTime": 125,
    "InversionTime": 2800, "FlipAngle": 90, "EchoTrainLength": 27,
}  # fmt: skip
FLAIR_SPACE = {
    "ScanningSequence": ["SE", "IR"], "SequenceVariant": ["SK", "SP", "MP"], "MRAcquisitionType": "3D",
    "RepetitionTime": 5000, "EchoTime": 388, "InversionTime": 1800, "FlipAngle": 120, "SliceThickness": 1,
}  # fmt: skip
STIR = FLAIR_2D | {"InversionTime": 160, "EchoTime": 60, "RepetitionTime": 4500}
PROTON_DENSITY = T2_TSE | {"EchoTime": 15, "RepetitionTime": 3000}
GRADIENT_T2_STAR = T1_FLASH_2D | {"EchoTime": 20, "RepetitionTime": 600, "FlipAngle": 20}
EPI = {"ScanningSequence": ["EP", "GR"], "SequenceVariant": "SS", "RepetitionTime": 5000, "EchoTime": 30}
FIESTA = BRAVO | {"SequenceVariant": "SS", "InversionTime": None, "RepetitionTime": 5, "FlipAngle": 45}
RM_ALONE = {"ScanningSequence": "RM", "MRAcquisitionType": "3D", "RepetitionTime": 7, "EchoTime": 3, "FlipAngle": 12}
"""GE's research mode without an inversion: it may as well be balanced."""
RM_2D = GE_MPRAGE | {"MRAcquisitionType": "2D"}
RM_WIDE_ANGLE = GE_MPRAGE | {"FlipAngle": 90}
LOW_ANGLE = BRAVO | {"FlipAngle": 3, "InversionTime": None}


def decide_one(obj: Dataset, *overrides: Override) -> str | Reason:
    """A study with this one series: its role, or the reason why it is left out."""
    return decide({"1.2.3": obj}, *overrides)["1.2.3"]


def decide(study: dict[str, Dataset], *overrides: Override) -> dict[str, str | Reason]:
    decided = assignment.assign_roles({series: assignment.take_facts(obj, overrides) for series, obj in study.items()})
    return {series: what.reason if isinstance(what, LeftOut) else what for series, what in decided.items()}


@pytest.mark.parametrize(
    ("protocol", "role"),
    [
        (T1_SE, "T1"), (MPRAGE, "T1"), (BRAVO, "T1"), (TFE, "T1"),
        (GE_MPRAGE, "T1"), (GE_BRAVO_RM, "T1"), (PHILIPS_IR_TFE, "T1"), (T1_FLASH_2D, "T1"), (T1_FLAIR_GE, "T1"),
        (T2_TSE, "T2"), (T2_SPACE, "T2"),
        (FLAIR_2D, "FLAIR"), (FLAIR_PHILIPS, "FLAIR"), (FLAIR_SPACE, "FLAIR"),
    ],
)  # fmt: skip
def test_a_protocol_is_known_by_its_header_without_any_description(protocol: dict[str, Any], role: str) -> None:
    assert decide_one(mr(**protocol)) == role


@pytest.mark.parametrize(
    "protocol", [STIR, PROTON_DENSITY, GRADIENT_T2_STAR, EPI, FIESTA, LOW_ANGLE, RM_ALONE, RM_2D, RM_WIDE_ANGLE]
)
def test_a_protocol_of_another_weighting_is_not_recognised(protocol: dict[str, Any]) -> None:
    assert decide_one(mr(**protocol)) == Reason.UNRECOGNISED_SERIES


@pytest.mark.parametrize(
    "more",
    [
        {"DiffusionBValue": 1000.0}, {"AngioFlag": "Y"}, {"ImageType": ["ORIGINAL", "PRIMARY", "DIFFUSION", "NONE"]},
        {"SeriesDescription": "T1 perfusion"}, {"SeriesDescription": "3D TOF T1"}, {"SeriesDescription": "FGATIR T1"},
    ],
)  # fmt: skip
def test_another_technique_with_the_times_of_t1_is_not_recognised(more: dict[str, Any]) -> None:
    assert decide_one(mr(**BRAVO)) == "T1"
    assert decide_one(mr(**(BRAVO | more))) == Reason.UNRECOGNISED_SERIES


def test_a_series_without_times_is_never_taken_on_its_description() -> None:
    assert decide_one(mr(SeriesDescription="AX T2 TSE")) == Reason.UNRECOGNISED_SERIES


def test_times_that_cannot_be_read_leave_the_series_out() -> None:
    assert decide_one(mr(**(T2_TSE | {"RepetitionTime": None}))) == Reason.UNRECOGNISED_SERIES
    assert decide_one(mr(**(T2_TSE | {"EchoTime": 0}))) == Reason.UNRECOGNISED_SERIES


def test_an_inversion_without_its_time_is_flair_only_if_the_description_says_so() -> None:
    silent = {key: value for key, value in FLAIR_2D.items() if key != "InversionTime"}
    assert decide_one(mr(**silent)) == Reason.UNRECOGNISED_SERIES
    assert decide_one(mr(**silent, SeriesDescription="AX T2 FLAIR FS")) == "FLAIR"
    assert decide_one(mr(**silent, SeriesDescription="COR STIR")) == Reason.UNRECOGNISED_SERIES


@pytest.mark.parametrize(
    ("protocol", "description", "role"),
    [
        (T2_TSE, "AX T1 SE", Reason.AMBIGUOUS_SERIES),
        (T2_TSE, "AX FLAIR", Reason.AMBIGUOUS_SERIES),
        (T1_SE, "t2_tse_tra", Reason.AMBIGUOUS_SERIES),
        (FLAIR_2D, "AX T2 FLAIR", "FLAIR"),
        (T1_FLAIR_GE, "SAG T1 FLAIR", "T1"),
        (T2_TSE, "PD+T2 dual echo", "T2"),
        (T2_TSE, "tra neck coil 24", "T2"),
        (MPRAGE, "t1_mpr_tra_iso", "T1"),
    ],
)
def test_a_description_confirms_or_contradicts_the_header(
    protocol: dict[str, Any], description: str, role: object
) -> None:
    assert decide_one(mr(**protocol, SeriesDescription=description)) == role


@pytest.mark.parametrize(
    ("agent", "role"),
    [
        ("GADAVIST", "T1c"), ("8 ML DOTAREM", "T1c"), ("Y", "T1c"), ("YES", "T1c"), ("Gd-DTPA", "T1c"), ("10", "T1c"),
        ("NONE", "T1"), ("none", "T1"), ("NO", "T1"), ("N", "T1"), ("No contrast given", "T1"), ("N/A", "T1"),
        ("0", "T1"), ("0.0 ml", "T1"), ("w/o", "T1"), ("WITHOUT CONTRAST", "T1"), ("ohne KM", "T1"), ("---", "T1"),
        ("", "T1"), ("UNKNOWN", "T1"), (None, "T1"),
    ],
)  # fmt: skip
def test_a_contrast_agent_makes_t1c_whatever_people_write_for_none(agent: str | None, role: str) -> None:
    assert decide_one(mr(**MPRAGE, ContrastBolusAgent=agent)) == role


def test_a_coded_contrast_agent_makes_t1c() -> None:
    agent = Dataset()
    agent.CodeValue, agent.CodingSchemeDesignator, agent.CodeMeaning = "C-B03BB", "SRT", "Gadobutrol"
    assert decide_one(mr(**MPRAGE, ContrastBolusAgentSequence=[agent])) == "T1c"
    agent.CodeMeaning = "None"
    assert decide_one(mr(**MPRAGE, ContrastBolusAgentSequence=[agent])) == "T1"


@pytest.mark.parametrize(
    ("description", "agent", "role"),
    [
        ("AX T1 POST", None, "T1c"), ("t1_mprage_km", None, "T1c"), ("T1 +C", None, "T1c"), ("T1 GD FS", None, "T1c"),
        ("AX T1 PRE", None, "T1"), ("AX T1 W/O CONTRAST", None, "T1"), ("T1 nativ", None, "T1"), ("AX T1", None, "T1"),
        ("T1 post fossa", None, "T1"), ("T1 PRE-OP", None, "T1"),
        ("T1 pre and post", None, Reason.AMBIGUOUS_SERIES),
        ("AX T1 PRE", "GADAVIST", Reason.AMBIGUOUS_SERIES),
        ("AX T1 POST", "NONE", Reason.AMBIGUOUS_SERIES),
        ("AX T1 POST", "GADAVIST", "T1c"),
    ],
)  # fmt: skip
def test_where_the_header_is_silent_on_the_agent_the_description_says_and_they_may_not_contradict(
    description: str, agent: str | None, role: object
) -> None:
    assert decide_one(mr(**T1_SE, SeriesDescription=description, ContrastBolusAgent=agent)) == role


def test_an_agent_changes_neither_t2_nor_flair() -> None:
    assert decide_one(mr(**T2_TSE, ContrastBolusAgent="GADAVIST")) == "T2"
    assert decide_one(mr(**FLAIR_2D, ContrastBolusAgent="GADAVIST")) == "FLAIR"


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, Reason.LOCALIZER),
        ({"SeriesDescription": "3-plane localizer T1"}, Reason.LOCALIZER),
        ({"SeriesDescription": "t1 survey"}, Reason.LOCALIZER),
        ({"ImageType": ["DERIVED", "PRIMARY", "ADC"]}, Reason.DERIVED_IMAGE),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIFFUSION", "TRACEW", "ND"]}, Reason.DERIVED_IMAGE),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR", "CSA MPR"]}, Reason.DERIVED_IMAGE),
        ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]}, Reason.DERIVED_IMAGE),
        ({"ImageType": ["DERIVED", "PRIMARY", "PROJECTION IMAGE", "MIP"]}, Reason.DERIVED_IMAGE),
        ({"ImageType": ["DERIVED", "SECONDARY", "SUB"]}, Reason.DERIVED_IMAGE),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "P", "ND"]}, Reason.DERIVED_IMAGE),
        ({"ImageType": ["DERIVED", "PRIMARY", "DIXON", "FAT"]}, Reason.DERIVED_IMAGE),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, Reason.DERIVED_IMAGE),
        ({"SeriesDescription": "dT1"}, Reason.DERIVED_IMAGE),
        ({"SeriesDescription": "T1 SUB"}, Reason.DERIVED_IMAGE),
        ({"SeriesDescription": "ADC (10^-6 mm2/s)"}, Reason.DERIVED_IMAGE),
        ({"SeriesDescription": "T1 MIP"}, Reason.DERIVED_IMAGE),
        ({"SeriesDescription": "T1 map"}, Reason.DERIVED_IMAGE),
        ({"SeriesDescription": "rCBV"}, Reason.DERIVED_IMAGE),
        ({"BurnedInAnnotation": "YES"}, Reason.BURNED_IN_ANNOTATION),
        ({"SOPClassUID": SECONDARY_CAPTURE}, Reason.BURNED_IN_ANNOTATION),
        ({"SOPClassUID": SECONDARY_CAPTURE, "BurnedInAnnotation": "NO"}, Reason.SECONDARY_CAPTURE),
        ({"Modality": "CT"}, Reason.UNSUPPORTED_IMAGE),
    ],
)
def test_what_is_no_image_to_train_on_is_left_out_with_its_reason(more: dict[str, Any], reason: Reason) -> None:
    assert decide_one(mr(**T1_SE)) == "T1"
    assert decide_one(mr(**(T1_SE | more))) == reason


def test_labels_have_no_role_and_no_reason() -> None:
    label = Dataset()
    label.SOPClassUID, label.Modality = "1.2.840.10008.5.1.4.1.1.66.4", "SEG"
    assert decide({"image": mr(**T1_SE), "label": label}) == {"image": "T1"}


def test_enhanced_mr_is_known_by_its_functional_groups() -> None:
    assert decide_one(enhanced(AcquisitionContrast="T2")) == "T2"
    assert decide_one(enhanced(tr=9000.0, te=120.0, ti=2500.0, inversion="YES", pulse="SPIN")) == "FLAIR"
    assert decide_one(enhanced(AcquisitionContrast="T2_STAR")) == Reason.UNRECOGNISED_SERIES
    assert decide_one(enhanced(AcquisitionContrast="T1", agent="YES")) == "T1c"
    assert decide_one(enhanced(AcquisitionContrast="T1", agent="NO")) == "T1"


def test_an_acquisition_contrast_that_contradicts_the_times_is_ambiguous() -> None:
    flair = {"tr": 9000.0, "te": 120.0, "ti": 2500.0, "inversion": "YES", "pulse": "SPIN"}
    assert decide_one(enhanced(AcquisitionContrast="T1", **flair)) == Reason.AMBIGUOUS_SERIES
    assert decide_one(enhanced(AcquisitionContrast="UNKNOWN", **flair)) == "FLAIR"


def test_the_phase_frames_of_enhanced_mr_are_left_out() -> None:
    assert decide_one(enhanced(AcquisitionContrast="T2", ComplexImageComponent="PHASE")) == Reason.DERIVED_IMAGE


def enhanced(
    *,
    tr: float = 0.0,
    te: float = 0.0,
    ti: float = 0.0,
    inversion: str = "NO",
    pulse: str = "",
    agent: str = "",
    **frame_type: str,
) -> Dataset:
    timing, echo, modifier, kind, usage = (Dataset() for _ in range(5))
    timing.RepetitionTime, timing.FlipAngle = tr, 90.0
    echo.EffectiveEchoTime = te
    modifier.InversionRecovery = inversion
    if ti:
        modifier.InversionTimes = [ti]
    kind.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    for keyword, value in frame_type.items():
        setattr(kind, keyword, value)
    groups = Dataset()
    groups.MRTimingAndRelatedParametersSequence = [timing]
    groups.MREchoSequence, groups.MRModifierSequence, groups.MRImageFrameTypeSequence = [echo], [modifier], [kind]
    if agent:
        usage.ContrastBolusAgentAdministered = agent
        groups.ContrastBolusUsageSequence = [usage]
    obj = Dataset()
    obj.SOPClassUID, obj.Modality, obj.ImageType = ENHANCED_MR, "MR", ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    obj.SharedFunctionalGroupsSequence = [groups]
    if pulse:
        obj.EchoPulseSequence = pulse
    return obj


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        (MPRAGE | {"SliceThickness": 3}, T1_SE | {"SliceThickness": 2}),
        (
            T1_SE | {"ImageOrientationPatient": [1, 0, 0, 0, 0.9, 0.4]},
            T1_SE | {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "SliceThickness": 3},
        ),
        (T1_SE, TFE | {"NumberOfTemporalPositions": 40}),
        (MPRAGE | {"SliceThickness": 1}, MPRAGE | {"SliceThickness": 2}),
        (MPRAGE, MPRAGE | {"SliceThickness": None}),
        (MPRAGE, MPRAGE | {"ImageType": ["DERIVED", "PRIMARY", "M", "ND"]}),
        (MPRAGE | {"SeriesDescription": "T1 repeat"}, MPRAGE | {"SeriesDescription": "T1"}),
    ],
)
def test_of_two_series_for_one_role_the_better_one_is_taken(better: dict[str, Any], worse: dict[str, Any]) -> None:
    for first, second in itertools.permutations(("1", "2")):
        decided = decide({first: mr(**better), second: mr(**worse)})
        assert decided == {first: "T1", second: Reason.OTHER_SERIES_PREFERRED}


@pytest.mark.parametrize(
    ("orientation", "plane"),
    [
        ([1, 0, 0, 0, 1, 0], "axial"), ([1, 0, 0, 0, 0.8, 0.6], "axial"), ([-1, 0, 0, 0, -1, 0], "axial"),
        ([0, 1, 0, 0, 0, -1], "sagittal"), ([1, 0, 0, 0, 0, -1], "coronal"), (None, ""), ([1, 0, 0], ""),
    ],
)  # fmt: skip
def test_the_plane_is_that_of_the_patient_which_the_slices_are_nearest_to(
    orientation: list[float] | None, plane: str
) -> None:
    assert assignment.take_facts(mr(ImageOrientationPatient=orientation)).plane == plane


def test_the_plane_of_a_three_dimensional_series_does_not_matter() -> None:
    study = {
        "1": mr(**MPRAGE, ImageOrientationPatient=[1, 0, 0, 0, 1, 0]),
        "2": mr(**MPRAGE, ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
    }
    assert decide(study) == {"1": Reason.AMBIGUOUS_SERIES, "2": Reason.AMBIGUOUS_SERIES}


def test_two_equally_good_series_for_one_role_are_both_left_out_and_a_worse_one_does_not_step_in() -> None:
    study = {"1": mr(**MPRAGE), "2": mr(**MPRAGE), "3": mr(**T1_SE), "4": mr(**T2_TSE)}
    assert decide(study) == {
        "1": Reason.AMBIGUOUS_SERIES,
        "2": Reason.AMBIGUOUS_SERIES,
        "3": Reason.OTHER_SERIES_PREFERRED,
        "4": "T2",
    }


def test_a_study_of_four_modalities_has_four_roles() -> None:
    study = {
        "1": mr(**MPRAGE), "2": mr(**T2_TSE), "3": mr(**FLAIR_2D), "4": mr(**MPRAGE, ContrastBolusAgent="GADAVIST"),
        "5": mr(**(MPRAGE | {"SeriesDescription": "SUB"})), "6": mr(**EPI),
    }  # fmt: skip
    assert decide(study) == {
        "1": "T1", "2": "T2", "3": "FLAIR", "4": "T1c",
        "5": Reason.DERIVED_IMAGE, "6": Reason.UNRECOGNISED_SERIES,
    }  # fmt: skip


def test_the_sites_own_table_comes_before_all_but_burned_in_annotation() -> None:
    table = (Override(role="ignore", description="^scout"), Override(role="T2", description="rm_brain", protocol="v2$"))
    local = mr(SeriesDescription="RM_Brain 7", ProtocolName="local v2")
    assert decide_one(local) == Reason.UNRECOGNISED_SERIES
    assert decide_one(local, *table) == "T2"
    assert decide_one(mr(SeriesDescription="RM_Brain 7", ProtocolName="v3"), *table) == Reason.UNRECOGNISED_SERIES
    assert decide_one(mr(**T1_SE, SeriesDescription="Scout of mine"), *table) == Reason.IGNORED_SERIES
    local.BurnedInAnnotation = "YES"
    assert decide_one(local, *table) == Reason.BURNED_IN_ANNOTATION


def test_a_series_that_the_sites_table_names_is_preferred_to_a_better_one() -> None:
    study = {"1": mr(**T1_SE, SequenceName="*se_ours"), "2": mr(**MPRAGE)}
    assert decide(study, Override(role="T1", sequence=r"\*se_ours")) == {"1": "T1", "2": Reason.OTHER_SERIES_PREFERRED}


def test_facts_hold_no_text_of_the_object() -> None:
    secret = "ZAPHOD BEEBLE"
    obj = mr(
        **T1_SE,
        PatientName=secret,
        SeriesDescription=f"T1 post {secret}",
        ProtocolName=secret,
        SequenceName=secret,
        ContrastBolusAgent=secret,
    )
    obj.ImageType = ["ORIGINAL", "PRIMARY", secret]
    plain = json.dumps(assignment.take_facts(obj, [Override(role="T1", description="Zaphod")]).as_plain())
    assert "zaphod" not in plain.lower()
    assert "beeble" not in plain.lower()
    assert Facts.from_plain(json.loads(plain)).override == "T1"


def test_facts_that_hold_a_word_that_is_not_listed_are_refused() -> None:
    plain = Facts(kind="mr", mr=True).as_plain()
    for change in ({"words": ["zaphod"]}, {"image_type": ["ZAPHOD"]}, {"contrast": "ZAPHOD"}, {"more": 1}, {"tr": "x"}):
        with pytest.raises(DataError):
            Facts.from_plain(plain | change)


numbers = st.none() | st.floats(min_value=1e-6, max_value=1e6)
some_facts = st.builds(
    Facts,
    kind=st.sampled_from(("mr", "enhanced-mr", "secondary-capture", "other")),
    mr=st.booleans(),
    image_type=st.lists(st.sampled_from(sorted(roles_table.KNOWN_TYPES)), max_size=3).map(tuple),
    echoes=st.sampled_from(((), ("spin",), ("gradient",), ("spin", "gradient"))),
    planar=st.booleans(),
    inversion=st.none() | st.booleans(),
    balanced=st.booleans(),
    three_dimensional=st.none() | st.booleans(),
    plane=st.sampled_from(("axial", "sagittal", "coronal", "")),
    tr=numbers, te=numbers, ti=numbers, flip=numbers, field=numbers, thickness=numbers, b=numbers,
    contrast=st.sampled_from(("", *roles_table.CONTRASTS, *sorted(roles_table.OTHER_CONTRASTS))),
    agent=st.none() | st.booleans(),
    angio=st.booleans(),
    burned_in=st.none() | st.booleans(),
    times=st.integers(1, 100),
    words=st.lists(st.sampled_from(get_args(roles_table.Word)), max_size=4).map(tuple),
    override=st.sampled_from(("", "ignore", "T1", "T1c", "T2", "FLAIR")),
)  # fmt: skip


@settings(deadline=None)
@given(some_facts)
def test_facts_come_back_from_json_as_they_were(facts: Facts) -> None:
    assert Facts.from_plain(json.loads(json.dumps(facts.as_plain()))) == facts


@settings(deadline=None)
@given(st.dictionaries(st.text(alphabet="123456789.", min_size=1, max_size=4), some_facts, max_size=6))
def test_every_image_series_gets_one_answer_and_every_role_at_most_one_series(study: dict[str, Facts]) -> None:
    decided = assignment.assign_roles(study)
    assert decided.keys() == study.keys()
    taken = [what for what in decided.values() if not isinstance(what, LeftOut)]
    assert len(taken) == len(set(taken))
    assert assignment.assign_roles(dict(reversed(study.items()))) == decided
    for series, what in decided.items():
        if not isinstance(what, LeftOut):
            assert not study[series].burned_in


@settings(deadline=None)
@given(st.text(max_size=60))
def test_any_description_is_reduced_to_listed_words(text: str) -> None:
    assert set(listed_words(text)) <= set(get_args(roles_table.Word))


@pytest.mark.skipif(not (TEST_DATA / "dicom").is_dir(), reason="needs the shared test data (shared/data)")
def test_a_real_prepared_gradient_echo_is_t1_and_real_functional_runs_are_nothing() -> None:
    t1 = pydicom.dcmread(next((TEST_DATA / "dicom" / "deident_t1" / "In").glob("*.dcm")), stop_before_pixels=True)
    assert decide_one(t1) == "T1"
    for folder in (TEST_DATA / "dicom" / "nih" / "In").glob("*/mr_*"):
        run = pydicom.dcmread(next(folder.glob("*.dcm")), stop_before_pixels=True)
        assert decide_one(run) == Reason.UNRECOGNISED_SERIES
