"""The story of one experiment: a pure reducer over its events, for the live view, the report and programs.

`ExperimentStory.tell(event)` takes every event of the experiment, in any order and as often as it comes (duplicates
fall out by id), and returns the next story. History comes from the journal or the `audit` stream (and `downlink` for
the coordinator's own events), liveness from `progress`. Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from pydantic import ValidationError

from messages import kinds
from messages.envelope import Event
from messages.experiment import Experiment
from messages.reasons import Reason
from messages.scores import SplitScores, pool

ABSENT_AFTER = 20.0
"""Seconds without a sign of life (alive comes every 5 s) until a site counts as absent."""
STUCK_AFTER = 120.0
"""Seconds without progress, while alive, until a working site counts as stuck."""
SLOW_FACTOR = 2.0
"""A site whose remaining time is more than this many times the median of the others is slow."""

ENDS = ("complete", "failed", "aborted", "refused")
BUSY = ("preparing", "fetching", "training", "validating", "evaluating", "testing", "sending")


@dataclass(frozen=True, slots=True)
class LiveSite:
    """What a site says of itself right now; times are the observer's clock, seconds."""

    alive_at: float | None = None
    state: str = ""
    busy_with: str | None = None
    queued: int = 0
    progress_at: float | None = None
    """When `done` last moved."""
    round: int = 0
    phase: str = ""
    done: int = 0
    total: int = 0
    epoch: int | None = None
    epochs: int | None = None
    loss: float | None = None
    eta_seconds: float | None = None
    bytes_down: int = 0
    bytes_up: int = 0


@dataclass(frozen=True, slots=True)
class SiteStory:
    """One invited site. `state`: invited, joined, declined, leaving."""

    name: str
    state: str = "invited"
    reason: Reason | None = None
    cases: kinds.CaseCounts | None = None
    """As announced in `joined` (or told in `declined`)."""
    platform: kinds.Platform | None = None
    live: LiveSite = LiveSite()


@dataclass(frozen=True, slots=True)
class UpdateStory:
    """What one site delivered in a round (its weights-ready)."""

    site: str
    cases_used: int
    cases: kinds.CaseCounts
    epochs: int
    steps: int
    loss: float | None
    seconds: float
    validation: SplitScores | None
    """Scores of the global model that the site received."""
    bytes: int
    """Of the update."""
    platform: kinds.Platform
    came: float
    """The site's clock, seconds since 1970."""


@dataclass(frozen=True, slots=True)
class RoundStory:
    """One round. `state`: open, complete."""

    number: int
    state: str = "open"
    started: float | None = None
    """The coordinator's clock at round-start, seconds since 1970."""
    sites: tuple[str, ...] = ()
    evaluate: bool = False
    train_within: float | None = None
    model_bytes: int = 0
    received_digest: str | None = None
    """The global model this round began with."""
    accepted: frozenset[str] = frozenset()
    updates: Mapping[str, UpdateStory] = field(default_factory=dict)
    failures: Mapping[str, Reason] = field(default_factory=dict)
    """Sites that said they cannot deliver this round."""
    contributors: Mapping[str, int] = field(default_factory=dict)
    """Site → training cases used, once the round is complete."""
    left_out: Mapping[str, Reason] = field(default_factory=dict)
    model_digest: str | None = None
    """Of the aggregate."""
    validation: SplitScores | None = None
    """Pooled scores of the received model, once the round is complete and where it was scored."""
    seconds: float | None = None

    @property
    def site_validation(self) -> dict[str, SplitScores]:
        """The received model's scores at each site that reported them."""
        return {
            name: update.validation for name, update in sorted(self.updates.items()) if update.validation is not None
        }

    @property
    def losses(self) -> dict[str, float]:
        """Training loss (mean over the round) at each site."""
        return {name: update.loss for name, update in sorted(self.updates.items()) if update.loss is not None}

    @property
    def loss(self) -> float | None:
        """Mean of the sites' losses, weighted by training cases."""
        weighted = [
            (update.loss, update.cases_used)
            for update in self.updates.values()
            if update.loss is not None and update.cases_used
        ]
        total = sum(cases for _, cases in weighted)
        return sum(loss * cases for loss, cases in weighted) / total if total else None

    @property
    def bytes_up(self) -> int:
        """Updates, all sites together."""
        return sum(update.bytes for update in self.updates.values())

    @property
    def bytes_down(self) -> int:
        """The global model, once for each site that took it on."""
        return self.model_bytes * len(self.accepted | self.updates.keys())


