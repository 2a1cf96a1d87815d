"""The service's log of messages that are not used: few lines, and no word of a site in any field."""

from __future__ import annotations

from pathlib import Path

from brokers import eventually
from coordinator_kit import CONSORTIUM, plain
from coordinator_rig import Consortium, running
from newer_version import NEWER, written
from signed_consortium import author, plant, run_signed
from structlog.testing import capture_logs
from virtual_consortium import VirtualConsortium

from messages import kinds
from messages.bus.memory import MemoryBus
from messages.envelope import Author
from messages.ground.logs import Complaints

WORDS = "mueller-karl-1950"
START = kinds.ExperimentStart(experiment=plain(quorum={"least_sites": "all"}))


def test_no_line_of_the_log_holds_a_word_of_a_site(consortium: Consortium) -> None:
    with capture_logs() as lines:
        consortium.start()
        consortium.join()
        bus, author = MemoryBus(consortium.broker, "site-a"), Author(CONSORTIUM, "site-a", 1)
        wish = kinds.ChunksWanted(round=1, attempt=1, seal="ab" * 32)
        for n in range(100):
            event = author.write_event("leaving", kinds.Leaving(), time=0.0, experiment=WORDS, attempt=n, seq=n + 1)
            bus.publish(event.key, event.raw)
            event = author.write_event("chunks-wanted", wish, time=0.0, experiment=WORDS, attempt=n)
            bus.publish(event.key_to("coordinator"), event.raw)
            bus.publish(f"leaving.site-a.{WORDS}", f"{WORDS} {n}".encode())
        bus.publish(
            f"{WORDS}.site-a.{WORDS}.coordinator", written(WORDS, {}, NEWER, sender="site-a", consortium=CONSORTIUM)
        )
        for done in range(3):
            said = kinds.Progress(phase="training", done=done, total=9)
            event = author.write_event("progress", said, time=0.0, experiment=WORDS, round_number=1, attempt=f"p{done}")
            bus.publish(event.key, event.raw)
        bus.close()
        consortium.say("experiment-start", START)
        consortium.until("experiment-complete")
        steps = running(consortium).shell.steps
        eventually(lambda: steps.tally.malformed["malformed"] == 100, what="all of it is read")
        presence = running(consortium).shell.parts.presence
        presence._listening_since = -1e9
        presence.log_changes(steps.states)
        consortium.stop()
    assert not [line for line in lines if WORDS in str(line)]
    told = [
        line for line in lines if line["log_level"] == "warning" and line.get("sender", line.get("site")) == "site-a"
    ]
    assert len(told) < 10


def test_what_comes_again_and_again_is_told_at_once_and_then_once_a_minute_with_a_count() -> None:
    time = [0.0]
    one = Complaints(lambda: time[0])
    with capture_logs() as lines:
        assert one.count_messages("site-a", "malformed")
        assert not any(one.count_messages("site-a", "malformed") for _ in range(500))
        assert one.count_messages("site-a", "late")
        assert one.count_messages("site-b", "malformed", 7)
        one.tell_counted()
        assert lines == []
        time[0] = 60.0
        one.tell_counted()
        one.tell_counted()
    assert [(line["sender"], line["reason"], line["count"]) for line in lines] == [("site-a", "malformed", 500)]
    assert not one


def test_a_chain_that_is_forked_again_and_again_is_few_lines(tmp_path: Path) -> None:
    def work(consortium: VirtualConsortium) -> None:
        consortium.clock.sleep(5.0)
        for n in range(60):
            event = author(consortium, "site-c").write_event(
                "leaving", kinds.Leaving(), time=consortium.clock.wall(), attempt=n, seq=n + 1, after="ab" * 32
            )
            plant(consortium, "uplink", event)
        consortium.clock.sleep(3.0)

    with capture_logs() as lines:
        run_signed(tmp_path, work)
    told = [line for line in lines if line.get("sender") == "site-c"]
    assert any("forked" in line["event"] for line in told)
    assert len(told) < 5
