"""`experiment export --mlflow`, `--tensorboard`: the tools' own readers give the log's numbers."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from brokers import PARTIES, consortium_definitions
from finished_experiment import finished
from storytelling import complete

from deploy.cli.command import run_command
from deploy.cli.live import follow_live
from deploy.exports.targets import FollowedExport, open_targets
from deploy.session.connection import BrokerSession
from deploy.session.history import story_of_entries
from deploy.session.profile import Profile
from deploy.story.figures import list_points, list_settings
from deploy.story.story import ExperimentStory
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.chain import write_export

# The libraries' own notes of what they will drop are none of ours.
pytestmark = pytest.mark.filterwarnings("default")


def told() -> ExperimentStory:
    return story_of_entries(complete().entries, "try")


def part_told() -> ExperimentStory:
    """The same experiment before its last round."""
    return story_of_entries(complete().entries[:8], "try")


def expected() -> dict[tuple[str, int], float]:
    return {(one.name, one.step): one.value for one in list_points(told())}


def test_every_point_is_the_logs_and_has_the_logs_time() -> None:
    points = expected()
    assert points["loss/all", 1] == pytest.approx(2.0)
    assert points["loss/site-a", 2] == 0.5
    assert points["test/site-a/dice", 2] == pytest.approx(0.7)
    assert ("validation/all/dice", 1) in points
    story = told()
    assert story.started is not None
    assert all(story.started <= one.time <= (story.ended or 0.0) for one in list_points(story))


def test_no_curve_is_a_folder_of_another_one() -> None:
    names = {one.name for one in list_points(told())}
    assert not [name for name in names if any(other.startswith(f"{name}/") for other in names)]


def test_a_point_that_was_written_never_changes() -> None:
    """A tracker takes a value once; scores of an open round are still pooled."""
    final, entries = expected(), complete().entries
    for count in range(1, len(entries)):
        story = story_of_entries(entries[:count], "try")
        assert {(one.name, one.step): one.value for one in list_points(story)}.items() <= final.items(), count


def test_mlflows_own_reader_gives_the_logs_numbers(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    for story in (part_told(), told(), told()):  # as it is followed, and exported again
        (target,) = open_targets(None, tmp_path / "runs", None)
        target.take_story(story)
        target.close()
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true", "nobody else is told of an export"
    os.environ["MLFLOW_ALLOW_FILE_STORE"] = "true"
    client = MlflowClient(tracking_uri=(tmp_path / "runs").as_uri())
    named = client.get_experiment_by_name("konsil")
    assert named is not None
    (run,) = client.search_runs([named.experiment_id])
    read = {
        (name, one.step): one.value
        for name in run.data.metrics
        for one in client.get_metric_history(run.info.run_id, name)
    }
    assert read == expected()
    assert run.data.params == list_settings(told())
    assert run.data.tags["konsil.model_digest"] == told().model_digest
    assert run.info.status == "FINISHED"


def test_tensorboards_own_reader_gives_the_logs_numbers(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for _ in range(2):  # a second export replaces the first
        (target,) = open_targets(None, None, tmp_path)
        target.take_story(part_told())
        target.take_story(told())
        target.close()
    reader = EventAccumulator(str(tmp_path / "try"))
    reader.Reload()
    read = {(name, one.step): one.value for name in reader.Tags()["scalars"] for one in reader.Scalars(name)}
    assert read == pytest.approx(expected(), rel=1e-6)
    times = {(one.name, one.step): one.time for one in list_points(told())}
    assert all(one.wall_time == times["loss/all", one.step] for one in reader.Scalars("loss/all"))


def test_an_export_follows_an_experiment_to_its_end(tmp_path: Path) -> None:
    broker = MemoryBroker(consortium_definitions(PARTIES))
    finished(MemoryBus(broker, "coordinator"))
    profile = Profile(name="dr-a", consortium="test")
    with BrokerSession(MemoryBus(broker, "dr-a"), profile) as session:
        story = follow_live(session, "try", FollowedExport(open_targets(tmp_path, None, None)))
    assert story.phase == "complete"
    assert len((tmp_path / "rounds.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "no folder is named"),
        (["--csv", "a", "--tensorboard", "./a"], "two forms in one folder"),
        (["--csv", "a", "--follow"], "a file does not go on"),
    ],
)
def test_a_wrong_export_is_one_line(
    options: list[str],
    line: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_export(Path("try.konsil"), complete().entries)
    assert run_command(["experiment", "export", "try.konsil", *options]) == 2
    assert line in capsys.readouterr().err
    assert not Path("a").exists()
