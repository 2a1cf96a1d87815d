"""Stories out of what the broker or a journal keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

from deploy.session.connection import BrokerSession, Heard
from deploy.story.story import ExperimentStory
from deploy.story.telling import tell_all, tell_event
from messages import codec, names
from messages.chain import MAX_ENTRY, Entry, verify
from messages.envelope import Author, Event, decode_stored
from messages.experiment import Experiment
from messages.ground import naming
from messages.ground.errors import LogBroken, MalformedMessage, RequestError
from messages.log.exports import read_entries
from messages.names import RoutingKey
from messages.outliers import UpdateCheck, check_updates

HISTORY = (names.DOWNLINK, names.AUDIT)
"""The coordinator's own events, and the sites' as the journal holds them."""


class HistoryReader:
    """Reads events out of messages and entries, one after the other.

    An entry of the journal holds what came from outside verbatim, and decisions; the coordinator's own events follow
    from the decisions (`coordinator.core.effects`), so that a journal alone tells the whole story. An event that the
    coordinator refused is part of no round and is left out.
    """

    def __init__(self) -> None:
        self._states: dict[str, Any] = {}
        self._checks: dict[str, dict[int, dict[str, UpdateCheck]]] = {}
        self._broken: set[str] = set()

    def events_of(self, heard: Heard, experiment: str | None = None) -> Iterator[Event]:
        """The history events in one message, of one experiment or of all."""
        if experiment is not None and RoutingKey.parse(heard.delivery.key).experiment != experiment:
            return
        if heard.event is not None:
            yield heard.event
        elif heard.entry is not None:
            yield from self.of_entry(heard.entry)

    def timers_of(self, experiment: str) -> Mapping[str, float] | None:
        """The coordinator's timers of an experiment after the entries so far; None where they do not tell."""
        state = self._states.get(experiment)
        if state is None or experiment in self._broken:
            return None
        return {timer.value: moment for timer, moment in state.timers.items()}

    def checks_of(self, experiment: str) -> Mapping[int, Mapping[str, UpdateCheck]]:
        """By round and site, each update beside the others, as the entries so far tell."""
        return {number: dict(one) for number, one in self._checks.get(experiment, {}).items()}

    def _note_checks(self, before: Any, after: Any, decision: Any, todo: Iterable[Any]) -> None:
        """What a decision tells of the updates of a round: which are left out, which are used, where they point."""
        from coordinator.core import decisions
        from coordinator.core.effects import Aggregate
        from coordinator.work.aggregate import share_weights

        if after is None:
            return
        rounds = self._checks.setdefault(after.id, {})
        if isinstance(decision, decisions.UpdateLeftOut) and before is not None and before.round is not None:
            norm = before.round.parts[decision.site].norm
            rounds.setdefault(before.round.number, {})[decision.site] = UpdateCheck(norm=norm)
        for made in todo:
            if isinstance(made, Aggregate) and made.updates and not made.apart:
                cases = {one.site: one.cases for one in made.updates}
                shares = share_weights(cases, weight_by=made.weight_by, cap=made.weight_cap)
                norms = {site: one.norm for site, one in rounds.get(made.round, {}).items()}
                norms |= {one.site: one.norm for one in made.updates}
                known = {site: norm for site, norm in norms.items() if norm is not None}
                rounds[made.round] = check_updates(shares, known, {})
        if isinstance(decision, decisions.RoundCompleted):
            found = rounds.get(decision.number, {})
            told = {site: replace(one, cosine=decision.cosines.get(site)) for site, one in found.items()}
            rounds[decision.number] = told

    def of_entry(self, entry: Entry) -> Iterator[Event]:
        """The events that an entry holds, and those that followed from it."""
        try:
            body = codec.unpack(entry.body, max_bytes=MAX_ENTRY)
        except MalformedMessage:
            return
        if not isinstance(body, dict) or not isinstance(body.get("decisions"), list):
            return
        refused = {
            decision.get("event")
            for decision in body["decisions"]
            if isinstance(decision, dict) and decision.get("decision") == "refused"
        }
        yield from (event for event in _find_events(body.get("input")) if event.id not in refused)
        yield from self._announced_events(entry, body["decisions"])

    def _announced_events(self, entry: Entry, decided: list[Any]) -> Iterator[Event]:
        from coordinator.core import decisions
        from coordinator.core.announce import announce_excluded
        from coordinator.core.effects import Announce, effects
        from coordinator.core.evolve import evolve

        if entry.experiment in self._broken:
            return
        author = Author("none", names.COORDINATOR)
        try:
            for plain in decided:
                decision = decisions.from_plain(plain)
                before = self._states.get(entry.experiment)
                state = evolve(before, decision)
                self._states[entry.experiment] = state
                todo = effects(state, decision)
                said = [effect.what for effect in todo if isinstance(effect, Announce)]
                if state is not None and isinstance(decision, decisions.Excluded) and not said:
                    said.append(announce_excluded(state, decision.site))  # who cannot read it was told otherwise
                self._note_checks(before, state, decision, todo)
                for what in said:
                    yield author.write_event(
                        what.kind,
                        what.body,
                        time=entry.time,
                        experiment=what.experiment,
                        round_number=what.round,
                        attempt=what.attempt,
                    )
        except (ValueError, KeyError, AttributeError):
            # Its beginning is not here (evicted from the stream): what stands in the entries still counts.
            self._broken.add(entry.experiment)


