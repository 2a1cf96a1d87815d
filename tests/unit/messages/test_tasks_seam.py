"""A task is two files: one that only tests have goes from rows to report and metrics, and nothing else is changed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import storytelling
from places import ROOT
from share_task import ShareRow, ShareRows, registered, share_experiment
from storytelling import CASES, PLATFORM, SITES, Teller, digest

from coordinator.core import inputs
from coordinator.core.decisions import Completed, from_plain
from coordinator.core.evolve import fold_decisions
from coordinator.loop.tally import Tally
from coordinator.metrics import make_readings
from deploy.cli import words
from deploy.report import Baseline, Gain, Point, render_report
from deploy.session.history import story_of_entries
from deploy.story.summary import round_summary, story_as_plain
from messages import codec, kinds
from messages.experiment import Experiment, read_recorded
from messages.ground.errors import ConfigError, MalformedMessage
from messages.ground.settings import parse_settings
from messages.scores import SplitScores, pool_scores
from messages.tasks.registry import TASKS
from site_agent.core import policy
from site_agent.core.permissions import Floors
from site_agent.training.protocol import Evaluated, decode_reply, encode_frame

OWN_WORDS = re.compile(r"\bdice\b|region|hd95", re.IGNORECASE)


@pytest.fixture(autouse=True)
def task() -> Iterator[None]:
    with registered():
        yield


def experiment(**changes: Any) -> Experiment:
    return share_experiment({**storytelling.PLAIN, "evaluation": {"every": 1}, **changes})


def scores(*errors: float | None) -> SplitScores:
    return ShareRows(split="test", cases=[ShareRow(case=str(n), error=one) for n, one in enumerate(errors)]).scores()


def told(first: float, second: float, last: float) -> Teller:
    """Two rounds and the evaluation; the errors of the models that the sites received, and of the last one."""
    teller = Teller()
    chosen = experiment()
    teller.say("dr-a", "experiment-start", kinds.ExperimentStart(experiment=chosen.as_plain()), admitted=SITES)
    for site in SITES:
        teller.say(site, "joined", kinds.Joined(cases=CASES, platform=PLATFORM))
    teller.give(
        inputs.Initialised(time=teller.tick(), manifest=storytelling.MANIFEST, seal=digest("0"), digest=digest("a"))
    )
    for number, (letter, error) in enumerate((("b", first), ("c", second)), start=1):
        for site in SITES:
            teller.say(site, "round-accepted", kinds.RoundAccepted(), number)
            teller.update(site, number, 0.5, 1.0, validation=scores(error))
        teller.give(
            inputs.Aggregated(time=teller.tick(), round=number, seal=digest(str(number)), digest=digest(letter))
        )
    assert teller.state is not None
    final = kinds.ModelScores(
        model_digest=digest("c"), splits={"validation": scores(last), "test": scores(last, last + 10)}
    )
    candidates = {"final": final}
    if teller.state.selected != teller.state.completed:
        candidates["selected"] = final.model_copy(update={"model_digest": digest("b")})
    for site in SITES:
        teller.say(site, "evaluated", kinds.Evaluated(scores=candidates), 3)
    return teller


def test_its_keys_its_defaults_and_its_digest_come_back_over_the_wire() -> None:
    one = experiment()
    assert one.training.loss == "l1"
    assert one.evaluation.metrics == ("share-error",)
    assert one.task.out_channels == 1
    again = Experiment.model_validate(codec.unpack(codec.pack(one.as_plain())))
    assert (again, again.digest()) == (one, one.digest())
    assert one.form == 1  # 0.1 knew segmentation alone; what it means by keys that are left out is written down
    assert one.as_plain()["training"]["loss"] == "l1"
    assert read_recorded(one.as_plain()) == one


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"loss": "dice+bce"}}, r"training\.loss: share has \"l1\""),
        ({"evaluation": {"metrics": ["dice"]}}, r"evaluation\.metrics: share has \"share-error\", not 'dice'"),
        ({"evaluation": {"select_by": "validation.dice.mean"}}, 'share has "validation.share-error.mean"'),
        ({"task": {"kind": "share", "channels": ["T1"], "of": ["ED"], "regions": {}}}, r"'task\.regions' is unknown"),
        ({"task": {"kind": "sahre", "channels": ["T1"]}}, "'regression' or 'share'"),
        ({"task": {"channels": ["T1"], "regions": {"a": ["A"]}}}, r"'task\.kind' is missing"),
    ],
)
def test_words_of_another_task_are_refused_with_its_own(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_settings({**experiment().as_plain(), **changes}, Experiment, "file")


def test_words_of_this_task_are_refused_in_a_segmentation() -> None:
    with pytest.raises(ConfigError, match=r"training\.loss: segmentation has \"dice\+bce\", \"dice\+ce\", not 'l1'"):
        parse_settings({**storytelling.PLAIN, "training": {"loss": "l1"}}, Experiment, "file")


def test_its_rows_go_from_the_trainer_to_the_agent_and_leave_the_site_as_sums() -> None:
    rows = ShareRows(split="test", cases=[ShareRow(case=f"c{n}", error=float(n)) for n in range(6)])
    reply = Evaluated(round=1, label="final", scores=[rows])
    assert decode_reply(encode_frame(reply)[4:]) == reply
    shared = policy.scores_for_sharing(Floors(), rows.scores())
    assert shared.rows is None
    assert shared.mean_score("share-error") == pytest.approx(2.5)


def test_rows_that_are_not_of_their_task_are_refused() -> None:
    reply = Evaluated(round=1, label="final", scores=[experiment().task.rehearse_split("test", 2)])
    with pytest.raises(MalformedMessage):
        decode_reply(encode_frame(reply).replace(b"\xa5share", b"\xa5sahre")[4:])


def test_the_better_model_is_the_one_with_the_smaller_error() -> None:
    for errors, label, rounds in (((40.0, 5.0, 20.0), "selected", 1), ((40.0, 30.0, 20.0), "final", 2)):
        teller = told(*errors)
        last = [from_plain(one) for one in codec.unpack(teller.entries[-1].body)["decisions"]]
        done = next(one for one in last if isinstance(one, Completed))
        assert (done.label, done.rounds) == (label, rounds)


@pytest.mark.parametrize(
    "strange",
    [
        {"metrics": {"share-error": {"Mueller": {}}}},
        {"metrics": {"dice": {"labelled": {}}}},
        {"rows": [{"Mueller": 0.5}]},
    ],
)
def test_scores_that_it_does_not_ask_for_are_refused(strange: dict[str, Any]) -> None:
    reader = experiment().task.reader
    assert not reader.asks_for(SplitScores.model_validate({"cases": 1, **strange}))
    assert reader.asks_for(scores(1.0))


def test_watch_report_summary_and_metrics_say_its_words_and_no_other_tasks() -> None:
    teller = told(40.0, 30.0, 20.0)
    story = story_of_entries(teller.entries, "try")
    baseline = Baseline(
        "pooled", {site: scores(10.0) for site in SITES}, (Point(1, 3, 15.0),), 3.0, Gain(1.0, 0.5, 1.5, 4)
    )
    page = render_report(story, [baseline])
    summed = [story_as_plain(story), *(round_summary(one, story) for one in story.round_list)]
    watched = [words.headline_words(story, 0.0), *words.closing_lines(story)]
    for text in (page, str(summed), "\n".join(watched)):
        assert OWN_WORDS.findall(text) == []
    assert "mean test Share error (%) 25.000 over 4 cases; pooled 10.000" in page
    assert "<caption>Share error (%) by quantity over all test cases</caption>" in page
    assert "Validation Share error (%) by round, overall" in page
    assert "  test Share error (%) overall  25.0000 (labelled 25.000), n = 4" in watched
    assert summed[0]["test"]["quantities"] == {"labelled": 25.0}
    assert summed[1]["site_validation"]["site-a"]["quantities"] == {"labelled": 30.0}  # of the model that round 1 made
    assert story.test is not None
    assert story.test.worst == ("site-a", 25.0)  # of equals the first; the worst is the largest


def test_its_figures_have_its_metrics_name() -> None:
    tally, before = Tally(), None
    for entry in told(40.0, 30.0, 20.0).entries[:-2]:
        for plain in codec.unpack(entry.body)["decisions"]:
            decision = from_plain(plain)
            tally.count_decision(before, decision, entry.time)
            before = fold_decisions(before, (decision,))
    assert before is not None
    found = {
        one.name: one for one in make_readings(tally, {"try": before}, {}, entries=0, term=1, lag=0, model_bytes=0)
    }
    assert found["konsil_validation_share_error"].samples == (({"experiment": "try", "quantity": "labelled"}, 30.0),)
    assert found["konsil_validation_dice"].samples == ()


def test_pooling_sites_is_scoring_all_cases_at_once() -> None:
    reader = experiment().task.reader
    assert reader.headline_score(pool_scores([scores(1.0, 2.0), scores(6.0)])) == pytest.approx(3.0)
    assert reader.headline_score(pool_scores([scores(None)])) is None


ELSEWHERE = ("coordinator", "messages", "nets", "site_agent/core", "site_agent/loop", "site_agent/trainers",
             "site_agent/training", "deploy/story", "deploy/cli", "deploy/report")  # fmt: skip
OWN = ("messages/tasks", "site_agent/training/tasks")
FROZEN = {"messages/sections.py": 3, "messages/forms.py": 5, "site_agent/training/protocol.py": 2}
"""Keys and defaults of 0.1, and names under which a site's own trainer imports rows."""


