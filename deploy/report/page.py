"""The page: one self-contained HTML file, printable, light and dark, without a script or an external resource."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from itertools import accumulate
from pathlib import Path

from deploy.report import tables
from deploy.report.baselines import Baseline
from deploy.report.curves import Line, draw_chart
from deploy.report.doubts import doubts_section
from deploy.report.effort import phases_table, settings_table, sites_table
from deploy.report.html import format_count
from deploy.report.matrix import matrix_section
from deploy.report.statistics import statistics_section
from deploy.story.story import ExperimentStory
from messages.ground.durable import replace_file
from messages.ground.errors import WorkFailed

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""What a browser may do with a page: show it in its own style. No script, and nothing from elsewhere (W3C CSP 3)."""
STYLE = """
:root{color-scheme:light dark;--ink:#1a1c1e;--paper:#fff;--rule:#c9ced3;--soft:#f3f5f7}
@media(prefers-color-scheme:dark){:root{--ink:#e6e8ea;--paper:#16181b;--rule:#43484d;--soft:#202327}}
@media print{:root{--ink:#000;--paper:#fff;--rule:#999;--soft:#fff}body{max-width:none;padding:0}
figure,tr,dl{break-inside:avoid}h2,caption,thead{break-after:avoid}
.scroll{overflow:visible}th,td{padding:.2rem .4rem;overflow-wrap:break-word}}
*{box-sizing:border-box}
body{color:var(--ink);background:var(--paper);font:16px/1.5 system-ui,"Segoe UI",Roboto,sans-serif;
max-width:70rem;margin:0 auto;padding:1.5rem}
h1{font-size:1.7rem;margin:0 0 .2rem}h2{font-size:1.25rem;margin:2.2rem 0 .6rem;border-bottom:1px solid var(--rule)}
.lead{font-size:1.15rem;margin:.4rem 0 1.2rem}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.15rem 1.2rem;margin:1rem 0}
dt{font-weight:600}dd{margin:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto}
table{border-collapse:collapse;margin:1rem 0;min-width:60%;font-variant-numeric:tabular-nums}
caption{text-align:left;font-weight:600;padding:.3rem 0}
@media(max-width:40rem){dl{grid-template-columns:1fr}dd{margin-bottom:.4rem}caption{max-width:calc(100vw - 3rem);
white-space:normal}}
th,td{padding:.3rem .8rem;border-bottom:1px solid var(--rule);text-align:right;vertical-align:top}
thead th{background:var(--soft);vertical-align:bottom}
th:first-child,td:first-child{text-align:left}tbody th{font-weight:400}tr.total>*{font-weight:700}
td.text,th.text{text-align:left}
.charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,28rem),1fr));gap:1rem}
figure{margin:0;min-width:0}figcaption{font-weight:600;font-size:.95rem;overflow-wrap:anywhere}
figure svg{width:100%;height:auto}
.note{font-size:.9rem}pre{background:var(--soft);padding:.8rem;overflow-x:auto;border:1px solid var(--rule)}
"""


def write_report(
    story: ExperimentStory,
    path: Path,
    *,
    baselines: Sequence[Baseline] = (),
    log: Path | None = None,
    images: Mapping[str, str] | None = None,
) -> None:
    """Write the report, whole or not at all.

    Args:
        story: everything that is known of the experiment (it may still run).
        path: the HTML file.
        baselines: what the result is held against; none in the field, where nobody can pool.
        log: the exported event log, where there is one beside the report.
        images: site → where its images came from, in words; only a demo knows.

    Raises:
        WorkFailed: the file cannot be written.
    """
    write_page(path, render_report(story, baselines, log.name if log else None, images))


def write_page(path: Path, page: str) -> None:
    """Write a page, whole or not at all; WorkFailed where it cannot be written."""
    try:
        replace_file(path, page.encode())
    except OSError as error:
        raise WorkFailed(
            f"the report cannot be written ({error.strerror})", where=str(path), advice="Choose another place"
        ) from None


def render_report(
    story: ExperimentStory,
    baselines: Sequence[Baseline] = (),
    log_name: str | None = None,
    images: Mapping[str, str] | None = None,
) -> str:
    """The page as text."""
    title = f"Konsil: {story.id}"
    sections = [
        ("Why it ended", tables.failure_section(story)),
        ("Summary", tables.summary_table(story, images or {})),
        ("Statistics of the training cases", statistics_section(story)),
        ("Result", tables.results_table(story, baselines) + tables.side_by_side(story, baselines)),
        ("Cross-site matrix", matrix_section(story)),
        ("Contradictions", doubts_section(story)),
        ("Curves", _charts_section(story, baselines)),
        ("Cases", tables.cases_table(story)),
        ("Rounds", tables.rounds_table(story)),
        ("Updates", tables.updates_table(story)),
        ("Time and bytes", phases_table(story) + sites_table(story)),
        ("Settings", settings_table(story)),
        ("How to verify", _how_to_verify(story, log_name)),
    ]
    return frame_page(title, _lead_section(story, baselines), sections)


def frame_page(title: str, lead: str, sections: Sequence[tuple[str, str]], *, pictures: bool = False) -> str:
    """A whole page as text.

    Args:
        title, lead: text, escaped here.
        sections: heading and content as HTML; those without content are left out.
        pictures: whether the page holds pictures, as data URIs.
    """
    policy = f"{POLICY}; img-src data:" if pictures else POLICY
    body = "".join(f"<section><h2>{name}</h2>{content}</section>" for name, content in sections if content)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>"
        f'<p class="lead">{escape(lead)}</p><main>{body}</main></body></html>\n'
    )


