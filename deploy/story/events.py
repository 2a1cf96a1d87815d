"""What each kind of event changes in an experiment's story (`deploy.story.story`), and how it reads in one line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from deploy.story.changing import change_fields
from deploy.story.parts import Exchange, RoundStory, SiteStory, StatisticsStory, UpdateStory, late_words
from deploy.story.story import ExperimentStory
from messages import kinds
from messages.envelope import Event
from messages.experiment import Experiment
from messages.statistics.configuration import configure_experiment


def _tell_accepted(story: ExperimentStory, event: Event, body: kinds.ExperimentAccepted) -> ExperimentStory:
    try:
        experiment = Experiment.model_validate(body.experiment)
    except ValidationError:  # written by a newer version: the rest of the story still reads
        return change_fields(
            story, phase="recruiting", digest=body.digest, researcher=body.researcher, started=event.time
        )
    return change_fields(
        story,
        phase="recruiting" if story.phase == "unknown" else story.phase,
        experiment=experiment,
        digest=body.digest,
        researcher=body.researcher,
        started=event.time,
        sites={name: story.sites.get(name, SiteStory(name)) for name in experiment.sites},
    )


def _tell_refused(story: ExperimentStory, event: Event, body: kinds.ExperimentRefused) -> ExperimentStory:
    # A second start of a running experiment may be refused (id-taken): the one that runs is not touched by it.
    return change_fields(story, phase="refused", reason=body.reason) if story.phase == "unknown" else story


def _with_standing(story: ExperimentStory, site: str, state: str, **more: Any) -> ExperimentStory:
    """Events of several streams come in any order: an excluded site stays so, whatever is heard of it then."""
    known = story.sites.get(site)
    if known is not None and known.state == "excluded":
        state, more["reason"] = known.state, known.reason
    return story.with_site(site, state=state, **more)


def _tell_joined(story: ExperimentStory, event: Event, body: kinds.Joined) -> ExperimentStory:
    return _with_standing(
        story, event.sender, "joined", reason=None, cases=body.cases, platform=body.platform, data=event.ext.get("data")
    )


def _tell_declined(story: ExperimentStory, event: Event, body: kinds.Declined) -> ExperimentStory:
    return _with_standing(story, event.sender, "declined", reason=body.reason, cases=body.cases)


def _tell_leaving(story: ExperimentStory, event: Event, body: kinds.Leaving) -> ExperimentStory:
    return _with_standing(story, event.sender, "leaving", reason=body.reason)


def _tell_excluded(story: ExperimentStory, event: Event, body: kinds.SiteExcluded) -> ExperimentStory:
    return story.with_site(body.site, state="excluded", reason=body.reason)


def _statistics_start(story: ExperimentStory, event: Event, body: kinds.StatisticsStart) -> ExperimentStory:
    asked = story.statistics or StatisticsStory(event.time)
    asked = change_fields(asked, started=event.time, sites=tuple(body.sites), within=body.within)
    return change_fields(story, phase=story.phase if story.over else "running", statistics=asked)


def _statistics_ready(story: ExperimentStory, event: Event, body: kinds.StatisticsReady) -> ExperimentStory:
    asked = story.statistics or StatisticsStory(event.time)
    return change_fields(story, statistics=change_fields(asked, told={**asked.told, event.sender: body}))


def _statistics_pooled(story: ExperimentStory, event: Event, body: kinds.StatisticsPooled) -> ExperimentStory:
    """The experiment reads as it is configured from then on; one that asked for nothing else is complete."""
    found = change_fields(story.statistics or StatisticsStory(event.time), pooled=body)
    experiment = story.experiment
    if experiment is not None and not experiment.plan.trains:
        return change_fields(story, statistics=found, phase="complete", ended=event.time)
    if experiment is not None and body.configuration is not None and experiment.measures_first:
        experiment = configure_experiment(experiment, body.configuration)
    return change_fields(story, statistics=found, experiment=experiment)


def _round_start(story: ExperimentStory, event: Event, body: kinds.RoundStart) -> ExperimentStory:
    return change_fields(
        story,
        phase=story.phase if story.over else "running",
    ).with_round(
        event.round,
        started=event.time,
        sites=tuple(body.sites),
        evaluate=body.evaluate,
        train_within=body.train_within,
        model_bytes=body.transfer.manifest.nbytes,
        received_digest=body.model_digest,
        going_on=dict(body.going_on or {}),
        exchange=_begin_exchange(body.secure, body.sites),
    )


def _begin_exchange(start: kinds.SecureStart | None, sites: Iterable[str]) -> Exchange | None:
    return None if start is None else Exchange("keys", start.tried, tuple(sites))


SecureStep = kinds.SecureRoster | kinds.SecureMasking | kinds.SecureClosing | kinds.SecureUnmasking


def _secure_step(story: ExperimentStory, event: Event, body: SecureStep) -> ExperimentStory:
    """Another step of a secure round: of those who answered the one before, or of those that it names."""
    before = story.step_of(event.round).exchange or Exchange("", body.tried, ())
    if isinstance(body, kinds.SecureMasking):
        step = "masked scores" if story.is_evaluation(event.round) else "masked updates"
        return story.with_step(event.round, exchange=Exchange(step, body.tried, tuple(sorted(body.weights))))
    if isinstance(body, kinds.SecureClosing):
        return story.with_step(event.round, exchange=Exchange("consents", body.tried, tuple(body.sites)))
    if isinstance(body, kinds.SecureUnmasking):
        return story.with_step(event.round, exchange=Exchange("reveals", body.tried, before.sites))
    sites = tuple(site for site in before.sites if site in before.told)
    return story.with_step(event.round, exchange=Exchange("shares", body.tried, sites))


def _secure_answer(story: ExperimentStory, event: Event, body: kinds.Body) -> ExperimentStory:
    known = story.step_of(event.round).exchange
    if known is None:
        return story
    return story.with_step(event.round, exchange=change_fields(known, told=known.told | {event.sender}))


def _round_void(story: ExperimentStory, event: Event, body: kinds.RoundVoid) -> ExperimentStory:
    return story.with_round(
        event.round,
        state="void",
        void=body.reason,
        left_out=dict(body.left_out),
        model_digest=body.model_digest,
        seconds=body.seconds,
    )


def _round_accepted(story: ExperimentStory, event: Event, body: kinds.RoundAccepted) -> ExperimentStory:
    if event.round == 0:
        return story
    step = story.step_of(event.round)
    # A site that had given it up takes it on after all.
    failures = {site: reason for site, reason in step.failures.items() if site != event.sender}
    return story.with_step(event.round, accepted=step.accepted | {event.sender}, failures=failures)


def _weights_ready(story: ExperimentStory, event: Event, body: kinds.WeightsReady) -> ExperimentStory:
    # What a site says again in each round is kept once: thousands of updates are held.
    known = story.sites.get(event.sender)
    cases = known.cases if known is not None and known.cases == body.cases else body.cases
    platform = known.platform if known is not None and known.platform == body.platform else body.platform
    update = UpdateStory(
        event.sender,
        body.cases_used,
        cases,
        body.epochs,
        body.steps,
        body.loss,
        body.seconds,
        body.validation,
        body.transfer.manifest.nbytes,
        platform,
        event.time,
    )
    one = story.round_or_new(event.round)
    failures = {site: reason for site, reason in one.failures.items() if site != event.sender}
    told = _secure_answer(story, event, body)
    return told.with_round(event.round, updates={**one.updates, event.sender: update}, failures=failures)


def _round_failed(story: ExperimentStory, event: Event, body: kinds.RoundFailed) -> ExperimentStory:
    if event.round == 0:
        asked = story.statistics or StatisticsStory(event.time)
        return change_fields(
            story, statistics=change_fields(asked, failures={**asked.failures, event.sender: body.reason})
        )
    return story.with_step(event.round, failures={**story.step_of(event.round).failures, event.sender: body.reason})


def _round_complete(story: ExperimentStory, event: Event, body: kinds.RoundComplete) -> ExperimentStory:
    return story.with_round(
        event.round,
        state="complete",
        contributors=dict(body.contributors),
        left_out=dict(body.left_out),
        model_digest=body.model_digest,
        validation=body.validation,
        seconds=body.seconds,
        staleness=dict(body.staleness or {}),
        pooled=body.pooled,
    )


def _evaluation_start(story: ExperimentStory, event: Event, body: kinds.EvaluationStart) -> ExperimentStory:
    return change_fields(
        story,
        phase=story.phase if story.over else "evaluating",
        candidates={**story.candidates, **body.digests()},
        asked=frozenset(body.digests()),
        evaluation=change_fields(
            story.evaluation or RoundStory(event.round),
            number=event.round,
            started=event.time,
            sites=tuple(body.sites),
            train_within=body.evaluate_within,
            exchange=_begin_exchange(body.secure, body.sites),
        ),
    )


def _tell_evaluated(story: ExperimentStory, event: Event, body: kinds.Evaluated) -> ExperimentStory:
    scores: dict[str, kinds.ModelScores] = dict(body.scores.items())
    known = story.evaluations.get(event.sender, {})
    return change_fields(story, evaluations={**story.evaluations, event.sender: {**known, **scores}})


def _tell_complete(story: ExperimentStory, event: Event, body: kinds.ExperimentComplete) -> ExperimentStory:
    return change_fields(
        story,
        phase="complete",
        ended=event.time,
        model_label=body.model.label,
        model_digest=body.model.model_digest,
        model_round=body.model_round,
        final_digest=body.final_digest,
        pooled_test=body.test if story.is_secure else None,
        candidates={
            **story.candidates,
            body.model.label: body.model.model_digest,
            "final": body.final_digest,
        },
    )


def _tell_failed(story: ExperimentStory, event: Event, body: kinds.ExperimentFailed) -> ExperimentStory:
    return change_fields(story, phase="failed", reason=body.reason, ended=event.time)


def _tell_aborted(story: ExperimentStory, event: Event, body: kinds.ExperimentAborted) -> ExperimentStory:
    return change_fields(story, phase="aborted", reason=body.reason, ended=event.time)


def _tell_paused(story: ExperimentStory, event: Event, body: kinds.ExperimentPaused) -> ExperimentStory:
    return change_fields(story, phase="paused", reason=body.reason, resumes_to=story.phase)


def _tell_resumed(story: ExperimentStory, event: Event, body: kinds.ExperimentResumed) -> ExperimentStory:
    return change_fields(story, phase=story.resumes_to, reason=None) if story.phase == "paused" else story


def _note_only(story: ExperimentStory, event: Event, body: kinds.Body) -> ExperimentStory:
    return story


HANDLERS: Mapping[type[kinds.Body], Callable[..., ExperimentStory]] = {
    kinds.ExperimentStart: _note_only,
    kinds.ExperimentAbort: _note_only,
    kinds.ExperimentPause: _note_only,
    kinds.ExperimentResume: _note_only,
    kinds.ExperimentAccepted: _tell_accepted,
    kinds.ExperimentRefused: _tell_refused,
    kinds.Joined: _tell_joined,
    kinds.Declined: _tell_declined,
    kinds.Leaving: _tell_leaving,
    kinds.ExperimentExclude: _note_only,
    kinds.SiteExcluded: _tell_excluded,
    kinds.StatisticsStart: _statistics_start,
    kinds.StatisticsReady: _statistics_ready,
    kinds.StatisticsPooled: _statistics_pooled,
    kinds.RoundStart: _round_start,
    kinds.RoundAccepted: _round_accepted,
    kinds.WeightsReady: _weights_ready,
    kinds.RoundFailed: _round_failed,
    kinds.RoundComplete: _round_complete,
    kinds.EvaluationStart: _evaluation_start,
    kinds.Evaluated: _tell_evaluated,
    kinds.ExperimentComplete: _tell_complete,
    kinds.ExperimentFailed: _tell_failed,
    kinds.ExperimentAborted: _tell_aborted,
    kinds.ExperimentPaused: _tell_paused,
    kinds.ExperimentResumed: _tell_resumed,
    kinds.SecureKeys: _secure_answer,
    kinds.SecureRoster: _secure_step,
    kinds.SecureShares: _secure_answer,
    kinds.SecureMasking: _secure_step,
    kinds.SecureFigures: _secure_answer,
    kinds.SecureClosing: _secure_step,
    kinds.SecureConsent: _secure_answer,
    kinds.SecureUnmasking: _secure_step,
    kinds.SecureReveal: _secure_answer,
    kinds.SecureComplaint: _note_only,
    kinds.RoundVoid: _round_void,
    kinds.Unknown: _note_only,
}
"""Kind of event → what it changes in the story; other kinds change nothing."""


def event_sentence(event: Event, planned: int | None = None) -> str:
    """What an event says, in one line of plain words.

    Args:
        planned: rounds of the experiment; the one after them is its evaluation.
    """
    body, number = event.body, event.round
    step = "the evaluation" if planned is not None and number > planned else f"round {number}"
    step = "the statistics" if number == 0 else step
    match body:  # the most frequent ones first
        case kinds.RoundAccepted():
            return f"takes on {step}"
        case kinds.WeightsReady():
            loss = "" if body.loss is None else f", loss {body.loss:.4f}"
            return f"round {number}: update of {body.cases_used} cases, {body.steps} steps{loss}"
        case kinds.ExperimentAccepted():
            return f"accepted for {body.researcher} (file {body.digest[:12]})"
        case kinds.Declined() if body.cases is not None:
            left = "".join(f", {count} {reason}" for reason, count in sorted(body.cases.left_out.items()))
            return f"declined: {body.reason} ({body.cases.used} of {body.cases.found} cases usable{left})"
        case kinds.ExperimentRefused() | kinds.Declined() | kinds.ExperimentFailed() | kinds.ExperimentAborted():
            return f"{event.kind.removeprefix('experiment-')}: {body.reason}"
        case kinds.Joined():
            cases = body.cases
            return f"joined: {cases.train} training, {cases.validation} validation, {cases.test} test cases"
        case kinds.ExperimentExclude() | kinds.SiteExcluded():
            return (
                f"{'exclude' if isinstance(body, kinds.ExperimentExclude) else 'excluded:'} {body.site} ({body.reason})"
            )
        case kinds.StatisticsStart():
            return f"statistics are asked of {', '.join(body.sites)}"
        case kinds.StatisticsReady():
            return f"told statistics of {body.statistics.cases} training cases"
        case kinds.StatisticsPooled():
            left = "".join(f", {site} left out ({reason})" for site, reason in sorted(body.left_out.items()))
            made = "" if body.configuration is None else f": {body.configuration.words}"
            return f"statistics of {body.statistics.cases} training cases{left}{made}"
        case kinds.RoundStart():
            verb = "started" if event.attempt == "1" else "goes on"
            if body.secure is not None and body.secure.tried > 1:
                return f"round {number}: keys are exchanged anew (try {body.secure.tried}) by {', '.join(body.sites)}"
            going = body.going_on or {}
            new = [site for site in body.sites if site not in going]
            more = "".join(f"; {site} goes on with round {base}" for site, base in sorted(going.items()))
            return f"round {number} {verb} with {', '.join(new) or 'nobody new'}{more}"
        case kinds.RoundFailed():
            return f"{step} failed: {body.reason}"
        case kinds.RoundComplete():
            left = "".join(f", {site} left out ({reason})" for site, reason in sorted(body.left_out.items()))
            took = ", ".join(site + late_words(body.staleness, site) for site in sorted(body.contributors))
            return f"round {number} closed with {took}{left}: {body.model_digest[:12]}"
        case kinds.ExperimentComplete():
            return f"complete: model {body.model.model_digest[:12]} of round {body.model_round}"
        case kinds.EvaluationStart():
            what = "the evaluation" if body.combined is None else "the evaluation of the ensemble"
            return f"{what} started with {', '.join(body.sites)}"
        case kinds.Evaluated():
            return f"scored {format_labels(body.scores)}"
        case kinds.RoundVoid():
            left = "".join(f", {site} left out ({reason})" for site, reason in sorted(body.left_out.items()))
            return f"round {number} ended without a sum ({body.reason}){left}: the model stays {body.model_digest[:12]}"
        case kinds.SecureRoster():
            return f"{step}: {len(body.keys)} sites exchange shares"
        case kinds.SecureMasking():
            return f"{step}: {', '.join(sorted(body.weights))} mask with each other"
        case kinds.SecureClosing():
            return f"{step}: the sum of {', '.join(body.sites)} is put to them"
        case kinds.SecureUnmasking():
            return f"{step}: {len(body.consents)} sites consent to the sum"
        case kinds.SecureComplaint():
            return f"{step}: what {body.against} sealed for it does not open"
        case kinds.Unknown():
            return f"{event.kind}: a newer version says it, and this one does not know it"
        case _:
            return event.kind.replace("-", " ") + (f" (round {number})" if number else "")


def format_labels(labels: Iterable[str]) -> str:
    """ "the final model", "the final and the selected model"."""
    named = [f"the {label}" for label in labels]
    return f"{' and '.join(named)} model" if named else "no model"
