"""What the `experiment` commands ask of coordinator and sites, and how their answers read."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from deploy.cli.foresight import describe_masks, foresee_masks
from deploy.cli.spending import Foreseen
from deploy.console import print_table, say_line
from deploy.estimate import Estimate
from deploy.session.connection import BrokerSession, no_coordinator
from messages import kinds, names
from messages.bus.base import Start
from messages.experiment import Experiment
from messages.ground.errors import KonsilError, RequestError
from messages.ground.units import count_noun, human_bytes, human_seconds
from messages.names import COORDINATOR, DOWNLINK, PROGRESS
from messages.reasons import ADVICE, Reason, advise_on
from messages.trust.keys import say_digest

Show = Callable[[str], None]

OFFLINE = "Off, or no name of the consortium's; it may join while recruiting"


@dataclass(frozen=True, slots=True)
class Answer:
    """What one invited site said to a check."""

    site: str
    online: bool
    accepts: bool
    reason: Reason | None = None

    def as_plain(self) -> dict[str, Any]:
        """For --json."""
        return {"online": self.online, "accepts": self.accepts, "reason": self.reason}


def ask_sites(session: BrokerSession, experiment: Experiment, within: float, show: Show) -> list[Answer]:
    """Publish experiment-check and gather the answers; returns early once every site has answered.

    Raises:
        Unreachable: neither the coordinator nor any site said anything.
    """
    session.may_send()
    session.listen_to(DOWNLINK, PROGRESS, start=Start.NEXT)
    nonce = secrets.token_hex(16)
    session.publish_event("experiment-check", kinds.ExperimentCheck(experiment=experiment.as_plain(), nonce=nonce))
    alive: set[str] = set()
    answers: dict[str, Answer] = {}
    for heard in session.hear_messages(within):
        event = heard.event
        if event is None:
            continue
        alive.add(event.sender)
        body = event.body
        if isinstance(body, kinds.CheckAnswer) and body.nonce == nonce and event.sender in experiment.sites:
            answers[event.sender] = Answer(event.sender, True, body.accepts, body.reason)
            show(f"{len(answers)} of {len(experiment.sites)} sites have answered")
            if len(answers) == len(experiment.sites):
                break
    if COORDINATOR not in alive and not answers:
        raise no_coordinator(within, kept=False)
    return [answers.get(site) or Answer(site, site in alive, False) for site in experiment.sites]


def is_free(session: BrokerSession, experiment: Experiment) -> bool:
    """Whether the experiment's id is free, or is this very experiment's."""
    for heard in session.read_history(DOWNLINK):
        event = heard.event
        if event is not None and event.experiment == experiment.id and isinstance(event.body, kinds.ExperimentAccepted):
            return event.body.digest == experiment.digest()
    return True


def show_measuring(show: Show, seconds: float) -> None:
    """How long the net has been measured: each second in a terminal, seldom where each is a line of its own."""
    if sys.stderr.isatty() or round(seconds) % 5 == 0:
        show(f"measuring the net, in a process of its own: {seconds:.0f} s")


def _rounds(experiment: Experiment) -> str:
    """How many rounds, in words."""
    count, sites = experiment.rounds.count, len(experiment.sites)
    if not experiment.plan.trains:
        return "an evaluation" if experiment.plan.kind == "evaluation" else "statistics"
    if (buffer := experiment.plan.buffer) is not None:
        return f"{count_noun(count, 'round')} of {count_noun(buffer, 'update')} each"
    if experiment.plan.kind != "sequential":
        return count_noun(count, "round")
    cycles, rest = divmod(count, sites)
    more = f" and {rest} of {sites} sites once more" if rest else ""
    return f"{count} visits ({cycles} cycle{'' if cycles == 1 else 's'} of {sites} sites{more})"


def print_check(
    experiment: Experiment,
    found: Estimate | None,
    answers: Sequence[Answer] | None,
    enough: bool,
    free: bool | None = None,
    plan: Sequence[str] = (),
    spent: Foreseen | None = None,
    missing: Sequence[str] = (),
) -> None:
    """The result of a check, for a person.

    Args:
        found: None: the net is not known yet.
        free: whether the id is; None: not asked.
        plan: what is known of how it goes on, in lines.
        spent: what it spends of each patient's privacy; None: it has no differential privacy.
        missing: what could not be found out here, in words.
    """
    say_line(f"{experiment.id}: valid (digest {experiment.digest()[:16]})")
    say_line(f"  read out  {say_digest(experiment.digest())}")
    bounds = foresee_masks(experiment)
    for number, line in enumerate(() if bounds is None else describe_masks(bounds)):
        say_line(f"  {'' if number else 'masks':<9} {line}")
    if free is False:
        say_line(f"  id        taken: {ADVICE[Reason.ID_TAKEN]}")
    for number, line in enumerate(plan):
        say_line(f"  {'plan' if number == 0 else '':<9} {line}")
    for line in missing:
        say_line(f"  skipped   {line}")
    if found is None and experiment.measures_first:
        say_line("  net       follows from the sites' statistics, and with it memory and bytes (--plan says how)")
    elif found is not None:
        _print_estimate(experiment, found)
    for number, line in enumerate(() if spent is None else spent.describe()):
        say_line(f"  {'privacy' if number == 0 else '':<9} {line}")
    if answers is not None:
        _print_answers(experiment, answers, enough)


def _print_estimate(experiment: Experiment, found: Estimate) -> None:
    say_line(f"  net       {experiment.net.name}, {found.parameters:,} parameters, {human_bytes(found.model_bytes)}")
    trainer, memory = experiment.training.trainer, human_bytes(found.training_memory_bytes)
    asked = f"about {memory} for training at each site (estimate)"
    say_line(f"  memory    {asked if trainer is None else f'what the trainer {trainer!r} takes at each site'}")
    say_line(
        f"  a round   {human_bytes(found.round_bytes_down)} to the sites, {human_bytes(found.round_bytes_up)} back"
    )
    say_line(
        f"  in all    {human_bytes(found.total_bytes)} over {_rounds(experiment)}; "
        f"the broker stores {human_bytes(found.broker_disk_bytes)} if nothing is evicted"
    )
    strategy = experiment.plan.strategy
    kept = f", which keeps {human_bytes(found.strategy_bytes)} from round to round" if found.strategy_bytes else ""
    say_line(f"  strategy  {strategy.words}{kept}")
    say_line(
        f"  on disk   {human_bytes(found.coordinator_disk_bytes)} at the coordinator, which keeps updates for replay"
    )
    say_line(
        f"  time      at the latest {human_seconds(found.latest_end_seconds)} after the start; "
        "how long a round takes shows after the first one"
    )


def _print_answers(experiment: Experiment, answers: Sequence[Answer], enough: bool) -> None:
    rows = []
    for one in answers:
        verdict = "would accept" if one.accepts else str(one.reason or ("no answer" if one.online else "offline"))
        verdict += " by hand" if one.accepts and one.reason is Reason.AWAITS_APPROVAL else ""
        advice = ADVICE[one.reason] if one.reason else "" if one.accepts else OFFLINE
        rows.append([one.site, verdict, advice])
    say_line()
    print_table(["site", "answer", "advice"], rows)
    accepting = sum(one.accepts for one in answers)
    say_line(
        f"{accepting} of {len(answers)} sites would accept; {experiment.least_sites} are needed"
        + ("" if enough else ": not enough now")
    )


@dataclass(frozen=True, slots=True)
class Started:
    """`new` is false where the very same experiment had been started before."""

    new: bool


def start_experiment(session: BrokerSession, experiment: Experiment, within: float, show: Show) -> Started:
    """Publish experiment-start and wait for the coordinator's word.

    Raises:
        RequestError: refused, with the reason; or the id is taken by other content.
        Unreachable: no word within so many seconds.
    """
    session.may_send()
    for heard in session.read_history(DOWNLINK):
        event = heard.event
        if event is not None and event.experiment == experiment.id:
            body = event.body
            if isinstance(body, kinds.ExperimentAccepted):
                if body.digest == experiment.digest():
                    return Started(new=False)
                raise refusal_error(experiment.id, Reason.ID_TAKEN)
    sent = session.publish_event(
        "experiment-start", kinds.ExperimentStart(experiment=experiment.as_plain()), experiment.id
    )
    show("waiting for the coordinator")
    for heard in session.hear_messages(within):
        event = heard.event
        if event is None or event.experiment != experiment.id:
            continue
        body = event.body
        if isinstance(body, kinds.ExperimentAccepted):
            if body.digest != experiment.digest():
                raise refusal_error(experiment.id, Reason.ID_TAKEN)
            return Started(new=True)
        if isinstance(body, kinds.ExperimentRefused) and body.event == sent.id:
            raise refusal_error(experiment.id, body.reason, body.mistakes)
    raise no_coordinator(within)


def exclude_site(session: BrokerSession, experiment: str, site: str, reason: Reason, within: float) -> None:
    """Publish experiment-exclude, and wait for the coordinator's receipt.

    Raises:
        RequestError: refused (not the owner, no site of the experiment, too few would be left).
        Unreachable: no word within so many seconds.
    """
    session.may_send()
    session.listen_to(names.inbox_of(session.profile.name))
    body = kinds.ExperimentExclude(site=site, reason=reason)
    sent = session.publish_event("experiment-exclude", body, experiment)
    for heard in session.hear_messages(within):
        event = heard.event
        if event is None:
            continue
        if isinstance(event.body, kinds.Refused) and event.body.event == sent.id:
            if event.body.reason is Reason.QUORUM_NOT_MET:
                raise RequestError(
                    f"{site} cannot be excluded: fewer sites than quorum.least_sites would be left",
                    where=experiment,
                    advice="`konsil experiment finish` ends it with the model that there is, `abort` without one",
                )
            raise refusal_error(experiment, event.body.reason)
        # A refusal comes before its receipt.
        if isinstance(event.body, kinds.Receipt) and sent.id in event.body.events:
            return
    raise no_coordinator(within, since="experiment-exclude")


OUTCOMES: dict[str, type[kinds.Body]] = {
    "abort": kinds.ExperimentAborted,
    "pause": kinds.ExperimentPaused,
    "resume": kinds.ExperimentResumed,
    "finish": kinds.ExperimentComplete,
}
BODIES: dict[str, kinds.Body] = {
    "abort": kinds.ExperimentAbort(),
    "pause": kinds.ExperimentPause(),
    "resume": kinds.ExperimentResume(),
    "finish": kinds.ExperimentFinish(),
}
STATES = {"abort": "aborted", "pause": "paused", "resume": "resumed", "finish": "complete"}


def command_experiment(session: BrokerSession, verb: str, experiment: str, within: float) -> str:
    """Publish experiment-abort, -pause, -resume or -finish; returns the state that the coordinator announces then.

    Raises:
        RequestError: refused (not the owner, wrong state, unknown experiment).
        Unreachable: no word within so many seconds.
    """
    session.may_send()
    session.listen_to(DOWNLINK, start=Start.NEXT)
    session.listen_to(names.inbox_of(session.profile.name))
    sent = session.publish_event(f"experiment-{verb}", BODIES[verb], experiment)
    for heard in session.hear_messages(within):
        event = heard.event
        if event is None:
            continue
        # Known by the event it answers: of an experiment that it does not know the coordinator names none.
        if isinstance(event.body, kinds.Refused) and event.body.event == sent.id:
            if verb == "finish" and event.body.reason is Reason.WRONG_STATE:
                raise RequestError(
                    "cannot be finished: it has ended, or no round of it has closed and there is no model",
                    where=experiment,
                    advice="`konsil experiment list` shows where it is; `abort` ends it without a model",
                )
            raise refusal_error(experiment, event.body.reason)
        if event.experiment == experiment and isinstance(event.body, OUTCOMES[verb]):
            return STATES[verb]
    raise no_coordinator(within, since=f"experiment-{verb}")


def refusal_error(experiment: str, reason: Reason, mistakes: str = "") -> KonsilError:
    """The error that tells a refusal."""
    what = f"refused: {reason}" + (f" ({mistakes})" if mistakes else "")
    return RequestError(what, where=experiment, advice=advise_on(reason, by_coordinator=True))
