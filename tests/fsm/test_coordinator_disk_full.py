"""A disk that is really full (a small tmpfs): the coordinator waits, says so, loses nothing, and goes on by itself."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from brokers import eventually
from coordinator_kit import plain
from coordinator_rig import Consortium, Ending, body_of, calm_digest, coordinator, running

from coordinator.core.state import Phase
from coordinator.loop import space
from coordinator.record import story
from coordinator.record.journal import STEP, Journal, JournalDiskFull, open_readonly
from coordinator.record.recovery import recover_states
from coordinator.record.replay import replay
from coordinator.work.blobs import Blobs
from messages import envelope, kinds
from messages.bus.base import Delivery, Start
from messages.bus.memory import MemoryBus
from messages.reasons import Reason

START = kinds.ExperimentStart(experiment=plain(quorum={"least_sites": "all"}))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "konsil-test", str(place)],
        check=False,
        capture_output=True,
        text=True,
    )
    if mounted.returncode:
        pytest.skip(f"a small file system needs the right to mount: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        # A process that another thread starts holds all that is open here, until it has become another program.
        eventually(lambda: subprocess.run(["umount", str(place)], check=False).returncode == 0, what="umount")


@pytest.fixture
def consortium(disk: Path) -> Iterator[Consortium]:
    made = Consortium(disk / "state")
    yield made
    made.close()


@pytest.fixture
def calm(tmp_path_factory: pytest.TempPathFactory) -> str:
    return calm_digest(tmp_path_factory.mktemp("calm"), START)


def fill(disk: Path) -> Path:
    """Take all the space that is left."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"x" * size) == size:
                    pass
            except OSError:
                continue
    return path


class Signs:
    """What the coordinator says live."""

    def __init__(self, consortium: Consortium) -> None:
        self.states: list[str] = []
        self.bus = MemoryBus(consortium.broker, "dr-a")
        self._heard = self.bus.subscribe("progress", self._take, start=Start.NEXT)

    def _take(self, delivery: Delivery) -> None:
        event = envelope.decode_event(delivery.body)
        if isinstance(event.body, kinds.Alive) and event.sender == "coordinator":
            self.states.append(event.body.state)
        self._heard.ack(delivery)


def test_a_journal_that_cannot_be_written_is_waited_for_and_nothing_is_lost(
    consortium: Consortium, disk: Path, calm: str, capfd: pytest.CaptureFixture[str]
) -> None:
    one = consortium.start()
    signs = Signs(consortium)
    consortium.join()
    filler = fill(disk)
    consortium.say("experiment-start", START)
    eventually(lambda: one.shell.steps.tally.disk_full, what="the coordinator waits for space")
    eventually(lambda: "paused" in signs.states, what="and says so to all")
    accepted = [event for event in consortium.heard if event.kind == "experiment-accepted"]
    assert accepted == [], "nothing is told that is not in the journal"
    filler.unlink()
    complete = body_of(consortium.until("experiment-complete"))
    assert complete.final_digest == calm
    assert not one.shell.steps.tally.disk_full
    consortium.stop()
    signs.bus.close()
    assert all(step.agrees for step in replay(open_readonly(consortium.folder), Blobs(consortium.folder / "blobs")))
    assert "Traceback" not in "".join(capfd.readouterr())


def test_a_coordinator_that_waits_for_space_ends_when_it_is_told_to(consortium: Consortium, disk: Path) -> None:
    one = coordinator(consortium.broker, consortium.folder)
    ending = Ending(one)
    fill(disk)
    consortium.say("experiment-start", START)
    eventually(lambda: one.shell.steps.tally.disk_full, what="the coordinator waits for space")
    one.stop()
    assert "Free space" in str(ending.ended())
    with pytest.raises(JournalDiskFull, match="Free space"):
        Journal(consortium.folder)


def test_a_model_that_has_no_space_pauses_its_experiment_which_goes_on_by_itself(
    consortium: Consortium, disk: Path, calm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "FIRST", 0.3)
    reserve = 2**20
    one = consortium.start()
    work = one.shell.parts.work
    work.limits = work.limits.model_copy(update={"disk_reserve": reserve})
    one.shell._space._reserve = reserve
    consortium.join()
    taken = disk / "taken"
    taken.write_bytes(bytes(1_200_000))  # the journal can be written, a model would leave less than the reserve
    consortium.say("experiment-start", START)
    paused = consortium.until("experiment-paused").body
    assert isinstance(paused, kinds.ExperimentPaused)
    assert paused.reason is Reason.DISK_FULL
    state = running(consortium).shell.steps.states["exp-1"]
    assert state.phase is Phase.PAUSED
    assert story.tell_standing(state).startswith("exp-1: paused (disk-full)")
    taken.unlink()
    consortium.until("experiment-resumed")
    assert body_of(consortium.until("experiment-complete")).final_digest == calm
    consortium.stop()
    assert all(step.agrees for step in replay(open_readonly(consortium.folder)))


def test_updates_that_have_no_space_pause_the_experiment_and_are_asked_for_again(
    consortium: Consortium, disk: Path, calm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(space, "FIRST", 0.3)
    one = consortium.start()
    consortium.join()
    taken = disk / "taken"

    def room(size: int) -> None:
        if taken.exists():
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(one.shell.parts.receiver, "_room", room)
    monkeypatch.setattr(one.shell._space, "_reserve", 2**40)
    taken.touch()
    consortium.say("experiment-start", START)
    consortium.until("experiment-paused")
    taken.unlink()
    monkeypatch.setattr(one.shell._space, "_reserve", 0)
    assert body_of(consortium.until("experiment-complete")).final_digest == calm
    consortium.stop()
    entries = [entry for entry in open_readonly(consortium.folder) if entry.type == STEP]
    assert recover_states(entries)["exp-1"].phase is Phase.COMPLETE
    assert all(step.agrees for step in replay(open_readonly(consortium.folder)))
