"""In plain language: a journal's entries (who did what), and where an experiment stands."""

from __future__ import annotations

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.state import ExperimentState, Phase
from coordinator.record.journal import TERM
from coordinator.record.recovery import read_step
from messages import codec
from messages.chain import MAX_ENTRY, Entry
from messages.ground.errors import LogBroken, MalformedMessage

COORDINATOR = "coordinator"


def tell(entry: Entry) -> tuple[str, str]:
    """(who, what) of one entry."""
    if entry.type == TERM:
        return COORDINATOR, f"started under term {_body(entry).get('term', '?')}"
    try:
        given, decided = read_step(entry)
    except LogBroken:
        return COORDINATOR, f"set a message aside ({_body(entry).get('reason', 'unreadable')})"
    who = given.event.sender if isinstance(given, i.Received) else COORDINATOR
    said = [line for decision in decided if (line := _line(decision))]
    return who, "; ".join([_input(given), *said])


def standing(state: ExperimentState) -> str:
    """Where an experiment stands, in a few words, for the service manager."""
    one = state.round
    place = ""
    if one is not None:
        place = (
            f" round {one.number} of {state.experiment.rounds.count}, {len(one.reported)} of {len(one.parts)} updates"
        )
    why = f" ({state.paused_because})" if state.phase is Phase.PAUSED and state.paused_because is not None else ""
    return f"{state.id}: {state.phase.value}{why}{place}"


def _body(entry: Entry) -> dict[str, object]:
    try:
        body = codec.unpack(entry.body, max_bytes=MAX_ENTRY)
    except MalformedMessage:
        return {}
    return body if isinstance(body, dict) else {}


def _input(given: i.AnyInput) -> str:
    if isinstance(given, i.Received):
        event = given.event
        return f"{event.kind} (round {event.round})" if event.round else event.kind
    if isinstance(given, i.UpdateStored):
        return f"the update of {given.site} for round {given.round} is verified and stored"
    if isinstance(given, i.UpdateBad):
        return f"the update of {given.site} for round {given.round} cannot be used ({given.reason})"
    if isinstance(given, i.TimerFired):
        return f"the {given.timer} timer fired"
    if isinstance(given, i.Outage):
        return f"nothing could be received for {given.time - given.since:.0f} s"
    return given.input


def _line(x: d.AnyDecision) -> str:
    if isinstance(x, d.Refused):
        return f"refused: {x.reason}"
    if isinstance(x, d.StartRefused):
        return f"refused: {x.reason} {x.mistakes}".rstrip()
    if isinstance(x, d.Accepted):
        strategy = x.experiment.get("plan", {}).get("strategy", "FedAvg")
        named = f"; strategy {strategy.get('name')}" if isinstance(strategy, dict) else ""
        return f"accepted; tensors travel as {x.experiment.get('wire', {}).get('codec', 'float32')}{named}"
    if isinstance(x, d.SiteJoined):
        return f"joins with {x.train} training cases"
    if isinstance(x, d.SiteDeclined | d.SiteFailed):
        return f"{x.site}: {x.reason}"
    if isinstance(x, d.RecruitingClosed):
        return f"recruiting ends with {', '.join(x.sites)}"
    if isinstance(x, d.InitialModel):
        return f"initial model {x.digest[:12]}"
    if isinstance(x, d.RoundStarted):
        what = "evaluation" if x.step == "scores" else f"round {x.number}"
        return f"{what} starts with {', '.join(x.cases)}"
    if isinstance(x, d.SitesAbsent):
        return f"counted as absent: {', '.join(x.sites)}"
    if isinstance(x, d.QuorumMet):
        return f"quorum is met, {x.grace_due - x.time:.0f} s of grace begin"
    if isinstance(x, d.DeadlineExtended):
        return f"deadline extended ({x.times})"
    if isinstance(x, d.RoundClosed):
        took = ", ".join(f"{site} ({cases})" for site, cases in x.contributors.items())
        left = ", ".join(f"{site}: {reason}" for site, reason in x.left_out.items())
        return f"round {x.number} closes with {took}" + (f"; left out {left}" if left else "")
    if isinstance(x, d.RoundCompleted):
        return f"round {x.number} made model {x.digest[:12]}"
    if isinstance(x, d.Completed):
        return f"complete: the {x.label} model, of {x.rounds} rounds"
    if isinstance(x, d.Failed | d.Paused):
        return f"{x.decision}: {x.reason}" if x.reason else x.decision
    if isinstance(x, d.Aborted | d.Resumed):
        return x.decision
    return ""
