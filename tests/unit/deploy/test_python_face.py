"""`import konsil`: the commands as calls, over the broker in memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from brokers import PARTIES, PATIENCE, consortium_definitions
from finished_experiment import finished
from storytelling import complete

import konsil
from deploy.konsil.notebook import render_story
from deploy.session.connection import BrokerSession
from deploy.session.history import story_of_file
from deploy.session.profile import Profile
from messages import kinds, names
from messages.bus.base import Delivery
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author, decode_event
from messages.reasons import Reason

PROFILE = Profile(name="dr-a", consortium="test")


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(consortium_definitions(PARTIES))


def log_in(broker: MemoryBroker) -> konsil.ConnectedPerson:
    """A person of this broker, as in a new kernel."""

    @contextmanager
    def open_line() -> Iterator[BrokerSession]:
        with BrokerSession(MemoryBus(broker, "dr-a"), PROFILE) as opened:
            yield opened

    return konsil.ConnectedPerson(PROFILE, open_line)


def test_a_new_kernel_finds_all_of_an_experiment_by_its_id(
    broker: MemoryBroker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = finished(MemoryBus(broker, "coordinator"))
    monkeypatch.setattr("deploy.konsil.tables.importlib.util.find_spec", lambda name: None)
    found = log_in(broker).experiment("try")
    assert found.state == "complete"
    rounds, sites, curve = found.rounds(), found.sites(), found.curve()
    assert [one["round"] for one in rounds] == [1, 2]
    assert {one["site"] for one in sites} == {"site-a", "site-b"}
    assert curve[-1]["round"] == 1
    assert found.summary()["model_digest"] == digest
    assert found.model(tmp_path / "m.safetensors").stat().st_size
    assert "try" in found.report(tmp_path / "r.html").read_text()


def test_the_log_that_python_writes_verifies(broker: MemoryBroker, tmp_path: Path) -> None:
    coordinator = MemoryBus(broker, "coordinator")
    finished(coordinator)
    for entry in complete().entries:
        coordinator.publish(f"journal-entry.coordinator.{entry.experiment}", entry.encode())
    written = log_in(broker).experiment("try").log(tmp_path / "try.konsil")
    assert story_of_file(written).phase == "complete"


def test_what_nobody_knows_is_the_error_of_the_command(broker: MemoryBroker) -> None:
    with pytest.raises(konsil.RequestError, match="no experiment 'lost' is known here"):
        log_in(broker).experiment("lost")
    with pytest.raises(konsil.RequestError, match="is no experiment's id"):
        log_in(broker).experiment("../lost")


def test_a_missing_profile_and_a_missing_file_are_one_line(broker: MemoryBroker, tmp_path: Path) -> None:
    with pytest.raises(konsil.ConfigError, match="there is no profile"):
        konsil.connect(tmp_path / "profile.toml")
    with pytest.raises(konsil.ConfigError) as told:
        log_in(broker).start(tmp_path / "lost.toml")
    assert "\n" not in str(told.value)


def test_a_folder_that_cannot_be_written_is_the_error_of_the_command(broker: MemoryBroker, tmp_path: Path) -> None:
    finished(MemoryBus(broker, "coordinator"))
    Path(tmp_path, "file").touch()
    with pytest.raises(konsil.WorkFailed):
        log_in(broker).experiment("try").report(tmp_path / "file" / "report.html")


def test_an_experiment_shows_itself_in_html_with_others_text_escaped(broker: MemoryBroker) -> None:
    finished(MemoryBus(broker, "coordinator"))
    found = log_in(broker).experiment("try")
    assert "site-a" in found._repr_html_()
    story = found.story()
    hostile = replace(story, sites={"<script>": replace(story.sites["site-a"], name="<script>")})
    shown = render_story(hostile, 0.0)
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown
    assert "try" in log_in(broker)._repr_html_()


def test_an_error_shows_itself_as_text_in_a_notebook(broker: MemoryBroker) -> None:
    @contextmanager
    def refuse() -> Iterator[BrokerSession]:
        raise konsil.Unreachable("<b>gone</b>")
        yield

    assert "&lt;b&gt;gone" in konsil.ExperimentHandle("try", refuse)._repr_html_()


def test_importing_konsil_imports_nothing_heavy() -> None:
    heavy = ("torch", "monai", "numpy", "pandas", "pika", "pydantic", "matplotlib", "scipy")
    code = f"import sys, konsil; print(sorted(set({heavy}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_figures_are_pandas_frames_where_pandas_is_installed(broker: MemoryBroker) -> None:
    pandas = pytest.importorskip("pandas")
    finished(MemoryBus(broker, "coordinator"))
    curve = log_in(broker).experiment("try").curve()
    assert isinstance(curve, pandas.DataFrame)
    assert curve.index.name == "round"


def test_an_order_is_the_commands_and_gives_the_state_that_is_announced(broker: MemoryBroker) -> None:
    bus, me = MemoryBus(broker, "coordinator"), log_in(broker)
    author = Author("test", "coordinator", incarnation=1, term=1)

    def answer(delivery: Delivery) -> None:
        asked = decode_event(delivery.body)
        if isinstance(asked.body, kinds.ExperimentAbort):
            body = kinds.ExperimentAborted(reason=Reason.ABORTED)
            said = author.write_event("experiment-aborted", body, time=1.0, experiment="try")
            bus.publish(said.key, said.raw)

    bus.subscribe(names.UPLINK, answer)
    assert konsil.ExperimentHandle("try", me._open).abort(within=PATIENCE) == "aborted"
