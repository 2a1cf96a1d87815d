"""An experiment that configures itself, and one that asks for statistics alone: the real services in virtual time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from coordinator_kit import plain
from virtual_consortium import VirtualConsortium

from coordinator.record.journal import Journal
from coordinator.record.replay import replay
from messages import kinds
from messages.ground.virtual.clock import VirtualClock
from messages.reasons import Reason

SITES = ("site-a", "site-b")
HOUR = 900.0
ROUNDS = {"count": 2, "enrol_within": HOUR, "train_within": 2 * HOUR, "grace": HOUR, "extensions": 0}


def auto(**changes: Any) -> dict[str, Any]:
    """A file that leaves to the sites' data what they decide."""
    file = plain(sites=[*SITES], rounds=ROUNDS, net={"name": "auto", "memory_gib": 1.0}, quorum={"least_sites": 1})
    for section, keys in {"training": ("patch", "batch"), "preprocessing": ("spacing_mm", "normalise")}.items():
        for key in keys:
            file.get(section, {}).pop(key, None)
    return file | changes


def run(folder: Path, file: dict[str, Any], end: str, prepare: Any = lambda consortium: None) -> VirtualConsortium:
    clock = VirtualClock()

    def body() -> VirtualConsortium:
        consortium = VirtualConsortium(folder, clock, lambda _site, _round: 10.0, SITES)
        prepare(consortium)
        consortium.say("experiment-start", kinds.ExperimentStart(experiment=file))
        consortium.until(end, 24 * HOUR)
        consortium.close()
        return consortium

    return clock.run(body)


def test_an_experiment_configures_itself_from_what_its_sites_tell_and_goes_on(tmp_path: Path) -> None:
    consortium = run(tmp_path, auto(), "experiment-complete")
    (told,) = [one.body for _at, one in consortium.of("statistics-pooled")]
    assert isinstance(told, kinds.StatisticsPooled)
    assert told.contributors == {"site-a": 28, "site-b": 42}
    assert told.configuration is not None
    assert told.configuration.spacing_mm == (1.0, 1.0, 1.0)
    assert len(consortium.of("round-complete")) == 2


def test_what_was_decided_of_statistics_is_decided_again_from_the_log(tmp_path: Path) -> None:
    run(tmp_path, auto(), "experiment-complete")
    journal = Journal(tmp_path / "coordinator")
    try:
        steps = list(replay(journal.entries()))
    finally:
        journal.close()
    assert [step.problem for step in steps if not step.agrees] == []
    assert any("statistics of site-a (28), site-b (42); DynUNet of" in step.what for step in steps)


def test_statistics_alone_are_told_and_nothing_is_trained(tmp_path: Path) -> None:
    file = auto(plan={"kind": "statistics"}, rounds=ROUNDS | {"count": 0})
    del file["net"]
    consortium = run(tmp_path, file, "statistics-pooled")
    assert consortium.of("round-start") == consortium.of("experiment-complete") == []
    body = consortium.of("statistics-pooled")[-1][1].body
    assert isinstance(body, kinds.StatisticsPooled)
    assert body.statistics.cases == 70
    assert body.configuration is not None, "what would follow is told, too"


def refuse_statistics(site: str) -> Any:
    def prepare(consortium: VirtualConsortium) -> None:
        rules = consortium.agents[site]._rules
        policy = rules.config.policy.model_copy(update={"statistics": False})
        rules.config = rules.config.model_copy(update={"policy": policy})

    return prepare


def test_a_fingerprint_refused_by_half_the_sites_ends_in_one_line_before_anything_is_trained(tmp_path: Path) -> None:
    consortium = run(tmp_path, auto(quorum={"least_sites": 2}), "experiment-failed", refuse_statistics("site-b"))
    failed = consortium.of("experiment-failed")[-1][1].body
    assert isinstance(failed, kinds.ExperimentFailed)
    assert failed.reason is Reason.ENROLMENT_FAILED
    assert consortium.of("statistics-start") == consortium.of("round-start") == []


def test_where_quorum_allows_it_the_experiment_goes_on_without_a_site_that_refuses(tmp_path: Path) -> None:
    consortium = run(tmp_path, auto(), "experiment-complete", refuse_statistics("site-b"))
    body = consortium.of("statistics-pooled")[-1][1].body
    assert isinstance(body, kinds.StatisticsPooled)
    assert body.contributors == {"site-a": 28}
