"""What the coordinator sees of its sites while they work, and what it counts as it decides."""

from __future__ import annotations

import json
from typing import Any

import pytest
import structlog
from coordinator_kit import CONSORTIUM, MANIFEST, PLATFORM, SITES, counts, plain, received, scores, weights
from structlog.testing import capture_logs

from coordinator.core import inputs as i
from coordinator.core.evolve import evolve
from coordinator.core.machine import decide
from coordinator.core.state import ExperimentState
from coordinator.loop.tally import Tally
from coordinator.metrics import make_readings
from coordinator.wire.presence import Presence
from messages import kinds
from messages.bus.base import BusState, Delivery
from messages.envelope import Author
from messages.ground.operating.exposition import Reading
from messages.liveness import ABSENT_AFTER, STUCK_AFTER, Liveness
from messages.reasons import Reason
from messages.tensors.codecs import CodecName

SEAL = "cd" * 32


class Counting:
    """One experiment, decided input by input and counted as the shell counts."""

    def __init__(self, codec: CodecName = "float32") -> None:
        self.state: ExperimentState | None = None
        self.tally = Tally()
        self.time = 1000.0
        self.manifest = MANIFEST.in_codec(codec)
        self.wire("experiment-start", kinds.ExperimentStart(experiment=plain(wire={"codec": codec})), "dr-a")

    def put(self, given: i.AnyInput) -> None:
        for decision in decide(self.state, given):
            self.tally.count_decision(self.state, decision, given.time)
            self.state = evolve(self.state, decision)

    def wire(self, kind: str, body: kinds.Body, sender: str, number: int = 0) -> None:
        self.put(received(kind, body, sender, self.time, number=number))

    def open_round(self) -> None:
        for site in SITES:
            self.wire("joined", kinds.Joined(cases=counts(10), platform=PLATFORM), site)
        self.put(i.Initialised(time=self.time, manifest=MANIFEST, seal=SEAL, digest="ab" * 32))
        assert self.states["exp-1"].round is not None

    def updates(self, *bad: str, number: int = 1, validation: float = 0.75) -> None:
        for site in SITES:
            sent = kinds.Transfer(round=number, attempt=1, seal=SEAL, manifest=self.manifest)
            self.wire("weights-ready", weights(number, transfer=sent, validation=scores(validation)), site, number)
            if site in bad:
                self.put(
                    i.UpdateBad(time=self.time, site=site, round=number, attempt=1, reason=Reason.NOT_FINITE_UPDATE)
                )
            else:
                self.put(i.UpdateStored(time=self.time, site=site, round=number, attempt=1))

    @property
    def states(self) -> dict[str, ExperimentState]:
        return {} if self.state is None else {self.state.id: self.state}

    def shown(self) -> dict[str, Reading]:
        found = make_readings(self.tally, self.states, {}, entries=7, term=2, lag=0, model_bytes=5)
        return {one.name: one for one in found}

    def value(self, name: str, **labels: str) -> float | None:
        return next((value for found, value in self.shown()[name].samples if found == labels), None)


def test_a_complete_round_is_counted_with_its_times_bytes_and_dice() -> None:
    run = Counting()
    run.open_round()
    run.time += 20
    run.updates()
    run.time += 3
    run.put(i.Aggregated(time=run.time, round=1, seal=SEAL, digest="ab" * 32))
    assert run.value("konsil_rounds_total", outcome="complete") == 1
    assert run.value("konsil_round_seconds_total", stretch="collect") == 20
    assert run.value("konsil_round_seconds_total", stretch="aggregate") == 3
    assert run.value("konsil_model_bytes_total", direction="up") == 3 * MANIFEST.nbytes
    assert run.value("konsil_experiment_round", experiment="exp-1") == 2
    run.updates(number=2)
    run.put(i.Aggregated(time=run.time, round=2, seal=SEAL, digest="ab" * 32))
    assert run.value("konsil_rounds_total", outcome="complete") == 2
    assert run.value("konsil_validation_dice", experiment="exp-1", region="WT") == 0.75


def test_an_update_that_is_not_used_is_counted_by_its_reason() -> None:
    run = Counting()
    run.open_round()
    run.updates("site-b")
    assert run.value("konsil_updates_rejected_total", reason="not-finite-update") == 1
    assert run.value("konsil_model_bytes_total", direction="up") == 2 * MANIFEST.nbytes


def test_an_update_counts_with_the_bytes_that_it_has_on_the_wire() -> None:
    run = Counting("bfloat16")
    run.open_round()
    run.updates()
    halved = MANIFEST.in_codec("bfloat16").nbytes
    assert halved < MANIFEST.nbytes
    assert run.value("konsil_model_bytes_total", direction="up") == 3 * halved


def test_an_experiment_that_ends_takes_its_series_along() -> None:
    run = Counting()
    run.open_round()
    run.updates()
    run.put(i.Aggregated(time=run.time, round=1, seal=SEAL, digest="ab" * 32))
    run.updates(number=2)
    run.put(i.Aggregated(time=run.time, round=2, seal=SEAL, digest="ab" * 32))
    assert run.tally.validation
    run.wire("experiment-abort", kinds.ExperimentAbort(), "dr-a")
    assert run.value("konsil_rounds_total", outcome="aborted") == 1
    assert run.value("konsil_experiments_total", outcome="aborted") == 1
    assert not [one.name for one in run.shown().values() for labels, _ in one.samples if "experiment" in labels]
    assert not run.tally.validation


