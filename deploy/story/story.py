"""The story of one experiment: a pure reducer over its events, for the live view, the report and programs.

`telling.tell_event(story, event)` takes every event of the experiment, in any order and as often as it comes
(duplicates fall out by id), and returns the next story. History comes from the journal or the `audit` stream (and
`downlink` for the coordinator's own events), liveness from `progress`. Nothing here does I/O or reads a clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

from immutables import Map

from deploy.story.changing import change_fields
from deploy.story.moments import Moments
from deploy.story.parts import RoundStory, SiteStory, StatisticsStory, TestScores, ValidationPoint, Waiting
from messages import kinds
from messages.envelope import Event
from messages.experiment import Experiment
from messages.liveness import ABSENT_AFTER, WORKING, Liveness, judge_liveness, median_of_others
from messages.names import COORDINATOR
from messages.outliers import UpdateCheck
from messages.reasons import Reason
from messages.scores import SplitScores, is_sound
from messages.tasks.base import ScoreReader
from messages.tasks.registry import reader_of


def pool_sound(reader: ScoreReader, reports: Iterable[SplitScores]) -> SplitScores:
    """All cases together; what does not pool is left out, as the coordinator does."""
    return reader.pool_reports(one for one in reports if is_sound(one))


ENDS = ("complete", "failed", "aborted", "refused")


@dataclass(frozen=True)
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
    rounds: Map[int, RoundStory] = field(default_factory=Map)
    """By number, from 1; `round_list` has them in order. A trie: a copied dict for each event would be O(n^2)."""
    candidates: Mapping[str, str] = field(default_factory=dict)
    """In the evaluation phase: label (final, selected) → model digest."""
    asked: frozenset[str] = frozenset()
    """Labels that sites score now."""
    evaluations: Mapping[str, Mapping[str, kinds.ModelScores]] = field(default_factory=dict)
    """Site → label → scores."""
    model_label: str | None = None
    """Which candidate the experiment yields: final or selected."""
    model_digest: str | None = None
    model_round: int | None = None
    final_digest: str | None = None
    moments: Moments = field(default_factory=Moments)
    seen: Map[str, bool] = field(default_factory=Map)
    """Ids of the events that it was told of."""
    resumes_to: str = "recruiting"
    evaluation: RoundStory | None = None
    """The final evaluation: announced as the round after the last, and none of the rounds."""
    timers: Mapping[str, float] | None = None
    """The coordinator's timers (enrol, accept, grace, deadline), as its journal has them; None: not known."""
    heard_since: float | None = None
    """Since when live messages are heard, the observer's clock; None: ever."""
    down: bool = False
    """Whether the observer's own line to the broker is down."""
    hears_live: bool = True
    """Whether the observer may hear live messages; an auditor reads the event log alone."""
    statistics: StatisticsStory | None = None
    """Of the training cases, where it begins with them."""
    checks: Mapping[int, Mapping[str, UpdateCheck]] = field(default_factory=dict)
    """By round and site, each update beside the others of its round, as the coordinator's journal has them."""
    pooled_test: SplitScores | None = None
    """Test scores of the model that it yields, where nobody knows those of single sites."""
    log_hash: str | None = None
    """Hash (hex) of the newest entry of the event log that it was told from; None: it was told from no log."""
    coordinator_at: float | None = None
    """When the coordinator last said that it lives, the observer's clock."""
    coordinator_state: str = ""
    """What it said then that it does."""

    @property
    def deaf(self) -> bool:
        """Whether nobody can be heard now."""
        return self.down or not self.hears_live

    @property
    def is_secure(self) -> bool:
        """Whether nobody sees a single site's update, loss or scores: only pooled figures exist."""
        return self.experiment is not None and self.experiment.privacy.secure_aggregation == "masks"

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

    def used_in(self, base: int, site: str) -> int | None:
        """The round whose model holds the update that a site began in round `base`; None: none does."""
        made = (one.number for one in self.round_list if site in one.contributors and one.base_of(site) == base)
        return next(made, None)

    @property
    def completed_rounds(self) -> int:
        """How many rounds have closed."""
        return sum(one.state == "complete" for one in self.rounds.values())

    @property
    def rounds_planned(self) -> int | None:
        """`rounds.count` of the experiment file."""
        return self.experiment.rounds.count if self.experiment else None

    @property
    def reader(self) -> ScoreReader:
        """How its scores pool and read."""
        return reader_of(self.experiment.task if self.experiment else None)

    @property
    def joined(self) -> tuple[str, ...]:
        """Sites that joined, by name."""
        return tuple(name for name, site in sorted(self.sites.items()) if site.state in ("joined", "leaving"))

    @property
    def excluded(self) -> tuple[str, ...]:
        """Sites that the researcher took out, by name."""
        return tuple(name for name, site in sorted(self.sites.items()) if site.state == "excluded")

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

    @property
    def deadline(self) -> float | None:
        """When the open step ends at the latest as things are, the coordinator's clock; None: it stands still.

        The journal knows what no event tells: extensions, and time that an outage gave back.
        """
        if self.over or self.phase == "paused":
            return None
        if self.timers is not None:
            return min((self.timers[name] for name in ("grace", "deadline") if name in self.timers), default=None)
        if self.statistics is not None and self.statistics.pooled is None:
            return self.statistics.deadline
        step = self.evaluation if self.phase == "evaluating" else self.current_round
        return None if step is None else step.deadline

    @property
    def waiting(self) -> Waiting | None:
        """Whom the open step waits for; None where none is open, or all have reported."""
        if (asked := self.statistics) is not None and asked.pooled is None and self.phase == "running":
            owing = {site: asked.failures.get(site) for site in asked.sites if site not in asked.told}
            left = {site: why for site, why in owing.items() if site not in self.excluded}
            return Waiting("statistics", left, self.deadline) if left else None
        current = self.evaluation if self.phase == "evaluating" else self.current_round
        if self.over or self.phase not in ("running", "evaluating") or current is None or current.state != "open":
            return None
        if (open_ := current.exchange) is not None:
            place = "the evaluation" if self.phase == "evaluating" else f"round {current.number}"
            owing = {
                site: current.failures.get(site) for site in open_.sites if site not in open_.told | {*self.excluded}
            }
            return Waiting(f"{place} ({open_.step})", owing, self.deadline) if owing else None
        scored = {site for site, told in self.evaluations.items() if self.asked <= told.keys()}
        # What a site says of the work that it goes on with stands at the round that this is for.
        part = {site: self.rounds.get(current.going_on.get(site, current.number), current) for site in current.sites}
        there = {site for site, one in part.items() if site in one.updates}
        if self.phase == "evaluating":
            there, part = scored, dict.fromkeys(current.sites, current)
        gone = self.excluded
        silent = {site: one.failures.get(site) for site, one in part.items() if site not in there and site not in gone}
        what = "the evaluation" if self.phase == "evaluating" else f"round {current.number}"
        if self.phase != "evaluating" and self.experiment is not None and self.experiment.plan.buffer is not None:
            what += f" ({len(there)} of {self.experiment.plan.buffer} updates here)"
        return Waiting(what, silent, self.deadline) if silent else None

    def coordinator_silence(self, now: float) -> float | None:
        """Seconds without a sign of the coordinator; None where it could not be heard."""
        since = max((at for at in (self.coordinator_at, self.heard_since) if at is not None), default=None)
        return None if self.deaf or since is None else max(0.0, now - since)

    @property
    def latest_point(self) -> ValidationPoint | None:
        """Scores of the model that the experiment yields; before it is known, of the latest that was scored."""
        curve = self.validation_curve()
        if self.model_round is not None:
            return next((point for point in curve if point.round == self.model_round), None)
        return curve[-1] if curve else None

    def validation_after(self, rounds: int) -> ValidationPoint | None:
        """Scores of the model that so many rounds made. Every face shows scores under this number."""
        return next((point for point in self.validation_curve() if point.round == rounds), None)

    def validation_curve(self) -> list[ValidationPoint]:
        """Scores of each global model that was scored: what round r's sites report is the model after r - 1."""
        points, reader = [], self.reader
        for one in self.round_list:
            pooled = one.validation or (
                pool_sound(reader, one.site_validation.values()) if one.site_validation else None
            )
            if pooled is not None and reader.headline_score(pooled) is not None:
                points.append(ValidationPoint(one.number - 1, pooled, one.site_validation))
        final = self.scores_of("final", "validation") or self._own_scores("validation")
        scored = pool_sound(reader, final.values())
        if reader.headline_score(scored) is not None and (self.rounds_planned or 0) not in {
            point.round for point in points
        }:
            points.append(ValidationPoint(self.completed_rounds, scored, final))
        return points

    def scores_of(self, label: str, split: str) -> dict[str, SplitScores]:
        """Each site's scores of a candidate (final, selected) on a split (validation, test)."""
        found: dict[str, SplitScores] = {}
        for site, by_label in sorted(self.evaluations.items()):
            if site in self.excluded:
                continue
            splits = cast("Mapping[str, SplitScores]", by_label[label].splits) if label in by_label else {}
            if split in splits:
                found[site] = splits[split]
        return found

    def _own_scores(self, split: str) -> dict[str, SplitScores]:
        """Each site's scores of its own model, where each has one."""
        owners = {} if self.experiment is None else {label: self.experiment.site_of(label) for label in self.candidates}
        scored = {site: self.scores_of(label, split) for label, site in owners.items() if site is not None}
        return {site: found[site] for site, found in scored.items() if site in found}

    def test_of(self, label: str) -> TestScores | None:
        """Test scores of a candidate; None before any site reported."""
        sites = self.scores_of(label, "test")
        if not sites:
            return None
        reader = self.reader
        return TestScores(label, self.candidates.get(label, ""), sites, pool_sound(reader, sites.values()), reader)

    @property
    def test(self) -> TestScores | None:
        """Test scores of the model that the experiment yields (while it still runs: of the final one).

        The selected model may be the final one: sites then score it once, as `final`.
        """
        label = self.model_label or "final"
        if self.pooled_test is not None:
            return TestScores(label, self.model_digest or "", {}, self.pooled_test, self.reader)
        return self.test_of(label) or (self.test_of("final") if self.model_digest == self.final_digest else None)

    def presence_of(self, site: str, now: float) -> str:
        """absent, slow, stuck, working, idle, paused, draining or outside-hours, by the judgement that the coordinator
        uses; unknown where the observer cannot tell: nothing can be heard, or it has not listened for long.

        Args:
            now: the clock by which `tell_event` noted when messages came, seconds.
        """
        seen = self.liveness_of(site, now)
        if self.deaf or (self.sites[site].live.signs.heard_at is None and seen is not Liveness.ABSENT):
            return "unknown"
        return "working" if seen in WORKING else seen.value

    def liveness_of(self, site: str, now: float) -> Liveness:
        """What is seen of a site; whether it is slow is told of its work for this experiment alone."""
        signs = self.sites[site].live.signs
        since, silence = self.heard_since, self.coordinator_silence(now)
        alone = silence is not None and silence > ABSENT_AFTER
        if signs.experiment != self.id:
            return judge_liveness(replace(signs, ends_at=None), now, listening_since=since, coordinator_silent=alone)
        working = (one.live.signs for one in self.sites.values() if one.live.signs.experiment == self.id)
        ends = sorted(end for one in working if (end := one.estimate) is not None)
        return judge_liveness(
            signs,
            now,
            deadline=self.deadline,
            others_end=median_of_others(ends, signs.estimate),
            listening_since=since,
            coordinator_silent=alone,
        )

    def is_late(self, site: str) -> bool:
        """Whether a site will not be done by the deadline, by its own estimate."""
        ends_at = self.sites[site].live.signs.ends_at
        return ends_at is not None and self.deadline is not None and ends_at > self.deadline

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

    def with_site(self, name: str, **changes: Any) -> ExperimentStory:
        """The story with something else known of a site."""
        site = change_fields(self.sites.get(name) or SiteStory(name), **changes)
        return change_fields(self, sites={**self.sites, name: site})

    def with_round(self, number: int, **changes: Any) -> ExperimentStory:
        """The story with something else known of a round."""
        one = change_fields(self.round_or_new(number), **changes)
        return change_fields(self, rounds=self.rounds.set(number, one))

    def round_or_new(self, number: int) -> RoundStory:
        """A round, empty where nothing is known of it."""
        return self.rounds.get(number) or RoundStory(number)

    def is_evaluation(self, number: int) -> bool:
        """Whether an event's round is the final evaluation: the round after the last."""
        after_all = self.rounds_planned is not None and number > self.rounds_planned
        return after_all or (self.evaluation is not None and number == self.evaluation.number)

    def with_step(self, number: int, **changes: Any) -> ExperimentStory:
        """The story with something else known of a round, or of the final evaluation."""
        if not self.is_evaluation(number):
            return self.with_round(number, **changes)
        return change_fields(self, evaluation=change_fields(self.step_of(number), **changes))

    def step_of(self, number: int) -> RoundStory:
        """A round or the final evaluation, empty where nothing is known of it."""
        if not self.is_evaluation(number):
            return self.round_or_new(number)
        return self.evaluation or RoundStory(number)

    def with_alive(self, sender: str, body: kinds.Alive, now: float) -> ExperimentStory:
        if sender == COORDINATOR:
            return change_fields(self, coordinator_at=now, coordinator_state=body.state)
        if sender not in self.sites:
            return self
        live = replace(
            self.sites[sender].live,
            signs=self.sites[sender].live.signs.note_alive(body.state, now),
            state=body.state,
            busy_with=body.busy_with,
            queued=body.queued,
            opens_at=None if body.opens_in is None else now + body.opens_in,
        )
        return self.with_site(sender, live=live)

    def with_progress(self, event: Event, body: kinds.Progress, now: float) -> ExperimentStory:
        if event.sender not in self.sites:
            return self
        live = self.sites[event.sender].live
        signs = live.signs.note_progress(
            event.experiment,
            event.round,
            body.phase,
            body.done,
            body.eta_seconds,
            now,
            is_done=body.done == body.total,
        )
        if event.experiment != self.id:  # it works, at something else
            return self.with_site(event.sender, live=replace(live, signs=signs))
        return self.with_site(
            event.sender,
            live=replace(
                live,
                signs=signs,
                state=body.phase,
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
