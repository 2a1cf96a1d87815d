"""Signature and `ext`: within their bounds ignored, beyond them refused, and never a way for free text."""

from __future__ import annotations

from typing import Any

import pytest

from messages import codec, kinds
from messages.envelope import Author, Event, decode_event, decode_stored
from messages.extension import EXT_BYTES, SIGNATURE_BYTES
from messages.ground.errors import UnboundedMessage
from messages.reasons import Reason

JOINED = Author("glioma", "site-a", incarnation=7).write_event(
    "leaving", kinds.Leaving(), time=1.0, experiment="exp", seq=1
)


def carrying(ext: Any = None, signature: bytes = b"", **fields: Any) -> bytes:
    """The event with this ext and signature, and fields of its payload replaced."""
    payload = codec.unpack(codec.unpack(JOINED.raw)[0]) | ({} if ext is None else {"ext": ext}) | fields
    return codec.pack([codec.pack(payload), signature])


def same(one: Event, other: Event) -> bool:
    return (one.id, one.kind, one.body) == (other.id, other.kind, other.body)


WITHIN: list[dict[str, Any]] = [
    {},
    {"words": 2},
    {"a": -1, "b": 0.5, "c": "masked-sum", "d": "ab" * 64, "0_-": 2**63},
    {f"k{number:02}": "ab" * 6 for number in range(60)},
]
BEYOND: list[tuple[Any, Reason]] = [
    ({"note": "Mueller, Karl"}, Reason.WRONG_TYPE),
    ({"note": "Mueller"}, Reason.WRONG_TYPE),
    ({"Mueller": 1}, Reason.WRONG_TYPE),
    ({"": 1}, Reason.WRONG_TYPE),
    ({"mueller karl": 1}, Reason.WRONG_TYPE),
    ({"note": ""}, Reason.WRONG_TYPE),
    ({"note": "karl\n"}, Reason.WRONG_TYPE),
    ({"note": "ab" * 65}, Reason.WRONG_TYPE),
    ({"note": "x" * 33}, Reason.WRONG_TYPE),
    ({"note": b"mueller"}, Reason.WRONG_TYPE),
    ({"note": ["mueller"]}, Reason.WRONG_TYPE),
    ({"note": {"deep": 1}}, Reason.WRONG_TYPE),
    ({"note": None}, Reason.WRONG_TYPE),
    ({"note": True}, Reason.WRONG_TYPE),
    ({"note": float("nan")}, Reason.WRONG_TYPE),
    ({"note": float("inf")}, Reason.WRONG_TYPE),
    ("mueller", Reason.WRONG_TYPE),
    (["mueller"], Reason.WRONG_TYPE),
    ({f"k{number:03}": "ab" * 8 for number in range(60)}, Reason.TOO_LARGE),
    ({"note": "x" * 2**21}, Reason.TOO_LARGE),
]


@pytest.mark.parametrize("ext", WITHIN)
def test_an_ext_of_numbers_hashes_and_code_words_is_taken_and_ignored(ext: dict[str, Any]) -> None:
    assert len(codec.pack(ext)) <= EXT_BYTES
    assert same(decode_event(carrying(ext)), JOINED)


@pytest.mark.parametrize(("ext", "reason"), BEYOND)
def test_an_ext_beyond_its_bounds_is_refused_without_its_content(ext: Any, reason: Reason) -> None:
    for fields in ({}, {"v": 9}, {"kind": "no-such-kind"}, {"patient": 1}):  # whatever else is wrong with the event
        with pytest.raises(UnboundedMessage) as caught:
            decode_event(carrying(ext, **fields))
        assert caught.value.reason == reason
        assert "ueller" not in str(caught.value)


def test_a_signature_of_a_later_version_is_taken_and_ignored_as_long_as_it_may_be_one() -> None:
    assert same(decode_event(carrying(signature=b"s" * SIGNATURE_BYTES)), JOINED)
    with pytest.raises(UnboundedMessage) as caught:
        decode_event(carrying(signature=b"s" * (SIGNATURE_BYTES + 1)))
    assert caught.value.reason == Reason.TOO_LARGE


def test_what_a_version_without_bounds_has_stored_still_reads() -> None:
    assert same(decode_stored(carrying({"note": ["Mueller, Karl"] * 1000}, b"s" * 5000)), JOINED)
