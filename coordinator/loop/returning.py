"""What a site that returns is told: where its experiments are, and the chunks that it lacks of a model."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from coordinator.core import announce, models
from coordinator.core import effects as e
from coordinator.core.state import ExperimentState
from coordinator.loop.effect_runner import make_shipment
from coordinator.wire.announcer import Announcer
from coordinator.wire.last_heard import LastWord
from coordinator.wire.outgoing import Models
from messages import kinds
from messages.abilities import WORDS_6, WORDS_7, read_abilities
from messages.envelope import Event
from messages.ground.clock import Clock
from messages.ground.logs import Complaints
from messages.trust.signatures import KEY

log = structlog.get_logger("coordinator")
STANDING_EVERY = 1.0
"""Seconds between two answers to a site that says hello again and again; the last hello is answered, too."""
MODELS_AGAIN = 3
"""How many times over a site may have a transfer sent again: everybody receives it each time."""
STANDING_FOR = 30 * 86400.0
"""Seconds for which an ended experiment is told to sites that return (protocol rule 1)."""


class Returning:
    """Answers sites out of the states of the experiments. Main loop's thread.

    Args:
        states: every experiment's; the main loop's own, read only.
        last_word: where each site was when it was last heard.
    """

    def __init__(
        self,
        states: Mapping[str, ExperimentState],
        say: Announcer,
        models: Models,
        clock: Clock,
        complaints: Complaints,
        last_word: LastWord,
    ) -> None:
        self._states, self._say, self._models, self._clock = states, say, models, clock
        self._complaints, self._last_word = complaints, last_word
        self._oriented: dict[str, frozenset[str]] = {}
        """Sites that sign, and can be told where they were."""
        self._told: dict[str, tuple[announce.Mark, list[bytes]]] = {}
        self._told_at: dict[str, float] = {}
        self._owed: set[str] = set()
        """Sites that said hello within a second of the last answer."""
        self._sent_again: dict[str, dict[tuple[str, int, int], int]] = {}
        """Experiment → site, round and attempt of a transfer → bytes that were sent again because the site asked."""

    def list_recent(self) -> list[tuple[str, ExperimentState]]:
        """Experiments that are not over, or ended lately, by name."""
        now = self._clock.now()
        found = sorted(self._states.items())
        return [(name, state) for name, state in found if state.ended is None or now - state.ended < STANDING_FOR]

    def take_hello(self, hello: Event) -> None:
        """Answer a site's hello: where it was itself, if it signs and can read that, and where its experiments are."""
        if KEY in hello.ext and WORDS_6 in read_abilities(hello.ext):
            self._oriented[hello.sender] = read_abilities(hello.ext)
        else:
            self._oriented.pop(hello.sender, None)
        self.send_standing(hello.sender)

    def send_standing(self, site: str) -> None:
        """Tell a site where its experiments are: now, or with `send_owed` where it has just been told."""
        now = self._clock.monotonic()
        if now < self._told_at.get(site, -STANDING_EVERY) + STANDING_EVERY:
            self._owed.add(site)
            return
        self._told_at[site] = now
        self._owed.discard(site)
        if site in self._oriented:
            reads = WORDS_7 in self._oriented[site]
            self._say.send_live("last-heard", self._last_word.tell(site, self._states, reads_private=reads), to=site)
        for name, state in self.list_recent():
            if site in state.members:
                body = kinds.Standing(state=state.phase.value, events=self._current_events(name, state))
                self._say.send_live("standing", body, experiment=name, to=site)
                for mail in e.list_mail(state, site):
                    self._say.send_mail(mail)

    def send_owed(self) -> None:
        """Answer the sites that said hello again meanwhile."""
        for site in sorted(self._owed):
            self.send_standing(site)

    def _current_events(self, experiment: str, state: ExperimentState) -> list[bytes]:
        """What is told to a site that returns: made once a phase and round, for 1,000 of them may ask at once."""
        mark = announce.state_mark(state)
        known = self._told.get(experiment)
        if known is None or known[0] != mark:
            known = (mark, [self._say.recall_event(what).raw for what in announce.current_announcements(state)])
            self._told[experiment] = known
        return known[1]

    def send_chunks(self, experiment: str, wanted: kinds.ChunksWanted, site: str) -> None:
        """A site asks for chunks of a model: they go to all, so that it has only so many sent again."""
        state = self._states.get(experiment)
        sent = None if state is None else models.find_transfer(state, wanted)
        if state is None or site not in state.members or sent is None:
            if self._complaints.count_messages(site, "chunks-of-no-model"):
                log.warning("chunks of no model were asked for", site=site)
            return
        if wanted.seal not in e.needed_blobs(state):
            return
        chunks = None if wanted.chunks is None else tuple(wanted.chunks)
        self._send_within_budget(experiment, sent, chunks, site)

    def _send_within_budget(
        self, experiment: str, sent: kinds.Transfer, chunks: tuple[int, ...] | None, site: str
    ) -> None:
        """Send as many of the chunks again as the site's budget for this transfer allows."""
        earlier = self._sent_again.get(experiment, {})
        budgets = {place: spent for place, spent in earlier.items() if place[1] >= sent.round - 1}
        self._sent_again[experiment] = budgets
        place, manifest = (site, sent.round, sent.attempt), sent.manifest
        left = MODELS_AGAIN * manifest.nbytes - budgets.get(place, 0)
        wanted = range(manifest.chunks) if chunks is None else [one for one in chunks if one < manifest.chunks]
        fitting: list[int] = []
        for index in dict.fromkeys(wanted):
            start, end = manifest.chunk_range(index)
            if (left := left - (end - start)) < 0:
                break
            fitting.append(index)
        if not fitting:
            return
        shipment = make_shipment("global-chunk", experiment, sent, tuple(fitting))
        budgets[place] = budgets.get(place, 0) + self._models.send_shipment(shipment)
        if left < 0 and self._complaints.count_messages(site, "model-sent-again"):
            log.warning(
                "a site has had a model sent again as often as it may",
                site=site,
                experiment=experiment,
                round=sent.round,
                bytes=budgets[place],
            )
