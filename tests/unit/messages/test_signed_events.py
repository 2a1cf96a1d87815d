"""Who may say what: events signed by their author, and what a receiver refuses."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages import codec
from messages.envelope import Author, Event, decode_event
from messages.extension import EXT_BYTES
from messages.ground.errors import MalformedMessage, RequestError
from messages.kinds import Alive, Echo, Hello, Leaving, Receipt
from messages.trust.keys import SigningKey, derive_key
from messages.trust.register import KeyEntry, Register, sign_register
from messages.trust.signatures import digest_payload, split_event
from messages.trust.verifier import LATE, SKEW, Verifier

OPERATOR, COORDINATOR, SITE, OTHER = (derive_key(bytes([number]) * 32) for number in range(4))
BEGAN, ENDS, NOW = 1_000_000.0, 9_000_000.0, 2_000_000.0


def entry(key: SigningKey = SITE, name: str = "site-a", **more: Any) -> KeyEntry:
    role = {"coordinator": "coordinator", "dr-a": "researcher"}.get(name, "site")
    fields = {"name": name, "role": role, "key": key.public.hex(), "since": BEGAN, "until": ENDS}
    return KeyEntry.model_validate(fields | more)


def register(*entries: KeyEntry, signatures: str = "accepted", serial: int = 1) -> Register:
    plain = {"consortium": "glioma", "serial": serial, "made": BEGAN, "signatures": signatures}
    return Register.model_validate({**plain, "keys": [one.model_dump() for one in entries]})


def verifier(*entries: KeyEntry, signatures: str = "accepted") -> Verifier:
    return Verifier("glioma", OPERATOR.public, register(*entries, signatures=signatures))


def said(key: SigningKey | None = SITE, name: str = "site-a", *, time: float = NOW, **more: Any) -> Event:
    event = Author("glioma", name, 3, key=key).write_event("leaving", Leaving(), time=time, seq=7, **more)
    return decode_event(event.raw)


def refusal(check: Verifier, event: Event, queue: str = "uplink", now: float = NOW) -> str | None:
    try:
        check.check_event(event, queue, now)
    except MalformedMessage as error:
        return str(error.reason)
    return None


def test_a_signature_covers_the_payload_as_sent_and_what_the_payload_lacked() -> None:
    event = said(after="ab" * 32, answers="cd" * 32)
    payload, signature = split_event(event.raw)
    assert len(signature) == 64
    assert len(codec.pack(codec.unpack(payload)["ext"])) < EXT_BYTES
    assert dict(event.ext) == {
        "key": SITE.fingerprint[:32], "to": "uplink", "after": "ab" * 32, "answers": "cd" * 32
    }  # fmt: skip
    assert refusal(verifier(entry()), event) is None


def test_without_a_key_an_event_is_byte_for_byte_what_it_was() -> None:
    event = said(None, after="ab" * 32, to="site-b")
    assert codec.unpack(event.raw)[1] == b""
    assert dict(event.ext) == {}


@given(place=st.integers(0, 10_000), bit=st.integers(0, 7))
def test_no_bit_of_a_signed_event_changes_unnoticed(place: int, bit: int) -> None:
    raw = bytearray(said().raw)
    raw[place % len(raw)] ^= 1 << bit
    try:
        event = decode_event(bytes(raw))
    except MalformedMessage:
        return
    assert refusal(verifier(entry()), event) is not None


@given(
    key=st.sampled_from([None, SITE, OTHER]),
    known=st.booleans(),
    required=st.booleans(),
    since=st.sampled_from([BEGAN, NOW + 2 * SKEW]),
    revoked=st.sampled_from([None, NOW - 1, NOW + 2 * SKEW]),
    written=st.sampled_from([BEGAN - 2 * SKEW, NOW, ENDS + 2 * SKEW]),
    queue=st.sampled_from(["uplink", "downlink"]),
)
def test_an_event_passes_exactly_where_the_rules_say(
    key: SigningKey | None,
    known: bool,
    required: bool,
    since: float,
    revoked: float | None,
    written: float,
    queue: str,
) -> None:
    entries = [entry(since=since, revoked=revoked)] if known else []
    check = verifier(*entries, signatures="required" if required else "accepted")
    if key is None:
        passes = not required and not (known and since <= NOW)
    else:
        alive = revoked is None or (revoked > NOW and revoked > written)
        passes = key is SITE and known and alive and since - SKEW <= written < ENDS + SKEW and queue == "uplink"
    assert (refusal(check, said(key, time=written), queue) is None) is passes


def test_who_has_had_a_key_cannot_go_back_to_none() -> None:
    for gone in ({}, {"until": NOW - 1}, {"revoked": NOW - 1}):
        assert refusal(verifier(entry(**gone)), said(None)) == "signature-missing"
    assert refusal(verifier(), said(None)) is None
    assert refusal(verifier(signatures="required"), said(None)) == "signature-missing"
    assert refusal(Verifier("glioma"), said(None)) is None


def test_a_key_that_is_unknown_another_s_expired_or_revoked_is_no_good_key() -> None:
    assert refusal(verifier(), said()) == "no-good-key"
    assert refusal(verifier(entry(), entry(OTHER, "site-b")), said(OTHER)) == "no-good-key"
    assert refusal(verifier(entry(until=NOW - 2 * SKEW)), said()) == "no-good-key"
    assert refusal(verifier(entry(revoked=NOW - 1)), said(time=NOW - 2)) == "no-good-key"  # any time can be written
    assert refusal(verifier(entry()), said(time=BEGAN - 2 * SKEW)) == "no-good-key"  # back-dated


def test_what_lay_in_an_outbox_while_its_key_ended_is_taken_for_a_while() -> None:
    ended = verifier(entry(until=NOW))
    assert refusal(ended, said(time=NOW - 1), now=NOW + LATE - 1) is None
    assert refusal(ended, said(time=NOW - 1), now=NOW + LATE) == "no-good-key"


def test_while_a_key_takes_another_s_place_both_are_good() -> None:
    both = verifier(entry(until=NOW + 10), entry(OTHER, since=NOW - 10))
    assert refusal(both, said()) is refusal(both, said(OTHER)) is None


def test_a_copy_for_another_queue_or_party_or_consortium_is_refused() -> None:
    check = verifier(entry(), entry(COORDINATOR, "coordinator"))
    coordinator = Author("glioma", "coordinator", key=COORDINATOR)
    receipt = coordinator.write_event("receipt", Receipt(events=["0" * 32]), time=NOW, to="site-a")
    assert refusal(check, receipt, "inbox.site-a") is None
    assert refusal(check, receipt, "inbox.site-b") == "wrong-addressee"
    assert refusal(check, said(), "downlink") == "wrong-addressee"
    elsewhere = Author("lung", "site-a", key=SITE).write_event("hello", Hello(versions={}), time=NOW)
    assert refusal(check, elsewhere) == "sender-mismatch"


def test_an_event_for_an_inbox_is_not_signed_without_its_addressee() -> None:
    with pytest.raises(TypeError, match="addressee"):
        Author("glioma", "coordinator", key=COORDINATOR).write_event("receipt", Receipt(events=[]), time=NOW)


def test_a_signature_for_another_event_or_one_of_no_right_length_is_refused() -> None:
    check, one = verifier(entry()), said()
    payload, signature = split_event(one.raw)
    other = split_event(said(attempt="2").raw)[1]
    for forged in (other, signature[:63], signature + b"\0", bytes(64)):
        assert refusal(check, decode_event(codec.pack([payload, forged]))) == "bad-signature"


def test_an_enclosed_event_is_held_against_its_own_author_s_key_and_role() -> None:
    check = verifier(entry(), entry(OTHER, "dr-a", until=NOW))
    start = said(OTHER, "dr-a", time=NOW - 5)
    check.check_enclosed(start, "uplink", NOW + 2 * LATE, "researcher")
    with pytest.raises(MalformedMessage, match="site"):
        check.check_enclosed(said(), "uplink", NOW, "researcher")
    with pytest.raises(MalformedMessage, match="without"):
        check.check_enclosed(said(None, "dr-a"), "uplink", NOW, "researcher")


def test_what_is_read_of_the_past_is_held_against_the_keys_of_its_time() -> None:
    check = verifier(entry(revoked=NOW + 10))
    check.check_past(said(time=NOW), "uplink")
    check.check_past(said(None, time=BEGAN - 5), "uplink")
    with pytest.raises(MalformedMessage, match="without"):  # anybody can date back
        verifier(entry(), signatures="required").check_past(said(None, time=BEGAN - 5), "uplink")
    for late in (said(None, time=BEGAN + 5), said(time=NOW + 20)):
        with pytest.raises(MalformedMessage):
            check.check_past(late, "uplink")


def test_a_verifier_goes_on_with_the_operator_s_newer_register_alone() -> None:
    check = verifier(entry())
    newer = register(entry(revoked=NOW - 1), serial=2)
    with pytest.raises(MalformedMessage, match="operator"):
        check.take_register(sign_register(newer, OTHER))
    assert refusal(check, said()) is None
    assert check.take_register(sign_register(newer, OPERATOR)) == newer
    assert check.take_register(sign_register(newer, OPERATOR)) is None
    assert refusal(check, said()) == "no-good-key"
    with pytest.raises(RequestError, match="older"):
        check.take_register(sign_register(register(entry()), OPERATOR))


def test_live_events_are_signed_too_and_each_names_what_it_is_for() -> None:
    author = Author("glioma", "site-a", key=SITE)
    for kind, body, queue in (("alive", Alive(state="idle"), "progress"), ("echo", Echo(nonce="0" * 32), "uplink")):
        event = author.write_event(kind, body, time=NOW)
        assert refusal(verifier(entry()), event, queue) is None
        assert digest_payload(event.raw) == digest_payload(codec.pack([split_event(event.raw)[0], b""]))
