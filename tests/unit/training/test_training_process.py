"""The training process itself, over its socket."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from trainer_rig import SECONDS, Trainer, experiment, preparation, write_data

from messages.experiment import Experiment
from messages.ground.errors import WorkFailed
from messages.tensors.layout import tensors_of, view_tensors, write_into
from nets.initial import initial_model
from site_agent.training.protocol import Evaluate, Failed, Prepared, Train, Trained

pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    write_data(folder)
    return folder


@pytest.fixture(scope="module")
def warm() -> Iterator[Trainer]:
    """One process for all tests that leave it running: it takes seconds to start, and stays warm in an agent, too."""
    started = Trainer()
    yield started
    started.process.kill()
    started.process.wait(SECONDS)


@pytest.fixture
def trainer() -> Iterator[Trainer]:
    """A process of the test's own."""
    started = Trainer()
    yield started
    started.process.kill()
    started.process.wait(SECONDS)


def rounds(folder: Path, chosen: Experiment, numbers: list[int], received: Path, trainer: Trainer, cache: str) -> Path:
    """Train some rounds, each from the file that the one before it wrote; the last update's file."""
    described, _ = initial_model(chosen)
    assert isinstance(trainer.ask(preparation(folder, chosen, cache)), Prepared)
    for number in numbers:
        output = folder / f"{cache}-{trainer.process.pid}-{number}"
        request = Train(
            round=number,
            attempt=1,
            model=str(received),
            manifest=described.plain(),
            update=described.plain(),
            output=str(output),
            evaluate=True,
        )
        trained = trainer.ask(request)
        assert isinstance(trained, Trained), trained
        assert trained.evaluation is not None
        received = output
    return received


@pytest.mark.parametrize("reset", [True, False])
def test_a_warm_and_a_fresh_process_make_the_same_update_to_the_bit(site: Path, warm: Trainer, reset: bool) -> None:
    chosen = experiment(reset=reset)
    start = site / "start"
    start.write_bytes(initial_model(chosen)[1])
    cache = f"cache-{reset}"
    second = rounds(site, chosen, [1, 2], start, warm, cache)
    first = site / f"{cache}-{warm.process.pid}-1"
    fresh = Trainer()
    try:
        cold = rounds(site, chosen, [2], first, fresh, cache)
        assert cold.read_bytes() == second.read_bytes()
        assert second.read_bytes() != first.read_bytes() != start.read_bytes()
    finally:
        fresh.process.kill()
        fresh.process.wait(SECONDS)


def test_each_request_gets_its_answer_and_stop_ends_the_process_well(site: Path, trainer: Trainer) -> None:
    chosen = experiment()
    described, buffer = initial_model(chosen)
    (site / "model").write_bytes(buffer)
    prepared = trainer.ask(preparation(site, chosen))
    assert isinstance(prepared, Prepared)
    assert prepared.found == prepared.used == prepared.train + prepared.validation + prepared.test == 8
    scored = trainer.ask(
        Evaluate(round=0, model=str(site / "model"), manifest=described.plain(), splits=["test"], label="final")
    )
    assert len(scored.scores[0].cases) == prepared.test
    assert trainer.process.stop(timeout=SECONDS) == 0
    assert trainer.statuses.get(timeout=SECONDS) == 0
    with pytest.raises(WorkFailed, match="has ended"):
        trainer.process.send_request(preparation(site, chosen))


def test_a_difference_is_what_training_changed_in_the_model_as_it_was_decoded(site: Path, warm: Trainer) -> None:
    chosen = experiment()
    exact, buffer = initial_model(chosen)
    sent = exact.in_codec("bfloat16")
    wire = bytearray(sent.nbytes)
    write_into(view_tensors(exact, buffer), sent, memoryview(wire))
    (site / "model-wire").write_bytes(wire)
    assert isinstance(warm.ask(preparation(site, chosen, "cache-codecs")), Prepared)
    found = {}
    for update in (exact, exact.in_codec("bfloat16-difference")):
        output = site / update.codec
        request = Train(
            round=1,
            attempt=1,
            model=str(site / "model-wire"),
            manifest=sent.plain(),
            update=update.plain(),
            output=str(output),
        )
        assert isinstance(warm.ask(request), Trained)
        found[update.codec] = {name: one.read_all() for name, one in tensors_of(update, output.read_bytes()).items()}
    changed = 0
    for name, received in tensors_of(sent, wire).items():
        difference = found["float32"][name] - received.read_all()
        np.testing.assert_allclose(found["bfloat16-difference"][name], difference, rtol=2**-8, atol=0)
        changed += np.count_nonzero(difference)
    assert changed


def test_a_model_of_other_shapes_is_a_failure_and_the_process_lives_on(site: Path, warm: Trainer) -> None:
    warm.ask(preparation(site, experiment()))
    other = {"tensors": [{"name": "a", "shape": [2], "dtype": "float32"}]}
    request = Train(round=4, attempt=1, model=str(site / "x"), manifest=other, update=other, output=str(site / "y"))
    reply = warm.ask(request)
    assert isinstance(reply, Failed)
    assert (reply.code, reply.round, reply.fatal) == ("training-error", 4, False)
    assert isinstance(warm.ask(preparation(site, experiment())), Prepared)


def test_a_missing_data_set_is_told_by_a_code(tmp_path: Path, warm: Trainer) -> None:
    reply = warm.ask(preparation(tmp_path, experiment()))
    assert isinstance(reply, Failed)
    assert reply.code == "dataset-gone"


def test_a_lent_gpu_that_is_not_there_is_told_and_not_replaced_by_the_cpu(site: Path, trainer: Trainer) -> None:
    none = preparation(site, experiment()).model_copy(update={"gpus": [977]})  # no machine has as many
    reply = trainer.ask(none)
    assert isinstance(reply, Failed)
    assert (reply.code, reply.fatal) == ("gpu-error", True)


def test_a_killed_process_tells_its_signal(trainer: Trainer) -> None:
    trainer.process.kill()
    assert trainer.statuses.get(timeout=SECONDS) == -signal.SIGKILL


def test_the_process_ends_when_its_agent_is_killed() -> None:
    code = (
        "import time\n"
        "from site_agent.training.client import TrainerProcess\n"
        "print(TrainerProcess(print, print).pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        os.kill(pid, 0)
        agent.kill()
        agent.wait(SECONDS)
    deadline = time.monotonic() + SECONDS
    while (state := _state(pid)) not in ("gone", "Z"):
        assert time.monotonic() < deadline, f"the trainer still runs ({state})"
        time.sleep(0.05)


def _state(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return "gone"