def _find_events(value: Any) -> Iterator[Event]:
    if isinstance(value, bytes) and value[:1] == b"\x92":  # an event is a list of two
        try:
            yield decode_stored(value)
        except MalformedMessage:
            return
    elif isinstance(value, dict):
        for item in value.values():
            yield from _find_events(item)
    elif isinstance(value, list):
        for item in value:
            yield from _find_events(item)


def story_of(session: BrokerSession, experiment: str) -> ExperimentStory:
    """All that the broker keeps of one experiment up to now.

    Raises:
        RequestError: the broker knows no experiment of this id.
    """
    story, reader = ExperimentStory(experiment), HistoryReader()
    queues = HISTORY if session.profile.role == "researcher" else (names.AUDIT,)
    for heard in session.read_history(*queues):
        story = tell_all(story, reader.events_of(heard, experiment))
        if heard.entry is not None and heard.entry.experiment == experiment:
            story = replace(story, log_hash=heard.entry.hash.hex())
    return require_known(replace(story, checks=reader.checks_of(experiment)))


def read_audit(session: BrokerSession, experiment: str | None = None) -> list[Entry]:
    """Entries of one experiment (of all) from `audit`, each once and in the journal's order: a coordinator that was
    started again sends some again.

    Raises:
        LogBroken: the broker holds two that differ under one number.
    """
    found: dict[int, Entry] = {}
    for heard in session.read_history(names.AUDIT):
        entry = heard.entry
        if entry is None or (experiment is not None and entry.experiment != experiment):
            continue
        if found.setdefault(entry.number, entry).hash != entry.hash:
            raise LogBroken(
                "the broker holds two different entries of this number",
                where=f"entry {entry.index} of {entry.experiment} (journal number {entry.number})",
            )
    return [found[number] for number in sorted(found)]


def story_of_entries(entries: Iterable[Entry], experiment: str) -> ExperimentStory:
    """The story that a journal or an exported log tells."""
    story, reader = ExperimentStory(experiment), HistoryReader()
    for entry in entries:
        if entry.experiment == experiment:
            story = replace(tell_all(story, reader.of_entry(entry)), log_hash=entry.hash.hex())
    return replace(story, checks=reader.checks_of(experiment))


def find_described(entries: Iterable[Entry], experiment: str) -> Experiment | None:
    """An experiment's file, as far into its log as it takes to meet it; None: it stands nowhere."""
    story, reader = ExperimentStory(experiment), HistoryReader()
    mine = (entry for entry in entries if entry.experiment == experiment)
    while story.experiment is None and (entry := next(mine, None)) is not None:
        story = tell_all(story, reader.of_entry(entry))
    return story.experiment


def find_stories(
    named: Sequence[str], connect: Callable[[], AbstractContextManager[BrokerSession]]
) -> list[ExperimentStory]:
    """The stories of experiments by id, or of exported logs by file name, in this order; one connection for all ids.

    Raises:
        RequestError: an id is not known, or a file's log holds no experiment. LogBroken: a file does not verify.
    """
    by_id: dict[str, ExperimentStory] = {}
    files = {name: Path(name) for name in named if Path(name).is_file()}
    if wanted := [name for name in named if name not in files]:
        with connect() as session:
            by_id = {name: story_of(session, name) for name in dict.fromkeys(wanted)}
    return [by_id[name] if name in by_id else story_of_file(files[name]) for name in named]


def story_of_file(path: Path) -> ExperimentStory:
    """The story that an exported log tells; raises as `find_stories`."""
    entries = list(verify(read_entries(path)))
    found = next((one.experiment for one in entries if one.experiment != naming.NO_EXPERIMENT), None)
    if found is None:
        raise RequestError("holds no experiment", where=str(path))
    return require_known(story_of_entries(entries, found))


def require_known(story: ExperimentStory) -> ExperimentStory:
    """The story, if there is one; else RequestError."""
    if story.experiment is None and not story.over:
        raise RequestError(
            f"no experiment {story.id!r} is known here",
            advice="`konsil experiment list` shows those that are",
        )
    return story


def stories_of(heard: Iterable[Heard]) -> dict[str, ExperimentStory]:
    """The story of each experiment that the messages speak of, by id."""
    found: dict[str, ExperimentStory] = {}
    reader = HistoryReader()
    for message in heard:
        for event in reader.events_of(message):
            if event.experiment != naming.NO_EXPERIMENT:
                story = found.get(event.experiment) or ExperimentStory(event.experiment)
                found[event.experiment] = tell_event(story, event)
    return {identity: story for identity, story in sorted(found.items()) if story.phase != "unknown"}
