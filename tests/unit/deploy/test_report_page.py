"""The report: what it says, and that it needs nothing but itself."""

from __future__ import annotations

import re
import sys
from dataclasses import replace
from html import escape, unescape
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest
from immutables import Map

from deploy.report import Baseline, Gain, Point, render_report, write_report
from deploy.report.curves import Line, draw_chart
from deploy.report.page import STYLE
from deploy.story.parts import RoundStory, SiteStory, UpdateStory
from deploy.story.story import ExperimentStory
from deploy.story.summary import story_as_plain
from messages import experiment as experiments
from messages import kinds
from messages.ground.errors import WorkFailed
from messages.reasons import Reason
from messages.scores import ScoreSums, SplitScores, sum_scores

SITES = ("site-a", "site-b", "site-c")
FILE = """
schema = 1
id = "tiny-01"
sites = ["site-a", "site-b", "site-c"]
purpose = "trying <b>things</b>"
[task]
kind = "segmentation"
channels = ["T1", "FLAIR"]
[task.regions]
WT = ["ED", "ET"]
ET = ["ET"]
[data]
dataset = "glioma"
[net]
name = "UNet"
[rounds]
count = 4
"""
PLATFORM = kinds.Platform(device_type="cpu", threads=1, versions={"torch": "2.13.0"}, deterministic=True)
CASES = kinds.CaseCounts(
    found=14, used=12, left_out={Reason.NO_LABEL: 1, Reason.SHAPE_MISMATCH: 1}, train=8, validation=2, test=2
)


def scores(*wt: float) -> SplitScores:
    dice = {
        "WT": sum_scores(list(wt), reference_empty=[False] * len(wt)),
        "ET": sum_scores([value / 2 for value in wt], reference_empty=[False] * len(wt)),
    }
    return SplitScores(cases=len(wt), metrics={"dice": dice})


def update(site: str, number: int) -> UpdateStory:
    return UpdateStory(
        site, 8, CASES, 1, 16, 1.5 / number, 3.0, scores(0.2 * number, 0.22 * number), 300_000, PLATFORM, 0.0
    )


@pytest.fixture
def story() -> ExperimentStory:
    rounds = {
        number: RoundStory(
            number,
            state="complete",
            started=1.7e9 + 10 * number,
            sites=SITES,
            evaluate=True,
            model_bytes=300_000,
            accepted=frozenset(SITES),
            updates={site: update(site, number) for site in SITES if (site, number) != ("site-c", 3)},
            contributors={site: 8 for site in SITES if (site, number) != ("site-c", 3)},
            left_out={"site-c": Reason.ABSENT} if number == 3 else {},
            model_digest="ab" * 32,
            seconds=9.5,
        )
        for number in range(1, 5)
    }
    final = {
        site: {"final": kinds.ModelScores(model_digest="cd" * 32, splits={"test": scores(0.8, 0.9)})} for site in SITES
    }
    return ExperimentStory(
        "tiny-01",
        phase="complete",
        experiment=experiments.parse_experiment(FILE),
        digest="ef" * 32,
        researcher="dr-a",
        started=1.7e9,
        ended=1.7e9 + 60,
        sites={site: SiteStory(site, "joined", cases=CASES, platform=PLATFORM) for site in SITES},
        rounds=Map(rounds),
        evaluations=final,
        model_label="final",
        model_digest="cd" * 32,
        model_round=4,
        final_digest="cd" * 32,
    )


BASELINE = Baseline(
    "pooled",
    {site: scores(0.85, 0.95) for site in SITES},
    curve=tuple(Point(epoch, 48 * epoch, 0.15 * epoch) for epoch in range(5)),
    seconds=30.0,
    gain=Gain(-0.03, -0.05, -0.01, 6),
)


