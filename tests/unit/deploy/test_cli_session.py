"""What the commands say to coordinator and sites, over the broker in memory."""

from __future__ import annotations

import io
import json
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest
from brokers import PARTIES, PATIENCE, consortium_definitions
from finished_experiment import finished
from storytelling import EXPERIMENT, complete

from deploy.cli import live, requests
from deploy.session import model_file
from deploy.session.connection import BrokerSession
from deploy.session.profile import Profile
from messages import kinds, names
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author, Event, decode_event
from messages.experiment import Experiment
from messages.ground.errors import RequestError, Unreachable, WorkFailed
from messages.reasons import Reason

VHOST = "test"
COORDINATOR = Author(VHOST, "coordinator", incarnation=1, term=1)


def quiet(_text: str) -> None:
    """Shows nothing."""


@pytest.fixture
def broker() -> MemoryBroker:
    return MemoryBroker(consortium_definitions(PARTIES))


@pytest.fixture
def session(broker: MemoryBroker) -> Iterator[BrokerSession]:
    with BrokerSession(MemoryBus(broker, "dr-a"), Profile(name="dr-a", consortium=VHOST)) as opened:
        yield opened


@contextmanager
def coordinator(broker: MemoryBroker, answer: Callable[[Event, MemoryBus], None]) -> Iterator[None]:
    """Answers what comes on uplink, on a thread of its own."""
    bus = MemoryBus(broker, "coordinator")
    heard: queue.Queue[Event | None] = queue.Queue()
    bus.subscribe(names.UPLINK, lambda delivery: heard.put(decode_event(delivery.body)))

    def serve() -> None:
        while (event := heard.get()) is not None:
            answer(event, bus)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        heard.put(None)
        thread.join()
        bus.close()


def tell(bus: MemoryBus, kind: str, body: kinds.Body, to: str | None = None) -> None:
    event = COORDINATOR.write_event(kind, body, time=1.0, experiment="try")
    bus.publish(event.key_to(to) if to else event.key, event.raw)


def accept(event: Event, bus: MemoryBus) -> None:
    body = kinds.ExperimentAccepted(
        experiment=EXPERIMENT.as_plain(),
        digest=EXPERIMENT.digest(),
        researcher=event.sender,
        original=event.raw,
        enrol_within=1.0,
    )
    tell(bus, "experiment-accepted", body)


def test_starting_twice_is_one_start(broker: MemoryBroker, session: BrokerSession) -> None:
    with coordinator(broker, accept):
        assert requests.start_experiment(session, EXPERIMENT, PATIENCE, quiet).new
    with BrokerSession(MemoryBus(broker, "dr-a"), session.profile) as again:
        assert not requests.start_experiment(again, EXPERIMENT, PATIENCE, quiet).new
    assert broker.count_messages(names.UPLINK) == 1


def test_an_id_that_other_content_holds_is_refused(broker: MemoryBroker, session: BrokerSession) -> None:
    other = EXPERIMENT.model_copy(update={"seed": 7})
    with coordinator(broker, accept), pytest.raises(RequestError, match="id-taken"):
        requests.start_experiment(session, other, PATIENCE, quiet)


def test_a_check_tells_that_an_id_belongs_to_other_content(
    broker: MemoryBroker, session: BrokerSession, capsys: pytest.CaptureFixture[str]
) -> None:
    other = EXPERIMENT.model_copy(update={"seed": 7})

    def is_free(experiment: Experiment) -> bool:
        with BrokerSession(MemoryBus(broker, "dr-a"), session.profile) as opened:  # as each command opens its own
            return requests.is_free(opened, experiment)

    assert is_free(other)
    with coordinator(broker, accept):
        requests.start_experiment(session, EXPERIMENT, PATIENCE, quiet)

    assert is_free(EXPERIMENT)  # the very same
    free = is_free(other)
    requests.print_check(other, None, None, True, free)

    assert not free
    assert "  id        taken: Choose another id" in capsys.readouterr().out


def test_a_refusal_is_told_with_the_coordinators_words(broker: MemoryBroker, session: BrokerSession) -> None:
    def refuse(event: Event, bus: MemoryBus) -> None:
        words = kinds.ExperimentRefused(reason=Reason.UNKNOWN_SITE, mistakes="site-b", event=event.id)
        tell(bus, "experiment-refused", words)

    with coordinator(broker, refuse), pytest.raises(RequestError, match=r"unknown-site \(site-b\)"):
        requests.start_experiment(session, EXPERIMENT, PATIENCE, quiet)


def test_a_silent_coordinator_is_not_reachable(session: BrokerSession) -> None:
    with pytest.raises(Unreachable, match="has not answered"):
        requests.start_experiment(session, EXPERIMENT, 0.3, quiet)


def test_aborting_waits_for_the_announcement(broker: MemoryBroker, session: BrokerSession) -> None:
    def end(event: Event, bus: MemoryBus) -> None:
        assert isinstance(event.body, kinds.ExperimentAbort)
        tell(bus, "experiment-aborted", kinds.ExperimentAborted())

    with coordinator(broker, end):
        assert requests.command_experiment(session, "abort", "try", PATIENCE) == "aborted"


def test_what_belongs_to_another_researcher_is_refused(broker: MemoryBroker, session: BrokerSession) -> None:
    def refuse(event: Event, bus: MemoryBus) -> None:
        words = kinds.Refused(event=event.id, kind=event.kind, reason=Reason.NOT_THE_OWNER)
        tell(bus, "refused", words, to=event.sender)

    with coordinator(broker, refuse), pytest.raises(RequestError, match="not-the-owner"):
        requests.command_experiment(session, "pause", "try", PATIENCE)


