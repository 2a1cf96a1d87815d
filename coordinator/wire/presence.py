"""Whether each site is there and its work moves, from the `progress` stream; a change is a line of the log.

Nothing that is decided depends on it: it is for the people who look (log, metrics), and is not journaled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping

import structlog

from coordinator.core.state import ExperimentState, Timer
from coordinator.core.steps.table import row_of
from coordinator.wire.rates import Rates
from messages import envelope, kinds
from messages.bus.base import Delivery
from messages.ground import logs
from messages.ground.errors import MalformedMessage
from messages.liveness import Liveness, Signs, judge_liveness, median_of_others
from messages.trust.verifier import Verifier

log = structlog.get_logger("coordinator.wire.presence")
NOTHING = Signs()
LIVE_SHARE = 0.25
"""Of what is read of a sender on uplink: a site says some live messages in 5 s."""
TROUBLE = frozenset({Liveness.ABSENT, Liveness.STUCK, Liveness.SLOW})


class Presence:
    """Hears on a thread of the bus, is judged and read on others.

    Args:
        sites: admitted sites; nobody else is heard.
        now: the coordinator's clock.
        verifier: asked before anything is believed.
    """

    def __init__(
        self, consortium: str, sites: Iterable[str], now: Callable[[], float], verifier: Verifier | None = None
    ) -> None:
        self._consortium, self._now = consortium, now
        self._verifier = verifier or Verifier(consortium)
        self._rates = Rates(now, LIVE_SHARE)
        self._lock = threading.Lock()
        self._signs: dict[str, Signs] = dict.fromkeys(sorted(sites), NOTHING)
        self._listening_since: float | None = None
        self._told: dict[str, Liveness] = {}

    def note_connection(self, is_connected: bool) -> None:
        """The broker came or went: what is not heard meanwhile says nothing of the sites."""
        with self._lock:
            if not is_connected:
                self._listening_since = None
            elif self._listening_since is None:  # a broker that only blocks publishers is heard all the while
                self._listening_since = self._now()

    def hear_message(self, delivery: Delivery) -> None:
        """Take a live message; what is none, no site's, or beyond what a site has to say, is dropped."""
        if not self._rates.may_pass(delivery):
            return
        try:
            event = envelope.decode_event(delivery.body)
            envelope.check_origin(event, delivery.key, delivery.user, self._consortium)
            self._verifier.check_event(event, delivery.queue, self._now())
        except MalformedMessage:
            return
        body, now = event.body, self._now()
        with self._lock:
            signs = self._signs.get(event.sender)
            if signs is None:
                return
            if isinstance(body, kinds.Alive):
                self._signs[event.sender] = signs.note_alive(body.state, now)
            elif isinstance(body, kinds.Progress):
                self._signs[event.sender] = signs.note_progress(
                    event.experiment,
                    event.round,
                    body.phase,
                    body.done,
                    body.eta_seconds,
                    now,
                    is_done=body.done == body.total,
                )

    def judge_sites(self, states: Mapping[str, ExperimentState]) -> dict[str, Liveness]:
        """Every site as it is seen now; empty while nothing is heard of anybody."""
        with self._lock:
            signs, since, now = dict(self._signs), self._listening_since, self._now()
        if since is None:
            return {}
        ends: dict[str | None, list[float]] = {}
        for one in signs.values():
            if (end := one.estimate) is not None:
                ends.setdefault(one.experiment, []).append(end)
        for each in ends.values():
            each.sort()
        seen = {}
        for site, one in signs.items():
            others = median_of_others(ends.get(one.experiment, ()), one.estimate)
            deadline = _deadline_for(states.get(one.experiment or ""), site)
            seen[site] = judge_liveness(one, now, deadline=deadline, others_end=others, listening_since=since)
        return seen

    def list_last_heard(self) -> dict[str, float]:
        """When each site last gave a sign of life, seconds since 1970; a site that never did is absent."""
        with self._lock:
            return {site: one.heard_at for site, one in self._signs.items() if one.heard_at is not None}

    def log_changes(self, states: Mapping[str, ExperimentState]) -> None:
        """A line of the log for each site that became absent, stuck or slow, or is so no longer."""
        with self._lock:
            concerns = {site: one.mark[:2] if one.mark else (None, None) for site, one in self._signs.items()}
        for site, seen in self.judge_sites(states).items():
            before = self._told.get(site)
            self._told[site] = seen
            if seen is not before and (seen in TROUBLE or before in TROUBLE):
                level = log.warning if seen in TROUBLE else log.info
                experiment, number = concerns[site]
                with logs.bind_experiment(experiment if experiment in states else None, number):
                    level("liveness", site=site, liveness=seen.value, before=before.value if before else "unknown")


def _deadline_for(state: ExperimentState | None, site: str) -> float | None:
    """When the round closes at the latest, if it still waits for the site."""
    if state is None or state.round is None or not row_of(state.round).takes_updates:
        return None
    part = state.round.parts.get(site)
    if part is None or part.reported:
        return None
    return min((state.timers[name] for name in (Timer.DEADLINE, Timer.GRACE) if name in state.timers), default=None)
