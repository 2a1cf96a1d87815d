"""Two processes train a round together: one's result but for rounding, and the same bits each time, after kills too."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trainer_rig import SECONDS, Trainer, experiment, preparation, write_data

from messages.experiment import Experiment
from messages.ground.crash import AT
from nets.build import build_net
from nets.initial import initial_model
from site_agent.training.files import open_model
from site_agent.training.protocol import CheckpointEvent, Prepared, Train, Trained
from site_agent.training.together.gradients import find_obstacle, split_rows
from site_agent.training.together.team import MEMBER_GONE

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(("rows", "size"), [(5, 2), (4, 2), (1, 2), (2, 4), (7, 3)])
def test_every_patch_is_taken_by_one_process_and_the_leader_has_some(rows: int, size: int) -> None:
    parts = split_rows(rows, size)
    assert [row for part in parts for row in range(rows)[part]] == list(range(rows))
    widths = [part.stop - part.start for part in parts]
    assert widths[0] == max(widths) <= min(widths) + 1


def test_a_net_that_looks_at_a_whole_batch_is_trained_by_one_process() -> None:
    unet: dict[str, Any] = {"name": "UNet", "channels": [4, 8], "strides": [2]}
    assert find_obstacle(build_net(unet, 1, 1, 0)) is None
    assert "batch norms" in str(find_obstacle(build_net(unet | {"norm": "batch"}, 1, 1, 0)))
    assert "dropout" in str(find_obstacle(build_net(unet | {"dropout": 0.1}, 1, 1, 0)))
    swin = {"name": "SwinUNETR", "feature_size": 12, "heads": [1, 1, 1, 1], "path_dropout": 0.1}
    assert "by chance" in str(find_obstacle(build_net(swin, 1, 1, 0)))


def member_of(trainer: Trainer) -> int:
    pid = trainer.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def test_two_processes_make_what_one_makes_and_a_killed_round_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(tmp_path)
    plain = experiment(name="SGD", lr=0.1).as_plain()  # Adam makes much of what is rounding alone
    plain["training"] |= {"local_epochs": None, "local_steps": 4, "batch": 3, "accumulate": 2, "clip_norm": 1.0}
    chosen = Experiment.model_validate(plain)
    manifest, buffer = initial_model(chosen)
    (tmp_path / "model").write_bytes(buffer)
    crash = tmp_path / "crash"
    monkeypatch.setenv(AT, str(crash))

    def prepare(trainer: Trainer, cache: str, processes: int) -> None:
        request = preparation(tmp_path, chosen, cache).model_copy(update={"processes": processes, "threads": 2})
        prepared = trainer.ask(request)
        assert isinstance(prepared, Prepared)
        assert prepared.versions.get("processes") == (None if processes == 1 else "2")

    def train(trainer: Trainer, cache: str, processes: int, every: float | None) -> None:
        prepare(trainer, cache, processes)
        trainer.process.send_request(
            Train(
                round=1, attempt=1, model=str(tmp_path / "model"), manifest=manifest.plain(), update=manifest.plain(),
                output=str(tmp_path / cache / "update"), checkpoint_seconds=every,
            )
        )  # fmt: skip

    def finish(trainer: Trainer) -> list[CheckpointEvent]:
        events = []
        while not isinstance(reply := trainer.replies.get(timeout=SECONDS), Trained):
            events += [reply] if isinstance(reply, CheckpointEvent) else []
        return events

    first, second = (Trainer(log=tmp_path / f"{name}.log") for name in ("first", "second"))
    try:
        crash.write_text("trainer:checkpoint 2")
        train(first, "killed", 2, 0.0)
        assert first.statuses.get(timeout=SECONDS) == -signal.SIGKILL
        train(second, "killed", 2, 0.0)
        assert [one.step for one in finish(second) if one.what == "resumed"] == [2]
        train(second, "one", 1, None)
        finish(second)
        train(second, "calm", 2, None)  # the team of before has ended with its session: this is another one
        finish(second)
        updates = {name: open_model(tmp_path / name / "update", manifest) for name in ("killed", "calm", "one")}
        begun = open_model(tmp_path / "model", manifest)
        for name, one in updates["one"].items():
            together = updates["calm"][name].read_all()
            np.testing.assert_array_equal(updates["killed"][name].read_all(), together)
            np.testing.assert_allclose(together, one.read_all(), rtol=1e-3, atol=2e-5)
        assert any(not np.array_equal(updates["calm"][name].read_all(), one.read_all()) for name, one in begun.items())
        # A leader whose member has ended ends too, and the agent starts it anew.
        os.kill(member_of(second), signal.SIGKILL)
        assert second.statuses.get(timeout=SECONDS) == MEMBER_GONE
    finally:
        for one in (first, second):
            one.process.kill()
            one.process.wait(SECONDS)
