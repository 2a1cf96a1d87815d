"""A whole preparation of files in which something is planted everywhere: nothing of it is anywhere behind the door."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from dicom_rig import SECRET, settings, write
from planted import plant, traces, traces_below
from pydicom import dcmread

from site_agent.dicom.prepared import accounts
from site_agent.dicom.preparing import build

SAYS_MORE = {"AcquisitionContrast", "AngioFlag", "IssuerOfPatientID", "PerFrameFunctionalGroupsSequence", "StackID"}
"""Not planted in: the study would be refused as another patient's, and the series as no T1 or no stack of slices."""


def test_nothing_that_is_planted_in_a_study_is_found_in_what_is_prepared_logged_or_accounted_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    export, state = tmp_path / "export", tmp_path / "state"
    [study] = write(export, [0])
    identity = (study.examined.uid, "KH-0000", *study.examined.patient_name.split("^"))
    first = min(path for path in study.folder.iterdir() if "ContrastBolusAgent" in dcmread(path))
    first.write_bytes(plant(dcmread(first), but=SAYS_MORE))
    assert traces_below(export, *identity)
    caplog.clear()
    capfd.readouterr()
    spooled: dict[Path, set[str]] = {}

    def look(done: int, of: int) -> None:
        """What lies in the spool now; it goes when the study has become a case."""
        for path in state.rglob("*.dcm"):
            if path not in spooled:
                spooled[path] = traces(path.read_bytes(), *identity)

    with caplog.at_level(logging.DEBUG):
        build.prepare_dataset("brain", settings(export), state, SECRET, look, processes=1)
    assert len(spooled) > 30
    assert {path: seen for path, seen in spooled.items() if seen} == {}
    accounting = accounts.read_accounting(state, "brain")
    assert accounting is not None
    assert (accounting.found, accounting.used, dict(accounting.left_out)) == (1, 1, {})
    assert traces_below(state, *identity) == {}
    said = capfd.readouterr()
    assert traces((caplog.text + said.out + said.err + repr(accounting)).encode(), *identity) == set()
