"""An experiment that a hospital is asked to take part in, in words: what is read before it is approved. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from typing import Any

from deploy.estimate import Estimate
from messages.experiment import Experiment
from messages.ground.units import count_noun, human_bytes, human_seconds
from messages.secure.section import DifferentialPrivacy
from messages.trust.keys import say_digest
from site_agent.core.jobs import Job, Phase, experiment_of
from site_agent.core.permissions import Floors, PolicyConfig
from site_agent.core.policy import find_rule, find_statistics_floor
from site_agent.desk.secure_words import say_secure

NOT_STATED = "not stated"
MOST_CHANGES = 200
"""Settings that a comparison shows."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One experiment as this site knows it.

    Attributes:
        cases: found and used of its data set here; None: not counted.
        size: what it costs; None: not measured.
        spends: what it would spend of the privacy ledger, in words; None: not asked.
    """

    job: Job
    policy: PolicyConfig
    today: date
    cases: tuple[int, int] | None = None
    size: Estimate | None = None
    spends: str | None = None

    @property
    def experiment(self) -> Experiment:
        """Its file."""
        return experiment_of(self.job)

    @property
    def waits(self) -> bool:
        """Whether it awaits the operator."""
        return self.job.phase is Phase.AWAITING

    def describe(self) -> Iterator[tuple[str, str]]:
        """Title and text of each line, in the order in which a person asks."""
        one, job = self.experiment, self.job
        yield "asked by", job.researcher + (f", key {job.signer[:16]}" if job.signer else ", not signed")
        yield "purpose", one.purpose or NOT_STATED
        yield "approval", one.approval or NOT_STATED
        yield "expires", one.expires.isoformat() if one.expires else "never"
        yield "data set", self._say_data()
        yield "task", self._say_task()
        yield "net", self._say_net()
        yield "plan", self._say_plan()
        yield "sites", f"{len(one.sites)}: {', '.join(one.sites)}"
        if self.size is not None:
            yield "bytes", self._say_bytes(self.size)
        if one.privacy.dp is not None:
            yield "privacy", self.spends or say_noise(one.privacy.dp)
        yield "leaves here", say_what_leaves(self.policy.floors, one)
        if (secure := say_secure(self.policy.floors, one)) is not None:
            yield "secure", secure
        yield "rule", self._say_rule()
        yield "digest", job.digest
        yield "read out", say_digest(job.digest)

    def as_plain(self) -> dict[str, Any]:
        """For --json."""
        return {
            "experiment": self.job.experiment,
            "phase": self.job.phase.value,
            "researcher": self.job.researcher,
            "signer": self.job.signer,
            "digest": self.job.digest,
            "read_out": say_digest(self.job.digest),
            "file": self.job.file,
            "rule": find_rule(self.policy, self.experiment, self.job.researcher, self.today, self.job.signer),
            "cases": None if self.cases is None else {"found": self.cases[0], "used": self.cases[1]},
            "estimate": None if self.size is None else self.size.as_plain(),
            "lines": dict(self.describe()),
        }

    def _say_data(self) -> str:
        name = self.experiment.data.dataset
        if self.cases is None:
            return name
        found, used = self.cases
        return f"{name}: {count_noun(used, 'usable case')} of {found} found here"

    def _say_task(self) -> str:
        task = self.experiment.task
        return f"{task.kind} of {', '.join(task.targets)} from {', '.join(task.channels)}"

    def _say_net(self) -> str:
        one = self.experiment
        if one.training.trainer is not None:
            return f"the program {one.training.trainer!r} that you registered"
        if one.measures_first:
            return "none" if not one.plan.trains else "follows from the statistics of all sites (docs/auto.md)"
        size = "" if self.size is None else f", {self.size.parameters:,} parameters"
        begins = f", begins with {one.net.origin}" if one.net.origin else ""
        return f"{one.net.name}{size}{begins}"

    def _say_plan(self) -> str:
        one = self.experiment
        rounds = f"{one.plan.words}, {one.plan.strategy.words}, {count_noun(one.rounds.count, 'round')}"
        if one.plan.kind == "statistics":
            return "statistics: the training cases are measured here, nothing is trained and nothing scored"
        if not one.plan.trains:
            return f"{one.plan.kind}: a given model is scored here, nothing is trained"
        steps = one.training.local_steps
        work = f"{steps} steps" if steps else count_noun(one.training.local_epochs or 1, "epoch")
        return f"{rounds} of {work}, each within {human_seconds(one.rounds.train_within)}"

    def _say_bytes(self, size: Estimate) -> str:
        sites = len(self.experiment.sites)
        down, up = size.round_bytes_down // sites, size.round_bytes_up // max(1, sites)
        rounds = self.experiment.rounds.count
        return (
            f"about {human_bytes(down)} in and {human_bytes(up)} out a round, "
            f"{human_bytes((down + up) * max(1, rounds))} in all"
        )

    def _say_rule(self) -> str:
        place = find_rule(self.policy, self.experiment, self.job.researcher, self.today, self.job.signer)
        allowed = "no rule allows it now" if place is None else f"number {place} of [[policy.allow]] allows it"
        if place == 0:
            allowed = 'policy.default = "allow" allows it'
        hand = '; policy.approval = "hand" asks for you' if self.policy.approval == "hand" else ""
        return allowed + hand


def say_noise(dp: DifferentialPrivacy) -> str:
    """How the experiment protects whom, before it is known what that comes to here."""
    drawn = f"each {dp.unit} drawn with {dp.sample_rate:g} a step"
    whose = f", of all sites together, {dp.colluding} of which may collude" if dp.is_shared else ""
    return f"noise {dp.noise_multiplier:g} times the clipping norm {dp.clip_norm:g}{whose}, {drawn}"


def say_what_leaves(floors: Floors, experiment: Experiment) -> str:
    """What the site would send, and what protects it."""
    codec = experiment.wire.codec
    if experiment.plan.kind == "statistics":
        return say_statistics(floors)
    masked = experiment.privacy.secure_aggregation
    weights = f"after each round the trained weights ({codec})" if experiment.plan.trains else "no weights"
    if masked and experiment.plan.trains:
        weights = "after each round what training changed in the weights, under masks"
    scores = f"scores as sums over {floors.least_metric_cases} cases or more"
    if floors.share_case_metrics:
        scores = "scores, of single cases too"
    elif not floors.share_site_metrics:
        scores = "no scores"
    counts = "counts of cases" + (f" in steps of {floors.round_counts_to}" if floors.round_counts_to > 1 else "")
    if masked and floors.share_site_metrics:
        scores = "loss and scores under masks"
    open_to = "; the coordinator sees this site's own update" if experiment.plan.trains and not masked else ""
    first = f"{say_statistics(floors)}; then " if experiment.measures_first else ""
    return f"{first}{weights}; {scores}; {counts}{open_to}"


def say_statistics(floors: Floors) -> str:
    """What leaves before there is a net, or where nothing else is asked for."""
    least = find_statistics_floor(floors)
    return f"statistics of the training cases (spacing, size, intensities, volumes), in groups of {least} cases or more"


def compare_files(one: dict[str, Any], other: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Settings in which two experiment files differ: key, the one's value, the other's; "" where it has none."""
    ours, theirs = dict(_flatten(one)), dict(_flatten(other))
    return [
        (key, ours.get(key, ""), theirs.get(key, ""))
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key)
    ][:MOST_CHANGES]


def _flatten(value: Any, before: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, part in value.items():
            yield from _flatten(part, f"{before}.{key}" if before else str(key))
    elif isinstance(value, list | tuple):
        yield before, ", ".join(str(part) for part in value)
    else:
        yield before, str(value)
