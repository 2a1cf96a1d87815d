"""`konsil simulate` without training: faults on wish, what is kept, and that the number of workers changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulated import light, simulate

from deploy.simulate.layout import claim_folder
from deploy.simulate.wishes import Absence, Faults
from deploy.story.story import ExperimentStory
from messages.ground.errors import RequestError, WorkFailed

QUICK = {"enrol_within": "2m", "train_within": "10m", "grace": "1m"}


def contributors(story: ExperimentStory | None) -> list[set[str]]:
    assert story is not None
    return [set(one.contributors) for one in story.round_list]


def test_a_dropped_a_slow_and_a_late_site_do_what_the_settings_say(tmp_path: Path) -> None:
    experiment = light(("site-a", "site-b", "site-c", "site-d"), count=5, quorum={"least_sites": 1}, rounds=QUICK)
    faults = Faults((Absence("site-c", 2, 3),), {"site-b": 8.0}, {"site-d": 4})
    results, _said, story = simulate(tmp_path / "out", experiment, faults=faults)
    always = {"site-a"}  # site-b is never back within the grace period
    assert contributors(story) == [
        always | {"site-c"},
        always,
        always,
        always | {"site-c"},
        always | {"site-c", "site-d"},  # who joins in round 4 takes part from the next one on
    ]
    assert results[0].is_complete


def test_under_an_asynchronous_plan_a_slow_site_holds_up_nobody_and_its_updates_are_used(tmp_path: Path) -> None:
    plan, last = {"kind": "asynchronous", "buffer": 2, "max_staleness": 3}, {"select_by": "last"}
    experiment = light(count=6, rounds=QUICK, plan=plan, evaluation=last)
    faults = Faults((Absence("site-b", 4, 4),), {"site-c": 3.5}, {})
    results, _said, story = simulate(tmp_path / "out", experiment, faults=faults)
    assert results[0].is_complete
    assert story is not None
    assert contributors(story) == [{"site-a", "site-c" if number == 4 else "site-b"} for number in range(1, 7)]
    assert [dict(one.staleness) for one in story.round_list] == [{}, {}, {}, {"site-c": 3}, {}, {}]


def test_an_experiment_that_fails_is_a_result_with_its_reason(tmp_path: Path) -> None:
    experiment = light(count=2, quorum={"least_sites": "all"}, rounds=QUICK | {"extensions": 0})
    results, _said, _story = simulate(tmp_path / "out", experiment, faults=Faults((Absence("site-c", 2, 2),)))
    plain = results[0].as_plain()
    assert (plain["state"], plain["reason"], plain["model_digest"]) == ("failed", "quorum-not-met", None)
    assert Path(plain["report"]).exists()


def test_the_number_of_workers_changes_nothing_and_what_is_finished_is_kept(tmp_path: Path) -> None:
    experiment, kept = light(count=2, rounds=QUICK), tmp_path / "out"
    one, _said, _story = simulate(kept, experiment, jobs=1)
    two, _said, _story = simulate(tmp_path / "two", experiment, jobs=2, strategies=("FedAvg", "FedAdam"))
    assert (two[0].strategy, two[1].strategy) == ("FedAvg", "FedAdam")
    assert two[0].plain["model_digest"] == one[0].plain["model_digest"] != two[1].plain["model_digest"]
    assert two[0].plain["virtual_seconds"] == one[0].plain["virtual_seconds"]
    logs = [Path(each.plain["log"]).read_bytes() for each in (one[0], two[0])]
    assert logs[0] == logs[1]  # every entry, with its time: the same run to the last byte
    again, said, story = simulate(kept, experiment, jobs=2)
    assert again[0].plain == one[0].plain
    assert "kept as it was finished before" in said[0]
    assert story is None
    with pytest.raises(RequestError, match="other settings"):
        simulate(kept, experiment, faults=Faults(slow={"site-a": 2.0}))


def test_a_worker_that_ends_ends_the_simulation_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(WorkFailed, match="worker"):
        simulate(tmp_path / "out", light(), trainer=("false",))


def test_a_folder_is_one_simulations_at_a_time_and_no_other_folder_is_touched(tmp_path: Path) -> None:
    with claim_folder(tmp_path / "out"), pytest.raises(RequestError, match="another simulation runs in it"):
        simulate(tmp_path / "out", light())
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(RequestError, match="no simulation wrote it"):
        simulate(tmp_path / "mine", light())
    assert [one.name for one in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
