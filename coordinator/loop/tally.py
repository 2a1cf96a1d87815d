"""What happened since this process started, as plain numbers that the main loop writes and the metrics read."""

from __future__ import annotations

from collections import Counter

from coordinator.core import decisions as d
from coordinator.core.state import ENDED, ExperimentState
from messages.bus.base import BusState
from messages.reasons import Reason

_REASONS = frozenset(one.value for one in Reason)


class Tally:
    """What happened since this process started. The main loop's thread writes."""

    def __init__(self) -> None:
        self.rounds: Counter[str] = Counter({"complete": 0, "failed": 0, "aborted": 0})
        self.ended: Counter[str] = Counter({one.value: 0 for one in sorted(ENDED)})
        self.refused_updates: Counter[str] = Counter()
        self.refused_events: Counter[str] = Counter()
        self.malformed: Counter[str] = Counter()
        self.set_aside = 0
        self.update_bytes = 0
        self.stretches: Counter[str] = Counter({"collect": 0, "aggregate": 0})
        self.seconds: dict[str, float] = {"collect": 0.0, "aggregate": 0.0}
        self.validation: dict[str, tuple[str, dict[str, float]]] = {}
        """Experiment → its task's kind, and the pooled scores of its last scored round by target."""
        self.site_versions: dict[str, str] = {}
        """Site → the version of Konsil that it said hello with."""
        self.connected = self.blocked = self.disk_full = self.mark_missing = False

    def count_decision(self, before: ExperimentState | None, decision: d.Decision, time: float) -> None:
        """Count a decision, given the state that it was made in."""
        name = before.id if before is not None else ""
        open_round = before.round if before is not None else None
        match decision:
            case d.RoundCompleted():
                self.rounds["complete"] += 1
                self._add_stretch("collect", decision.seconds)
                if open_round is not None and open_round.closed_at is not None:
                    self._add_stretch("aggregate", max(0.0, time - open_round.closed_at))
                if decision.validation is not None and before is not None:
                    task = before.experiment.task
                    means = task.reader.by_target(decision.validation).items()
                    self.validation[name] = task.kind, {target: mean for target, mean in means if mean is not None}
            case d.RoundVoided():
                self.rounds["void"] += 1
            case d.UpdateTaken() if before is not None and (manifest := before.update_manifest) is not None:
                self.update_bytes += manifest.nbytes
            case d.Refused(kind="weights-ready"):
                self.refused_updates[decision.reason.value] += 1
            case d.Refused() | d.StartRefused():
                self.refused_events[decision.reason.value] += 1
            case d.Completed():
                self._count_end(name, "complete", "complete" if open_round is not None else None)
            case d.StatisticsPooled() if before is not None and not before.experiment.plan.trains:
                self._count_end(name, "complete", "complete")
            case d.Failed():
                self._count_end(name, "failed", "failed" if open_round is not None else None)
            case d.Aborted():
                self._count_end(name, "aborted", "aborted" if open_round is not None else None)
            case _:
                pass

    def note_broker(self, state: BusState) -> None:
        """The connection changed."""
        self.connected = state in (BusState.CONNECTED, BusState.BLOCKED, BusState.UNBLOCKED)
        self.blocked = state is BusState.BLOCKED

    @property
    def reachable(self) -> bool:
        """Whether the broker takes messages now."""
        return self.connected and not self.blocked

    def malformed_message(self, reason: str) -> None:
        """A message was no event of ours."""
        self.malformed[reason if reason in _REASONS else "malformed"] += 1

    def _add_stretch(self, stretch: str, seconds: float) -> None:
        self.stretches[stretch] += 1
        self.seconds[stretch] += seconds

    def _count_end(self, name: str, how: str, round_outcome: str | None) -> None:
        self.ended[how] += 1
        self.validation.pop(name, None)
        if round_outcome is not None:
            self.rounds[round_outcome] += 1
