"""In plain language: a journal's entries (who did what), and where an experiment stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.records import ModelOrigin
from coordinator.core.state import KEYS, SCORES, SCORING, STATISTICS, UPDATES, ExperimentState, Phase, role_of
from coordinator.record.heads import HEAD
from coordinator.record.journal import REGISTER, STEP, TERM
from coordinator.record.recovery import read_step
from messages import codec
from messages.chain import MAX_ENTRY, Entry
from messages.ground.errors import LogBroken, MalformedMessage
from messages.log.views import OPENING
from messages.sections import Supersedes

COORDINATOR = "coordinator"


def tell_entry(entry: Entry) -> tuple[str, str]:
    """(who, what) of one entry."""
    if entry.type == TERM:
        body = _read_body(entry)
        jump = (
            f", which does not follow from {body['after']}: the journal was restored or cut" if "after" in body else ""
        )
        return COORDINATOR, f"started under term {body.get('term', '?')}{jump}"
    if entry.type == REGISTER:
        return COORDINATOR, f"goes by register {_read_body(entry).get('serial', '?')} of the operator"
    if entry.type == OPENING:
        return COORDINATOR, f"opened a step of round {_read_body(entry).get('round', '?')}"
    if entry.type == HEAD:
        return COORDINATOR, f"signed a head of {_read_body(entry).get('size', '?')} entries"
    try:
        given, decided = read_step(entry)
    except LogBroken:
        if entry.type == STEP:
            return COORDINATOR, "a step that this version cannot read"
        return COORDINATOR, f"set a message aside ({_read_body(entry).get('reason', 'unreadable')})"
    who = given.event.sender if isinstance(given, i.Received) else COORDINATOR
    said = [line for decision in decided if (line := _tell_decision(decision))]
    return who, "; ".join([_tell_input(given), *said])


def tell_standing(state: ExperimentState) -> str:
    """Where an experiment stands, in a few words, for the service manager."""
    one = state.round
    place = ""
    if one is not None:
        place = (
            f" round {one.number} of {state.experiment.rounds.count}, {len(one.reported)} of {len(one.parts)} updates"
        )
    why = f" ({state.paused_because})" if state.phase is Phase.PAUSED and state.paused_because is not None else ""
    return f"{state.id}: {state.phase.value}{why}{place}"


def _read_body(entry: Entry) -> dict[str, object]:
    try:
        body = codec.unpack(entry.body, max_bytes=MAX_ENTRY)
    except MalformedMessage:
        return {}
    return body if isinstance(body, dict) else {}


def _tell_input(given: i.AnyInput) -> str:
    if isinstance(given, i.Received):
        event = given.event
        return f"{event.kind} (round {event.round})" if event.round else event.kind
    if isinstance(given, i.UpdateStored):
        length = "" if given.norm is None else f" (norm {given.norm:.4g})"
        return f"the update of {given.site} for round {given.round} is verified and stored{length}"
    if isinstance(given, i.UpdateBad):
        return f"the update of {given.site} for round {given.round} cannot be used ({given.reason})"
    if isinstance(given, i.TimerFired):
        return f"the {given.timer} timer fired"
    if isinstance(given, i.Outage):
        return f"nothing could be received for {given.time - given.since:.0f} s"
    return given.input


def _tell_decision(decision: d.AnyDecision) -> str:
    tell_it = _LINES.get(type(decision))
    return tell_it(decision) if tell_it is not None else ""


def _tell_accepted(x: d.Accepted) -> str:
    strategy = x.experiment.get("plan", {}).get("strategy", "FedAvg")
    named = f"; strategy {strategy.get('name')}" if isinstance(strategy, dict) else ""
    begins = "" if x.origin is None else f"; begins with model {x.origin.digest[:12]}{_tell_lineage(x.origin)}"
    told = x.experiment.get("supersedes")
    anew = "" if told is None else f"; supersedes {Supersedes.model_validate(told).words}"
    return f"accepted; tensors travel as {x.experiment.get('wire', {}).get('codec', 'float32')}{named}{begins}{anew}"


def _tell_lineage(origin: ModelOrigin) -> str:
    return "" if origin.experiment is None else f", which {origin.experiment} made in {origin.rounds} rounds"


def _tell_round_started(x: d.RoundStarted) -> str:
    if x.step == SCORES:
        what = "evaluation of the ensemble" if x.weights else "evaluation"
        return f"{what} starts with {', '.join(x.cases)}"
    if x.step == STATISTICS:
        return f"statistics are asked of {', '.join(x.cases)}"
    if x.step in SCORING:
        return f"evaluation, {role_of(x.step)}, with {', '.join(x.cases)}"
    place = f"round {x.number}" if x.step == UPDATES else f"round {x.number}, {x.step},"
    verb = "starts" if x.opening == 1 else f"is tried again ({x.tried})" if x.step == KEYS else "goes on"
    left = ", ".join(f"{site}: {reason}" for site, reason in x.left_out.items())
    new = [site for site in x.cases if site not in x.going_on]
    going = "".join(f"; {site} goes on with round {base}" for site, base in x.going_on.items())
    return f"{place} {verb} with {', '.join(new) or 'nobody new'}{going}" + (f"; left out {left}" if left else "")


def _tell_statistics(x: d.StatisticsPooled) -> str:
    told = ", ".join(f"{site} ({cases})" for site, cases in x.contributors.items())
    left = ", ".join(f"{site}: {reason}" for site, reason in x.left_out.items())
    made = "" if x.configuration is None else f"; {x.configuration.words}"
    return f"statistics of {told}" + (f"; left out {left}" if left else "") + made


def _tell_round_closed(x: d.RoundClosed) -> str:
    took = ", ".join(f"{site} ({cases})" for site, cases in x.contributors.items())
    left = ", ".join(f"{site}: {reason}" for site, reason in x.left_out.items())
    return f"round {x.number} closes with {took}" + (f"; left out {left}" if left else "")


def _tell_round_completed(x: d.RoundCompleted) -> str:
    own = ", ".join(f"{site} {one.digest[:12]}" for site, one in x.own.items())
    if own:
        return f"round {x.number} made the models of {own}"
    late = ", ".join(f"{site}: {count}" for site, count in x.staleness.items())
    return f"round {x.number} made model {x.digest[:12]}" + (f"; rounds that updates were late: {late}" if late else "")


def _tell_round_voided(x: d.RoundVoided) -> str:
    left = ", ".join(f"{site}: {reason}" for site, reason in x.left_out.items())
    return f"round {x.number} ends without a sum: {x.reason}" + (f"; left out {left}" if left else "")


def _tell_site_reason(x: d.SiteDeclined | d.SiteFailed) -> str:
    return f"{x.site}: {x.reason}"


def _tell_with_reason(x: d.Failed | d.Paused) -> str:
    return f"{x.decision}: {x.reason}" if x.reason else x.decision


_LINES: Mapping[type[d.Decision], Callable[[Any], str]] = {
    d.Refused: lambda x: f"refused: {x.reason}",
    d.Witnessed: lambda x: f"saw and cosigned the head of {x.size} entries",
    d.StartRefused: lambda x: f"refused: {x.reason} {x.mistakes}".rstrip(),
    d.Accepted: _tell_accepted,
    d.SiteJoined: lambda x: f"joins with {x.train} training cases",
    d.SiteDeclined: _tell_site_reason,
    d.Excluded: lambda x: f"{x.site} is excluded: {x.reason}",
    d.UpdateLeftOut: lambda x: f"the update of {x.site} is not used: {x.reason}",
    d.SiteFailed: _tell_site_reason,
    d.RecruitingClosed: lambda x: f"recruiting ends with {', '.join(x.sites)}",
    d.InitialModel: lambda x: f"initial model {x.digest[:12]}",
    d.RoundStarted: _tell_round_started,
    d.SitesAbsent: lambda x: f"counted as absent: {', '.join(x.sites)}",
    d.QuorumMet: lambda x: f"quorum is met, {x.grace_due - x.time:.0f} s of grace begin",
    d.DeadlineExtended: lambda x: f"deadline extended ({x.times})",
    d.StatisticsPooled: _tell_statistics,
    d.RoundClosed: _tell_round_closed,
    d.RoundCompleted: _tell_round_completed,
    d.RoundVoided: _tell_round_voided,
    d.ShareUnopened: lambda x: (
        f"{x.holder} cannot open what {x.dealer} sealed for it{' (its fault)' if x.fault == 'dealer' else ''}"
    ),
    d.ShareWrong: lambda x: f"the share of {x.dealer} that {x.holder} revealed does not fit",
    d.Completed: lambda x: f"complete: the {x.label} model, of {x.rounds} rounds",
    d.Failed: _tell_with_reason,
    d.Paused: _tell_with_reason,
    d.Aborted: lambda x: x.decision,
    d.Resumed: lambda x: x.decision,
}
"""Kind of decision → how it reads in one line; the others say nothing that a reader misses."""
