"""What is said of an experiment in words: its state, its scores, what a site does, whom it waits for, how it ended."""

from __future__ import annotations

from deploy.console import format_moment, format_score
from deploy.story.endings import list_blamed
from deploy.story.matrix import read_matrix
from deploy.story.parts import TestScores
from deploy.story.story import ExperimentStory
from messages.ground.units import human_bytes, human_seconds
from messages.liveness import ABSENT_AFTER, Liveness
from messages.reasons import ADVICE, Reason, advise_on
from messages.scores import SplitScores
from messages.tasks.base import ScoreReader

OUTSIDE_HOURS = Liveness.OUTSIDE_HOURS.value


def score_words(found: SplitScores | None, reader: ScoreReader) -> str:
    """ "0.7123 (WT 0.81 TC 0.70 ET 0.63)"."""
    if found is None or reader.headline_score(found) is None:
        return "-" if found is None else reader.no_score
    targets = " ".join(f"{target} {format_score(mean, 3)}" for target, mean in reader.by_target(found).items())
    others = "".join(
        f", {one.metric.short or one.metric.title} {one.format_value(one.mean)}" for one in reader.read_briefly(found)
    )
    return f"{format_score(reader.headline_score(found))} ({targets}){others}"


def progress_words(story: ExperimentStory, site: str) -> str:
    """What a site does right now: "training 12/40, epoch 1/2, loss 0.41, 0:12 left", or for what it waits."""
    live = story.sites[site].live
    if live.state == OUTSIDE_HOURS:
        begin = f", which begin at {format_moment(live.opens_at)[11:16]}Z" if live.opens_at else ""
        return f"its work waits for its allowed hours{begin}"
    if not live.phase or live.state != live.phase:
        return f"busy with {live.busy_with}" if live.busy_with not in (None, story.id) else ""
    words = [f"{live.phase} {live.done}/{live.total}"]
    if live.epoch is not None and live.epochs:
        words.append(f"epoch {live.epoch}/{live.epochs}")
    if live.loss is not None:
        words.append(f"loss {live.loss:.4f}")
    if live.eta_seconds is not None:
        words.append(f"{human_seconds(live.eta_seconds)} left")
    return ", ".join(words)


def recruiting_words(story: ExperimentStory) -> str:
    """Until when sites may join and who has not answered; empty where it is not that for which all wait."""
    if story.phase != "recruiting" or story.experiment is None or story.started is None:
        return ""
    silent = ", ".join(
        name + (" (awaits approval there)" if site.reason is Reason.AWAITS_APPROVAL else "")
        for name, site in sorted(story.sites.items())
        if site.state == "invited" or site.reason is Reason.AWAITS_APPROVAL
    )
    until = format_moment(story.started + story.experiment.rounds.enrol_within)
    return f"recruiting until {until}" + (f"; not yet joined: {silent}" if silent else "")


def state_words(story: ExperimentStory) -> str:
    """Its state, with the reason where that says more: "failed (enrolment-failed)", "aborted"."""
    why = f" ({story.reason})" if story.reason and story.reason != story.phase else ""
    return story.phase + why + (f", without {', '.join(story.excluded)}" if story.excluded else "")


def update_lines(story: ExperimentStory, number: int) -> list[str]:
    """A round's updates, each beside the others, and those that stand out."""
    checks = story.checks.get(number, {})
    told = "; ".join(f"{site} {one.words}" for site, one in checks.items())
    odd = [f"UNUSUAL: the update of {site}: {one.words}" for site, one in checks.items() if one.stands_out]
    return ([f"  updates of round {number}: {told}"] if told else []) + odd


def headline_words(story: ExperimentStory, now: float) -> str:
    """One line: round, score, bytes, time left."""
    current = story.current_round
    parts = [recruiting_words(story) or state_words(story)]
    if story.phase == "paused" and story.reason is not None:
        parts.append(advise_on(Reason(story.reason), by_coordinator=True, waits=True))
    if current is not None:
        parts.append(f"round {current.number}/{'?' if story.rounds_planned is None else story.rounds_planned}")
    if (point := story.latest_point) is not None:
        words = score_words(point.pooled, story.reader)
        parts.append(f"validation {story.reader.title} after round {point.round}: {words}")
    if story.is_secure:
        parts.append("secure rounds: pooled only")
    parts.append(f"{human_bytes(story.bytes_down)} down, {human_bytes(story.bytes_up)} up")
    if (left := story.eta_seconds(now)) is not None and story.phase == "running":
        parts.append(f"about {human_seconds(left)} left")
    return " · ".join(parts)