@dataclass(frozen=True, slots=True)
class ValidationPoint:
    """Validation scores of the global model after `round` rounds (0: the initial model)."""

    round: int
    pooled: SplitScores
    sites: Mapping[str, SplitScores]


@dataclass(frozen=True, slots=True)
class TestScores:
    """One model's scores on all sites' test cases (the design's evaluation rules 3 to 5)."""

    __test__ = False

    label: str
    """final or selected."""
    model_digest: str
    sites: Mapping[str, SplitScores]
    pooled: SplitScores

    @property
    def mean(self) -> float | None:
        """Dice: region mean over all cases, then mean over regions ("overall")."""
        return self.pooled.mean()

    @property
    def regions(self) -> dict[str, float | None]:
        """Dice by region, all cases pooled."""
        return self.pooled.regions()

    @property
    def n(self) -> int:
        """Test cases, withheld sites left out."""
        return self.pooled.cases

    @property
    def site_means(self) -> dict[str, float]:
        """Mean Dice of each site that reported one."""
        found = ((name, scores.mean()) for name, scores in sorted(self.sites.items()))
        return {name: mean for name, mean in found if mean is not None}

    @property
    def unweighted_mean(self) -> float | None:
        """Mean over sites, each counting once."""
        means = self.site_means
        return sum(means.values()) / len(means) if means else None

    @property
    def worst(self) -> tuple[str, float] | None:
        """The site with the lowest mean Dice, and that mean."""
        means = self.site_means
        return min(means.items(), key=lambda item: item[1]) if means else None


@dataclass(frozen=True, slots=True)
class Moment:
    """One line of the story: when (the sender's clock), who, what, in plain words."""

    time: float
    who: str
    what: str


