"""What a researcher, an auditor or a viewer sees: the experiments, one of them, several beside each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from html import escape

from deploy.cli.live import LATE, TROUBLE
from deploy.cli.words import (
    finish_words,
    headline_words,
    progress_words,
    recruiting_words,
    silence_words,
    state_words,
    update_lines,
    waiting_words,
)
from deploy.console import format_moment, format_score
from deploy.page.charts import draw_curves, draw_strict
from deploy.page.consortium import CLOCK_OFF, ConsortiumFollower
from deploy.page.sheet import Section, Sheet, make_link, make_list
from deploy.report.comparing import HEAD, comparison_rows, render_comparison_page
from deploy.report.curves import Line
from deploy.report.doubts import doubts_section
from deploy.report.html import NOTHING, make_definitions, make_table
from deploy.report.matrix import matrix_section
from deploy.report.page import render_report
from deploy.report.tables import cases_table, failure_section, results_table
from deploy.story.comparison import find_differences, find_incomparable
from deploy.story.story import ExperimentStory
from messages.ground.units import human_bytes, human_seconds

HOME = (("/", "Experiments"),)
LATEST = 40
"""Events and rounds that a page shows; the report has all."""
MOST_SETTINGS = 100


class ResearcherFace:
    """The pages of a consortium's experiments.

    Args:
        close: what ends the listening.
        broken: why nothing is heard any more; "" while all is well.
    """

    def __init__(
        self,
        name: str,
        follower: ConsortiumFollower,
        close: Callable[[], None] = lambda: None,
        broken: Callable[[], str] = lambda: "",
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name, self._follower, self._close, self._broken, self._clock = name, follower, close, broken, clock
        self._curves: dict[str, tuple[object, str]] = {}
        # To load the plotter takes a second: not the first reader's.
        threading.Thread(target=draw_strict, args=("-", "-", "-", [Line("-", [0], [0])], None), daemon=True).start()

    def close(self) -> None:
        self._close()

    def find_sheet(self, path: str, chosen: Sequence[str], now: float) -> Sheet | None:
        """`/`, `/experiment/ID`, `/compare?id=…&id=…`."""
        stories = {name: one for name, one in sorted(self._follower.stories.items()) if one.phase != "unknown"}
        if path == "/":
            return self._sheet(
                "Experiments", list_lead(stories, self._follower.caught_up), list_sections(stories, now), ()
            )
        if path == "/compare":
            picked = [stories[one] for one in dict.fromkeys(chosen) if one in stories]
            return self._sheet("Comparison", f"{len(picked)} experiments", comparison_sections(picked), HOME)
        story = stories.get(path.removeprefix("/experiment/")) if path.startswith("/experiment/") else None
        if story is None:
            return None
        sections = experiment_sections(story, now, self._curves_of(story))
        return self._sheet(story.id, headline_words(story, now), sections, HOME)

    def find_file(self, path: str) -> tuple[str, str] | None:
        """`/report/ID`: the report as a file; `/comparison/ID,ID`."""
        kind, _, name = path.removeprefix("/").partition("/")
        found = [self._follower.stories[one] for one in name.split(",")[:16] if one in self._follower.stories]
        if not found or kind not in ("report", "comparison"):
            return None
        if kind == "report":
            return f"{found[0].id}.html", render_report(found[0])
        return "comparison.html", render_comparison_page(found)

    def _sheet(self, title: str, lead: str, sections: Sequence[Section], links: tuple[tuple[str, str], ...]) -> Sheet:
        return Sheet(title, lead, tuple(sections), self._follower.heard_at, tuple(self._list_trouble()), links)

    def _list_trouble(self) -> list[str]:
        """What makes that less is known here than could be."""
        follower, told = self._follower, []
        if why := self._broken():
            told.append(f"This page hears nothing any more ({why}): start it again")
        if follower.is_down:
            told.append("The broker is not reached: what sites and coordinator do is not known until it is")
        if (ahead := follower.clock_ahead) is not None and abs(ahead) > CLOCK_OFF:
            said = f"{human_seconds(abs(ahead))} {'ahead of' if ahead > 0 else 'behind'}"
            told.append(f"The coordinator's clock is {said} this machine's: times here are off by so much")
        if not follower.hears_live:
            told.append("An auditor reads the event log alone: what sites do between two events is not heard here")
        return told

    def _curves_of(self, story: ExperimentStory) -> str:
        """Drawn anew only where there are new figures: it takes a second."""
        mark = (story.completed_rounds, story.phase, len(story.evaluations), len(story.round_list))
        known, drawn = self._curves.get(story.id, (None, ""))
        if known != mark:
            try:
                drawn = draw_curves(story)
            except ValueError:  # a name that the plotter takes for a formula
                drawn = ""
            self._curves[story.id] = (mark, drawn)
        return drawn


def list_lead(stories: Mapping[str, ExperimentStory], caught_up: bool) -> str:
    """How many there are, and how many of them go on."""
    open_ = sum(not one.over for one in stories.values())
    more = "" if caught_up else "; still reading what happened before"
    return f"{len(stories)} experiments, {open_} not over{more}"


def list_sections(stories: Mapping[str, ExperimentStory], now: float) -> list[Section]:
    """All experiments, those that go on first."""
    ranked = sorted(stories.values(), key=lambda one: (one.over, -(one.started or 0.0), one.id))
    rows = []
    for one in ranked:
        point, left = one.latest_point, one.eta_seconds(now)
        score = "" if point is None else f"{format_score(one.reader.headline_score(point.pooled))} {one.reader.title}"
        rows.append(
            [
                one.id,
                state_words(one),
                f"{one.completed_rounds} of {'?' if one.rounds_planned is None else one.rounds_planned}",
                score or NOTHING,
                human_seconds(left) if left is not None and one.phase == "running" else NOTHING,
                one.researcher or NOTHING,
                format_moment(one.started),
            ]
        )
    head = ["experiment", "state", "rounds", "validation", "left", "researcher", "started"]
    table = make_table("All experiments", head, rows, words={1, 5, 6}) if rows else "<p>No experiments yet.</p>"
    for one in ranked:
        cell = f'<th scope="row">{escape(one.id)}</th>'
        table = table.replace(cell, f'<th scope="row">{make_link(f"/experiment/{one.id}", one.id)}</th>', 1)
    picks = "".join(
        f'<li class="pick"><label><input type="checkbox" name="id" value="{name}"> {name}</label></li>'
        for name in (escape(one.id) for one in ranked)
    )
    compare = f'<form method="get" action="/compare"><ul class="picks">{picks}</ul><button>Compare</button></form>'
    return [Section("All", table), Section("Compare", compare if len(ranked) > 1 else "")]


def experiment_sections(story: ExperimentStory, now: float, curves: str) -> list[Section]:
    """One experiment."""
    return [
        Section("Why it ended", failure_section(story)),
        Section("Now", _now(story, now)),
        Section("Sites", _sites(story, now)),
        Section("Curves", curves),
        Section("Contradictions", doubts_section(story)),
        Section("Test scores", results_table(story, ()) if story.test is not None else ""),
        Section("Cross-site matrix", matrix_section(story)),
        Section("Cases", cases_table(story)),
        Section("Rounds", _rounds(story)),
        Section("Take away", _take_away(story)),
        Section("Events", _events(story)),
    ]


def _now(story: ExperimentStory, now: float) -> str:
    left = story.eta_seconds(now)
    current = story.current_round
    pairs = [
        ("State", state_words(story)),
        ("Round", "" if current is None else f"{current.number} of {story.rounds_planned or '?'}, {current.state}"),
        ("Time left", f"about {human_seconds(left)}" if left is not None and story.phase == "running" else ""),
        ("Waits", waiting_words(story, now) or recruiting_words(story)),
        ("To end it", finish_words(story)),
        ("Coordinator", silence_words(story, now)),
        ("Bytes", f"{human_bytes(story.bytes_down)} to sites, {human_bytes(story.bytes_up)} from them"),
    ]
    odd = make_list([one.strip() for one in update_lines(story, max(story.checks))] if story.checks else [])
    return make_definitions([(name, value) for name, value in pairs if value]) + odd


def _sites(story: ExperimentStory, now: float) -> str:
    point, rows = story.latest_point, []
    latest = {} if point is None else point.sites
    for name, site in sorted(story.sites.items()):
        presence = "" if story.over else story.presence_of(name, now)
        said = site.state + (f" ({site.reason})" if site.reason else "")
        trouble = LATE if presence == "slow" and story.is_late(name) else TROUBLE.get(presence, "")
        cases = site.cases
        left = "" if cases is None else ", ".join(f"{count} {why}" for why, count in sorted(cases.left_out.items()))
        score = story.reader.headline_score(latest[name]) if name in latest else None
        rows.append(
            [
                name,
                said,
                presence or NOTHING,
                ("" if story.over else progress_words(story, name)) or trouble or NOTHING,
                NOTHING if cases is None else f"{cases.used} of {cases.found}",
                left or NOTHING,
                format_score(score),
            ]
        )
    title = story.reader.title + (f" after round {point.round}" if point is not None else "")
    head = ["site", "standing", "is", "doing", "cases used", "left out", title]
    return make_table("Who takes part, and what each does", head, rows, words={1, 2, 3, 5}) if rows else ""


def _rounds(story: ExperimentStory) -> str:
    # One look at the curve for all rounds: validation_after would walk it once for each.
    scored = {point.round: point.pooled for point in story.validation_curve()}
    shown = story.round_list[-LATEST:]
    rows = []
    for one in reversed(shown):
        found = scored.get(one.number)
        left = ", ".join(f"{site} ({why})" for site, why in sorted({**one.failures, **one.left_out}.items())[:8])
        rows.append(
            [
                str(one.number),
                one.state,
                f"{len(one.contributors) or len(one.updates)} of {len(one.sites)}",
                NOTHING if one.loss is None else f"{one.loss:.4f}",
                NOTHING if found is None else format_score(story.reader.headline_score(found)),
                human_bytes(one.bytes_up),
                NOTHING if one.seconds is None else human_seconds(one.seconds),
                left or NOTHING,
            ]
        )
    head = ["round", "state", "updates", "loss", story.reader.title, "bytes up", "took", "without"]
    caption = f"The last {len(shown)} of {len(story.rounds)} rounds; the score is of the model that the round made"
    return make_table(caption, head, rows, words={1, 7}) if rows else ""


def _take_away(story: ExperimentStory) -> str:
    report = make_link(f"/file/report/{story.id}", "Report (an HTML file)")
    model = (
        f"Model <code>{escape(story.model_digest)}</code>: <code>konsil experiment model {escape(story.id)}</code>"
        if story.model_digest
        else "No model yet"
    )
    log = f"Event log: <code>konsil audit export {escape(story.id)} --out {escape(story.id)}.konsil-log</code>"
    return f"<ul><li>{report}</li><li>{model}</li><li>{log}</li></ul>"


def _events(story: ExperimentStory) -> str:
    latest = sorted(story.moments[-LATEST:], key=lambda one: one.time, reverse=True)
    rows = [[format_moment(one.time), one.who, one.what] for one in latest]
    caption = f"The last {len(rows)} of {len(story.moments)}, the newest first"
    return make_table(caption, ["time", "who", "what"], rows, words={1, 2}) if rows else ""


def comparison_sections(stories: Sequence[ExperimentStory]) -> list[Section]:
    """Several experiments beside each other."""
    if len(stories) < 2:
        return [Section("Nothing to compare", "<p>Choose two experiments or more on the first page.</p>")]
    changed = find_differences(stories)[:MOST_SETTINGS]
    settings = [[one.key, *one.values] for one in changed]
    names = [one.id for one in stories]
    ids = ",".join(names)
    return [
        Section("Results", make_table("Each experiment", HEAD, comparison_rows(stories), words={1, 2, 6})),
        Section("Not comparable", make_list(find_incomparable(stories))),
        Section(
            "Settings that differ",
            make_table("Keys of the experiment files", ["setting", *names], settings) if settings else "",
        ),
        Section("Take away", f"<p>{make_link(f'/file/comparison/{ids}', 'Comparison (an HTML file)')}</p>"),
    ]
