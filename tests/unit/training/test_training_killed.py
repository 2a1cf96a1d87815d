"""A real training process that is killed, or told to end, in mid-round; the next one goes on to the same bits."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from trainer_rig import SECONDS, Trainer, experiment, preparation, write_data

from messages.experiment import Experiment
from messages.ground.crash import AT
from nets.initial import initial_model
from site_agent.training.protocol import CheckpointEvent, Prepared, Progress, Reply, Train, Trained

pytestmark = pytest.mark.torch

STEPS = 10

WAITING = """
import time
from pathlib import Path
from site_agent.training import __main__
from site_agent.training.resuming import resume

save = resume.Keeper.save_checkpoint

def save_and_wait(self, moment, step, loss_sum):
    save(self, moment, step, loss_sum)
    while Path(GATE).exists() and not self._interrupt.asked:
        time.sleep(0.01)

resume.Keeper.save_checkpoint = save_and_wait
raise SystemExit(__main__.main())
"""
"""A training process that goes no further than its first checkpoint while there is a GATE, until asked to end."""


class Round:
    """The first or second round of one experiment, on a site's folder; each cache is a site's state of its own."""

    def __init__(self, folder: Path, crash: Path) -> None:
        plain = experiment(reset=False).as_plain()
        plain["net"] |= {"norm": "batch", "dropout": 0.3}
        plain["training"] |= {"local_epochs": None, "local_steps": STEPS}
        self.experiment = Experiment.model_validate(plain)
        self.folder, self.crash = folder, crash
        self.manifest, buffer = initial_model(self.experiment)
        (folder / "model-1").write_bytes(buffer)

    def ask(self, trainer: Trainer, number: int, cache: str, every: float | None) -> None:
        """Have it read the data, and begin the round."""
        assert isinstance(trainer.ask(preparation(self.folder, self.experiment, cache)), Prepared)
        request = Train(
            round=number,
            attempt=1,
            model=str(self.folder / f"model-{number}"),
            manifest=self.manifest.plain(),
            update=self.manifest.plain(),
            output=str(self.output(number, cache)),
            evaluate=True,
            checkpoint_seconds=every,
        )
        trainer.process.send_request(request)

    def output(self, number: int, cache: str) -> Path:
        return self.folder / f"{cache}-{number}.update"

    def held(self, cache: str) -> list[str]:
        return [path.name for path in (self.folder / cache / "checkpoint").glob("*")]


@pytest.fixture(scope="module")
def the_round(tmp_path_factory: pytest.TempPathFactory) -> Round:
    folder = tmp_path_factory.mktemp("site")
    write_data(folder)
    return Round(folder, folder / "crash-at")


@pytest.fixture
def trainer(the_round: Round, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Trainer]]:
    monkeypatch.setenv(AT, str(the_round.crash))
    started: list[Trainer] = []

    def start(*program: str) -> Trainer:
        started.append(Trainer(program or None))
        return started[-1]

    yield start
    for one in started:
        one.process.kill()
        one.process.wait(SECONDS)


def until(trainer: Trainer, last: Callable[[Reply], bool]) -> list[Reply]:
    """Everything that it says up to the reply that is waited for."""
    said: list[Reply] = []
    while not (said and last(said[-1])):
        said.append(trainer.replies.get(timeout=SECONDS))
    return said


def trained(trainer: Trainer) -> tuple[Trained, list[Reply]]:
    said = until(trainer, lambda reply: isinstance(reply, Trained))
    assert isinstance(said[-1], Trained)
    return said[-1], said


def events(said: list[Any], what: str) -> list[int]:
    return [one.step for one in said if isinstance(one, CheckpointEvent) and one.what == what]


def same(one: Trained, other: Trained) -> None:
    assert one.model_dump(exclude={"seconds"}) == other.model_dump(exclude={"seconds"})


def test_killed_at_a_checkpoint_in_mid_write_and_told_to_end_it_resumes_to_the_bits_of_a_calm_round(
    the_round: Round, trainer: Callable[..., Trainer]
) -> None:
    first = trainer()
    the_round.crash.write_text("trainer:checkpoint 3")  # as it tells of its third
    the_round.ask(first, 1, "killed", 0.0)
    assert first.statuses.get(timeout=SECONDS) == -signal.SIGKILL
    second = trainer()
    the_round.crash.write_text("trainer:saving 2")  # the first one after its start is whole, the second one is not
    the_round.ask(second, 1, "killed", 0.0)
    assert second.statuses.get(timeout=SECONDS) == -signal.SIGKILL
    assert sorted(the_round.held("killed")) == ["round-000001.checkpoint", "round-000001.part"]

    gate = the_round.folder / "gate"
    third = trainer(sys.executable, "-c", WAITING.replace("GATE", repr(str(gate))))
    the_round.ask(third, 1, "killed", 0.0)
    resumed, said = trained(third)
    assert events(said, "resumed") == [4]
    assert not [one for one in said if isinstance(one, Progress) and one.phase == "validating"], "scored again"
    shown = [(one.done, one.total) for one in said if isinstance(one, Progress) and one.done]
    assert shown[0] == (4, STEPS)
    the_round.ask(third, 1, "calm", None)
    calm, said = trained(third)
    assert [one for one in said if isinstance(one, Progress) and one.phase == "validating"]
    same(resumed, calm)
    update = the_round.output(1, "calm").read_bytes()
    assert the_round.output(1, "killed").read_bytes() == update
    assert the_round.held("calm") == []
    assert the_round.held("killed") == ["round-000001.checkpoint"], "it stays until the agent frees the round"

    # The next round, with what the optimiser kept of this one; and SIGTERM.
    (the_round.folder / "model-2").write_bytes(update)
    the_round.ask(third, 2, "calm", None)
    calm, _ = trained(third)
    gate.touch()
    the_round.ask(third, 2, "killed", 0.0)
    until(third, lambda reply: isinstance(reply, CheckpointEvent) and reply.what == "written")
    third.process.terminate()
    assert third.statuses.get(timeout=SECONDS) == 0
    assert the_round.held("killed") == ["round-000002.checkpoint"]
    assert not the_round.output(2, "killed").exists()
    fourth = trainer()
    the_round.ask(fourth, 2, "killed", 3600.0)
    resumed, said = trained(fourth)
    assert events(said, "resumed") in ([1], [2]), "it was told to end after the first step, and ends at the next look"
    same(resumed, calm)
    assert the_round.output(2, "killed").read_bytes() == the_round.output(2, "calm").read_bytes()
    os.kill(fourth.process.pid, signal.SIGTERM)  # with nothing to save
    assert fourth.statuses.get(timeout=SECONDS) == 0
