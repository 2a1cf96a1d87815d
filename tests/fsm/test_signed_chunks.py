"""Chunks of a consortium that signs: what their author did not sign is dropped before its data are looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

from signed_consortium import SITES, finish, key_of, run_signed, start
from virtual_consortium import VirtualConsortium

from messages.abilities import OURS, WORDS_6
from messages.bus.memory.broker import Message
from messages.kinds import ExperimentComplete, RoundStart
from messages.tensors.signed_chunks import ChunkSigner
from messages.tensors.transfer import ChunkHeader, decode_chunk, encode_chunk


def chunks_on(consortium: VirtualConsortium, queue: str) -> Iterator[tuple[ChunkHeader, bytes]]:
    for one in consortium.broker.streams[queue].messages:
        header, data = decode_chunk(one.body)
        yield header, bytes(data)


def plant_chunk(consortium: VirtualConsortium, queue: str, header: ChunkHeader, data: bytes) -> None:
    """As whoever runs the broker can, in any party's name."""
    kind = "global-chunk" if queue == "global" else "update-chunk"
    key, sender = f"{kind}.{header.key.sender}.{header.key.experiment}", header.key.sender
    with consortium.broker.changed:
        consortium.broker.streams[queue].append_message(Message(key, encode_chunk(header, data), sender))
        consortium.broker.wake_consumers(queue)


def forge(header: ChunkHeader, data: bytes) -> tuple[ChunkHeader, bytes]:
    """Other data under the same place, as the digest wants it; and without its signature."""
    other = bytes(len(data))
    return replace(header, digest=sha256(other).digest(), signer="", signature=b""), other


def digest_of(done: VirtualConsortium) -> str:
    ((_at, complete),) = done.of("experiment-complete")
    assert isinstance(complete.body, ExperimentComplete)
    return complete.body.final_digest


def calmly(consortium: VirtualConsortium) -> None:
    start(consortium)
    finish(consortium)


def test_every_chunk_is_signed_and_what_others_plant_is_dropped_unread_and_the_bits_are_the_same(
    tmp_path: Path,
) -> None:
    def work(consortium: VirtualConsortium) -> None:
        start(consortium)
        consortium.until("round-start", 7200.0)
        header, data = next(iter(chunks_on(consortium, "global")))
        update = replace(header, key=replace(header.key, sender="site-a", attempt=1))
        site_b = ChunkSigner("demo", key_of(consortium, "site-b"), lambda _name: True)
        for queue, one in (("global", header), ("update.site-a", update)):
            unsigned, other = forge(one, data)
            stranger = site_b.sign(unsigned)
            torn = replace(stranger, signer=one.signer if queue == "global" else stranger.signer)
            for forged in (unsigned, stranger, torn):
                plant_chunk(consortium, queue, forged, other)
        finish(consortium)
        assert consortium.coordinator._parts.receiver.dropped == 3
        for agent in consortium.agents.values():
            told = agent._count_refusals()
            assert told == {"signature-missing": 1, "no-good-key": 1, "bad-signature": 1}

    done = run_signed(tmp_path / "one", work)
    for queue in ("global", *(f"update.{site}" for site in SITES)):
        signed = [bool(header.signature) for header, _data in chunks_on(done, queue)]
        assert signed.count(False) == (0 if queue == "update.site-b" else 1)
    assert digest_of(done) == digest_of(run_signed(tmp_path / "calm", calmly))


def test_where_a_site_is_of_an_older_version_models_go_unsigned_to_all_and_nobody_drops_them(tmp_path: Path) -> None:
    def work(consortium: VirtualConsortium) -> None:
        voice = consortium.agents["site-b"]._voice
        voice._author = replace(voice._author, can=OURS - {WORDS_6})
        calmly(consortium)
        for agent in consortium.agents.values():
            assert agent.spool.count_waiting() == 0

    done = run_signed(tmp_path, work)
    assert not any(header.signature for header, _data in chunks_on(done, "global"))
    assert all(header.signature for header, _data in chunks_on(done, "update.site-a"))
    rounds = [one.ext.get("chunks") for _at, one in done.of("round-start")]
    assert rounds == [None] * 2
    assert all(isinstance(one.body, RoundStart) for _at, one in done.of("round-start"))
