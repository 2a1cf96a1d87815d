"""A member that says too much, or asks for too much, costs the coordinator a bounded amount."""

from __future__ import annotations

from brokers import eventually
from coordinator_kit import SITES, ScriptedSite, plain
from coordinator_rig import Consortium, body_of, running
from hypothesis import given
from hypothesis import strategies as st

from coordinator.loop import ahead
from messages import kinds
from messages.bus.base import Delivery

START = kinds.ExperimentStart(experiment=plain(quorum={"least_sites": "all"}))


def in_round_1(consortium: Consortium, *, asks: bool = True) -> ScriptedSite:
    """The last site, whose update lacks chunks: round 1 stays open until it finds them."""
    consortium.start()
    consortium.join()
    for one in consortium.sites:
        one.asks = asks
    held = consortium.sites[-1]
    held.lost_chunks = {0}
    consortium.say("experiment-start", START)
    held.news.until(lambda: 1 in held.updates, "round 1")
    return held


def standings(site: ScriptedSite) -> int:
    return sum(one.kind == "standing" for one in site.heard)


def test_a_site_that_says_hello_all_the_time_is_answered_once_a_second_and_at_its_last(consortium: Consortium) -> None:
    site = in_round_1(consortium)
    before = standings(site)
    for _ in range(300):
        site.say("hello", kinds.Hello(versions={}), "none", 0)
    consortium.say("experiment-pause", kinds.ExperimentPause(), 2)
    consortium.until("experiment-paused")  # so all of them were read
    site.news.until(lambda: standings(site) > before, "the answer")
    site.say("hello", kinds.Hello(versions={}), "none", 0)
    site.news.until(
        lambda: any(isinstance(one.body, kinds.Standing) and one.body.state == "paused" for one in site.heard),
        "the answer to the last hello",
    )
    assert standings(site) - before < 10


def test_a_site_has_three_times_a_model_sent_again_and_no_more(consortium: Consortium) -> None:
    site = in_round_1(consortium, asks=False)
    models = running(consortium).shell.parts.models
    (start,) = [one for one in site.starts.values() if isinstance(one, kinds.RoundStart)]
    sent, size = start.transfer, start.transfer.manifest.nbytes
    eventually(lambda: models.bytes_sent == size, what="the round's model to be out")

    def ask(chunks: list[int] | None) -> None:
        body = kinds.ChunksWanted(round=1, attempt=sent.attempt, seal=sent.seal, chunks=chunks)
        event = site.author.write_event("chunks-wanted", body, time=0.0, experiment="exp-1")
        site.bus.publish(event.key_to("coordinator"), event.raw)

    for times in (1, 2, 3):
        ask(None)
        eventually(lambda many=times: models.bytes_sent == (1 + many) * size, what="the model again")  # type: ignore[misc]
    for chunks in (None, [0], [0] * 1000, [3, 2, 1]):
        ask(chunks)
    told = standings(site)
    site.say("hello", kinds.Hello(versions={}), "none", 0)
    site.news.until(lambda: standings(site) > told, "the answer to what was said last")
    assert models.bytes_sent == 4 * size
    site.find_chunks("exp-1", 1)
    assert body_of(consortium.until("experiment-complete")).rounds == 2
    consortium.until("model-ready")  # round 2, the two candidates of the evaluation and the finished model are out
    assert models.bytes_sent == (4 + 1 + 2 + 1) * size


def delivery(number: int, size: int) -> Delivery:
    return Delivery("uplink", "key", bytes(size), "site-a", number, number, 1)


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["exp-1", "exp-2"]), st.sampled_from(SITES), st.integers(1, 3 * 2**20), st.booleans()
        ),
        max_size=60,
    )
)
def test_what_is_ahead_of_its_round_is_held_within_bounds_and_comes_back_in_order(
    given_: list[tuple[str, str, int, bool]],
) -> None:
    one, expected = ahead.Ahead(), dict[str, list[tuple[str, int]]]()
    for number, (experiment, sender, size, take) in enumerate(given_):
        if take:
            taken = [found.tag for found in one.take_events(experiment)]
            assert taken == [tag for _sender, tag in expected.pop(experiment, [])]
        elif one.hold_event(experiment, str(number), sender, delivery(number, size)):
            expected.setdefault(experiment, []).append((sender, number))
        held = [(sender, given_[number][2]) for those in expected.values() for sender, number in those]
        assert one.size == sum(size for _sender, size in held) <= ahead.MOST
        for name in SITES:
            assert sum(size for sender, size in held if sender == name) <= ahead.MOST_OF_A_SENDER
