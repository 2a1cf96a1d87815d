"""Strict msgpack: what comes back is what went in, and nothing else gets in."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages import codec
from messages.ground.errors import MalformedMessage
from messages.names import RoutingKey
from messages.reasons import ADVICE, Reason

NAMES = st.from_regex(r"[a-z0-9-]{1,32}", fullmatch=True)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | st.text(max_size=20)
    | st.binary(max_size=20)
)
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


def same(left: Any, right: Any) -> bool:
    """Equal in value and type: 1, 1.0 and True differ here."""
    if type(left) is not type(right):
        return False
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    return bool(left == right)


def depth(value: Any) -> int:
    """Containers within containers."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


@given(PLAIN.filter(lambda value: depth(value) <= codec.MAX_DEPTH))
def test_plain_values_come_back_equal_in_value_type_and_order(value: Any) -> None:
    assert same(codec.unpack(codec.pack(value)), value)


@given(st.dictionaries(st.text(max_size=5), PLAIN, max_size=5), st.randoms())
def test_canonical_bytes_do_not_depend_on_the_order_of_keys(content: dict[str, Any], random: Any) -> None:
    items = list(content.items())
    random.shuffle(items)
    assert codec.canonical(dict(items)) == codec.canonical(content)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.MALFORMED),
        (b"\x01\x01", Reason.MALFORMED),  # trailing byte
        (b"\xc1", Reason.MALFORMED),  # never used by msgpack
        (b"\xa1\xff", Reason.MALFORMED),  # not UTF-8
        (b"\xdd\xff\xff\xff\xff", Reason.MALFORMED),  # an array of 4 billion that never comes
        (b"\x92\x01", Reason.MALFORMED),  # cut off
        (msgpack.packb({1: 2}), Reason.MALFORMED),
        (msgpack.packb({b"a": 2}), Reason.WRONG_TYPE),
        (b"\x82\xa1a\x01\xa1a\x02", Reason.MALFORMED),  # a key twice
        (msgpack.packb(msgpack.ExtType(5, b"")), Reason.WRONG_TYPE),
        (msgpack.packb(msgpack.ExtType(5, b"abc")), Reason.MALFORMED),
        (msgpack.packb(msgpack.Timestamp(5, 0)), Reason.MALFORMED),
        (b"\x91" * (codec.MAX_DEPTH + 1) + b"\xc0", Reason.TOO_DEEP),
        (b"\x91" * 100_000 + b"\xc0", Reason.TOO_DEEP),
        (bytes(codec.MAX_EVENT_BYTES + 1), Reason.TOO_LARGE),
    ],
)
def test_what_is_not_one_plain_value_is_refused_with_its_reason(data: bytes, reason: Reason) -> None:
    with pytest.raises(MalformedMessage) as caught:
        codec.unpack(data)
    assert caught.value.reason == reason


def test_the_deepest_allowed_value_still_passes() -> None:
    assert codec.unpack(b"\x91" * codec.MAX_DEPTH + b"\xc0") is not None


@given(st.binary(max_size=200))
def test_random_bytes_decode_or_are_malformed_and_nothing_else(data: bytes) -> None:
    try:
        value = codec.unpack(data)
    except MalformedMessage as error:
        assert error.reason in set(Reason)  # noqa: PT017
    else:
        # Plain types only: what was read can be written again.
        assert depth(value) <= codec.MAX_DEPTH
        codec.pack(value)


@given(NAMES, NAMES, st.from_regex(r"[a-z0-9-]{1,64}", fullmatch=True), st.none() | NAMES)
def test_routing_keys_come_back_equal(kind: str, sender: str, experiment: str, addressee: str | None) -> None:
    key = RoutingKey(kind, sender, experiment, addressee)
    assert RoutingKey.parse(str(key)) == key


@pytest.mark.parametrize(
    "key", ["", "a.b", "a.b.c.d.e", "a..c", "a.B.c", "a.b.c.", "a.b.c\n", "a.*.c", "#.b.c", "a" * 33 + ".b.c"]
)
def test_keys_outside_the_grammar_are_refused(key: str) -> None:
    with pytest.raises(MalformedMessage):
        RoutingKey.parse(key)


@given(st.text(alphabet="ab-.#*\nÄ", max_size=12))
def test_any_text_is_a_key_that_writes_itself_or_is_malformed(text: str) -> None:
    try:
        key = RoutingKey.parse(text)
    except MalformedMessage:
        return
    assert str(key) == text


def test_each_reason_has_its_advice() -> None:
    assert set(ADVICE) == set(Reason)
