"""A site that gets a key signs what waits in its outbox, with everything that it had said."""

from __future__ import annotations

from pathlib import Path

from brokers import consortium_definitions

from messages import kinds
from messages.bus.memory import MemoryBroker, MemoryBus
from messages.envelope import decode_event
from messages.ground.clock import SystemClock
from messages.trust import signatures
from messages.trust.keys import SigningKey, derive_key
from site_agent.core.effects import Say
from site_agent.disk.lineage import DATA, POLICY
from site_agent.disk.spool import Spool
from site_agent.wire.outbox import Outbox

KEY = derive_key(bytes([7]) * 32)
COMMITTED = {POLICY: "a" * 64, DATA: "b" * 64}
CASES = kinds.CaseCounts(found=3, used=3, left_out={}, train=1, validation=1, test=1)
PLATFORM = kinds.Platform(device_type="cpu", threads=1, versions={"torch": "2"}, deterministic=True)


def waiting_of(folder: Path, key: SigningKey | None, *said: Say) -> list[bytes]:
    """What waits in a site's outbox once an agent with this key has started on the folder and said something."""
    bus = MemoryBus(MemoryBroker(consortium_definitions()), "site-a")
    spool = Spool(folder)
    try:
        voice = Outbox(bus, spool, "test", "site-a", SystemClock(), key)
        for effect in said:
            with spool.transaction():
                voice.say_event(effect, 1.0)
        return [one.raw for one in spool.list_waiting()]
    finally:
        spool.close()
        bus.close()


def test_what_waited_without_a_signature_is_signed_with_all_that_it_committed_to(tmp_path: Path) -> None:
    joined = Say("joined", "exp-1", 0, kinds.Joined(cases=CASES, platform=PLATFORM), more=COMMITTED)
    (before,) = waiting_of(tmp_path, None, joined)
    (after,) = waiting_of(tmp_path, KEY)
    old, new = decode_event(before), decode_event(after)
    payload, signature = signatures.split_event(after)
    assert signatures.is_signed_by(KEY.public, payload, signature)
    assert (new.id, new.seq, new.body) == (old.id, old.seq, old.body)
    assert COMMITTED.items() <= new.ext.items()
