"""A site's ledger held against a log: whether both say the same of what the site sent, and where they do not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.record.journal import ASIDE, STEP
from coordinator.record.recovery import read_step
from messages import codec
from messages.chain import MAX_ENTRY, Entry
from messages.envelope import Event
from messages.ground.errors import MalformedMessage, RequestError
from messages.ground.written.documents import read_json
from messages.kinds import KINDS, WeightsReady

CLOCKS = 600.0
"""Seconds by which a site's clock may differ from the coordinator's."""


class LedgerRow(BaseModel):
    """One entry, as `konsil site ledger --json` gives it; what a later version adds is ignored."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    time: float
    kind: str
    experiment: str
    round: int
    bytes: int
    settled: bool
    id: str
    digest: str

    @property
    def title(self) -> str:
        """How a person knows it."""
        return f"{self.kind} (round {self.round})" if self.round else self.kind


class LedgerFile(BaseModel):
    """What `konsil site ledger --json` gives. `taken`: when, by the site's clock; `since`: where it begins (Unix).

    `experiment`: the only one of which it tells; None: it tells of all.
    """

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    site: str
    consortium: str
    taken: float
    since: float
    experiment: str | None
    ledger: list[LedgerRow]


@dataclass
class Comparison:
    """What a site's ledger and a log say of each other.

    Attributes:
        same: events and updates of which both have the same digest.
        undigested: of which the ledger has no digest, since its agent of that time kept none; the sizes fit.
        later: in one of the two only, because the other one was taken before.
        wrong: where the two disagree, in words.
    """

    site: str
    same: int = 0
    undigested: int = 0
    later: int = 0
    wrong: list[str] = field(default_factory=list)

    def as_plain(self) -> dict[str, Any]:
        """For --json."""
        return {
            "agrees": not self.wrong,
            "same": self.same,
            "undigested": self.undigested,
            "later": self.later,
            "wrong": self.wrong,
        }

    def summary_line(self) -> str:
        """One line."""
        more = f", {self.undigested} by size alone (no digest was kept)" if self.undigested else ""
        more += f", {self.later} that came after the other was taken" if self.later else ""
        if not self.wrong:
            return f"{self.site}: its ledger and the log agree on {self.same} events and updates{more}"
        return f"{self.site}: its ledger and the log DISAGREE in {len(self.wrong)} places, agree on {self.same}{more}"


def read_ledger_file(path: Path) -> LedgerFile:
    """A ledger that was written to a file; RequestError where it is none."""
    plain = read_json(path, refuse=RequestError, advice=_ADVICE)
    try:
        return LedgerFile.model_validate(plain)
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise RequestError(
            f"is not a site's ledger (look at {place or 'its top'})", where=str(path), advice=_ADVICE
        ) from None


_ADVICE = "Write it at the site: `konsil site ledger --json > ledger.json`, with this version or a newer one"


class LogOfSites:
    """What a log says that each site sent. The entries are verified already."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.consortium = ""
        self.experiments: set[str] = set()
        self.events: dict[str, list[Event]] = {}
        """Site → its events, in the log's order."""
        self.seals: dict[str, set[str]] = {}
        """Update ("experiment.round.site.attempt") → its seals, as events and decisions name them."""
        self.aside: set[str] = set()
        """Digests of messages that were set aside."""
        self.last_time = 0.0
        for entry in entries:
            self.last_time = max(self.last_time, entry.time)
            self.experiments.add(entry.experiment)
            if entry.type == STEP:
                self._note_step(entry)
            elif entry.type == ASIDE:
                self._note_aside(entry)

    @property
    def sites(self) -> list[str]:
        """Who sent something that only sites send."""
        return [name for name, sent in self.events.items() if any(KINDS[one.kind].senders == {"site"} for one in sent)]

    def _note_step(self, entry: Entry) -> None:
        given, decided = read_step(entry)
        if not isinstance(given, i.Received):
            return
        try:
            event = given.event
        except MalformedMessage:  # as somebody wrote it who can write the whole file: replay names it
            return
        self.consortium = event.consortium
        self.events.setdefault(event.sender, []).append(event)
        name = f"{entry.experiment}.{event.round}.{event.sender}"
        if isinstance(event.body, WeightsReady):
            transfer = event.body.transfer
            self.seals.setdefault(f"{name}.{transfer.attempt}", set()).add(transfer.seal)
        for decision in decided:
            if isinstance(decision, d.UpdateAnnounced):
                self.seals.setdefault(f"{name}.{decision.attempt}", set()).add(decision.seal)

    def _note_aside(self, entry: Entry) -> None:
        try:
            what = codec.unpack(entry.body, max_bytes=MAX_ENTRY)["what"]
        except (MalformedMessage, KeyError, TypeError):
            return
        raw = what.get("raw") if isinstance(what, dict) else what
        if isinstance(raw, bytes):
            self.aside.add(sha256(raw).hexdigest())


def compare_ledger(ledger: LedgerFile, log: LogOfSites) -> Comparison:
    """Hold a site's ledger against a log of one or more experiments.

    Raises:
        RequestError: they are not of one consortium.
    """
    if log.consortium and ledger.consortium != log.consortium:
        raise RequestError(f"the ledger is of consortium {ledger.consortium!r}, the log of {log.consortium!r}")
    found = Comparison(ledger.site)
    rows = [one for one in ledger.ledger if one.experiment in log.experiments]
    events: dict[str, list[Event]] = {}
    for event in log.events.get(ledger.site, []):
        if ledger.experiment in (None, event.experiment):
            events.setdefault(event.id, []).append(event)
    last_known = max((one.time for one in rows if one.id in events and one.settled), default=0.0)
    for row in rows:
        if row.kind == "update":
            _compare_update(row, log.seals, found)
        elif row.id in events:
            _compare_event(row, events[row.id], found)
        elif row.digest not in log.aside and row.settled:
            if row.time < max(last_known, log.last_time - CLOCKS):
                found.wrong.append(f"{row.title}: the ledger has it with the coordinator's receipt, the log lacks it")
            else:
                found.later += 1
    _find_unknown(ledger, {row.id for row in rows}, events, found)
    return found


def _compare_event(row: LedgerRow, events: list[Event], found: Comparison) -> None:
    digests = {sha256(event.raw).hexdigest() for event in events}
    if not row.digest and any(len(event.raw) == row.bytes for event in events):
        found.undigested += 1
    elif row.digest in digests:
        found.same += 1
    else:
        mine = row.digest[:16] or f"{row.bytes} bytes"
        found.wrong.append(
            f"{row.title}: the ledger has {mine}, the log {', '.join(sorted(one[:16] for one in digests))}"
        )


def _compare_update(row: LedgerRow, seals: Mapping[str, set[str]], found: Comparison) -> None:
    named = seals.get(row.id)
    if named is None:
        return  # it was never whole, or its round was over: no event names it
    if not row.digest:
        found.undigested += 1
    elif named == {row.digest}:
        found.same += 1
    else:
        others = ", ".join(sorted(one[:16] for one in named - {row.digest}))
        found.wrong.append(
            f"{row.title}: the ledger has an update sealed {row.digest[:16]}, the log one sealed {others}"
        )


def _find_unknown(ledger: LedgerFile, known: set[str], events: Mapping[str, list[Event]], found: Comparison) -> None:
    for identity, sent in events.items():
        if identity in known or sent[0].time < ledger.since:
            continue
        if sent[0].time > ledger.taken:
            found.later += 1
        else:
            place = f"{sent[0].kind} (round {sent[0].round})" if sent[0].round else sent[0].kind
            found.wrong.append(f"{place}: the log has it, the ledger does not")
