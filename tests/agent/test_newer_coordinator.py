"""A site under a coordinator of a newer version: what it does not know is counted, and it goes on."""

from __future__ import annotations

import site_consortium as script
from agent_rig import Start, joined
from brokers import eventually
from newer_version import NEWER, written

from messages.envelope import Author
from messages.kinds import CoordinatorHello, Standing


def test_a_kind_of_a_newer_coordinator_is_counted_and_the_site_goes_on(
    coordinator: script.ScriptedCoordinator, start: Start
) -> None:
    running = start()
    joined(coordinator)
    unknown = written(
        "plan-told", {"order": ["site-a"]}, NEWER, sender="coordinator", consortium=script.CONSORTIUM, term=1
    )
    coordinator.bus.publish("plan-told.coordinator.exp-1.site-a", unknown)
    coordinator.say("standing", Standing(state="running", events=[unknown]), experiment="exp-1", to="site-a")
    round_start = script.round_start(coordinator.sealed(1)[0], digest=coordinator.digest_of(1)).as_plain() | {
        "order": 1,
        "plan": "by-size",
    }
    newer = written(
        "round-start",
        round_start,
        NEWER,
        sender="coordinator",
        consortium=script.CONSORTIUM,
        round_number=1,
        term=1,
    )
    coordinator.send_model(1)
    coordinator.bus.publish("round-start.coordinator.exp-1", newer)
    assert eventually(lambda: coordinator.of("weights-ready", 1), what="weights-ready")
    assert running.ask("status")["refused_messages"] == {"unknown-kind": 2}
    assert running.agent._hearing.set_aside == 0


def test_the_site_knows_what_its_coordinator_can(coordinator: script.ScriptedCoordinator, start: Start) -> None:
    running = start()
    hearing = running.agent._hearing
    newer = Author(script.CONSORTIUM, "coordinator", 2, 2, can=frozenset({"masked-sum"}))
    coordinator.say("coordinator-hello", CoordinatorHello(versions={}), author=newer)
    eventually(lambda: hearing.coordinator_can == {"masked-sum"}, what="the newer coordinator's word")
    older = Author(script.CONSORTIUM, "coordinator", 3, 3, can=frozenset())
    coordinator.say("coordinator-hello", CoordinatorHello(versions={}), author=older, nonce=2)
    eventually(lambda: not hearing.coordinator_can, what="the older coordinator's word")
