"""What led to a model, out of logs: experiments, rounds, sites with their cases and versions, and where it began."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.evolve import evolve
from coordinator.core.state import ExperimentState
from coordinator.record.journal import STEP
from coordinator.record.recovery import read_step
from messages.chain import Entry
from messages.ground.errors import MalformedMessage, RequestError
from messages.kinds import Declined, Joined, WeightsReady
from messages.reasons import Reason


class Made:
    """One experiment's rounds and sites, as its log has them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.state: ExperimentState | None = None
        self.rounds: dict[int, dict[str, Any]] = {}
        self.sites: dict[str, dict[str, Any]] = {}
        self.spent: dict[str, dict[int, float]] = {}
        """Site → round → epsilon for each of its patients, as it told with its update."""
        self.digests: dict[str, int] = {}
        """Digest of a model → the round that made it; 0: the initial one."""

    def take_entry(self, entry: Entry) -> None:
        given, decided = read_step(entry)
        for decision in decided:
            self.state = evolve(self.state, decision)
            self._note(decision)
        if isinstance(given, i.Received):
            self._note_site(given)

    def _note(self, x: d.AnyDecision) -> None:
        if isinstance(x, d.InitialModel):
            self.digests.setdefault(x.digest, 0)
        elif isinstance(x, d.RoundClosed):
            left = {site: str(reason) for site, reason in x.left_out.items()}
            self.rounds[x.number] = {"contributors": dict(x.contributors), "left_out": left}
        elif isinstance(x, d.RoundCompleted):
            self.rounds.setdefault(x.number, {})["model_digest"] = x.digest
            for digest in (x.digest, *(one.digest for one in x.own.values())):
                self.digests[digest] = x.number
        elif isinstance(x, d.SiteJoined) and x.site in self.sites:
            self.sites[x.site]["joined"] = True

    def _note_site(self, given: i.Received) -> None:
        try:
            event = given.event
        except MalformedMessage:
            return
        body = event.body
        if isinstance(body, Joined):
            self.sites.setdefault(event.sender, {}).update(
                cases=body.cases.model_dump(mode="json"),
                versions=dict(body.platform.versions),
                device=body.platform.device_type,
                policy="it let the experiment in",
            )
            if body.privacy is not None:
                self.sites[event.sender]["privacy"] = body.privacy.model_dump(mode="json")
        elif isinstance(body, WeightsReady) and body.epsilon is not None:
            rounds = self.spent.setdefault(event.sender, {})
            rounds[event.round] = max(body.epsilon, rounds.get(event.round, 0.0))
        elif isinstance(body, Declined):
            by_hand = body.reason is Reason.AWAITS_APPROVAL
            self.sites.setdefault(event.sender, {}).update(
                {"approved_by_hand": True} if by_hand else {"declined": body.reason.value}
            )


def read_made(entries: Iterable[Entry]) -> dict[str, Made]:
    """Every experiment in these entries, which were verified."""
    found: dict[str, Made] = {}
    for entry in entries:
        if entry.type == STEP:
            found.setdefault(entry.experiment, Made(entry.experiment)).take_entry(entry)
    return {name: one for name, one in found.items() if one.state is not None}


def trace_model(digest: str, made: dict[str, Made]) -> list[dict[str, Any]]:
    """What led to a model: the experiment that made it first, then the one that it began with, and so on.

    Args:
        digest: the model's, or its first 12 digits or more.

    Raises:
        RequestError: no log made it.
    """
    steps: list[dict[str, Any]] = []
    wanted: str | None = digest
    while wanted is not None:
        found = _find(wanted, made)
        if found is None:
            if not steps:
                raise RequestError(f"no experiment in these logs made model {digest}")
            steps[-1]["missing"] = "the log of the experiment that made this one's first model"
            break
        one, full, number = found
        state = one.state
        if state is None or any(step["experiment"] == one.name for step in steps):
            break
        steps.append(_describe(one, state, full, number))
        wanted = None if state.origin is None else state.origin.digest
    return steps


def _find(digest: str, made: dict[str, Made]) -> tuple[Made, str, int] | None:
    for _name, one in sorted(made.items()):
        for full, number in one.digests.items():
            # A model that another experiment made is only where this one began.
            begun = number == 0 and one.state is not None and one.state.origin is not None
            if full.startswith(digest) and len(digest) >= 12 and not begun:
                return one, full, number
    return None


def _describe(one: Made, state: ExperimentState, digest: str, number: int) -> dict[str, Any]:
    rounds = {str(at): round_ for at, round_ in sorted(one.rounds.items()) if at <= number}
    took_part = sorted({site for round_ in rounds.values() for site in round_.get("contributors", {})})
    origin = state.origin
    return {
        "experiment": one.name,
        "model_digest": digest,
        "rounds": number,
        "experiment_digest": state.digest,
        "researcher": state.researcher,
        "dataset": state.experiment.data.dataset,
        "strategy": state.experiment.plan.strategy.name,
        "made_in": rounds,
        "sites": {site: _tell_site(one, site, number) for site in took_part},
        "declined": {
            site: said["declined"] for site, said in one.sites.items() if "declined" in said and site not in took_part
        },
        "began_with": None if origin is None else {"model_digest": origin.digest, "experiment": origin.experiment},
    }


def _tell_site(one: Made, site: str, number: int) -> dict[str, Any]:
    """What is known of a site, with what it had spent for each of its patients as the model of a round was made."""
    said = one.sites.get(site, {})
    if "privacy" not in said:
        return said
    spent = max((epsilon for at, epsilon in one.spent.get(site, {}).items() if at <= number), default=0.0)
    return {**said, "privacy": {**said["privacy"], "epsilon_spent": spent}}


def say_privacy(said: Mapping[str, Any]) -> str:
    """What a site had spent for each of its patients, in words; "" where it trained without differential privacy."""
    told = said.get("privacy")
    if told is None:
        return ""
    return f"epsilon {told['epsilon_spent']:.2f} of {told['epsilon']:.2f} planned (delta {told['delta']:.1e})"


def tell_lineage(steps: list[dict[str, Any]]) -> Iterable[str]:
    """Lines for people."""
    for step in steps:
        yield f"model {step['model_digest']}: {step['experiment']}, {step['rounds']} rounds, by {step['researcher']}"
        yield f"  experiment file {step['experiment_digest']}, data set {step['dataset']}, strategy {step['strategy']}"
        for site, said in step["sites"].items():
            cases = said.get("cases", {})
            versions = ", ".join(f"{name} {number}" for name, number in sorted(said.get("versions", {}).items()))
            hand = ", approved by hand" if said.get("approved_by_hand") else ""
            joined = f"joined with {cases.get('train', '?')} training cases{hand}"
            spent = f"; {words} for each {said['privacy']['unit']}" if (words := say_privacy(said)) else ""
            yield f"  {site}: {joined}{spent}; {versions or 'no versions told'}"
        for number, round_ in step["made_in"].items():
            took = ", ".join(f"{site} ({cases})" for site, cases in round_.get("contributors", {}).items())
            yield f"  round {number}: {took}"
        for site, reason in step["declined"].items():
            yield f"  {site} declined: {reason}"
        if step["began_with"] is not None:
            yield f"  it began with model {step['began_with']['model_digest']}"
        if "missing" in step:
            yield f"  not here: {step['missing']}"
