"""A PACS that is away when its data set is wanted: the last prepared state stands in, and what that never does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from dicom_nodes import VERIFICATION, Pacs
from dicom_nodes import settings as dimse
from dicom_rig import CHANNELS, SECRET, contents, write
from dicom_rig import settings as folder_settings
from dicom_web_service import Service
from pydicom import dcmread
from pynetdicom import build_context
from structlog.testing import capture_logs

from deploy.console import format_moment
from deploy.demo import toml
from messages.ground.errors import PacsRefused, PacsUnreachable
from messages.reasons import Reason
from site_agent.config import read_config
from site_agent.data.guard import judge_data, look_at_prepared
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.consent import ListUnclear
from site_agent.desk import preflight
from site_agent.dicom.base import Accounting
from site_agent.dicom.config import DicomDataset, DicomWebSource
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.prepared import accounts, store
from site_agent.dicom.prepared.index import Index
from site_agent.dicom.prepared.looks import Look
from site_agent.dicom.prepared.withdrawals import Withdrawals
from site_agent.dicom.preparing import build
from site_agent.dicom.sources import association
from site_agent.dicom.sources.dimse import Dimse

DAY = 86400.0


@dataclass
class Hospital:
    """A PACS and a site that has prepared its data set; both as new for each test."""

    pacs: Service
    config: DicomWebSource
    state: Path
    first: DatasetConfig
    counted: Accounting
    looked: tuple[float, float]
    """Before and after the last look."""

    def away(self, status: int = 500) -> None:
        """The PACS answers everything with this status from now on."""
        self.pacs.fails = {r"": [status]}


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Studies of three patients, KH-0000 to KH-0002."""
    folder = tmp_path_factory.mktemp("export")
    return [dcmread(path) for one in write(folder, range(3)) for path in sorted(one.folder.iterdir())]


