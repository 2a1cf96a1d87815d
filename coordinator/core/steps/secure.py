"""The steps of a secure round (Bonawitz et al. 2017, figure 4): KEYS, SHARES, MASKED, CONSENT, REVEAL.

The coordinator passes on what sites have signed, and holds what they say against the roster: it is no party to their
secrets. What a site does with what it is shown is its own to judge (`messages.secure.site_rules`).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from coordinator.core import decisions as d
from coordinator.core import inputs as i
from coordinator.core.secure.facts import (
    arrived_in,
    context_of,
    count_holders,
    exchange_of,
    rebuild_from,
    rule_of,
    threshold_in,
    within_of,
)
from coordinator.core.secure.scoring import list_asked
from coordinator.core.state import (
    CONSENT,
    KEYS,
    MASKED,
    REVEAL,
    SCORING,
    SHARES,
    ExperimentState,
    Phase,
    Round,
    StepName,
)
from coordinator.core.steps import scores, updates
from coordinator.core.steps.base import Answer, Decided, StepRow, body_of, left_behind
from messages import kinds
from messages.experiment import Experiment
from messages.kinds import MOST_SAID_BYTES
from messages.reasons import Reason
from messages.secure.dealing import judge_complaint
from messages.secure.keys import is_usable_point
from messages.secure.masks import WordLayout
from messages.secure.said import name_signer, read_reveal
from messages.secure.unmasking import judge_reveal

MOST_VOID = 3
"""Rounds in a row without a sum; with the last one the experiment has failed."""


def start_body(state: ExperimentState, round_: Round) -> kinds.RoundStart:
    """round-start, of a try."""
    return updates.make_body(state, round_).model_copy(update={"secure": _tell_start(state, round_)})


def scoring_body(state: ExperimentState, round_: Round) -> kinds.EvaluationStart:
    """evaluation-start, of a try."""
    return scores.make_body(state, round_).model_copy(update={"secure": _tell_start(state, round_)})


def _tell_start(state: ExperimentState, round_: Round) -> kinds.SecureStart:
    experiment = state.experiment
    return kinds.SecureStart(tried=round_.tried, threshold=rule_of(experiment), within=within_of(experiment))


def list_scored(state: ExperimentState, round_: Round) -> tuple[kinds.Transfer, ...]:
    """The candidates, once an evaluation."""
    return scores.list_transfers(state, round_) if round_.tried == 1 else ()


def list_transfers(state: ExperimentState, round_: Round) -> tuple[kinds.Transfer, ...]:
    """The model, once a round: who begins another try has it."""
    return updates.list_transfers(state, round_) if round_.tried == 1 else ()


def take_keys(state: ExperimentState, round_: Round, given: i.Received) -> Answer:
    """secure-keys, when a site takes part in the exchange. Records `StepAnswered`.

    Who does not sign could not be told from the coordinator by its peers.
    """
    body, signer = body_of(given, kinds.SecureKeys), name_signer(given.event)
    if signer is None:
        return Reason.SIGNATURE_MISSING
    if len(given.raw) > MOST_SAID_BYTES:
        return Reason.TOO_LARGE
    if body.tried != round_.tried:
        return Reason.OLDER_ATTEMPT
    known = {
        key for part in round_.parts.values() if part.answer for key in (part.answer["sealing"], part.answer["masking"])
    }
    told = (body.sealing, body.masking)
    if len({*told}) < len(told) or known & {*told} or not all(map(is_usable_point, told)):
        return _refuse(given, Reason.MALFORMED)
    answer = {"sealing": body.sealing, "masking": body.masking, "signer": signer}
    return (d.StepAnswered(site=given.event.sender, answer=answer, said=given.raw),)


def roster_body(state: ExperimentState, round_: Round) -> kinds.SecureRoster:
    """secure-roster: what each site has said of its keys."""
    said = [part.said for _site, part in sorted(round_.earlier[KEYS].items()) if part.said is not None]
    return kinds.SecureRoster(tried=round_.tried, keys=said, within=within_of(state.experiment))


def take_shares(state: ExperimentState, round_: Round, given: i.Received) -> Answer:
    """secure-shares, when a site has dealt its secrets to the roster. Records `StepAnswered`."""
    body, site = body_of(given, kinds.SecureShares), given.event.sender
    if body.tried != round_.tried:
        return Reason.OLDER_ATTEMPT
    exchange = exchange_of(state, round_)
    if body.roster != exchange.digest.hex():
        return _refuse(given, Reason.OTHER_CONTEXT)
    if body.shares.keys() != exchange.members.keys() - {site}:
        return _refuse(given, Reason.MALFORMED)
    return (d.StepAnswered(site=site, answer=body.as_plain()),)


def masking_body(state: ExperimentState, round_: Round) -> kinds.SecureMasking:
    """secure-masking: who masks with whom, and how much each weighs."""
    within = state.experiment.rounds.train_within
    return kinds.SecureMasking(tried=round_.tried, weights=dict(round_.weighed), within=within)


def take_figures(state: ExperimentState, round_: Round, given: i.Received) -> Answer:
    """secure-figures, when a site has scored the candidates and masked what came of it. Records `StepAnswered`."""
    body = body_of(given, kinds.SecureFigures)
    if body.tried != round_.tried:
        return Reason.OLDER_ATTEMPT
    if len(body.masked) != WordLayout(0, len(list_asked(state))).nbytes:
        return _refuse(given, Reason.WRONG_SHAPE)
    return (d.StepAnswered(site=given.event.sender, answer=body.as_plain()),)


def closing_body(state: ExperimentState, round_: Round) -> kinds.SecureClosing:
    """secure-closing: whose masked updates are here."""
    within = within_of(state.experiment)
    return kinds.SecureClosing(tried=round_.tried, sites=list(arrived_in(round_)), within=within)


def take_consent(state: ExperimentState, round_: Round, given: i.Received) -> Answer:
    """secure-consent, when a site has seen whose updates are in the sum. Records `StepAnswered`."""
    body, site = body_of(given, kinds.SecureConsent), given.event.sender
    context = context_of(state, round_)
    if body.tried != round_.tried:
        return Reason.OLDER_ATTEMPT
    if name_signer(given.event) != context.exchange.members[site].signer:
        return Reason.SIGNATURE_MISSING
    if len(given.raw) > MOST_SAID_BYTES:
        return Reason.TOO_LARGE
    expected = (context.digest.hex(), context.close_over(arrived_in(round_)).hex())
    if (body.context, body.closing) != expected:
        return _refuse(given, Reason.OTHER_CONTEXT)
    answer = {"context": body.context, "closing": body.closing}
    return (d.StepAnswered(site=site, answer=answer, said=given.raw),)


def unmasking_body(state: ExperimentState, round_: Round) -> kinds.SecureUnmasking:
    """secure-unmasking: as many consents as the threshold asks for."""
    said = [part.said for _site, part in sorted(round_.earlier[CONSENT].items()) if part.said is not None]
    asked = said[: threshold_in(state, round_)]
    return kinds.SecureUnmasking(tried=round_.tried, consents=asked, within=within_of(state.experiment))


def take_reveal(state: ExperimentState, round_: Round, given: i.Received) -> Answer:
    """secure-reveal, when a site has seen enough consents. Records `StepAnswered`.

    Whether the shares are right shows once the threshold's number of them is here.
    """
    body = body_of(given, kinds.SecureReveal)
    if body.tried != round_.tried:
        return Reason.OLDER_ATTEMPT
    if (bad := judge_reveal(context_of(state, round_), arrived_in(round_), read_reveal(body))) is not None:
        return _refuse(given, bad)
    return (d.StepAnswered(site=given.event.sender, answer=body.as_plain()),)


def close_round(state: ExperimentState, round_: Round, now: float) -> Decided:
    """The masks can be taken off: have the updates summed. Shares that did not fit are named."""
    contributors = {
        site: part.update.cases_used for site, part in sorted(round_.trained.items()) if part.update is not None
    }
    left_out = {site: why for site, why in sorted(round_.left_out.items()) if site not in contributors}
    closed = d.RoundClosed(number=round_.number, time=now, contributors=contributors, left_out=left_out)
    return (*_name_wrong(state, round_), closed)


def void_round(state: ExperimentState, round_: Round, reason: Reason, now: float) -> Decided:
    """The round ends without a sum, and its model goes on; after the third in a row the experiment has failed."""
    left_out, told = left_behind(round_) if round_.closed_at is None else ({}, ())
    left_out = dict(sorted({**round_.left_out, **left_out}.items()))
    began = round_.started if round_.began is None else round_.began
    void = d.RoundVoided(number=round_.number, time=now, reason=reason, left_out=left_out, seconds=now - began)
    ended = (d.Failed(time=now, reason=Reason.ROUND_VOID),) if state.voided + 1 >= MOST_VOID else ()
    return (*told, void, *ended)


def void_overdue(state: ExperimentState, round_: Round, now: float) -> Decided:
    """The last deadline of a step came, and too little is here."""
    wrong = round_.role == REVEAL and len(round_.reported) >= threshold_in(state, round_)
    return _give_up(state, round_, Reason.BAD_SHARE if wrong else Reason.QUORUM_NOT_MET, now)


def _give_up(state: ExperimentState, round_: Round, reason: Reason, now: float) -> Decided:
    """No sum comes of it: the round is void. After the last round the model is made, and stays unscored."""
    if round_.is_scoring:
        return scores.end_overdue(state, round_, now)
    return void_round(state, round_, reason, now)


def finish_scored(state: ExperimentState, round_: Round, now: float) -> Decided:
    """The scores of all sites together are known: choose the model on them."""
    return (*_name_wrong(state, round_), *scores.finish_experiment(state, round_, now))


def _name_wrong(state: ExperimentState, round_: Round) -> Decided:
    return tuple(d.ShareWrong(dealer=one.dealer, holder=one.holder) for one in rebuild_from(state, round_).wrong)


def take_complaint(state: ExperimentState, round_: Round, given: i.Received) -> Answer:
    """What `handlers.events.take_complaint` says."""
    body, holder = body_of(given, kinds.SecureComplaint), given.event.sender
    if round_.tried != body.tried or SHARES not in round_.earlier:
        return Reason.LATE
    dealt = round_.earlier[SHARES].get(body.against)
    if dealt is None or dealt.answer is None or holder not in round_.earlier[SHARES] or holder == body.against:
        return Reason.MALFORMED
    if (body.against, holder) in round_.unopened:
        return ()
    sealed = dealt.answer["shares"][holder]
    exchange = exchange_of(state, round_)
    fault = "either" if body.secret is None else judge_complaint(exchange, body.against, holder, sealed, body.secret)
    if fault == "holder":
        return Reason.MALFORMED  # what it says does not open, does: it could have read its shares
    noted = d.ShareUnopened(dealer=body.against, holder=holder, fault=fault)
    after = replace(round_, unopened=round_.unopened | {(body.against, holder)})
    if count_holders(after, body.against) < threshold_in(state, round_):
        return (noted, *_give_up(state, round_, Reason.BAD_SHARE, given.time))
    return (noted,)


def _refuse(given: i.Received, reason: Reason) -> Decided:
    """The site's answer cannot be used, and nobody waits for a better one."""
    event = given.event
    told = d.Refused(event=event.id, kind=event.kind, sender=event.sender, reason=reason, round=event.round)
    return (d.SiteFailed(site=event.sender, reason=reason), told)


