"""Processes that make cases: a study that stands still or takes its process down costs that study alone."""

from __future__ import annotations

import ctypes
import os
import signal
from pathlib import Path

import pytest
from dicom_rig import SECRET, settings

from messages.reasons import Reason
from site_agent.dicom.prepared.index import StudyVerdict
from site_agent.dicom.preparing import pool
from site_agent.dicom.preparing.making import CaseTask
from site_agent.dicom.preparing.pool import Makers


def task(study: str) -> CaseTask:
    return CaseTask(Path("unused"), settings(Path("unused")), study, "p", "print", {}, {}, {}, SECRET)


def make(one: CaseTask) -> StudyVerdict:
    """As a decoder does: it stands still in native code, which no exception reaches, or takes its process down."""
    if one.study == "stands still":
        ctypes.PyDLL(None).sleep(3600)  # holds the interpreter's lock
    if one.study == "dies":
        os.kill(os.getpid(), signal.SIGSEGV)
    return StudyVerdict(one.patient, one.print, None, one.study)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_study_that_stands_still_or_kills_its_process_costs_that_study_alone(
    processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "MOST_SECONDS", 3.0)
    monkeypatch.setattr(pool, "make_case", make)
    found = {}
    with Makers(processes, lambda: None) as makers:
        for study in ("first", "stands still", "second", "dies", "third"):
            found.update({one.study: verdict for one, verdict in makers.give_task(task(study))})
        found.update({one.study: verdict for one, verdict in makers.await_rest()})
    assert {study: verdict.reason for study, verdict in found.items()} == {
        "first": None,
        "stands still": Reason.UNDECODABLE_PIXELS,
        "second": None,
        "dies": Reason.UNDECODABLE_PIXELS,
        "third": None,
    }
    assert found["stands still"].print == ""  # tried again at the next preparation
