"""A site that reads up what was said before its start: it prepares nothing for experiments that ended long ago."""

from __future__ import annotations

from pathlib import Path

import site_consortium as script
from agent_rig import Start
from brokers import eventually

from messages.kinds import ExperimentAborted, ExperimentFailed, Standing
from messages.reasons import Reason


def test_a_fresh_state_folder_prepares_nothing_that_ended_long_ago(
    start: Start, coordinator: script.ScriptedCoordinator, tmp_path: Path
) -> None:
    coordinator.ago = 30 * 86400.0
    coordinator.accept(script.experiment_file("old"))
    for other in range(300):  # what others did in between: more than comes at a time
        coordinator.accept(script.experiment_file(f"others-{other}", sites=["site-b"]))
    coordinator.say("experiment-aborted", ExperimentAborted(), experiment="old")
    coordinator.accept(script.experiment_file("goes-on"))
    coordinator.ago = 0.0
    start()
    joined = eventually(lambda: coordinator.of("joined"), what="joined")
    assert [one.experiment for one in joined] == ["goes-on"]
    logs = sorted(path.name for path in (tmp_path / "state" / "logs").iterdir())
    assert logs == ["goes-on.trainer.log"]  # no process was started for the others


def test_what_is_announced_now_is_prepared_at_once(start: Start, coordinator: script.ScriptedCoordinator) -> None:
    running = start()
    coordinator.accept()
    assert eventually(lambda: coordinator.of("joined"), what="joined")
    assert running.ask("status")["experiments"][0]["phase"] == "idle"


def test_that_an_experiment_ended_is_heard_also_where_its_standing_came_before_its_announcement(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    """A site that is started when all is over reads its inbox and the stream side by side."""
    running = start()
    ended = coordinator.author.write_event("experiment-failed", ExperimentFailed(reason=Reason.QUORUM_NOT_MET),
                                           time=0.0, experiment="exp-1", seq=1)  # fmt: skip
    coordinator.say("standing", Standing(state="failed", events=[ended.raw]), experiment="exp-1", to="site-a")
    eventually(lambda: running.agent.spool.term == 1, what="the standing is read")
    coordinator.accept()
    coordinator.bus.publish(ended.key, ended.raw)
    eventually(lambda: [one["phase"] for one in running.ask("status")["experiments"]] == ["ended"], what="its end")
