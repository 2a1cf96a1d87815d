"""The coordinator's readers leave out what is not from whom it should be: uplink, its inbox, updates, progress; and
parties of 0.1, which publish to the exchange that all share, take part beside those that have their own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from astray import forge_chunk, plant_message
from brokers import eventually
from coordinator_kit import CONSORTIUM, MANIFEST, SITES, plain
from coordinator_rig import Consortium, body_of, calm_digest, running

from deploy.broker.definitions import render_definitions
from deploy.broker.topology import Party
from messages import kinds, names
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import Author
from messages.ground.errors import LoginRefused
from messages.tensors.transfer import TransferKey

START = kinds.ExperimentStart(experiment=plain(quorum={"least_sites": "all"}))


@pytest.fixture
def recruiting(consortium: Consortium) -> Consortium:
    """A consortium whose sites are away."""
    consortium.start()
    consortium.say("experiment-start", START)
    consortium.until("experiment-accepted")
    return consortium


@pytest.mark.parametrize("queue", [names.UPLINK, names.inbox_of("coordinator")])
@pytest.mark.parametrize("user", ["site-b", None])
def test_an_event_in_anothers_name_is_set_aside(recruiting: Consortium, queue: str, user: str | None) -> None:
    body = kinds.Leaving()
    forged = Author(CONSORTIUM, "site-a", 1).write_event("leaving", body, time=1.0, experiment="exp-1", seq=1)
    for key in (forged.key, "hello.site-b.none"):
        plant_message(recruiting.broker, queue, key, forged.raw, user)  # type: ignore[arg-type]
    tally = running(recruiting).shell.steps.tally
    eventually(lambda: tally.malformed["sender-mismatch"] == 2, what="both to be set aside")
    recruiting.join()
    recruiting.until("experiment-complete")


def test_what_belongs_to_another_queue_is_set_aside(recruiting: Consortium) -> None:
    hello = Author(CONSORTIUM, "site-a", 1).write_event("hello", kinds.Hello(versions={}), time=1.0)
    alive = Author(CONSORTIUM, "site-a", 1).write_event("alive", kinds.Alive(state="idle"), time=1.0)
    plant_message(recruiting.broker, names.inbox_of("coordinator"), hello.key, hello.raw, "site-a")
    plant_message(recruiting.broker, names.UPLINK, alive.key, alive.raw, "site-a")
    tally = running(recruiting).shell.steps.tally
    eventually(lambda: tally.malformed["unknown-kind"] == 2, what="both to be set aside")


def test_chunks_that_another_site_puts_into_a_sites_stream_change_no_bit_of_the_model(
    recruiting: Consortium, tmp_path: Path
) -> None:
    for number in (1, 2):
        key = TransferKey("exp-1", number, "site-a", 1)
        for index in range(MANIFEST.chunks):
            chunk = forge_chunk(key, index, MANIFEST.chunk_bytes, MANIFEST.nbytes)
            for name, user in (("site-a", "site-b"), ("site-b", "site-b"), ("site-a", None)):
                route = f"update-chunk.{name}.exp-1"
                plant_message(recruiting.broker, "update.site-a", route, chunk, user)  # type: ignore[arg-type]
    receiver = running(recruiting)._parts.receiver
    eventually(lambda: receiver.dropped == 6 * MANIFEST.chunks, what="the chunks to be dropped")
    recruiting.join()
    digest = body_of(recruiting.until("experiment-complete")).final_digest
    assert digest == calm_digest(tmp_path / "calm", START)


def test_a_pulse_in_anothers_name_says_nothing_of_it(recruiting: Consortium) -> None:
    pulse = Author(CONSORTIUM, "site-a", 1).write_event("alive", kinds.Alive(state="idle"), time=1.0)
    own = Author(CONSORTIUM, "site-c", 1).write_event("alive", kinds.Alive(state="idle"), time=1.0)
    plant_message(recruiting.broker, names.PROGRESS, pulse.key, pulse.raw, "site-b")
    plant_message(recruiting.broker, names.PROGRESS, own.key, own.raw, "site-c")
    presence = running(recruiting)._parts.presence
    eventually(lambda: presence._signs["site-c"] != presence._signs["site-b"], what="the honest pulse")
    assert presence._signs["site-a"] == presence._signs["site-b"]


def definitions(*, old_exchange: bool) -> MemoryBroker:
    parties = [Party("coordinator", "coordinator", "x"), Party("dr-a", "researcher", "x")]
    parties += [Party(site, "site", "x") for site in SITES]
    return MemoryBroker(render_definitions(CONSORTIUM, parties, old_exchange=old_exchange))


@pytest.fixture
def mixed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Consortium]:
    """Site-b and the researcher are of 0.1."""
    broker = definitions(old_exchange=True)
    own = broker.exchange_for
    monkeypatch.setattr(
        broker, "exchange_for", lambda user: names.OLD_EXCHANGE if user in ("site-b", "dr-a") else own(user)
    )
    with monkeypatch.context() as inner:
        inner.setattr("coordinator_rig.broker", lambda: broker)
        made = Consortium(tmp_path / "state")
    yield made
    made.close()


def test_parties_of_0_1_and_of_now_come_to_the_same_model(mixed: Consortium, tmp_path: Path) -> None:
    mixed.start()
    mixed.join()
    mixed.say("experiment-start", START)
    digest = body_of(mixed.until("experiment-complete")).final_digest
    assert digest == calm_digest(tmp_path / "calm", START)


def test_once_the_old_exchange_is_closed_a_party_of_0_1_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    broker = definitions(old_exchange=False)
    monkeypatch.setattr(broker, "exchange_for", lambda _user: names.OLD_EXCHANGE)
    bus = MemoryBus(broker, "site-b")
    with pytest.raises(LoginRefused):
        bus.publish("hello.site-b.none", b"x").wait()
    bus.close()