@pytest.fixture(scope="module")
def ready(objects: list[Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    """A data set of the first two of them; read only. The PACS is asked each time."""
    state, listed = tmp_path_factory.mktemp("ready"), tmp_path_factory.mktemp("lists") / "withdrawn"
    listed.write_text("KH-0009\n")
    with Service(before(objects)) as pacs:
        plain = {"source": "dicomweb", "url": pacs.url, "channels": CHANNELS, "refresh": 0.0, "withdrawn": listed}
        labels = folder_settings(Path("unused")).labels
        config = DicomWebSource.model_validate({**plain, "labels": labels, "patience": 30.0})
        begun = time.time()
        first, counted = prepared(state, config)
        yield Hospital(pacs, config, state, first, counted, (begun, time.time()))


def before(objects: list[Any]) -> list[Any]:
    """The first two patients."""
    return [obj for obj in objects if obj.PatientID != "KH-0002"]


@pytest.fixture
def hospital(ready: Hospital, objects: list[Any], tmp_path: Path) -> Hospital:
    state = tmp_path / "state"
    shutil.copytree(ready.state, state, symlinks=True)
    assert ready.config.withdrawn is not None
    ready.config.withdrawn.write_text("KH-0009\n")
    ready.pacs.objects, ready.pacs.fails, ready.pacs.cut = before(objects), {}, None
    first = ready.first.model_copy(update={"path": state / ready.first.path.relative_to(ready.state)})
    return replace(ready, state=state, first=first)


def prepared(state: Path, config: DicomDataset, **more: Any) -> tuple[DatasetConfig, Accounting]:
    found: list[Accounting] = []
    dataset = build.prepare_dataset("g", config, state, SECRET, lambda *_: None, processes=1, done=found.append, **more)
    return dataset, found[0]


def aged(state: Path, seconds: float) -> None:
    """Let the last look at the source be so much older."""
    index = Index(store.folder_of(state, "g") / "index.sqlite")
    look = Look.read_last(index)
    assert look is not None
    replace(look, time=look.time - seconds).write_last(index)
    index.close()


@pytest.mark.parametrize("status", [500, 502, 504])
def test_while_the_pacs_is_away_the_last_prepared_state_stands_in_and_says_as_of_when(
    status: int, hospital: Hospital
) -> None:
    assert (hospital.counted.used, hospital.counted.as_of) == (2, None)
    hospital.away(status)
    with capture_logs() as logged:
        again, stands = prepared(hospital.state, hospital.config)
    assert again == hospital.first
    assert stands.as_of is not None
    assert hospital.looked[0] <= stands.as_of <= hospital.looked[1]
    assert replace(stands, as_of=None) == hospital.counted
    assert accounts.read_accounting(hospital.state, "g") == stands
    assert [one["dataset"] for one in logged if one["log_level"] == "warning" and "is away" in one["event"]] == ["g"]
    hospital.pacs.fails.clear()
    assert prepared(hospital.state, hospital.config) == (hospital.first, hospital.counted)


def test_where_nothing_listens_any_more_the_last_state_stands_in(objects: list[Any], tmp_path: Path) -> None:
    with Service(before(objects)[: len(objects) // 3]) as pacs:
        config = DicomWebSource.model_validate({**_plain(pacs), "refresh": 0.0})
        first, _ = prepared(tmp_path, config)
    again, stands = prepared(tmp_path, config)
    assert again == first
    assert stands.as_of is not None


def _plain(pacs: Service) -> dict[str, Any]:
    labels = folder_settings(Path("unused")).labels
    return {"source": "dicomweb", "url": pacs.url, "channels": CHANNELS, "labels": labels}


@pytest.mark.parametrize("status", [401, 403, 404, 400, 501])
def test_a_refusal_that_somebody_has_to_mend_is_told_and_nothing_stands_in(status: int, hospital: Hospital) -> None:
    hospital.away(status)
    with pytest.raises(PacsRefused, match=str(status)):
        prepared(hospital.state, hospital.config)
    assert accounts.read_accounting(hospital.state, "g") == hospital.counted


def lose_a_case(hospital: Hospital) -> dict[str, Any]:
    store.Store(store.folder_of(hospital.state, "g")).make_room((), 0, 0.0)
    return {}


NEVER: dict[str, Callable[[Hospital], dict[str, Any] | None]] = {
    "older than stale": lambda hospital: aged(hospital.state, 15 * DAY),
    "of the future": lambda hospital: aged(hospital.state, -DAY),
    "stale is 0": lambda _: {"stale": 0.0},
    "another query": lambda _: {"query": {"description": "*"}},
    "other channels": lambda _: {"channels": CHANNELS[:2]},
    "another PACS": lambda hospital: {"url": hospital.pacs.url + "/"},
    "cases are gone": lose_a_case,
}


@pytest.mark.parametrize("why", NEVER)
def test_a_state_that_is_old_or_other_than_asked_for_does_not_stand_in(why: str, hospital: Hospital) -> None:
    changes = NEVER[why](hospital) or {}
    config = DicomWebSource.model_validate({**dict(hospital.config), **changes})
    hospital.away()
    with pytest.raises(PacsRefused, match="500"):
        prepared(hospital.state, config)


def test_how_old_it_may_be_is_the_operators_to_say(hospital: Hospital) -> None:
    aged(hospital.state, 15 * DAY)
    hospital.away()
    _, stands = prepared(hospital.state, hospital.config.model_copy(update={"stale": 16 * DAY}))
    assert stands.used == 2


def test_what_was_never_prepared_has_nothing_to_stand_in(hospital: Hospital, tmp_path: Path) -> None:
    hospital.away()
    with pytest.raises(PacsRefused, match="500"):
        prepared(tmp_path / "new", hospital.config)


def test_a_person_who_asks_the_pacs_now_is_told_that_it_is_away(hospital: Hospital) -> None:
    hospital.away()
    with pytest.raises(PacsRefused, match="500"):
        prepared(hospital.state, hospital.config, again=True)


@pytest.mark.parametrize("issuer", ["", "^^^KH"])
def test_who_has_withdrawn_since_is_taken_out_of_what_stands_in(issuer: str, hospital: Hospital) -> None:
    state, config = hospital.state, hospital.config
    assert config.withdrawn is not None
    hospital.away()
    config.withdrawn.write_text(f"KH-0001{issuer}\n")
    dataset, stands = prepared(state, config)
    assert (stands.found, stands.used, stands.left_out) == (2, 1, Counter({Reason.WITHDRAWN: 1}))
    assert dataset.path != hospital.first.path
    assert len(contents(dataset)) == 1
    assert len([*(store.folder_of(state, "g") / "cases").iterdir()]) == 1
    assert Counter(one.reason for one in accounts.read_verdicts(state, "g").values()) == {None: 1, Reason.WITHDRAWN: 1}
    assert prepared(state, config) == (dataset, stands)
    hospital.pacs.fails.clear()
    _, counted = prepared(state, config)
    assert counted == replace(stands, as_of=None)  # an issuer plays no part


def test_a_study_that_was_withdrawn_by_its_uid_is_taken_out_of_what_stands_in(
    hospital: Hospital, objects: list[Any]
) -> None:
    state, config = hospital.state, hospital.config
    assert config.withdrawn is not None
    (uid,) = {str(obj.StudyInstanceUID) for obj in objects if obj.PatientID == "KH-0001"}
    hospital.away()
    config.withdrawn.write_text(f"{uid}\n")
    dataset, stands = prepared(state, config)
    assert (stands.used, stands.left_out) == (1, Counter({Reason.WITHDRAWN: 1}))
    assert len(contents(dataset)) == len([*(store.folder_of(state, "g") / "cases").iterdir()]) == 1
    assert Counter(one.reason for one in accounts.read_verdicts(state, "g").values()) == {None: 1, Reason.WITHDRAWN: 1}
    index = Index(store.folder_of(state, "g") / "index.sqlite")
    consent = Withdrawals(config.withdrawn, Pseudonyms(SECRET)).judge_known((), index)
    index.close()
    assert consent is not None
    assert (consent.matched, consent.nobody) == (1, ())


def test_an_entry_that_may_mean_somebody_lets_nothing_stand_in(hospital: Hospital) -> None:
    assert hospital.config.withdrawn is not None
    hospital.away()
    hospital.config.withdrawn.write_text("kh-0001\n")
    with pytest.raises(ListUnclear, match="in doubt in line 1"):
        prepared(hospital.state, hospital.config)
    hospital.config.withdrawn.write_text("exactly: kh-0001\n")
    assert prepared(hospital.state, hospital.config)[1].used == 2


def test_a_pacs_that_goes_away_in_mid_transfer_costs_no_experiment_and_what_came_is_kept(
    hospital: Hospital, objects: list[Any]
) -> None:
    hospital.pacs.objects = objects
    hospital.pacs.cut = 19_000  # of its six series, in the order of their UIDs, the second is the first to be longer
    hospital.pacs.fails = {"^studies$": [0, 0, 500]}  # it is asked in the end whether it lives
    again, stands = prepared(hospital.state, hospital.config)
    assert again == hospital.first
    assert (stands.used, stands.as_of is None) == (2, False)
    assert [*(store.folder_of(hospital.state, "g") / "spool").rglob("*.dcm")]
    hospital.pacs.cut, hospital.pacs.fails = None, {}
    assert prepared(hospital.state, hospital.config)[1].used == 3


def test_an_experiment_is_joined_with_what_stands_in_and_keeps_it(hospital: Hospital) -> None:
    hospital.away()
    state, config, cache = hospital.state, hospital.config, hospital.state / "cache" / "e-1"
    ours, stands = build.for_experiment("g", config, state, SECRET, cache, lambda *_: None)
    assert stands.as_of is not None
    assert judge_data(stands.fingerprint, look_at_prepared(config, "g", state, cache)) is None
    assert build.for_experiment("g", config, state, SECRET, cache, lambda *_: None) == (ours, stands)


def test_the_operator_reads_as_of_when_it_is_and_preflight_warns_of_it(hospital: Hospital) -> None:
    (hospital.state / "secret").write_bytes(SECRET)
    plain = hospital.config.model_dump(mode="json", exclude_unset=True)
    file = hospital.state / "site.toml"
    about = {"name": "site-a", "consortium": "brats", "state": str(hospital.state)}
    file.write_text(toml.write_toml({"schema": 1, "site": about, "datasets": {"g": plain}}))
    hospital.away()
    command = [sys.executable, "-m", "deploy.cli", "site", "datasets", "--config", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "g: 2 of 2 cases usable" in done.stdout
    assert f"  as of {format_moment(hospital.looked[1])[:10]}" in done.stdout
    assert "the PACS could not be reached" in done.stdout
    assert "the PACS is away" in done.stderr
    told = json.loads(subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120).stdout)
    assert hospital.looked[0] <= told["datasets"]["g"]["as_of"] <= hospital.looked[1]
    (check,) = preflight._check_datasets(read_config(file))
    assert (check.grade.value, "2 cases as of the last look" in check.what) == ("warn", True)


def test_the_look_before_the_agent_starts_says_what_would_stand_in(hospital: Hospital) -> None:
    (hospital.state / "secret").write_bytes(SECRET)
    hospital.away()
    stands = accounts.read_standing_in("g", hospital.config, hospital.state)
    assert stands is not None
    assert stands.used == 2
    assert accounts.read_standing_in("g", hospital.config.model_copy(update={"stale": 0.0}), hospital.state) is None
    assert accounts.read_standing_in("other", hospital.config, hospital.state) is None
    assert accounts.read_accounting(hospital.state, "g") == hospital.counted


@pytest.mark.parametrize(
    ("find", "passing"), [(0xA700, True), (0xC001, True), (0x0110, True), (0x0124, False), (0xA900, False)]
)
def test_of_a_failed_search_the_status_says_whether_it_may_be_over_by_itself(find: int, passing: bool) -> None:
    with Pacs(find=lambda _event: iter([(find, None)])) as node, pytest.raises(PacsRefused) as refused:
        Dimse(dimse(node.port)).find_studies()
    assert refused.value.passing is passing


def test_an_ae_title_that_is_refused_is_for_somebody_to_mend_and_a_pacs_at_its_limit_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(association, "PAUSE", 0.1)
    with Pacs(callers=["OTHER"]) as node, pytest.raises(PacsRefused) as stranger:
        association.echo_pacs(dimse(node.port))
    with (
        Pacs(maximum=1) as node,
        association.Caller(dimse(node.port)).open_association([build_context(VERIFICATION)]),
        pytest.raises(PacsRefused) as limited,
    ):
        association.echo_pacs(dimse(node.port))
    with pytest.raises(PacsUnreachable) as gone:
        association.echo_pacs(dimse(node.port))
    assert (stranger.value.passing, limited.value.passing, gone.value.passing) == (False, True, True)
