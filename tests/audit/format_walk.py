"""The decider under many orders of what can happen: a journal in which nothing ran, with times and seals made up.

Each experiment is a walk from a seed: inputs of all kinds in an order that a seeded draw gives, likely ones and wrong
ones. The coordinator's state machine answers, and each answer is journaled as the coordinator's own loop would.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coordinator_kit import ARRAYS, MANIFEST, PLATFORM, SITES, counts, plain, received, scores, weights
from secure_bodies import BODIES as SECURE_BODIES

from coordinator.core import inputs as i
from coordinator.core.evolve import fold_decisions
from coordinator.core.inputs import OWN_KINDS, kind_of
from coordinator.core.machine import WIRE, IllegalInput, decide
from coordinator.core.records import NO_BOUNDS, Bounds
from coordinator.core.state import ExperimentState, Phase, Timer
from coordinator.record.journal import STEP, Journal
from coordinator.record.recovery import step_body
from messages import kinds
from messages.names import NO_EXPERIMENT
from messages.reasons import Reason
from messages.statistics.fingerprint import DataFingerprint
from messages.statistics.histograms import Histogram, bin_of_size
from messages.tensors.layout import manifest_of

WALKS, STEPS = 160, 28
OF_EXPERIMENTS = [kind for kind in WIRE if kind != "head-witnessed"]
"""What comes over the wire for an experiment."""
ENDING = ("experiment-finish", "experiment-abort", "handling-failed")
"""What ends an experiment wherever it comes: rare, or no walk would come far."""
BEGAN = 2_000_000_000.0
"""Seconds since 1970: when the first walk begins. No clock is read."""
BOUNDS = Bounds(cases_max=20, weight_cap=0.5, norm_factor=20.0)
OTHER_MANIFEST = manifest_of({"conv.bias": ARRAYS["conv.weight"][0]}, 1024)


def _newer_plan(number: int) -> dict[str, Any]:
    """What some of the walks have beside the others: a net that follows from statistics, or a buffer of updates."""
    if number % 8 == 5:
        return {"net": {"name": "auto"}}
    return {"plan": {"kind": "asynchronous", "buffer": 1}} if number % 8 == 3 else {}


def _fingerprint() -> DataFingerprint:
    """Four cases of one size."""
    size, edge = (Histogram(bins=(bin_of_size(one),), counts=(4,)) for one in (1.0, 64.0))
    return DataFingerprint(
        cases=4,
        spacing=(size, size, size),
        shape=(edge, edge, edge),
        cropped=(edge, edge, edge),
        extent=(edge, edge, edge),
        kept=size,
        intensities={},
        classes={},
    )


class Walk:
    """One experiment on its way."""

    def __init__(self, journal: Journal, number: int, name: str = "") -> None:
        self._journal, self._name, self._draw = journal, name or f"walk-{number:02}", random.Random(number)
        self._time, self._number = BEGAN + 1000.0 * number, number
        self.state: ExperimentState | None = None
        self.met: Counter[str] = Counter()
        """Kinds of inputs and decisions."""

    def put(self, given: i.AnyInput) -> None:
        """Have it decided and journaled; what the machine takes for a mistake of ours never came."""
        try:
            decided = decide(self.state, given)
        except IllegalInput:
            return
        if not decided:
            return  # nothing changes: the coordinator journals nothing
        self._journal.append_entry(self._name, STEP, step_body(given, decided), time=given.time)
        self.state = fold_decisions(self.state, decided)
        self.met.update([kind_of(given), *(one.decision for one in decided)])

    def wire(self, kind: str, body: kinds.Body, sender: str, *, number: int = 0, attempt: int = 1) -> None:
        known = self._draw.random() > 0.03
        given = received(
            kind, body, sender, self._time, number=number, attempt=attempt, known=known, experiment=self._name
        )
        if kind == "experiment-start" and known:
            drawn = self._draw.random()
            given = given.model_copy(update={"full": drawn < 0.05, "bounds": BOUNDS if drawn < 0.6 else NO_BOUNDS})
        self.put(given)

    def go(self) -> None:
        """Start it, and let things happen."""
        draw = self._draw
        rounds = {
            "count": draw.choice((1, 2, 3)),
            "enrol_within": 100.0,
            "train_within": 1000.0,
            "at_deadline": draw.choice(("extend", "fail")),
            "extensions": draw.choice((0, 1)),
        } | ({"grace": 50.0} if draw.random() < 0.5 else {})
        content = plain(
            **_newer_plan(self._number),
            id=self._name,
            rounds=rounds,
            quorum=draw.choice(({"least_sites": 1}, {"least_sites": 2, "least_case_share": 0.5}, {})),
            evaluation=self._evaluation(),
            wire={"codec": draw.choice(("float32", "bfloat16", "bfloat16-difference"))},
            keep_updates=draw.choice(("all", "none", 1)),
        )
        self.wire("experiment-start", kinds.ExperimentStart(experiment=content), "dr-a")
        for step in range(STEPS):
            self._time += draw.choice((1.0, 5.0, 31.0, 200.0))
            (self._forward if draw.random() < 0.75 else self._anything)(step)

    def _evaluation(self) -> dict[str, Any]:
        chosen = self._draw.choice(("validation.dice.mean", "last"))
        if "plan" in _newer_plan(self._number):
            chosen = "last"
        return {"every": self._draw.choice((1, 2)), "select_by": chosen}

    def _forward(self, step: int) -> None:
        """What would bring it on."""
        state, draw = self.state, self._draw
        if state is None:
            return
        parts = {} if state.round is None else state.round.parts
        site = draw.choice([name for name in SITES if name in parts and not parts[name].reported] or SITES)
        if not state.everybody_answered:
            left = [name for name in SITES if not state.members[name].answered]
            self.wire(
                "joined", kinds.Joined(cases=counts(draw.choice((4, 10, 10, 30))), platform=PLATFORM), draw.choice(left)
            )
        elif state.awaits_statistics and state.round is not None:
            self._say("statistics-ready", draw.choice(SITES), step)
        elif state.manifest is None:
            self.put(
                i.Initialised(time=self._time, manifest=MANIFEST, seal="cd" * 32, digest="0" * 64, wire=self._wire())
            )
        elif state.round is None:
            self._anything(step)
        elif draw.random() < 0.15:
            self._made("timer-fired")
        elif state.round.closed_at is not None:
            self._made("aggregated")
        elif (part := parts.get(site)) is not None and part.update is not None and not part.stored:
            self._made(draw.choice(("update-stored",) * 5 + ("update-bad",)), site)
        else:
            self._say(
                "evaluated" if state.round.number > state.experiment.rounds.count else "weights-ready", site, step
            )

    def _anything(self, step: int) -> None:
        """Whatever can come, in whatever state."""
        site = self._draw.choice(SITES)
        more = ["timer-fired"] * 4 + ["disk-free", "experiment-resume"] * 3
        kind = self._draw.choice((*OF_EXPERIMENTS, *OWN_KINDS, *more))
        if self.state is not None and self.state.stage is Phase.AGGREGATING and self._draw.random() < 0.2:
            kind = self._draw.choice(("aggregation-failed", "sum-refused"))  # they fit nowhere else
        if kind in ENDING and self._draw.random() < 0.8:
            return
        if kind in OWN_KINDS:
            self._made(kind, site)
        elif kind.startswith("experiment-"):
            body = self._word(kind, site)
            self.wire(kind, body, self._draw.choice(("dr-a", "dr-a", "dr-c")), attempt=step)
        else:
            self._say(kind, site, step)

    def _word(self, kind: str, site: str) -> kinds.Body:
        """A researcher's word."""
        if kind == "experiment-exclude":
            return kinds.ExperimentExclude(site=site, reason=Reason.WRONG_LABELS)
        made = kinds.KINDS[kind].body
        return self._other() if kind == "experiment-start" or made is None else made()

    def _other(self) -> kinds.ExperimentStart:
        if self.state is not None and self._draw.random() < 0.3:
            return kinds.ExperimentStart(experiment=self.state.experiment.as_plain())
        return kinds.ExperimentStart(experiment=plain(id=self._name, seed=99))

    def _wire(self) -> str | None:
        return None if self.state is None or self.state.codec.model == "float32" else "ef" * 32

    @property
    def _round(self) -> int:
        state = self.state
        return 1 if state is None else state.round.number if state.round is not None else max(1, state.completed)

    def _say(self, kind: str, site: str, step: int) -> None:
        """A site's word, mostly as it should be."""
        draw, number = self._draw, self._round
        number += draw.choice((0, 0, 0, 0, 0, 0, 0, 1, -1)) if number > 1 else 0
        why = Reason(draw.choice(("cuda-oom", "dataset-changed", "site-paused", "awaits-approval")))
        bodies: dict[str, Callable[[], kinds.Body]] = {
            "joined": lambda: kinds.Joined(cases=counts(draw.choice((0, 10))), platform=PLATFORM),
            "declined": lambda: kinds.Declined(reason=why),
            "round-accepted": kinds.RoundAccepted,
            "weights-ready": lambda: self._update(site, number, step),
            "round-failed": lambda: kinds.RoundFailed(reason=why),
            "evaluated": self._scores,
            "leaving": kinds.Leaving,
            "statistics-ready": lambda: kinds.StatisticsReady(statistics=_fingerprint()),
        }
        body = SECURE_BODIES[kind] if kind in SECURE_BODIES else bodies[kind]()
        self.wire(kind, body, site, number=number, attempt=step)

    def _update(self, site: str, number: int, step: int) -> kinds.WeightsReady:
        draw, state = self._draw, self.state
        manifest = MANIFEST if state is None else MANIFEST.in_codec(state.codec.name)
        if draw.random() < 0.1:
            manifest = draw.choice((OTHER_MANIFEST.in_codec(manifest.codec), MANIFEST.in_codec("exact")))
        transfer = kinds.Transfer(
            round=number, attempt=draw.choice((1, 1, 2, step)), seal=f"{step + 1:064x}", manifest=manifest
        )
        frozen = {} if state is None or state.round is None else state.round.cases
        cases = draw.choice((0, 4, 30, *[frozen.get(site, 10)] * 9))
        told = scores(draw.choice((0.25, 0.5, 0.75))) if draw.random() < 0.7 else None
        return weights(number, transfer=transfer, cases=cases, cases_used=cases, validation=told)

    def _scores(self) -> kinds.Evaluated:
        draw, state = self._draw, self.state
        if state is None or state.completed + 1 not in state.models:
            return kinds.Evaluated(scores={})
        digests = {"final": state.models[state.completed + 1].digest}
        if state.selected is not None and state.selected != state.completed:
            digests["selected"] = state.models[state.selected + 1].digest
        found = {
            label: kinds.ModelScores(
                model_digest=digest if draw.random() > 0.05 else "9" * 64,
                splits={"validation": scores(draw.choice((0.25, 0.5))), "test": scores(0.5)},
            )
            for label, digest in digests.items()
        }
        return kinds.Evaluated.model_validate({"scores": found})

    def _made(self, kind: str, site: str = "site-a") -> None:
        """What the coordinator's own workers and timers report."""
        draw, now, number, state = self._draw, self._time, self._round, self.state
        if kind == "timer-fired":
            due = sorted((moment, timer) for timer, moment in (state.timers.items() if state is not None else ()))
            timer = due[0][1] if due and draw.random() < 0.8 else draw.choice(tuple(Timer))
            if due and draw.random() < 0.9:
                now = self._time = max(now, due[0][0])
            self.put(i.TimerFired(time=now, timer=timer))
            return
        update = state.round.parts[site].update if state and state.round and site in state.round.parts else None
        attempt = update.attempt if update is not None and draw.random() < 0.9 else 1
        bad = Reason(draw.choice(("wrong-digest", "wrong-digest", "wrong-digest", "not-finite-update")))
        made: dict[str, i.AnyInput] = {
            "initialised": i.Initialised(
                time=now, manifest=MANIFEST, seal="cd" * 32, digest="0" * 64, wire=self._wire()
            ),
            "initialisation-failed": i.InitialisationFailed(time=now),
            "update-stored": i.UpdateStored(
                time=now, site=site, round=number, attempt=attempt, norm=draw.choice((1.0, 1.5, 2.0, 1.0, 500.0))
            ),
            "update-bad": i.UpdateBad(time=now, site=site, round=number, attempt=attempt, reason=bad),
            "aggregated": i.Aggregated(
                time=now,
                round=number,
                seal=f"{number:064x}",
                digest=f"{number + 7:064x}",
                wire=self._wire(),
                cosines=draw.choice(({}, {"site-a": 0.75, "site-b": -0.5})),
            ),
            "aggregation-failed": i.AggregationFailed(time=now, round=number),
            "sum-refused": i.SumRefused(time=now, round=number, reason=Reason.SUM_OUT_OF_RANGE),
            "outage": i.Outage(time=now, since=now - draw.choice((0.0, 40.0, -3.0))),
            "handling-failed": i.HandlingFailed(time=now, kind="weights-ready", site=site, round=number),
            "disk-full": i.DiskFull(time=now),
            "disk-free": i.DiskFree(time=now),
            "barred": i.Barred(time=now, site=site),
        }
        self.put(made[kind])


def write_walks(folder: Path) -> Counter[str]:
    """Journal all walks; returns how often each kind of input and decision came."""
    journal = Journal(folder)
    try:
        journal.begin_term({}, time=BEGAN)
        met: Counter[str] = Counter()
        for number in range(WALKS):
            walk = Walk(journal, number)
            walk.go()
            met += walk.met
        witness = Walk(journal, WALKS, NO_EXPERIMENT)
        witness.wire("head-witnessed", kinds.HeadWitnessed(size=1, root="ab" * 32, cosignature=bytes(76)), "site-a")
        return met + witness.met
    finally:
        journal.close()
