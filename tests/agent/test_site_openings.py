"""The whole agent in a round that is opened more than once: it delivers whenever the newest opening names it."""

from __future__ import annotations

import site_consortium as script
from agent_rig import Start, joined
from brokers import eventually


def open_round(coordinator: script.ScriptedCoordinator, opening: int, *sites: str) -> None:
    body = script.round_start(coordinator.sealed(1)[0], digest=coordinator.digest_of(1)).model_copy(
        update={"sites": list(sites)}
    )
    coordinator.say("round-start", body, experiment="exp-1", round_number=1, nonce=opening)
    if "site-a" in sites:
        said = lambda: str(opening) in {one.attempt for one in coordinator.of("round-accepted")}  # noqa: E731
        eventually(said, what="round-accepted")
        coordinator.send_model(1)


def test_a_round_that_passed_a_site_by_and_comes_back_to_it_gets_its_update(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    start()
    joined(coordinator)
    open_round(coordinator, 1, "site-b")
    open_round(coordinator, 2, "site-a")
    eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")
    assert [one.attempt for one in coordinator.of("round-accepted")] == ["2"]


def test_a_site_whose_visit_went_to_another_delivers_anew_when_the_round_comes_back(
    start: Start, coordinator: script.ScriptedCoordinator
) -> None:
    start()
    joined(coordinator)
    open_round(coordinator, 1, "site-a")
    first = eventually(lambda: coordinator.of("weights-ready"), what="weights-ready")[0]
    open_round(coordinator, 2, "site-b")
    open_round(coordinator, 3, "site-a")
    second = eventually(lambda: coordinator.of("weights-ready")[1:], what="another weights-ready")[0]
    assert (first.body.transfer.attempt, second.body.transfer.attempt) == (1, 2)
    assert first.id != second.id
    for ready in (first, second):
        assert coordinator.update(ready)["w"].shape == (1500,)
    accepted = {one.id: one.attempt for one in coordinator.of("round-accepted")}
    assert sorted(accepted.values()) == ["1", "3"]