class Structure(HTMLParser):
    """Tags that are open at the end, resources that would be fetched, and tables without a header."""

    VOID = {"meta", "link", "br", "img", "hr", "input"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(str(value))
            if name in ("src", "href", "xlink:href") and not str(value).startswith("#"):
                self.fetched.append(str(value))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def text_of(html: str) -> str:
    return re.sub(r"<[^>]+>", " ", re.sub(r"<style>.*?</style>", "", html, flags=re.DOTALL))


def test_the_page_is_well_formed_and_fetches_nothing(story: ExperimentStory) -> None:
    structure = Structure()
    structure.feed(render_report(story, [BASELINE]))
    assert structure.open == []
    assert structure.fetched == []
    assert "<script" not in render_report(story, [BASELINE])
    assert "@import" not in render_report(story, [BASELINE])


def test_overall_pools_all_test_cases_and_stands_beside_pooled_with_their_ratio(story: ExperimentStory) -> None:
    text = text_of(render_report(story, [BASELINE]))
    assert "mean test Dice 0.638 over 6 cases; pooled 0.675 (ratio 0.944)" in text
    assert "-0.0300 (95 % interval -0.0500 to -0.0100, n = 6)" in text


def test_a_site_that_was_left_out_of_a_round_is_named_with_its_reason(story: ExperimentStory) -> None:
    assert "site-c (absent)" in text_of(render_report(story))


def test_cases_that_were_left_out_are_counted_by_reason(story: ExperimentStory) -> None:
    text = text_of(render_report(story))
    assert "no-label" in text
    assert "shape-mismatch" in text


def test_the_five_curves_are_drawn_and_letters_take_the_pages_colour(story: ExperimentStory) -> None:
    html = render_report(story, [BASELINE])
    assert html.count("<svg") == 5
    assert render_report(story).count("<svg") == 3  # without a baseline there is nothing to hold it against
    assert "currentColor" in html
    assert "#010203" not in html


def test_a_curve_fills_its_chart_instead_of_lying_squeezed_between_0_and_1() -> None:
    rounds, scores = [1.0, 2.0, 3.0, 4.0], [0.80, 0.82, 0.83, 0.835]
    svg = draw_chart("Dice", "round", "Dice", [Line("site-a", rounds, scores)], most=1.0)
    drawn = ElementTree.fromstring(svg)
    letters = [(text.text or "") for text in drawn.iter("{http://www.w3.org/2000/svg}text")]
    ticks = [float(text) for text in letters if re.fullmatch(r"0\.\d+", text)]
    assert min(ticks) > 0.7
    assert max(ticks) < 0.9
    whole = draw_chart("Dice", "round", "Dice", [Line("site-a", rounds, [0.0, 0.5, 0.9, 1.0])], most=1.0)
    assert "1.0" in [text.text for text in ElementTree.fromstring(whole).iter("{http://www.w3.org/2000/svg}text")]


def test_a_caption_is_broken_where_a_table_is_wider_than_a_phone() -> None:
    """A caption is as wide as its table, which scrolls: so its width is that of the screen, less the page's margins."""
    (narrow,) = re.findall(r"@media\(max-width:40rem\)\{((?:[^{}]*\{[^{}]*\})*)\}", STYLE)
    (rule,) = re.findall(r"caption\{([^}]*)\}", narrow)
    assert dict(one.split(":") for one in rule.replace("\n", "").split(";")) == {
        "max-width": "calc(100vw - 3rem)",
        "white-space": "normal",
    }
    assert "padding:1.5rem" in STYLE  # twice this is what the width leaves free


def test_what_a_researcher_wrote_cannot_become_markup(story: ExperimentStory) -> None:
    assert "<b>things</b>" not in render_report(story)


def test_the_same_story_gives_the_same_bytes(story: ExperimentStory) -> None:
    assert render_report(story, [BASELINE]) == render_report(story, [BASELINE])


def test_an_experiment_without_a_result_is_reported_as_such() -> None:
    empty = ExperimentStory("tiny-02", phase="failed", reason=Reason.ENROLMENT_FAILED)
    text = text_of(render_report(empty))
    assert "no test result" in text
    assert "enrolment-failed" in text


def test_a_report_that_cannot_be_written_says_where(story: ExperimentStory, tmp_path: Path) -> None:
    with pytest.raises(WorkFailed, match="cannot be written"):
        write_report(story, tmp_path / "missing" / "report.html")


def test_the_report_is_written_whole(story: ExperimentStory, tmp_path: Path) -> None:
    write_report(story, tmp_path / "report.html", baselines=[BASELINE])
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]
    assert (tmp_path / "report.html").read_text().endswith("</html>\n")