@dataclass(frozen=True, slots=True)
class ExperimentStory:
    """Everything that is known of one experiment.

    `phase`: unknown, recruiting, running, evaluating, paused, complete, failed, aborted, refused.
    """

    id: str
    phase: str = "unknown"
    reason: Reason | None = None
    """Why it failed, was aborted, paused or refused."""
    experiment: Experiment | None = None
    digest: str | None = None
    researcher: str | None = None
    started: float | None = None
    """The coordinator's clock at experiment-accepted, seconds since 1970."""
    ended: float | None = None
    sites: Mapping[str, SiteStory] = field(default_factory=dict)
    rounds: Mapping[int, RoundStory] = field(default_factory=dict)
    """By number, from 1; `round_list` has them in order."""
    candidates: Mapping[str, str] = field(default_factory=dict)
    """In the evaluation phase: label (final, selected) → model digest."""
    evaluations: Mapping[str, Mapping[str, kinds.ModelScores]] = field(default_factory=dict)
    """Site → label → scores."""
    model_label: str | None = None
    """Which candidate the experiment yields: final or selected."""
    model_digest: str | None = None
    model_round: int | None = None
    final_digest: str | None = None
    moments: tuple[Moment, ...] = ()
    seen: frozenset[str] = frozenset()
    resumes_to: str = "recruiting"

    @property
    def over(self) -> bool:
        """Whether it has ended, one way or another."""
        return self.phase in ENDS

    @property
    def round_list(self) -> tuple[RoundStory, ...]:
        """Rounds in order."""
        return tuple(self.rounds[number] for number in sorted(self.rounds))

    @property
    def current_round(self) -> RoundStory | None:
        """The latest round."""
        return self.rounds[max(self.rounds)] if self.rounds else None

    @property
    def completed_rounds(self) -> int:
        """How many rounds have closed."""
        return sum(one.state == "complete" for one in self.rounds.values())

    @property
    def rounds_planned(self) -> int | None:
        """`rounds.count` of the experiment file."""
        return self.experiment.rounds.count if self.experiment else None

    @property
    def regions(self) -> tuple[str, ...]:
        """Names of the regions, in the file's order."""
        return tuple(self.experiment.task.regions) if self.experiment else ()

    @property
    def joined(self) -> tuple[str, ...]:
        """Sites that joined, by name."""
        return tuple(name for name, site in sorted(self.sites.items()) if site.state in ("joined", "leaving"))

    @property
    def bytes_down(self) -> int:
        """Global models, all rounds and sites."""
        return sum(one.bytes_down for one in self.rounds.values())

    @property
    def bytes_up(self) -> int:
        """Updates, all rounds and sites."""
        return sum(one.bytes_up for one in self.rounds.values())

    @property
    def seconds(self) -> float | None:
        """From acceptance to the end, by the coordinator's clock."""
        return self.ended - self.started if self.ended is not None and self.started is not None else None

    def validation_curve(self) -> list[ValidationPoint]:
        """Scores of each global model that was scored: what round r's sites report is the model after r - 1."""
        points = []
        for one in self.round_list:
            pooled = one.validation or (pool(one.site_validation.values()) if one.site_validation else None)
            if pooled is not None and pooled.cases:
                points.append(ValidationPoint(one.number - 1, pooled, one.site_validation))
        final = self.scores("final", "validation")
        if final and (self.rounds_planned or 0) not in {point.round for point in points}:
            points.append(ValidationPoint(self.completed_rounds, pool(final.values()), final))
        return points

    def scores(self, label: str, split: str) -> dict[str, SplitScores]:
        """Each site's scores of a candidate (final, selected) on a split (validation, test)."""
        found: dict[str, SplitScores] = {}
        for site, by_label in sorted(self.evaluations.items()):
            splits = cast("Mapping[str, SplitScores]", by_label[label].splits) if label in by_label else {}
            if split in splits:
                found[site] = splits[split]
        return found

    def test_of(self, label: str) -> TestScores | None:
        """Test scores of a candidate; None before any site reported."""
        sites = self.scores(label, "test")
        return TestScores(label, self.candidates.get(label, ""), sites, pool(sites.values())) if sites else None

    @property
    def test(self) -> TestScores | None:
        """Test scores of the model that the experiment yields (while it still runs: of the final one).

        The selected model may be the final one: sites then score it once, as `final`.
        """
        label = self.model_label or "final"
        return self.test_of(label) or (self.test_of("final") if self.model_digest == self.final_digest else None)

    def presence(self, site: str, now: float) -> str:
        """absent, idle, working, slow or stuck: liveness and progress are different things.

        Args:
            now: the clock by which `tell(event, now)` noted when messages came, seconds.
        """
        live = self.sites[site].live
        if live.alive_at is None or now - live.alive_at > ABSENT_AFTER:
            return "absent"
        if live.state not in BUSY:
            return live.state or "idle"
        if live.progress_at is not None and now - live.progress_at > STUCK_AFTER:
            return "stuck"
        others = sorted(
            other.live.eta_seconds
            for name, other in self.sites.items()
            if name != site and other.live.state in BUSY and other.live.eta_seconds is not None
        )
        if others and live.eta_seconds is not None:
            median = others[len(others) // 2]
            if live.eta_seconds > max(SLOW_FACTOR * median, median + 10):
                return "slow"
        return "working"

    def eta_seconds(self, now: float) -> float | None:
        """Time until the last round closes, from the rounds that closed; None before the first one."""
        times = [one.seconds for one in self.round_list if one.seconds is not None][-5:]
        if not times or self.rounds_planned is None or self.over:
            return None
        mean = sum(times) / len(times)
        current = self.current_round
        spent = 0.0
        if current is not None and current.state == "open" and current.started is not None:
            spent = min(max(now - current.started, 0.0), mean)
        return max(0.0, (self.rounds_planned - self.completed_rounds) * mean - spent)

    def tell(self, event: Event, now: float | None = None) -> ExperimentStory:
        """The story with one more event; events of other experiments and repeated ones change nothing.

        Args:
            now: the observer's clock when the event came, seconds (live messages only; default: the event's time).
        """
        moment = event.time if now is None else now
        if isinstance(event.body, kinds.Alive):
            return self._alive(event.sender, event.body, moment)
        if event.experiment != self.id:
            return self
        if isinstance(event.body, kinds.Progress):
            return self._progress(event, event.body, moment)
        if event.id in self.seen or (handler := _HANDLERS.get(type(event.body))) is None:
            return self
        known = replace(self, seen=self.seen | {event.id})
        told = handler(known, event, event.body)
        return replace(told, moments=(*told.moments, Moment(event.time, event.sender, sentence(event))))

    def tell_all(self, events: Iterable[Event]) -> ExperimentStory:
        """`tell` for each."""
        story = self
        for event in events:
            story = story.tell(event)
        return story

    def _with_site(self, name: str, **changes: Any) -> ExperimentStory:
        site = replace(self.sites.get(name, SiteStory(name)), **changes)
        return replace(self, sites={**self.sites, name: site})

    def _with_round(self, number: int, **changes: Any) -> ExperimentStory:
        one = replace(self.rounds.get(number, RoundStory(number)), **changes)
        return replace(self, rounds={**self.rounds, number: one})

    def _round(self, number: int) -> RoundStory:
        return self.rounds.get(number, RoundStory(number))

    def _alive(self, sender: str, body: kinds.Alive, now: float) -> ExperimentStory:
        if sender not in self.sites:
            return self
        live = replace(
            self.sites[sender].live,
            alive_at=now,
            state=body.state,
            busy_with=body.busy_with,
            queued=body.queued,
        )
        return self._with_site(sender, live=live)

    def _progress(self, event: Event, body: kinds.Progress, now: float) -> ExperimentStory:
        if event.sender not in self.sites:
            return self
        live = self.sites[event.sender].live
        moved = (live.round, live.phase, live.done) != (event.round, body.phase, body.done)
        return self._with_site(
            event.sender,
            live=replace(
                live,
                alive_at=now,
                state=body.phase,
                progress_at=now if moved or live.progress_at is None else live.progress_at,
                round=event.round,
                phase=body.phase,
                done=body.done,
                total=body.total,
                epoch=body.epoch,
                epochs=body.epochs,
                loss=body.loss if body.loss is not None else live.loss,
                eta_seconds=body.eta_seconds,
                bytes_down=body.bytes_down,
                bytes_up=body.bytes_up,
            ),
        )


def _accepted(story: ExperimentStory, event: Event, body: kinds.ExperimentAccepted) -> ExperimentStory:
    try:
        experiment = Experiment.model_validate(body.experiment)
    except ValidationError:  # written by a newer version: the rest of the story still reads
        return replace(story, phase="recruiting", digest=body.digest, researcher=body.researcher, started=event.time)
    return replace(
        story,
        phase="recruiting" if story.phase == "unknown" else story.phase,
        experiment=experiment,
        digest=body.digest,
        researcher=body.researcher,
        started=event.time,
        sites={name: story.sites.get(name, SiteStory(name)) for name in experiment.sites},
    )


def _refused(story: ExperimentStory, event: Event, body: kinds.ExperimentRefused) -> ExperimentStory:
    # A second start of a running experiment may be refused (id-taken): the one that runs is not touched by it.
    return replace(story, phase="refused", reason=body.reason) if story.phase == "unknown" else story


def _joined(story: ExperimentStory, event: Event, body: kinds.Joined) -> ExperimentStory:
    return story._with_site(event.sender, state="joined", reason=None, cases=body.cases, platform=body.platform)


def _declined(story: ExperimentStory, event: Event, body: kinds.Declined) -> ExperimentStory:
    return story._with_site(event.sender, state="declined", reason=body.reason, cases=body.cases)


def _leaving(story: ExperimentStory, event: Event, body: kinds.Leaving) -> ExperimentStory:
    return story._with_site(event.sender, state="leaving", reason=body.reason)


def _round_start(story: ExperimentStory, event: Event, body: kinds.RoundStart) -> ExperimentStory:
    return replace(
        story,
        phase=story.phase if story.over else "running",
    )._with_round(
        event.round,
        started=event.time,
        sites=tuple(body.sites),
        evaluate=body.evaluate,
        train_within=body.train_within,
        model_bytes=body.transfer.manifest.nbytes,
        received_digest=body.model_digest,
    )


def _round_accepted(story: ExperimentStory, event: Event, body: kinds.RoundAccepted) -> ExperimentStory:
    if story.rounds_planned is not None and event.round > story.rounds_planned:
        return story  # the evaluation phase is announced as the round after the last
    return story._with_round(event.round, accepted=story._round(event.round).accepted | {event.sender})


def _weights_ready(story: ExperimentStory, event: Event, body: kinds.WeightsReady) -> ExperimentStory:
    update = UpdateStory(
        event.sender,
        body.cases_used,
        body.cases,
        body.epochs,
        body.steps,
        body.loss,
        body.seconds,
        body.validation,
        body.transfer.manifest.nbytes,
        body.platform,
        event.time,
    )
    return story._with_round(event.round, updates={**story._round(event.round).updates, event.sender: update})


def _round_failed(story: ExperimentStory, event: Event, body: kinds.RoundFailed) -> ExperimentStory:
    return story._with_round(event.round, failures={**story._round(event.round).failures, event.sender: body.reason})


def _round_complete(story: ExperimentStory, event: Event, body: kinds.RoundComplete) -> ExperimentStory:
    return story._with_round(
        event.round,
        state="complete",
        contributors=dict(body.contributors),
        left_out=dict(body.left_out),
        model_digest=body.model_digest,
        validation=body.validation,
        seconds=body.seconds,
    )


def _evaluation_start(story: ExperimentStory, event: Event, body: kinds.EvaluationStart) -> ExperimentStory:
    return replace(
        story,
        phase=story.phase if story.over else "evaluating",
        candidates={model.label: model.model_digest for model in body.models},
    )


def _evaluated(story: ExperimentStory, event: Event, body: kinds.Evaluated) -> ExperimentStory:
    scores: dict[str, kinds.ModelScores] = dict(body.scores.items())
    return replace(story, evaluations={**story.evaluations, event.sender: scores})


def _complete(story: ExperimentStory, event: Event, body: kinds.ExperimentComplete) -> ExperimentStory:
    return replace(
        story,
        phase="complete",
        ended=event.time,
        model_label=body.model.label,
        model_digest=body.model.model_digest,
        model_round=body.model_round,
        final_digest=body.final_digest,
        candidates={
            **story.candidates,
            body.model.label: body.model.model_digest,
            "final": body.final_digest,
        },
    )


def _failed(story: ExperimentStory, event: Event, body: kinds.ExperimentFailed) -> ExperimentStory:
    return replace(story, phase="failed", reason=body.reason, ended=event.time)


def _aborted(story: ExperimentStory, event: Event, body: kinds.ExperimentAborted) -> ExperimentStory:
    return replace(story, phase="aborted", reason=body.reason, ended=event.time)


def _paused(story: ExperimentStory, event: Event, body: kinds.ExperimentPaused) -> ExperimentStory:
    return replace(story, phase="paused", reason=body.reason, resumes_to=story.phase)


def _resumed(story: ExperimentStory, event: Event, body: kinds.ExperimentResumed) -> ExperimentStory:
    return replace(story, phase=story.resumes_to, reason=None) if story.phase == "paused" else story


def _noted(story: ExperimentStory, event: Event, body: kinds.Body) -> ExperimentStory:
    return story


_HANDLERS: dict[type[kinds.Body], Callable[..., ExperimentStory]] = {
    kinds.ExperimentStart: _noted,
    kinds.ExperimentAbort: _noted,
    kinds.ExperimentPause: _noted,
    kinds.ExperimentResume: _noted,
    kinds.ExperimentAccepted: _accepted,
    kinds.ExperimentRefused: _refused,
    kinds.Joined: _joined,
    kinds.Declined: _declined,
    kinds.Leaving: _leaving,
    kinds.RoundStart: _round_start,
    kinds.RoundAccepted: _round_accepted,
    kinds.WeightsReady: _weights_ready,
    kinds.RoundFailed: _round_failed,
    kinds.RoundComplete: _round_complete,
    kinds.EvaluationStart: _evaluation_start,
    kinds.Evaluated: _evaluated,
    kinds.ExperimentComplete: _complete,
    kinds.ExperimentFailed: _failed,
    kinds.ExperimentAborted: _aborted,
    kinds.ExperimentPaused: _paused,
    kinds.ExperimentResumed: _resumed,
}


def sentence(event: Event) -> str:
    """What an event says, in one line of plain words."""
    body, number = event.body, event.round
    match body:
        case kinds.ExperimentAccepted():
            return f"accepted for {body.researcher} (file {body.digest[:12]})"
        case kinds.ExperimentRefused() | kinds.Declined() | kinds.ExperimentFailed() | kinds.ExperimentAborted():
            return f"{event.kind.removeprefix('experiment-')}: {body.reason}"
        case kinds.Joined():
            cases = body.cases
            return f"joined: {cases.train} training, {cases.validation} validation, {cases.test} test cases"
        case kinds.RoundStart():
            return f"round {number} started with {', '.join(body.sites)}"
        case kinds.WeightsReady():
            loss = "" if body.loss is None else f", loss {body.loss:.4f}"
            return f"round {number}: update of {body.cases_used} cases, {body.steps} steps{loss}"
        case kinds.RoundFailed():
            return f"round {number} failed: {body.reason}"
        case kinds.RoundComplete():
            left = "".join(f", {site} left out ({reason})" for site, reason in sorted(body.left_out.items()))
            return f"round {number} closed with {', '.join(sorted(body.contributors))}{left}: {body.model_digest[:12]}"
        case kinds.ExperimentComplete():
            return f"complete: model {body.model.model_digest[:12]} of round {body.model_round}"
        case _:
            return event.kind.replace("-", " ") + (f" (round {number})" if number else "")
