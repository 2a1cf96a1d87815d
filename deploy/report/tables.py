"""The report's tables, from an `ExperimentStory` and its baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from deploy.report.baselines import Baseline
from deploy.report.html import NOTHING, format_duration, format_megabytes, format_number, make_definitions, make_table
from deploy.story.parts import SiteStory
from deploy.story.story import ExperimentStory
from messages.ground.units import human_moment
from messages.reasons import ADVICE, Reason
from messages.scores import SplitScores
from messages.tasks.base import ScoreReader


def summary_table(story: ExperimentStory, images: Mapping[str, str]) -> str:
    """Who trained what, when, with which software; `images` says of a site where its images came from."""
    came = sorted({(text, tuple(sorted(name for name in images if images[name] == text))) for text in images.values()})
    experiment = story.experiment
    platforms = [site.platform for site in story.sites.values() if site.platform]
    versions = sorted({f"{name} {version}" for one in platforms for name, version in one.versions.items()})
    devices = sorted({f"{one.device_type}, {one.threads} threads" for one in platforms})
    pairs = [
        ("Experiment", story.id),
        ("State", story.phase + (f" ({story.reason})" if story.reason else "")),
        ("Purpose", experiment.purpose if experiment else ""),
        ("Approval", experiment.approval if experiment else ""),
        ("Researcher", story.researcher or ""),
        ("Sites", ", ".join(f"{name} ({_standing_of(site)})" for name, site in sorted(story.sites.items()))),
        ("Images", "; ".join(f"{', '.join(names)}: {text}" for text, names in came)),
        ("Net", experiment.net.name if experiment else ""),
        ("Strategy", f"{experiment.plan.kind}, {experiment.plan.strategy.words}" if experiment else ""),
        ("Tensors travel as", experiment.wire.codec if experiment else ""),
        ("Rounds", f"{story.completed_rounds} of {story.rounds_planned}"),
        (
            "Model",
            f"{story.model_digest or NOTHING} (after round {story.model_round})" if story.model_digest else "",
        ),
        ("Experiment file", story.digest or ""),
        ("Started", human_moment(story.started) if story.started else ""),
        ("Took", format_duration(story.seconds)),
        ("Sent to sites", format_megabytes(story.bytes_down)),
        ("Sent by sites", format_megabytes(story.bytes_up)),
        ("Devices", "; ".join(devices)),
        ("Versions", ", ".join(versions)),
    ]
    return make_definitions([(name, value) for name, value in pairs if value])


def _standing_of(site: SiteStory) -> str:
    """joined, declined with its reason, or that it never answered."""
    if site.state == "invited":
        return "no answer"
    return f"{site.state}: {site.reason}" if site.reason else site.state


def results_table(story: ExperimentStory, baselines: Sequence[Baseline]) -> str:
    """Test scores by target for each site and overall, and each baseline beside it."""
    test = story.test
    if test is None:
        return "<p>No test scores: the experiment did not reach its evaluation phase.</p>"
    reader = test.reader
    head = ["", *reader.targets, "mean", "n", *(f"{one.name}" for one in baselines)]
    rows = [
        [name, *_score_cells(scores, reader), *(format_number(_score_at(one, name, reader)) for one in baselines)]
        for name, scores in sorted(test.sites.items())
    ]
    rows.append(
        ["overall", *_score_cells(test.pooled, reader), *(format_number(one.score(reader)) for one in baselines)],
    )
    caption = f"{reader.title} on the test cases, federated model (baselines: {reader.mean_title})"
    html = make_table(caption, head, rows, strong_rows=1)
    facts = [
        ("Unweighted mean over sites", format_number(test.unweighted_mean)),
        ("Worst site", f"{test.worst[0]}: {format_number(test.worst[1])}" if test.worst else NOTHING),
    ]
    for one in baselines:
        if (score := one.score(reader)) and test.mean is not None:
            facts.append((f"Federated / {one.name}", format_number(test.mean / score)))
        if one.gain is not None:
            gain = one.gain
            facts.append(
                (
                    f"Paired gain over {one.name}",
                    f"{gain.mean:+.4f} (95 % interval {gain.low:+.4f} to {gain.high:+.4f}, n = {gain.n})",
                )
            )
    return html + make_definitions(facts) + details_table(test.pooled, reader)


def details_table(scores: SplitScores, reader: ScoreReader) -> str:
    """What the means are made of, as the experiment's task lays it out; "" where nothing was scored."""
    found = reader.detail_table(scores)
    rows = [[_format_cell(value) for value in row] for row in found.rows]
    return make_table(found.caption, found.head, rows) if rows else ""


