"""Terms: of two coordinators of one consortium the newer one stays, and the other ends itself with a clear line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from coordinator_kit import CONSORTIUM, plain
from coordinator_rig import Consortium, Ending, coordinator

from messages import kinds
from messages.bus.memory import MemoryBus
from messages.envelope import Author
from messages.ground.errors import NameTaken


def mark(consortium: Consortium, term: int) -> None:
    """What a coordinator that starts under this term says on uplink."""
    bus = MemoryBus(consortium.broker, "coordinator")
    event = Author(CONSORTIUM, "coordinator", term, term).write_event("nonce", kinds.Nonce(nonce="ab" * 16), time=0.0)
    bus.publish(event.key, event.raw)
    bus.close()


@pytest.mark.parametrize("term", [1, 2, 7])
def test_a_coordinator_that_hears_a_mark_of_its_own_or_a_higher_term_ends_itself(
    consortium: Consortium, term: int, tmp_path: Path
) -> None:
    one = coordinator(consortium.broker, tmp_path / "state")
    running = Ending(one)
    assert one.journal.term == 1
    mark(consortium, term)
    error = running.ended()
    assert error.exit_status == 2
    assert f"of term {term} has spoken, and this one has term 1" in str(error)


def test_marks_of_earlier_terms_end_nobody(consortium: Consortium) -> None:
    consortium.start()
    consortium.stop()
    consortium.start()
    mark(consortium, 1)
    consortium.join()
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
    consortium.until("experiment-complete")


def test_a_journal_that_was_copied_back_does_not_speak_under_a_term_that_was_used(
    consortium: Consortium, tmp_path: Path
) -> None:
    consortium.start()
    consortium.stop()
    shutil.copytree(tmp_path / "state", tmp_path / "copy")
    consortium.start()
    consortium.stop()
    error = Ending(coordinator(consortium.broker, tmp_path / "copy")).ended()
    assert "older copy" in str(error)


def test_a_second_coordinator_with_a_state_folder_of_its_own_is_refused(consortium: Consortium, tmp_path: Path) -> None:
    consortium.start()
    with pytest.raises(NameTaken) as caught:
        coordinator(consortium.broker, tmp_path / "other")
    assert caught.value.exit_status == 2
    consortium.join()
    consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain()))
    consortium.until("experiment-complete")
