"""Preparations from a real PACS of studies in which something is planted everywhere: over C-GET, C-MOVE and DICOMweb
nothing of it is anywhere behind the door, at whatever level is logged. What the PACS itself keeps is not ours."""

from __future__ import annotations

import io
import logging
import os
import queue
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from dicom_rig import CHANNELS, SECRET, series_of, write
from dicom_rig import settings as folder_settings
from pacs_rig import WAYS, settings
from planted import plant, traces, traces_below
from pydicom import dcmread

from deploy.demo.experiments import glioma_demo
from deploy.orthanc.node import OrthancNode
from messages.experiment import Experiment
from messages.ground.errors import KonsilError
from nets.initial import initial_model
from site_agent.dicom.base import Accounting, StudySource
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.hush import TALKERS
from site_agent.dicom.prepared import accounts
from site_agent.dicom.preparing import build, preparation
from site_agent.dicom.sources import open_source
from site_agent.dicom.sources.dimse import Dimse

LABELS = folder_settings(Path("unused")).labels
SAYS_MORE = {"AcquisitionContrast", "AngioFlag", "IssuerOfPatientID", "PerFrameFunctionalGroupsSequence", "StackID"}
COUNTS = {"NumberOfSeriesRelatedInstances", "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances"}
"""Not planted in: the study would be refused as another patient's, and the series as no T1, no stack of slices, or as
not whole (Orthanc's index repeats what an object says of their number)."""
PLANTED = ("t1_se_tra_KM", "t2_tse_tra", "localizer")
"""An object of each of these series is planted in."""
SELDOM = 8
"""SQLite's files, which grow and change with each object, are looked into each so many looks."""


@dataclass(frozen=True)
class Patient:
    """A study in which something is planted, as files, and what names patient, study, series and objects besides."""

    files: list[bytes]
    identity: list[str]


@pytest.fixture(scope="module")
def patient(tmp_path_factory: pytest.TempPathFactory) -> Patient:
    [study] = write(tmp_path_factory.mktemp("export"), [0])
    left, files = [*PLANTED], []
    identity = {"KH-0000", *study.examined.patient_name.split("^"), f"{study.examined.born:%Y%m%d}"}
    identity |= {study.examined.uid, study.examined.accession, f"{study.examined.day:%Y%m%d}"}
    for path in sorted(study.folder.iterdir()):
        obj = dcmread(path)
        identity |= {str(obj.SeriesInstanceUID), str(obj.SOPInstanceUID)}
        kind = next((one for one in left if series_of(obj) == one), None)
        files.append(path.read_bytes() if kind is None else plant(obj, but=SAYS_MORE | COUNTS))
        assert traces(files[-1], *identity)
        if kind is not None:
            left.remove(kind)
    assert not left
    return Patient(files, sorted(identity))


class Planted:
    """A PACS with that study, and the search for what must not come through.

    Attributes:
        seen: file under the state directory → what was ever found in it.
    """

    def __init__(self, node: OrthancNode, folder: Path, patient: Patient) -> None:
        self.node, self.folder, self.state, self.identity = node, folder, folder / "state", patient.identity
        self.seen: dict[str, set[str]] = {}
        self.looked: dict[Path, int] = {}
        self.looks = 0
        for content in patient.files:
            node.store_files(content)
        assert node.count_objects() == len(patient.files)
        (folder / "patients").write_text("KH-0000\n")

    def config(self, way: str, **more: Any) -> DicomDataset:
        query = {"patients": self.folder / "patients"}
        return settings(way, self.node, channels=CHANNELS, labels=LABELS, query=query, refresh=0.0, **more)

    def look(self, *_: Any) -> None:
        """Look through what lies under the state directory now and did not a moment ago, whole or half-written."""
        self.looks += 1
        # os.walk passes over a folder that goes while it looks (Path.rglob of Python 3.11 raises)
        lying = [Path(folder, name) for folder, _, names in os.walk(self.state) for name in names]
        for path in lying:
            if path.is_symlink() or not path.is_file():
                continue
            if "sqlite" in path.name and self.looks % SELDOM:
                continue
            try:
                content, changed = path.read_bytes(), path.stat().st_mtime_ns
            except FileNotFoundError:
                continue
            if self.looked.get(path) != changed:
                self.looked[path] = changed
                found = traces(str(path.relative_to(self.state)).encode() + b"\n" + content, *self.identity)
                self.seen.setdefault(path.name, set()).update(found)

    def clean(self, *said: str) -> None:
        """Nothing of it is in files, seen then or now, nor in these words."""
        self.looks = -1
        self.look()
        assert {name: found for name, found in self.seen.items() if found} == {}
        assert traces_below(self.state, *self.identity) == {}
        assert traces("\n".join(said).encode(), *self.identity) == set()


