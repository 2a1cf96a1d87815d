"""The coordinator's figures for Prometheus (docs/metrics.md): what it counted, and what is so now.

The main loop counts into plain numbers as it decides; the endpoint's thread reads them and the frozen states. Labels
are words of this program, admitted sites, running experiments and what they score: bounded, and no free text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable, Iterator, Mapping
from types import MappingProxyType

from coordinator.core.state import ENDED, ExperimentState, Phase
from coordinator.loop.tally import Tally
from messages.ground.operating.exposition import Reading, make_counter, make_gauge, party_readings, phase_readings
from messages.liveness import Liveness
from messages.reasons import Reason
from messages.tasks.base import ScoreReader
from messages.tasks.registry import TASKS

_REASONS = frozenset(one.value for one in Reason)
_SHOWN = [one for one in Phase if one not in ENDED and one is not Phase.NONE]


def make_readings(
    tally: Tally,
    states: Mapping[str, ExperimentState],
    liveness: Mapping[str, Liveness],
    *,
    entries: int,
    term: int,
    lag: int,
    model_bytes: int,
    last_heard: Mapping[str, float] = MappingProxyType({}),
    free_bytes: int | None = None,
    certificate_ends: float | None = None,
) -> Iterator[Reading]:
    """Everything, as it is now. Called by the endpoint's thread with copies."""
    running = {name: one for name, one in sorted(states.items()) if one.ended is None}
    yield make_counter(
        "konsil_rounds_total", "Rounds (the evaluation is one, too) that ended.", tally.rounds, "outcome"
    )
    yield make_counter("konsil_round_seconds_total", "Time of complete rounds.", tally.seconds, "stretch")
    yield make_counter(
        "konsil_round_stretches_total", "How many stretches those seconds are.", tally.stretches, "stretch"
    )
    yield make_counter("konsil_experiments_total", "Experiments that ended.", tally.ended, "outcome")
    by_phase = Counter(one.phase for one in running.values())
    yield make_gauge("konsil_experiments", "Experiments now.", {one.value: by_phase[one] for one in _SHOWN}, "phase")
    yield make_gauge("konsil_experiment_round", "The open round.", _open_rounds(running.values()), "experiment")
    planned = {name: one.experiment.rounds.count for name, one in running.items()}
    yield make_gauge("konsil_experiment_rounds_planned", "Rounds in all.", planned, "experiment")
    seen = Counter(liveness.values())
    yield make_gauge(
        "konsil_sites", "Admitted sites by liveness.", {one.value: seen[one] for one in Liveness}, "liveness"
    )
    yield Reading(
        "konsil_site_liveness", "gauge", "1: what is seen of a site.",
        tuple(({"site": site, "liveness": one.value}, 1.0) for site, one in sorted(liveness.items())),
    )  # fmt: skip
    yield make_gauge(
        "konsil_site_last_seen_timestamp_seconds", "A site's last sign of life, since 1970.", last_heard, "site"
    )
    yield Reading(
        "konsil_site_version_info", "gauge", "1: the version that a site said hello with.",
        tuple(({"site": site, "version": one}, 1.0) for site, one in sorted(tally.site_versions.copy().items())),
    )  # fmt: skip
    yield make_counter("konsil_updates_rejected_total", "Updates not used.", dict(tally.refused_updates), "reason")
    yield make_counter("konsil_events_refused_total", "Other events refused.", dict(tally.refused_events), "reason")
    yield make_counter(
        "konsil_messages_malformed_total", "Messages that are no event.", dict(tally.malformed), "reason"
    )
    yield make_counter("konsil_events_set_aside_total", "Kept with their bytes, unhandled.", tally.set_aside)
    directions = {"up": tally.update_bytes, "down": model_bytes}
    yield make_counter("konsil_model_bytes_total", "Updates taken (up), models sent (down).", directions, "direction")
    for kind, task in TASKS.items():
        yield _validation(task.reader_type(), kind, tally, running)
    yield make_gauge("konsil_broker_connected", "1: there is a connection to the broker.", tally.connected)
    yield make_gauge("konsil_broker_blocked", "1: the broker takes no messages now.", tally.blocked)
    yield make_gauge("konsil_disk_full", "1: the journal waits for space on its disk.", tally.disk_full)
    yield make_gauge("konsil_mark_missing", "1: our mark on uplink is not back, no timer fires.", tally.mark_missing)
    yield make_gauge("konsil_journal_entries", "Entries of the journal.", entries)
    yield make_gauge("konsil_queue_inputs", "What waits for the main loop.", lag)
    yield make_gauge("konsil_term", "The coordinator's term, one more with each start.", term)
    if free_bytes is not None:
        yield make_gauge("konsil_state_free_bytes", "Free space where the state lies.", free_bytes)
    yield from party_readings(certificate_ends)
    yield from phase_readings()


def _open_rounds(states: Iterable[ExperimentState]) -> dict[str, float]:
    return {one.id: one.round.number for one in states if one.round is not None}


def _validation(reader: ScoreReader, kind: str, tally: Tally, running: Container[str]) -> Reading:
    """The scores of all running experiments of one task, under the name of its main metric."""
    return Reading(
        f"konsil_validation_{reader.metric.replace('-', '_')}",
        "gauge",
        f"Pooled validation {reader.title} of the last round that was scored.",
        tuple(
            ({"experiment": name, reader.target: target}, mean)
            for name, (of, means) in sorted(tally.validation.copy().items())
            if of == kind and name in running
            for target, mean in means.items()
        ),
    )
