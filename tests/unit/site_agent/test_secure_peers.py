"""A pinned peer whose key has changed is told in one line, with the key that it has now."""

from __future__ import annotations

from messages.trust.keys import derive_key, fingerprint_of
from messages.trust.register import KeyEntry, Register
from site_agent.core.secure.peers import list_lapsed

OLD, NEW, OTHER = (derive_key(bytes([number]) * 32) for number in (1, 2, 3))


def entry(name: str, key: bytes, since: float, until: float = 1e10, revoked: float | None = None) -> KeyEntry:
    return KeyEntry(name=name, role="site", key=key.hex(), since=since, until=until, revoked=revoked)


REGISTER = Register.model_construct(
    keys=(
        entry("site-b", OLD.public, 0.0, revoked=100.0),
        entry("site-b", NEW.public, 100.0),
        entry("site-c", OTHER.public, 0.0),
    )
)
A, B, C = (fingerprint_of(key.public) for key in (OLD, NEW, OTHER))


def test_a_pinned_peer_that_rotated_its_key_is_named_with_its_new_one() -> None:
    (line,) = list_lapsed(REGISTER, {A, C}, 200.0)
    assert line == f"policy.floors.peers: site-b does not use its key {A[:16]}… any more and has {B[:16]}… now"
    assert list_lapsed(REGISTER, {A, C}, 50.0) == []


def test_a_pinned_key_that_nobody_has_is_named() -> None:
    (line,) = list_lapsed(REGISTER, {"f" * 64}, 200.0)
    assert line == f"policy.floors.peers: the register has no key {'f' * 16}…"