def test_a_reason_that_is_none_of_ours_makes_no_label() -> None:
    tally = Tally()
    tally.malformed_message("patient 42")
    tally.malformed_message("too-large")
    assert tally.malformed == {"malformed": 1, "too-large": 1}


@pytest.mark.parametrize(
    ("state", "connected", "blocked"),
    [
        (BusState.CONNECTED, True, False),
        (BusState.BLOCKED, True, True),
        (BusState.UNBLOCKED, True, False),
        (BusState.LOST, False, False),
    ],
)
def test_the_broker_is_shown_as_it_is(state: BusState, connected: bool, blocked: bool) -> None:
    tally = Tally()
    tally.note_broker(state)
    assert (tally.connected, tally.blocked) == (connected, blocked)


class Watched:
    """A presence with a clock of its own, and the sites' live messages."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.presence = Presence(CONSORTIUM, SITES, lambda: self.now)
        self.presence.note_connection(True)
        self.run = Counting()
        self.run.open_round()
        self.number = 0

    def hear(self, site: str, body: kinds.Body, *, user: str | None = None, consortium: str = CONSORTIUM) -> None:
        kind = "alive" if isinstance(body, kinds.Alive) else "progress"
        self.number += 1
        event = Author(consortium, site).write_event(
            kind, body, time=self.now, experiment="exp-1", round_number=1, attempt=self.number
        )
        self.presence.hear_message(Delivery("progress", event.key, event.raw, user or site, None, 0))

    def works(self, site: str, done: int, eta: float) -> None:
        self.hear(site, kinds.Alive(state="training", busy_with="exp-1"))
        self.hear(site, kinds.Progress(phase="training", done=done, total=100, eta_seconds=eta))

    def judged(self) -> list[str]:
        return [one.value for _, one in sorted(self.presence.judge_sites(self.run.states).items())]

    def told(self) -> list[dict[str, Any]]:
        with capture_logs(processors=[structlog.contextvars.merge_contextvars]) as lines:
            self.presence.log_changes(self.run.states)
        return [dict(line) for line in lines]


def test_a_site_is_slow_by_the_deadline_of_the_round_and_by_the_grace_that_is_left() -> None:
    watched = Watched()
    for site, eta in zip(SITES, (900.0, 950.0, 1100.0), strict=True):
        watched.works(site, 1, eta)
    assert watched.judged() == ["training", "training", "slow"]
    watched.run.time += 1
    for site in SITES[1:]:
        watched.run.wire("weights-ready", weights(1), site, 1)
        watched.run.put(i.UpdateStored(time=watched.run.time, site=site, round=1, attempt=1))
    assert watched.judged() == ["slow", "training", "training"]


def test_stuck_and_absent_are_told_once_each_with_experiment_round_and_site() -> None:
    watched = Watched()
    for site in SITES:
        watched.works(site, 1, 10.0)
    assert watched.told() == []
    for moment in range(1, int(STUCK_AFTER) + 2):
        watched.now = 1000.0 + moment
        watched.works(SITES[0], 1, 10.0)
        watched.works(SITES[1], moment, 10.0)
    lines = watched.told()
    assert watched.told() == []
    assert {(line["site"], line["liveness"], line["before"]) for line in lines} == {
        (SITES[0], "stuck", "training"),
        (SITES[2], "absent", "training"),
    }
    assert all((line["experiment"], line["round"], line["log_level"]) == ("exp-1", 1, "warning") for line in lines)
    watched.works(SITES[0], 2, 10.0)
    (line,) = watched.told()
    assert (line["liveness"], line["before"], line["log_level"]) == ("training", "stuck", "info")


def test_a_coordinator_that_hears_nobody_blames_nobody() -> None:
    watched = Watched()
    watched.works(SITES[0], 1, 10.0)
    watched.presence.note_connection(False)
    watched.now += 10 * ABSENT_AFTER
    assert watched.judged() == []
    watched.presence.note_connection(True)
    assert "absent" not in watched.judged()
    watched.now += ABSENT_AFTER + 1
    assert set(watched.judged()) == {"absent"}


def test_a_broker_that_blocks_publishers_hides_no_absence() -> None:
    watched = Watched()
    watched.works(SITES[0], 1, 10.0)
    for _ in range(int(ABSENT_AFTER) + 2):
        watched.now += 1
        watched.presence.note_connection(True)
    assert set(watched.judged()) == {"absent"}


@pytest.mark.parametrize(
    ("site", "more"),
    [("site-x", {}), (SITES[0], {"user": "site-b"}), (SITES[0], {"consortium": "other"})],
    ids=["stranger", "another's name", "another consortium"],
)
def test_only_a_site_itself_can_say_that_it_lives(site: str, more: dict[str, str]) -> None:
    watched = Watched()
    watched.now += ABSENT_AFTER + 1
    watched.hear(site, kinds.Alive(state="idle"), **more)
    assert watched.judged() == ["absent"] * 3


def test_rubbish_on_the_stream_is_dropped() -> None:
    watched = Watched()
    watched.presence.hear_message(Delivery("progress", "alive.site-a.none", b"\xff" * 40, "site-a", None, 0))
    watched.presence.hear_message(Delivery("progress", "rubbish", json.dumps({}).encode(), None, None, 0))
    assert watched.judged() == [Liveness.IDLE.value] * 3