def test_a_site_that_never_answered_and_one_that_declined_say_so(story: ExperimentStory) -> None:
    told = story.with_site("site-b", state="declined", reason=Reason.TOO_FEW_CASES).with_site("site-c", state="invited")
    page = render_report(told)
    assert "site-b (declined: too-few-cases), site-c (no answer)" in page
    assert '<p class="lead">1 site, ' in page


def test_what_one_site_says_of_itself_ends_no_report(story: ExperimentStory) -> None:
    """A log of logic 2 may hold any loss, and scores that do not pool."""
    odd = SplitScores(cases=2**53, metrics={"dice": {"WT": ScoreSums(n=2**53, sum=1.0, squares=1.0)}})
    told = story
    for number, one in story.rounds.items():
        updates = {
            site: replace(each, loss=sys.float_info.max, validation=odd, cases_used=2**53)
            for site, each in one.updates.items()
        }
        told = told.with_round(number, updates=updates, validation=None)
    splits = {"test": odd, "validation": odd}
    found = {"final": kinds.ModelScores(model_digest="a" * 64, splits=splits)}
    told = replace(told, evaluations=dict.fromkeys(told.sites, found))
    page = render_report(told, ())
    assert len(page) < 2 * len(render_report(story, ())) + 10_000
    story_as_plain(told)


def test_time_and_bytes_are_told_by_phase_and_by_site(story: ExperimentStory) -> None:
    """Enrolment ends as round 1 opens; of a round what the slowest site does not train is transfers and waiting."""
    told = replace(story, evaluation=RoundStory(5, started=1.7e9 + 50, sites=SITES, model_bytes=300_000))
    rows = rows_of(render_report(told), "Time and bytes by phase")
    assert rows["enrolment"] == ["10.0 s", "–", "–"]
    assert rows["rounds"] == ["38.0 s", "3.6 MB", "3.3 MB"]
    assert rows["of these, the slowest site's training"][0] == "12.0 s"
    assert rows["transfers, waiting, averaging"][0] == "26.0 s"
    assert rows["evaluation"] == ["10.0 s", "0.9 MB", "–"]
    assert rows["all"][0] == "1 min 0 s"
    sites = rows_of(render_report(told), "Each site's work, all rounds")
    assert sites["site-a"] == ["4", "64", "12.0 s", "1.2 MB"]
    assert sites["site-c"] == ["3", "48", "9.0 s", "0.9 MB"]


def test_an_experiment_that_never_began_has_no_table_of_phases(story: ExperimentStory) -> None:
    assert "by phase" not in text_of(render_report(replace(story, rounds=Map())))


def test_every_setting_is_told_what_nobody_wrote_too(story: ExperimentStory) -> None:
    rows = rows_of(render_report(story), "The experiment file, with its defaults")
    assert rows["rounds.count"] == ["4"]
    assert rows["task.regions.WT"] == ["ED, ET"]
    assert rows["training.optimizer.lr"] == ["0.001"]


def rows_of(html: str, caption: str) -> dict[str, list[str]]:
    """A table's rows by their heading cell."""
    table = html[html.index(f"<caption>{escape(caption)}</caption>") :]
    found = re.findall(r"<tr[^>]*>(.*?)</tr>", table[: table.index("</table>")])
    cells = [[unescape(one) for one in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in found]
    return {first: rest for first, *rest in cells}