def _train_within(experiment: Experiment) -> float:
    return experiment.rounds.train_within


_COMMON = StepRow(
    name=KEYS,
    phase=Phase.RUNNING,
    opens="round-start",
    answers="secure-keys",
    takes_updates=False,
    within=within_of,
    body=start_body,
    transfers=lambda state, round_: (),
    answered=take_keys,
    close=close_round,
    overdue=void_overdue,
)
_TRAINING = (
    replace(_COMMON, transfers=list_transfers, extends=False),
    replace(
        _COMMON, name=SHARES, opens="secure-roster", answers="secure-shares", body=roster_body, answered=take_shares,
        extends=False,
    ),
    replace(
        _COMMON, name=MASKED, opens="secure-masking", answers="weights-ready", body=masking_body,
        answered=updates.weights_ready, within=_train_within, takes_updates=True,
    ),
    replace(
        _COMMON, name=CONSENT, opens="secure-closing", answers="secure-consent", body=closing_body,
        answered=take_consent,
    ),
    replace(
        _COMMON, name=REVEAL, opens="secure-unmasking", answers="secure-reveal", body=unmasking_body,
        answered=take_reveal,
    ),
)  # fmt: skip
_DIFFERING: dict[StepName, dict[str, Any]] = {
    KEYS: {"opens": "evaluation-start", "body": scoring_body, "transfers": list_scored},
    MASKED: {"answers": "secure-figures", "answered": take_figures, "takes_updates": False},
    REVEAL: {"close": finish_scored},
}
"""What the steps of a secure evaluation do otherwise than those of a secure round."""
ROWS = (
    *_TRAINING,
    *(
        replace(row, name=name, phase=Phase.EVALUATING, **_DIFFERING.get(row.name, {}))
        for name, row in zip(SCORING, _TRAINING, strict=True)
    ),
)