def _lead_section(story: ExperimentStory, baselines: Sequence[Baseline]) -> str:
    test = story.test
    sites = len(story.joined) or len(story.sites)
    head = f"{format_count(sites, 'site')}, {format_count(story.completed_rounds, 'round')}"
    if test is None or test.mean is None:
        return f"{head}, {story.phase}{f' ({story.reason})' if story.reason else ''}: no test result."
    text = f"{head}: mean test {test.reader.title} {test.mean:.3f} over {format_count(test.n, 'case')}"
    if test.withheld:
        text += f" of {format_count(len(test.sites) - len(test.withheld), 'site')}"
        text += f"; {', '.join(test.withheld)} withheld {test.all_cases - test.n} of {test.all_cases} cases"
    elif len(test.sites) != sites:
        text += f" of {format_count(len(test.sites), 'site')}"
    for one in baselines:
        if score := one.score(test.reader):
            text += f"; {one.name} {score:.3f} (ratio {test.mean / score:.3f})"
    return text + "."


def _charts_section(story: ExperimentStory, baselines: Sequence[Baseline]) -> str:
    points, reader = story.validation_curve(), story.reader
    by_round = [point.round for point in points]
    federated = [reader.headline_score(point.pooled) or 0.0 for point in points]
    overall = [Line(reader.mean_title, by_round, federated, heavy=True)]
    for target in reader.targets:
        known = [(p.round, score) for p in points if (score := reader.by_target(p.pooled).get(target)) is not None]
        overall.append(Line(target, [x for x, _ in known], [y for _, y in known]))
    per_site = []
    losses = []
    for site in sorted(story.sites):
        known = [
            (p.round, d) for p in points if site in p.sites and (d := reader.headline_score(p.sites[site])) is not None
        ]
        per_site.append(Line(site, [x for x, _ in known], [y for _, y in known]))
        told = [(one.number, one.losses[site]) for one in story.round_list if site in one.losses]
        losses.append(Line(site, [x for x, _ in told], [y for _, y in told]))
    title, most = reader.title, reader.most
    charts = [
        (f"Validation {title} by round, overall", "rounds trained", title, overall, most),
        (f"Validation {title} by round, each site", "rounds trained", f"{title} ({reader.mean_title})", per_site, most),
        ("Training loss by round", "round", "loss (mean over steps)", losses, None),
    ]
    for curve in reader.draw_curves(story.test.pooled) if story.test is not None else ():
        lines = [Line(name, [x for x, _ in points], [y for _, y in points]) for name, points in curve.lines.items()]
        charts.append((curve.caption, curve.x_label, curve.y_label, lines, 1.0))
    epochs, steps = _effort_before(story)
    if any(one.curve for one in baselines):
        by_epoch = [Line("federated", [epochs.get(r, 0) for r in by_round], federated, heavy=True)]
        by_step = [Line("federated", [steps.get(r, 0) for r in by_round], federated, heavy=True)]
        for one in baselines:
            values = [point.score for point in one.curve]
            by_epoch.append(Line(one.name, [point.epoch for point in one.curve], values))
            by_step.append(Line(one.name, [point.steps for point in one.curve], values))
        charts += [
            (f"Validation {title} by epochs", "epochs over the training cases", title, by_epoch, most),
            (f"Validation {title} by optimiser steps", "optimiser steps in a row", title, by_step, most),
        ]
    figures = "".join(
        f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>"
        for name, x, y, lines, end in charts
        if (svg := draw_chart(name, x, y, lines, most=end))
    )
    note = (
        '<p class="note">Round 0 is the initial model. Steps in a row: at the federated sites, the mean of the sites; '
        "a pooled run takes about as many times more as there are sites.</p>"
    )
    return f'<div class="charts">{figures}</div>{note}' if figures else ""


def _effort_before(story: ExperimentStory) -> tuple[dict[int, float], dict[int, float]]:
    """Epochs and optimiser steps (mean over the sites) that lie behind the model after each round."""
    rounds = story.round_list
    epochs = [_mean_of([update.epochs for update in one.updates.values()]) for one in rounds]
    steps = [_mean_of([update.steps for update in one.updates.values()]) for one in rounds]
    numbers = [one.number for one in rounds]
    return (
        dict(zip(numbers, accumulate(epochs), strict=True)),
        dict(zip(numbers, accumulate(steps), strict=True)),
    )


def _mean_of(values: Sequence[int]) -> float:
    return sum(values) / len(values) if values else 0.0


def _how_to_verify(story: ExperimentStory, log_name: str | None) -> str:
    name = escape(log_name or f"{story.id}.konsil-log")
    export = "" if log_name else f"konsil audit export {escape(story.id)} --out {name}\n"
    return (
        "<p>The event log is a chain of hashes over every event and decision. These commands check the chain, and "
        "derive every decision anew from the events:</p>"
        f"<pre>{export}konsil audit verify {name}\nkonsil audit replay {escape(story.id)} {name}</pre>"
        f"<p>The model of this experiment has the digest <code>{escape(story.model_digest or 'none')}</code>.</p>"
    )
