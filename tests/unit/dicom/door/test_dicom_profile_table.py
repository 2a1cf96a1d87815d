"""What passes the door, against the standard's own table of what must go (PS3.15, E.1-1; from dicom-anonymizer)."""

from __future__ import annotations

import pytest
from dicomanonymizer.dicomfields_selector import dicom_anonymization_database_selector
from pydicom.datadict import dictionary_VR, keyword_for_tag, tag_for_keyword
from pydicom.uid import UID_dictionary

from site_agent.dicom.door import profile_table as table

KINDS = {
    "NUMBERS": {"DS", "IS", "FD", "FL", "US", "SS", "UL", "SL", "AT", "US or SS"},
    "WORDS": {"CS", "LO"},  # LO: Rescale Type, of defined terms
    "TOKENS": {"SH"},
    "UIDS": {"UI"},
    "SEQUENCES": {"SQ"},
    "CODES": {"SQ"},
    "LABELS": {"LO"},
    "EMPTY": {"PN", "DA", "TM", "CS", "SH"},
}
PASSES = frozenset().union(*(getattr(table, kind) for kind in KINDS if kind != "EMPTY"))
"""Attributes of which something passes. Those of `EMPTY` and `DERIVED` are written anew."""
EDITIONS = ("dicomfields_2024b", "dicomfields_2026c")


def standard(edition: str, *actions: str) -> set[str]:
    """Keywords of attributes with one of these actions in table E.1-1."""
    content = dicom_anonymization_database_selector(edition)
    return {keyword_for_tag(tag[0] << 16 | tag[1]) for action in actions for tag in content[f"{action}_TAGS"]} - {""}


@pytest.mark.parametrize("edition", EDITIONS)
def test_nothing_passes_that_the_standard_removes_or_replaces(edition: str) -> None:
    gone = standard(edition, "X", "D", "Z", "Z_D", "X_Z", "X_D", "X_Z_D")
    assert len(gone) > 400
    # ROI Name is emptied but for names that the operator gave (Clean Descriptors: action C).
    assert gone & PASSES == {"ROIName"} <= table.LABELS


@pytest.mark.parametrize("edition", EDITIONS)
def test_every_uid_that_passes_is_replaced(edition: str) -> None:
    assert standard(edition, "U") & PASSES <= table.UIDS
    assert {keyword for keyword in PASSES if dictionary_VR(keyword) == "UI"} == table.UIDS


@pytest.mark.parametrize("edition", EDITIONS)
def test_sequences_of_references_pass_with_their_uids_replaced(edition: str) -> None:
    assert standard(edition, "X_Z_U_STAR") & PASSES <= table.SEQUENCES


@pytest.mark.parametrize("edition", EDITIONS)
def test_what_is_written_empty_or_anew_is_what_the_standard_empties_or_its_own_record(edition: str) -> None:
    record = {
        "SpecificCharacterSet",
        "PatientIdentityRemoved",
        "DeidentificationMethod",
        "DeidentificationMethodCodeSequence",
        "LongitudinalTemporalInformationModified",
        "Manufacturer",
        "PixelData",
    }
    assert standard(edition, "Z") >= table.EMPTY
    assert table.DERIVED - record == {"PatientID"} <= standard(edition, "Z_D")


@pytest.mark.parametrize("kind", KINDS)
def test_each_attribute_is_of_a_kind_that_its_action_can_check(kind: str) -> None:
    found = {keyword: dictionary_VR(keyword) for keyword in getattr(table, kind) if tag_for_keyword(keyword)}
    assert found.keys() == getattr(table, kind)
    assert {keyword: vr for keyword, vr in found.items() if vr not in KINDS[kind]} == {}


def test_no_attribute_has_two_actions() -> None:
    several = [getattr(table, kind) for kind in (*KINDS, "DERIVED")]
    assert sum(map(len, several)) == len(frozenset().union(*several))


def test_the_sop_classes_are_dicoms_own() -> None:
    assert {uid for uid in table.KINDS if uid not in UID_dictionary} == {table.LABEL_MAP}
    assert UID_dictionary[table.SCREENS][0] == "Secondary Capture Image Storage"
