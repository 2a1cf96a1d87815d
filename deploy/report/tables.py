"""The report's tables, from an `ExperimentStory` and its baselines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from deploy.report.baselines import Baseline
from deploy.report.html import (
    NOTHING,
    format_count,
    format_duration,
    format_megabytes,
    format_number,
    make_definitions,
    make_table,
)  # fmt: skip
from deploy.story.endings import explain_end
from deploy.story.parts import RoundStory, SiteStory, TestScores, late_words
from deploy.story.story import ExperimentStory
from messages.ground.units import human_moment
from messages.reasons import ADVICE, Reason
from messages.scores import SplitScores
from messages.tasks.base import ScoreReader, ScoreTable


def failure_section(story: ExperimentStory) -> str:
    """The same for the page."""
    return "".join(f"<p>{escape(line)}</p>" for line in explain_end(story))


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
        ("Supersedes", experiment.supersedes.words if experiment and experiment.supersedes else ""),
        ("Sites", ", ".join(f"{name} ({_standing_of(site)})" for name, site in sorted(story.sites.items()))),
        ("Images", "; ".join(f"{', '.join(names)}: {text}" for text, names in came)),
        ("Net", experiment.net.name if experiment else ""),
        ("Strategy", f"{experiment.plan.words}, {experiment.plan.strategy.words}" if experiment else ""),
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
        reached = story.evaluation is not None
        return f"<p>No test scores: {'no site has reported any' if reached else 'there was no evaluation'}.</p>"
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
    facts = []
    if test.unweighted_mean is not None:
        facts.append((f"Unweighted mean over {len(test.site_means)} sites", format_number(test.unweighted_mean)))
    if test.worst is not None:
        facts.append(("Worst site", f"{test.worst[0]}: {format_number(test.worst[1])}"))
    if test.withheld:
        told = ", ".join(f"{site} ({format_count(count, 'case')})" for site, count in test.withheld.items())
        facts.append(("Withheld, in no mean", f"{told}: fewer than the site shares scores of"))
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
    return html + make_definitions(facts) + details_table(test.pooled, reader) + _other_results(test)


def _other_results(test: TestScores) -> str:
    """The other metrics by site and overall: a table for each that has targets, and one for all that have none."""
    rows = [*sorted(test.sites.items()), ("overall", test.pooled)]
    found = {name: {one.name: one for one in test.reader.read_others(scores)} for name, scores in rows}
    metrics = {name: one for told in found.values() for name, one in told.items()}
    html, whole = "", [one for one in metrics.values() if not one.targets]
    if whole:
        cells = [
            [name, *(told[one.name].format_value(told[one.name].mean) if one.name in told else "-" for one in whole)]
            for name, told in found.items()
        ]
        head = ["", *(one.metric.title for one in whole)]
        html += make_table(f"All {test.reader.plural} together, on the test cases", head, cells, strong_rows=1)
    head = ["", *test.reader.targets, "mean"]
    for one in metrics.values():
        if one.targets:
            cells = [
                [name, *(here.format_value(here.targets.get(target)) for target in test.reader.targets),
                 here.format_value(here.mean)]
                for name, told in found.items() if (here := told.get(one.name)) is not None
            ]  # fmt: skip
            html += make_table(f"{one.metric.title} on the test cases", head, cells, strong_rows=1)
    return html


def details_table(scores: SplitScores, reader: ScoreReader) -> str:
    """What the means are made of, as the experiment's task lays it out; "" where nothing was scored."""
    found = reader.detail_table(scores)
    return "".join(_lay_out(one) for one in (found, *reader.other_tables(scores)) if one.rows)


def _lay_out(found: ScoreTable) -> str:
    return make_table(found.caption, found.head, [[_format_cell(value) for value in row] for row in found.rows])


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
    rows = []
    for one in story.round_list:
        point = story.validation_after(one.number)
        left = ", ".join(f"{site} ({reason})" for site, reason in sorted(one.left_out.items()))
        left = left if one.void is None else f"no sum ({one.void})" + (f"; {left}" if left else "")
        used = sorted(one.contributors.items())
        took = ", ".join(f"{site} ({cases}){late_words(one.staleness, site)}" for site, cases in used)
        rows.append(
            [
                str(one.number),
                took or NOTHING,
                left or (_given_up(one) if one.state == "open" else "") or "nobody",
                format_number(one.loss, 4),
                format_number(None if point is None else reader.headline_score(point.pooled)),
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
    title = "Rounds (secure: loss and scores are pooled only)" if story.is_secure else "Rounds"
    return make_table(title, head, rows, words=(1, 2))


def updates_table(story: ExperimentStory) -> str:
    """Each update beside the others of its round: "" where none was measured."""
    rows = [
        [
            str(number),
            site,
            NOTHING if one.share is None else f"{100 * one.share:.1f} %",
            NOTHING if one.norm is None else f"{one.norm:.4g}",
            NOTHING if one.ratio is None else f"{one.ratio:.3g}",
            format_number(one.cosine, 2),
            "stands out" if one.stands_out else "",
        ]
        for number, checks in sorted(story.checks.items())
        for site, one in checks.items()
    ]
    head = ["round", "site", "share", "norm", "x median", "cosine with the others", ""]
    return make_table("Updates of each round, beside each other", head, rows, words=(1, 6)) if rows else ""


def _given_up(one: RoundStory) -> str:
    """Who has given an open round up, and why."""
    return ", ".join(f"{site} ({reason})" for site, reason in sorted(one.failures.items()))


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
