"""One experiment in the coordinator's state machine, input by input, with its invariants checked at each step."""

from __future__ import annotations

from typing import Any

from coordinator_kit import MANIFEST, PLATFORM, SITES, counts, plain, received, scores, weights
from secure_bodies import BODIES as SECURE_BODIES

from coordinator.core import announce
from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.effects import effects, pending_effects
from coordinator.core.evolve import evolve, fold_decisions
from coordinator.core.machine import decide
from coordinator.core.plans.table import plan_of
from coordinator.core.state import ExperimentState, Phase, Timer
from coordinator.loop.file_checks import Find, find_nothing
from coordinator.record.recovery import read_body, step_body
from messages import codec, kinds
from messages.reasons import Reason
from messages.statistics.fingerprint import DataFingerprint
from messages.statistics.histograms import Histogram

SEAL = "cd" * 32

_CUBE = (Histogram(bins=(832,), counts=(10,)),) * 3
FINGERPRINT = DataFingerprint(
    cases=10,
    spacing=(Histogram(bins=(0,), counts=(10,)),) * 3,
    shape=_CUBE,
    cropped=_CUBE,
    extent=_CUBE,
    kept=Histogram(bins=(0,), counts=(10,)),
)
"""Of ten cubes of 64 voxels of 1 mm."""
BODIES: dict[str, kinds.Body] = SECURE_BODIES | {
    "experiment-start": kinds.ExperimentStart(experiment=plain()),
    "experiment-abort": kinds.ExperimentAbort(),
    "experiment-pause": kinds.ExperimentPause(),
    "experiment-resume": kinds.ExperimentResume(),
    "experiment-finish": kinds.ExperimentFinish(),
    "experiment-exclude": kinds.ExperimentExclude(site="site-c", reason=Reason.WRONG_LABELS),
    "joined": kinds.Joined(cases=counts(10), platform=PLATFORM),
    "declined": kinds.Declined(reason=Reason.NOT_ALLOWED),
    "round-accepted": kinds.RoundAccepted(),
    "weights-ready": weights(1),
    "round-failed": kinds.RoundFailed(reason=Reason.CUDA_OOM),
    "evaluated": kinds.Evaluated(scores={}),
    "statistics-ready": kinds.StatisticsReady(statistics=FINGERPRINT),
    "leaving": kinds.Leaving(),
    "head-witnessed": kinds.HeadWitnessed(size=7, root="ab" * 32, cosignature=bytes(76)),
}


class Run:
    """Feeds inputs and keeps what was decided; checks the invariants at each step.

    Args:
        find: what finds the model that the file names to begin with.
    """

    find: Find = staticmethod(find_nothing)

    def __init__(self, find: Find = find_nothing, **changes: Any) -> None:
        self.find = find
        self.state: ExperimentState | None = None
        self.time = 1000.0
        self.decided: list[d.AnyDecision] = []
        self.steps: list[tuple[i.AnyInput, tuple[d.AnyDecision, ...]]] = []
        self.told: dict[announce.Mark, tuple[announce.Announcement, ...]] = {}
        self.wire(BODIES["experiment-start"] if not changes else kinds.ExperimentStart(experiment=plain(**changes)))

    def put(self, given: i.AnyInput) -> tuple[d.AnyDecision, ...]:
        decided = decide(self.state, given)
        body = codec.unpack(codec.pack(step_body(given, decided)))
        assert read_body(body) == (given, decided)
        for one in decided:
            before = self.state
            self.state = evolve(before, one)
            effects(self.state, one)
            if isinstance(one, d.RoundClosed):
                self._closed_rightly(before, one)
        self.decided += decided
        self.steps.append((given, decided))
        if self.state is not None:
            pending_effects(self.state)
            told = announce.current_announcements(self.state)
            assert self.told.setdefault(announce.state_mark(self.state), told) == told, (
                "one mark must stand for one telling"
            )
        assert self.state == fold_decisions(None, self.decided)
        return decided

    def _closed_rightly(self, before: ExperimentState | None, one: d.RoundClosed) -> None:
        assert before is not None
        assert before.round is not None
        assert plan_of(before).is_enough(before, before.round)
        assert set(one.contributors) == set(plan_of(before).choose_contributors(before, before.round))
        here = {site for site, part in before.round.trained.items() if part.reported}
        assert set(one.contributors) <= here
        assert not set(one.contributors) & set(one.left_out)

    def wire(self, body: kinds.Body, sender: str = "dr-a", **more: Any) -> tuple[d.AnyDecision, ...]:
        kind = next(kind for kind, spec in kinds.KINDS.items() if spec.body is type(body))
        self.time += 1
        return self.put(received(kind, body, sender, self.time, find=self.find, **more))

    def join(self, *sites: str) -> None:
        for site in sites or SITES:
            self.wire(BODIES["joined"], site)

    def initial(self) -> None:
        self.put(i.Initialised(time=self.time, manifest=MANIFEST, seal=SEAL, digest="0" * 64))

    def report(self, site: str, number: int, **more: Any) -> None:
        self.wire(weights(number, **more), site, number=number)
        self.put(i.UpdateStored(time=self.time, site=site, round=number, attempt=1))

    def aggregated(self, number: int) -> None:
        self.put(i.Aggregated(time=self.time, round=number, seal=f"{number:064d}", digest=f"{number:064d}"))

    def fire(self, timer: Timer) -> tuple[d.AnyDecision, ...]:
        assert self.state is not None
        self.time = max(self.time, self.state.timers.get(timer, self.time))
        return self.put(i.TimerFired(time=self.time, timer=timer))

    def evaluated(self, site: str) -> None:
        assert self.state is not None
        number = self.state.completed + 1
        digest = self.state.models[number].digest
        one = kinds.ModelScores(model_digest=digest, splits={"validation": scores(0.5), "test": scores(0.25)})
        self.wire(kinds.Evaluated(scores={"final": one}), site, number=number)


def measuring(**changes: Any) -> Run:
    """An experiment that asks its sites for statistics first."""
    run = Run(**({"net": {"name": "auto"}} | changes))
    run.join()
    return run


def in_phase(phase: Phase) -> Run:
    run = Run()
    if phase is Phase.RECRUITING:
        return run
    run.join()
    if phase is Phase.INITIALISING:
        return run
    run.initial()
    if phase is Phase.ABORTED:
        run.wire(kinds.ExperimentAbort())
    elif phase is Phase.PAUSED:
        run.wire(kinds.ExperimentPause())
    elif phase is Phase.FAILED:
        for _ in range(3):
            run.fire(Timer.DEADLINE)
    elif phase is not Phase.RUNNING:
        for number in (1, 2):
            for site in SITES:
                run.report(site, number)
            if phase is Phase.AGGREGATING:
                break
            run.aggregated(number)
        if phase is Phase.COMPLETE:
            for site in SITES:
                run.evaluated(site)
    return run