def waiting_words(story: ExperimentStory, now: float) -> str:
    """For whom the open step waits, why, and until when; empty where it waits for nobody."""
    found = story.waiting
    if found is None:
        return ""
    sites = ", ".join(site + (f" ({reason})" if reason else "") for site, reason in sorted(found.sites.items()))
    if found.until is None:
        return f"{found.what} waits for {sites}"
    left = found.until - now
    within = f", in {human_seconds(left)}" if left > 0 else ""
    return f"{found.what} waits for {sites}, until {format_moment(found.until)} at the latest{within}"


def finish_words(story: ExperimentStory) -> str:
    """What ends the waiting for a site that has given up; empty where none has, or no model is made yet."""
    found = story.waiting
    if found is None or not any(found.sites.values()) or not story.completed_rounds:
        return ""
    return (
        f"`konsil experiment finish {story.id}` ends it now, with a model of at most {story.completed_rounds} rounds;"
        " a site that can deliver again does so by itself"
    )


def silence_words(story: ExperimentStory, now: float) -> str:
    """What cannot be heard: the broker, or the coordinator; empty where both are."""
    if story.down:
        return "the broker is not reached: what sites and coordinator do is not known until it is"
    silence = story.coordinator_silence(now)
    if silence is None or silence <= ABSENT_AFTER or story.over:
        return ""
    return f"no sign of the coordinator for {silence:.0f} s: rounds neither open nor close until it is back"


def cases_words(test: TestScores) -> str:
    """ "n = 5", "n = 5 of 8, the others withheld by site-c"."""
    if not test.withheld:
        return f"n = {test.n}"
    return f"n = {test.n} of {test.all_cases}, the others withheld by {', '.join(test.withheld)}"


def matrix_lines(story: ExperimentStory) -> list[str]:
    """The cross-site matrix of the test cases, a line for each site's model; none where sites did not train alone."""
    found = read_matrix(story, "test")
    if found is None:
        return []
    head = ["model of", *found.sites, "overall"]
    rows = [[model, *map(format_score, found.row_of(model))] for model in found.cells]
    wide = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    yielded = "" if found.chosen is None else f"; the experiment yields that of {found.chosen}"
    return [
        f"each site's model on each site's test cases, {found.reader.title}{yielded}",
        *("  ".join(word.ljust(size) for word, size in zip(row, wide, strict=True)).rstrip() for row in [head, *rows]),
    ]


def closing_lines(story: ExperimentStory) -> list[str]:
    """The result, for a person."""
    lines = [f"{story.id}: {state_words(story)}"]
    if story.reason in ADVICE and story.phase != "complete":
        lines.append(f"  {advise_on(Reason(story.reason), by_coordinator=True)}")
    if story.phase == "failed":
        lines.extend(f"  {line}" for line in list_blamed(story))
    if story.statistics is not None and (pooled := story.statistics.pooled) is not None:
        told = ", ".join(f"{site} ({cases})" for site, cases in sorted(pooled.contributors.items()))
        lines.append(f"  statistics of {pooled.statistics.cases} training cases: {told}")
        lines += [f"  configuration  {pooled.configuration.words}"] if pooled.configuration is not None else []
    test = story.test
    if test is not None:
        title = test.reader.title
        lines.append(f"  test {title} overall  {score_words(test.pooled, test.reader)}, {cases_words(test)}")
        for site, found in sorted(test.sites.items()):
            words = (
                f"withheld, n = {found.cases}"
                if found.withheld
                else f"{score_words(found, test.reader)}, n = {found.cases}"
            )
            lines.append(f"  test {title} {site:<8} {words}")
        others = test.reader.read_others(test.pooled)
        lines.extend(f"  test {one.metric.title} overall  {one.words}" for one in others)
        if test.worst is not None:
            lines.append(
                f"  mean over sites {format_score(test.unweighted_mean)}, "
                f"worst {test.worst[0]} {format_score(test.worst[1])}"
            )
        lines.extend(f"  {line}" for line in matrix_lines(story))
    elif story.phase == "complete" and (story.experiment is None or story.experiment.plan.kind != "statistics"):
        lines.append("  no test scores: it ended before an evaluation brought any")
    if story.experiment is not None and story.experiment.supersedes is not None:
        lines.append(f"  supersedes {story.experiment.supersedes.words}")
    if story.model_digest:
        lines.append(f"  model of round {story.model_round}, digest {story.model_digest}")
    return lines