def _format_cell(value: str | int | float | None) -> str:
    return str(value) if isinstance(value, str | int) else format_number(value)


def side_by_side(story: ExperimentStory, baselines: Sequence[Baseline]) -> str:
    """Overall test scores by target: the federated model and each baseline."""
    test = story.test
    if test is None or not baselines:
        return ""
    reader = test.reader
    rows = [["federated", *_score_cells(test.pooled, reader), format_duration(story.seconds)]]
    rows += [
        [one.name, *_score_cells(one.pool_scores(reader), reader), format_duration(one.seconds)] for one in baselines
    ]
    caption = f"Overall test {reader.title}, side by side"
    return make_table(caption, ["", *reader.targets, "mean", "n", "took"], rows)


def cases_table(story: ExperimentStory) -> str:
    """Cases found, used and left out by site and reason: an agent announces it, nobody has to guess."""
    reasons: list[Reason] = sorted({r for site in story.sites.values() if site.cases for r in site.cases.left_out})
    head = ["site", "found", "used", "train", "validation", "test", *(str(reason) for reason in reasons)]
    rows = []
    for name, site in sorted(story.sites.items()):
        count = site.cases
        if count is None:
            rows.append([name, *[NOTHING] * (len(head) - 1)])
            continue
        plain = [count.found, count.used, count.train, count.validation, count.test]
        rows.append([name, *map(str, plain), *(str(count.left_out.get(reason, 0)) for reason in reasons)])
    html = make_table("Cases found, used and left out", head, rows)
    return html + (make_definitions([(str(reason), ADVICE[reason]) for reason in reasons]) if reasons else "")


def rounds_table(story: ExperimentStory) -> str:
    """Each round: who contributed, who was left out and why, what travelled, how long it took."""
    reader = story.reader
    scored = {point.round: reader.headline_score(point.pooled) for point in story.validation_curve()}
    rows = []
    for one in story.round_list:
        left = ", ".join(f"{site} ({reason})" for site, reason in sorted(one.left_out.items()))
        rows.append(
            [
                str(one.number),
                ", ".join(f"{site} ({n})" for site, n in sorted(one.contributors.items())) or NOTHING,
                left or "nobody",
                format_number(one.loss, 4),
                format_number(scored.get(one.number)),
                format_megabytes(one.bytes_down),
                format_megabytes(one.bytes_up),
                format_duration(one.seconds),
                (one.model_digest or NOTHING)[:12],
            ]
        )
    head = [
        "round",
        "contributors (training cases)",
        "left out",
        "loss",
        f"validation {reader.title} of the aggregate",
        "to sites",
        "from sites",
        "took",
        "model",
    ]
    return make_table("Rounds", head, rows, words=(1, 2))


def _score_cells(scores: SplitScores, reader: ScoreReader) -> list[str]:
    if scores.withheld:
        return [*["withheld"] * len(reader.targets), "withheld", str(scores.cases)]
    found = reader.by_target(scores)
    return [
        *(format_number(found.get(target)) for target in reader.targets),
        format_number(reader.headline_score(scores)),
        str(scores.cases),
    ]


def _score_at(baseline: Baseline, site: str, reader: ScoreReader) -> float | None:
    scores = baseline.sites.get(site)
    return reader.headline_score(scores) if scores else None
