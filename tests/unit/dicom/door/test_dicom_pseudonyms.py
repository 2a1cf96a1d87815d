"""Pseudonyms: keyed, the same each time, and fit for where they are written."""

from __future__ import annotations

import re
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

from site_agent.dicom.door.pseudonyms import Pseudonyms, patient_identity
from site_agent.dicom.sources.wanted import identify_patient

ONE, OTHER = Pseudonyms(b"one site's secret, 32 bytes long"), Pseudonyms(b"another's secret, 32 bytes long.")
names = st.text(min_size=1, max_size=64).filter(lambda text: text.strip())


@given(names)
def test_a_patients_pseudonym_depends_on_the_identifier_and_the_secret_alone(name: str) -> None:
    pseudonym = ONE.pseudonym_of_patient(name)
    assert re.fullmatch(r"p[0-9a-f]{16}", pseudonym)
    assert pseudonym == Pseudonyms(ONE.secret).pseudonym_of_patient(name) != OTHER.pseudonym_of_patient(name)


@given(names)
def test_kinds_of_names_cannot_be_linked_by_equal_digests(name: str) -> None:
    digits = {
        ONE.pseudonym_of_patient(name)[1:],
        ONE.pseudonym_of_case(name).removeprefix("case-"),
        ONE.pseudonym_of_word(name)[1:].lower(),
    }
    assert len(digits) == 3
    assert not any(one.startswith(other) for one in digits for other in digits - {one})


@given(st.lists(st.integers(0, 10**12), min_size=2, max_size=8).map(lambda parts: "1.2." + ".".join(map(str, parts))))
def test_a_uids_pseudonym_is_a_uid_of_a_uuid(uid: str) -> None:
    pseudonym = UID(ONE.pseudonym_of_uid(uid))
    assert pseudonym.is_valid
    assert len(pseudonym) <= 64
    assert uuid.UUID(int=int(pseudonym.removeprefix("2.25."))).version == 8
    assert uuid.UUID(int=int(pseudonym.removeprefix("2.25."))).variant == uuid.RFC_4122
    assert (
        pseudonym == ONE.pseudonym_of_uid(uid + "\0") == ONE.pseudonym_of_uid(f" {uid} ") != OTHER.pseudonym_of_uid(uid)
    )


@pytest.mark.parametrize("uid", [MRImageStorage, ExplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.66.7", ""])
def test_what_dicom_itself_gave_out_stays(uid: str) -> None:
    assert ONE.pseudonym_of_uid(uid) == uid


def test_a_uid_that_only_looks_like_dicoms_own_does_not_stay() -> None:
    assert ONE.pseudonym_of_uid("1.2.840.10008.5.1.4.1.1.4.19481122").startswith("2.25.")


def test_more_uids_than_are_remembered_keep_their_pseudonyms(monkeypatch: pytest.MonkeyPatch) -> None:
    first = ONE.pseudonym_of_uid("1.2.3")
    monkeypatch.setattr("site_agent.dicom.door.pseudonyms.REMEMBERED", 10)
    for number in range(30):
        assert ONE.pseudonym_of_uid(f"1.2.{number}.9") == Pseudonyms(ONE.secret).pseudonym_of_uid(f"1.2.{number}.9")
    assert len(ONE._uids) <= 10
    assert ONE.pseudonym_of_uid("1.2.3") == first


@pytest.mark.parametrize("secret", [b"", b"too short"])
def test_a_short_secret_is_refused(secret: bytes) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        Pseudonyms(secret)


@pytest.mark.parametrize(("number", "issuer"), [("12", "HOSP"), ("12", ""), ("", "HOSP"), ("", "")])
def test_a_patient_is_named_as_the_sources_name_it(number: str, issuer: str) -> None:
    obj = Dataset()
    obj.PatientID, obj.IssuerOfPatientID = number, issuer
    assert patient_identity(obj) == identify_patient(number, issuer)
    assert patient_identity(Dataset()) == ""


def test_one_number_of_two_issuers_is_one_patient() -> None:
    one, other = Dataset(), Dataset()
    one.PatientID, one.IssuerOfPatientID, one.StudyInstanceUID = "12", "HOSP A", "1.2.3"
    other.PatientID, other.StudyInstanceUID = "12 ", "1.2.4"
    assert ONE.patient_of(one) == ONE.patient_of(other) == ONE.pseudonym_of_patient("12")