@pytest.fixture
def planted(orthanc: OrthancNode, patient: Patient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Planted:
    """The PACS learns where our storage SCP listens; what would be temporary files lie under the state directory."""
    (tmp_path / "state" / "tmp").mkdir(parents=True)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "state" / "tmp"))

    def opened(config: DicomDataset, state: Path) -> StudySource:
        source = open_source(config, state)
        if isinstance(source, Dimse) and getattr(config, "retrieve", "") == "move":
            orthanc.register_modality("KONSIL", "127.0.0.1", source.scp.port)
        return source

    monkeypatch.setattr(preparation, "open_source", opened)
    monkeypatch.setattr(preparation, "WORTH_PROCESSES", 1)
    return Planted(orthanc, tmp_path, patient)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that anything in this process logs, down to debug, the libraries' own loggers asked for it by name."""
    written, root = io.StringIO(), logging.getLogger()
    handler = logging.StreamHandler(written)
    names = (*TALKERS, "requests", "dicomweb_client.web", "urllib3.connectionpool", "pynetdicom.events", "highdicom")
    before = {name: logging.getLogger(name).level for name in names}, root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    for name in TALKERS:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield written
    root.removeHandler(handler)
    root.setLevel(before[1])
    for name, level in before[0].items():
        logging.getLogger(name).setLevel(level)


@pytest.mark.parametrize(("way", "encrypt"), [*((way, False) for way in WAYS), ("web", True)])
def test_nothing_that_is_planted_in_a_pacs_is_found_in_files_logs_or_accounts(
    way: str, encrypt: bool, planted: Planted, log: io.StringIO, capfd: pytest.CaptureFixture[str]
) -> None:
    came = 0

    def breaks_off(*now: int) -> None:
        nonlocal came
        planted.look(*now)
        came += 1
        if came == 20:
            raise KonsilError("the operator ends it", where="test")

    found: list[Accounting] = []
    config, told = planted.config(way, encrypt=encrypt), (planted.state, SECRET)
    processes = 1 if encrypt else 2  # the door's work here, or in processes
    with pytest.raises(KonsilError, match="operator ends") as failed:
        build.prepare_dataset("brain", config, *told, breaks_off, processes=processes)
    planted.clean(*traceback.format_exception(failed.value))
    assert [*(planted.state / "datasets" / "brain" / "spool").rglob("*.dcm")]
    build.prepare_dataset("brain", config, *told, planted.look, processes=processes, done=found.append)
    assert [(one.found, one.used, dict(one.left_out)) for one in found] == [(1, 1, {})]
    assert len([name for name in planted.seen if name.endswith(".dcm")]) > 30  # the spool was looked into
    assert any(name.endswith("-wal") for name in planted.seen)
    said = capfd.readouterr()
    planted.clean(log.getvalue(), said.out, said.err, repr(found), repr(accounts.read_verdicts(planted.state, "brain")))