def test_no_module_outside_a_tasks_files_knows_what_it_scores() -> None:
    found: dict[str, int] = {}
    for folder in ELSEWHERE:
        for file in (ROOT / folder).rglob("*.py"):
            name = str(file.relative_to(ROOT))
            lines = [line for line in file.read_text(encoding="utf-8").splitlines() if OWN_WORDS.search(line)]
            if lines and not name.startswith(OWN):
                found[name] = len(lines)
    assert found == FROZEN


@pytest.mark.parametrize("kind", [kind for kind in TASKS if kind != "share"])
def test_every_task_has_its_section_and_names_its_words_there(kind: str) -> None:
    page = Path(ROOT, "docs", "experiment-file.md").read_text(encoding="utf-8")
    section = page.split(f'### kind = "{kind}"', 1)[1].split("\n## ", 1)[0]
    reader = TASKS[kind].reader_type
    words = (*TASKS[kind].losses, *reader.metrics, *(TASKS[kind].model_fields.keys() - {"kind", "channels"}))
    assert [word for word in words if f"`{word}`" not in section and f'"{word}"' not in section] == []


def test_an_unknown_experiments_scores_still_read() -> None:
    unknown = words.score_words(scores(4.0, 6.0), story_of_entries([], "nothing").reader)
    assert unknown == "5.0000 (labelled 5.000)"
