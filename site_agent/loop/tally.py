"""What happened since this process started, as plain numbers that the main loop writes and the metrics read."""

from __future__ import annotations

from collections import Counter

from messages.bus.base import BusState
from site_agent.core.decisions import Decision, Deliver, GiveUp


class Tally:
    """What happened since this process started. The main loop's thread writes."""

    def __init__(self) -> None:
        self.rounds: Counter[str] = Counter({"delivered": 0, "failed": 0})
        self.failures: Counter[str] = Counter()
        self.checkpoints: Counter[str] = Counter()
        self.connected = self.blocked = False

    def note_broker(self, state: BusState) -> None:
        """The connection changed."""
        self.connected = state in (BusState.CONNECTED, BusState.BLOCKED, BusState.UNBLOCKED)
        self.blocked = state is BusState.BLOCKED

    def count_decision(self, decision: Decision) -> None:
        """Count a decision of the agenda."""
        match decision:
            case Deliver():
                self.rounds["delivered"] += 1
            case GiveUp():
                self.rounds["failed"] += 1
                self.failures[decision.reason.value] += 1
            case _:
                pass