def test_an_experiment_that_the_coordinator_does_not_know_is_refused_at_once(
    broker: MemoryBroker, session: BrokerSession
) -> None:
    def refuse(event: Event, bus: MemoryBus) -> None:
        words = kinds.Refused(event=event.id, kind=event.kind, reason=Reason.UNKNOWN_EXPERIMENT)
        told = COORDINATOR.write_event("refused", words, time=1.0)  # of no experiment
        bus.publish(told.key_to(event.sender), told.raw)

    with coordinator(broker, refuse), pytest.raises(RequestError, match="unknown-experiment"):
        requests.command_experiment(session, "pause", "nosuch", PATIENCE)


def test_an_auditor_who_starts_an_experiment_is_told_so_and_not_of_a_queue(broker: MemoryBroker) -> None:
    profile = Profile(name="auditor", role="auditor", consortium=VHOST)
    with BrokerSession(MemoryBus(broker, "auditor"), profile) as opened:
        for ask in (
            lambda: requests.start_experiment(opened, EXPERIMENT, 1.0, quiet),
            lambda: requests.ask_sites(opened, EXPERIMENT, 1.0, quiet),
            lambda: requests.command_experiment(opened, "abort", "try", 1.0),
        ):
            with pytest.raises(RequestError, match="only reads"):
                ask()


def test_a_check_tells_who_accepts_who_declines_and_who_is_offline(
    broker: MemoryBroker, session: BrokerSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = MemoryBus(broker, "site-a")
    shown: list[str] = []
    # The time that sites have is over once the one that is there has answered, however long that takes.
    monkeypatch.setattr(session.clock, "monotonic", lambda: 100.0 if shown else 0.0)

    def pass_on(event: Event, bus: MemoryBus) -> None:
        assert isinstance(event.body, kinds.ExperimentCheck)
        answer = kinds.CheckAnswer(nonce=event.body.nonce, accepts=False, reason=Reason.UNKNOWN_DATASET)
        reply = Author(VHOST, "site-a").write_event("check-answer", answer, time=1.0)
        site.publish(reply.key, reply.raw)

    with coordinator(broker, pass_on):
        found = requests.ask_sites(session, EXPERIMENT, 1.0, shown.append)
    site.close()
    assert shown == ["1 of 2 sites have answered"]
    assert [(one.site, one.online, one.accepts, one.reason) for one in found] == [
        ("site-a", True, False, Reason.UNKNOWN_DATASET),
        ("site-b", False, False, None),
    ]


def test_an_auditor_cannot_send(broker: MemoryBroker) -> None:
    profile = Profile(name="auditor", role="auditor", consortium=VHOST)
    with (
        BrokerSession(MemoryBus(broker, "auditor"), profile) as opened,
        pytest.raises(RequestError, match="only reads"),
    ):
        opened.publish_event("experiment-abort", kinds.ExperimentAbort(), "try")


@pytest.mark.parametrize("role", ["dr-a", "auditor"])
def test_watching_follows_the_audit_stream_to_the_end(broker: MemoryBroker, role: str) -> None:
    bus = MemoryBus(broker, "coordinator")
    for entry in complete().entries:
        bus.publish("journal-entry.coordinator.try", entry.encode())
    profile = Profile(name=role, role="researcher" if role == "dr-a" else "auditor", consortium=VHOST)
    out = io.StringIO()
    with BrokerSession(MemoryBus(broker, role), profile) as opened, redirect_stdout(out):
        story = live.follow_live(opened, "try", live.JsonLines())
    bus.close()
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert story.phase == "complete"
    assert (lines[-1]["type"], lines[-1]["state"], lines[-1]["test"]["n"]) == ("end", "complete", 4)
    assert [line["round"] for line in lines if line["type"] == "round"] == [1, 2]


def test_the_model_arrives_whole_with_what_rebuilds_the_net(
    broker: MemoryBroker, session: BrokerSession, tmp_path: Path
) -> None:
    from safetensors import safe_open

    bus = MemoryBus(broker, "coordinator")
    digest = finished(bus)
    path = tmp_path / "model.safetensors"
    shown: list[str] = []
    assert model_file.fetch_model(session, "try", path, shown.append) == digest
    bus.close()
    part, of, whole = shown[-1].partition(" of ")
    assert of
    assert part == whole
    with safe_open(path, framework="numpy") as file:
        assert json.loads(file.metadata()["konsil"])["model_digest"] == digest
        assert file.get_tensor("w").tolist() == list(range(300))
    assert [one.name for one in tmp_path.iterdir()] == ["model.safetensors"]


def test_weights_that_are_not_those_announced_leave_no_file(
    broker: MemoryBroker, session: BrokerSession, tmp_path: Path
) -> None:
    bus = MemoryBus(broker, "coordinator")
    finished(bus, announced="d" * 64)
    with pytest.raises(WorkFailed, match="do not match the digest"):
        model_file.fetch_model(session, "try", tmp_path / "model", quiet)
    bus.close()
    assert not list(tmp_path.iterdir())


def test_missing_chunks_are_counted(broker: MemoryBroker, session: BrokerSession, tmp_path: Path) -> None:
    bus = MemoryBus(broker, "coordinator")
    finished(bus, chunks=1)
    with pytest.raises(WorkFailed, match="1 of 2 chunks"):
        model_file.fetch_model(session, "try", tmp_path / "model", quiet)
    bus.close()


def test_an_experiment_that_nobody_knows_is_refused(session: BrokerSession, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no experiment 'try'"):
        model_file.fetch_model(session, "try", tmp_path / "model", quiet)
