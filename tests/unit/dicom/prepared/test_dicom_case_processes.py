"""Processes that make cases: a study that stands still or takes its process down costs that study alone."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from brokers import PATIENCE
from dicom_rig import SECRET, settings
from needs import lacks

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


HERE = """
import os
from messages.reasons import Reason
from site_agent.dicom.config import Labels
from site_agent.dicom.preparing.cleaning import Cleaners, Rules
from site_agent.dicom.preparing.pool import Makers
from site_agent.dicom.preparing.making import CaseTask
from dicom_rig import SECRET, settings
from pathlib import Path
with Makers(2, lambda: None) as makers:
    (made,) = makers.give_task(CaseTask(Path("p"), settings(Path("p")), "s", "p", "print", {}, {}, {}, SECRET))
said = str(made[1].reason)
cleaners = Cleaners(Rules(bytes(32), Labels(concepts={"t": {"names": ("t",)}}), ()))
cleaners.open(2)
from pydicom.dataset import Dataset
(one,) = cleaners.give_object(Dataset())
print(said, one.reason)
"""


def test_a_machine_without_shared_memory_makes_cases_in_one_process(tmp_path: Path) -> None:
    inside = ("unshare", "-Urm", "bash", "-c", 'mount -t tmpfs -o ro none /dev/shm || exit 77; exec "$@"', "bash")
    done = subprocess.run(
        [*inside, sys.executable, "-c", HERE],
        capture_output=True,
        timeout=PATIENCE,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
    )
    if done.returncode == 77 or "unshare" in done.stderr[:10]:
        lacks("no namespaces for mounts here (unshare -Urm)")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "missing-channel unreadable"