BROKEN: dict[str, dict[str, dict[str, Any]]] = {
    "get": {"a stranger": {"ae": "STRANGER"}, "nobody there": {"port": 9}},
    "move": {"a stranger": {"called": "NOBODY"}, "nobody there": {"port": 9}},
    "web": {
        "another address": {"url": "http://127.0.0.1:9/dicom-web"},
        "nobody there": {"url": "http://127.0.0.1:9/dicom-web"},
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_what_fails_says_nothing_of_whom_it_was_about(
    way: str, planted: Planted, log: io.StringIO, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    for changes in BROKEN[way].values():
        with pytest.raises(KonsilError) as failed:
            build.prepare_dataset("brain", planted.config(way, **changes), planted.state, SECRET, planted.look)
        said += [str(failed.value), repr(failed.value), *traceback.format_exception(failed.value)]

    def refuses(_obj: Any, _overrides: Any) -> Any:
        raise ValueError(f"cannot read {planted.identity}")

    # A defect of ours, or a library's, whose words quote what it was given; in this process, where it can be planted.
    monkeypatch.setattr(preparation, "WORTH_PROCESSES", 1000)
    monkeypatch.setattr("site_agent.dicom.door.door.take_facts", refuses)
    monkeypatch.setattr("site_agent.dicom.door.door.Door.__init__.__defaults__", ((), refuses))
    found: list[Accounting] = []
    build.prepare_dataset("brain", planted.config(way), planted.state, SECRET, planted.look, done=found.append)
    assert found[0].used == 0
    assert found[0].left_out
    words = capfd.readouterr()
    planted.clean(log.getvalue(), words.out, words.err, *said, repr(found))


@pytest.mark.torch
def test_nothing_that_is_planted_is_found_in_what_training_keeps_says_and_sends(planted: Planted) -> None:
    from site_agent.training.client import TrainerProcess
    from site_agent.training.protocol import Prepare, Prepared, Reply, Train, Trained

    for number in range(1, 4):
        for one in write(planted.folder / "others", [number]):
            for path in sorted(one.folder.iterdir()):
                planted.node.store_files(path)
    plain = glioma_demo(1, 1, ["site-a"])
    plain["net"] |= {"channels": [4, 8], "strides": [2]}
    plain["training"] |= {"patch": [16, 16, 16], "patches_per_case": 1}
    experiment = Experiment.model_validate(plain)
    state, config = planted.state, planted.config("web", patience=60.0)
    config = config.model_copy(update={"query": config.query.model_copy(update={"patients": None})})
    replies: list[Reply] = []
    said: queue.Queue[Reply] = queue.Queue()
    process = TrainerProcess(said.put, lambda _status: None, log=state / "trainer.log")

    def ask(request: Any, kind: type[Any]) -> Any:
        process.send_request(request)
        while True:
            replies.append(said.get(timeout=240))
            planted.look()
            if isinstance(replies[-1], kind) or replies[-1].kind == "failed":
                return replies[-1]

    try:
        prepared = ask(
            Prepare(
                experiment=experiment.as_plain(),
                dataset=config.model_dump(mode="json"),
                site="site-a",
                secret=SECRET,
                threads=1,
                cache=str(state / "cache" / "e-1"),
                state=str(state),
            ),
            Prepared,
        )
        assert isinstance(prepared, Prepared), prepared
        assert prepared.used == 4
        described, content = initial_model(experiment)
        (state / "model").write_bytes(content)
        trained = ask(
            Train(
                round=1,
                attempt=1,
                model=str(state / "model"),
                manifest=described.plain(),
                update=described.plain(),
                output=str(state / "update"),
                evaluate=True,
            ),
            Trained,
        )
        assert isinstance(trained, Trained), trained
    finally:
        process.kill()
    assert (state / "update").stat().st_size > 1000
    assert "trainer.log" in planted.seen
    planted.clean(repr(replies))


def test_the_search_finds_what_it_looks_for(planted: Planted) -> None:
    (planted.state / "leak").write_bytes(b"\0" + planted.identity[0].encode() + b"\0")
    planted.look()
    assert planted.seen["leak"] == {planted.identity[0]}
    with pytest.raises(AssertionError):
        planted.clean()
