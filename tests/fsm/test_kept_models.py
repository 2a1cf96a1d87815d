"""A researcher finishes an experiment, and fetches the model of a round that is kept, from a real coordinator."""

from __future__ import annotations

from pathlib import Path

import pytest
from coordinator_kit import CONSORTIUM, plain
from coordinator_rig import Consortium

from deploy.cli import requests
from deploy.session import model_file
from deploy.session.connection import BrokerSession
from deploy.session.profile import Profile
from messages import kinds
from messages.bus.memory import MemoryBus
from messages.ground.errors import RequestError
from messages.reasons import Reason

START = kinds.ExperimentStart(experiment=plain(quorum={"least_sites": "all"}, evaluation={"select_by": "last"}))


def open_session(consortium: Consortium) -> BrokerSession:
    return BrokerSession(MemoryBus(consortium.broker, "dr-a"), Profile(name="dr-a", consortium=CONSORTIUM))


def in_round_2(consortium: Consortium) -> None:
    """Round 1 has closed, and round 2 waits for an update that does not come."""
    consortium.start()
    consortium.join()
    site = consortium.sites[0]

    def lose(number: int, buffer: bytearray) -> bytearray:
        if number == 2:
            site.lost_chunks = {0}
        return buffer

    site.spoil = lose
    consortium.say("experiment-start", START)
    consortium.until("round-complete")


@pytest.mark.parametrize("ending", ["abort", "finish"])
def test_the_model_of_a_closed_round_can_be_fetched_whatever_became_of_the_experiment(
    consortium: Consortium, tmp_path: Path, ending: str
) -> None:
    in_round_2(consortium)
    digest = consortium.until("round-complete").body.model_digest  # type: ignore[attr-defined]
    with open_session(consortium) as session:
        state = requests.command_experiment(session, ending, "exp-1", 30.0)
        assert state == {"abort": "aborted", "finish": "complete"}[ending]
    with open_session(consortium) as session:
        path = tmp_path / "model.safetensors"
        assert model_file.fetch_round(session, "exp-1", 1, path, lambda _text: None) == digest
        assert path.stat().st_size > 4000
    with open_session(consortium) as session, pytest.raises(RequestError, match="keeps no model of round 7"):
        model_file.fetch_round(session, "exp-1", 7, path, lambda _text: None)


def test_before_a_round_has_closed_there_is_nothing_to_finish_with(consortium: Consortium) -> None:
    consortium.start()
    consortium.say("experiment-start", START)
    consortium.until("experiment-accepted")
    with open_session(consortium) as session, pytest.raises(RequestError, match="no round of it has closed"):
        requests.command_experiment(session, "finish", "exp-1", 30.0)


def test_a_researcher_whom_the_coordinator_does_not_know_is_not_sent_to_a_site() -> None:
    assert "coordinator.toml" in str(requests.refusal_error("exp-1", Reason.RESEARCHER_NOT_ALLOWED))
