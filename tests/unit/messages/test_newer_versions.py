"""Words of a newer version are "other" where their event says so, and a mistake where it does not."""

from __future__ import annotations

from typing import Any

import pytest
from newer_version import written

from messages import abilities, codec, kinds
from messages.abilities import VOCABULARY, may_use, read_abilities, read_vocabulary, share_abilities
from messages.envelope import Author, Event, check_origin, decode_event, decode_stored
from messages.ground.errors import MalformedMessage
from messages.kinds import KINDS, Body
from messages.reasons import ADVICE, Reason

SITE = Author("glioma", "site-a", incarnation=7)
NEWER = {"words": VOCABULARY + 1}
CASES = kinds.CaseCounts(found=9, used=8, left_out={Reason.NO_LABEL: 1}, train=6, validation=1, test=1)
PLATFORM = kinds.Platform(device_type="cpu", threads=2, versions={}, deterministic=True)


def wire(kind: str, body: dict[str, Any], ext: dict[str, Any]) -> bytes:
    return written(kind, body, ext, sender="site-a", consortium="glioma", experiment="exp", round_number=1)


def said(event: Event, model: type[Body]) -> dict[str, Any]:
    assert type(event.body) is model
    return event.body.as_plain()


LEFT_OUT = {"found": 9, "used": 2, "train": 2, "validation": 0, "test": 0}
READ: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("round-failed", {"reason": "gpu-melted"}, {"reason": "other"}),
    ("declined", {"reason": "no-such-modality"}, {"reason": "other"}),
    ("leaving", {"reason": "leaving", "until": 12.5}, {"reason": "leaving"}),
    ("round-accepted", {"plan": {"order": [1, 2], "by": "size"}}, {}),
    (
        "declined",
        {"reason": "too-few-cases", "cases": LEFT_OUT | {"left_out": {"no-label": 1, "torn": 2, "wet": 4}}},
        {"reason": "too-few-cases", "cases": LEFT_OUT | {"left_out": {"no-label": 1, "other": 6}}},
    ),
    ("alive", {"state": "hibernating"}, {"state": "other", "queued": 0}),
    (
        "progress",
        {"phase": "masking", "done": 1, "total": 2},
        {"phase": "other", "done": 1, "total": 2, "bytes_down": 0, "bytes_up": 0},
    ),
]


@pytest.mark.parametrize(("kind", "body", "read"), READ)
def test_what_a_newer_version_adds_is_read_as_other_or_left_out(
    kind: str, body: dict[str, Any], read: dict[str, Any]
) -> None:
    model = KINDS[kind].body
    assert model is not None
    event = decode_event(wire(kind, body, NEWER))
    assert said(event, model) == read
    assert event.newer
    assert event.known


@pytest.mark.parametrize(("kind", "body", "read"), READ)
@pytest.mark.parametrize("ext", [{}, {"words": 1}, {"words": 0}, {"words": "2"}, {"words": 9.0}, {"can-x": 1}])
def test_a_party_that_said_no_newer_version_is_read_as_strictly_as_ever(
    kind: str, body: dict[str, Any], read: dict[str, Any], ext: dict[str, Any]
) -> None:
    with pytest.raises(MalformedMessage):
        decode_event(wire(kind, body, ext))


def test_a_kind_of_a_newer_version_is_an_event_of_which_nothing_is_read() -> None:
    raw = wire("key-shares", {"shares": {"Mueller, Karl": [1]}}, NEWER)
    event = decode_event(raw)
    assert event.body == kinds.Unknown()
    assert not event.known
    check_origin(event, event.key, "site-a", "glioma")
    for key, user in [(event.key, "site-b"), ("key-shares.site-b.exp", "site-a"), ("joined.site-a.exp", "site-a")]:
        with pytest.raises(MalformedMessage):
            check_origin(event, key, user, "glioma")
    with pytest.raises(MalformedMessage) as caught:
        decode_event(wire("key-shares", {}, {}))
    assert caught.value.reason == Reason.UNKNOWN_KIND


@pytest.mark.parametrize(
    "body",
    [
        {"reason": "Mueller, Karl"},
        {"reason": "gpu-melted", "note": "Mueller, Karl"},
        {"reason": "gpu-melted", "note": {"deep": ["Mueller"]}},
        {"reason": "gpu-melted", "note": {"Mueller, Karl": 1}},
        {"reason": "gpu-melted", "note": ["mueller-karl"] * 200},
        {"reason": 7},
    ],
)
def test_a_newer_version_has_no_more_room_for_free_text(body: dict[str, Any]) -> None:
    with pytest.raises(MalformedMessage) as caught:
        decode_event(wire("round-failed", body, NEWER))
    assert "ueller" not in str(caught.value)


def test_an_event_reads_later_as_it_was_read_when_it_came(monkeypatch: pytest.MonkeyPatch) -> None:
    """What came as "other" was decided on as "other": a version that knows the word replays that."""
    raw = wire("round-failed", {"reason": "late", "reports": 3}, NEWER)
    strict = wire("round-failed", {"reason": "late"}, {})
    monkeypatch.setattr(abilities, "NEWER", {"late": VOCABULARY + 1})
    monkeypatch.setattr(abilities, "VOCABULARY", VOCABULARY + 1)
    assert said(decode_stored(raw, VOCABULARY), kinds.RoundFailed) == {"reason": "other"}
    assert said(decode_stored(strict), kinds.RoundFailed) == {"reason": "late"}
    with pytest.raises(MalformedMessage):
        decode_stored(raw)  # of our own words, and with a field that we do not have
    monkeypatch.setattr(abilities, "NEWER", {"round-failed": VOCABULARY + 1})
    assert decode_stored(raw, VOCABULARY).body == kinds.Unknown()


def test_an_event_says_that_it_is_newer_only_where_a_word_in_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def ext(kind: str, body: Body) -> dict[str, Any]:
        event = SITE.write_event(kind, body, time=1.0, experiment="exp")
        assert decode_event(event.raw) == event
        return dict(event.ext)

    joined = kinds.Joined(cases=CASES, platform=PLATFORM)
    failed = kinds.RoundFailed(reason=Reason.CUDA_OOM)
    ours = {f"can-words-{number}": 1 for number in (3, 4, 5, 6, 7)}
    assert (ext("round-failed", failed), ext("joined", joined)) == ({}, ours)
    monkeypatch.setattr(abilities, "VOCABULARY", 4)
    monkeypatch.setattr(abilities, "NEWER", {"cuda-oom": 2, "no-label": 3, "Platform.deterministic": 4, "leaving": 2})
    assert ext("round-failed", failed) == {"words": 2}
    assert ext("round-failed", kinds.RoundFailed(reason=Reason.NAN_LOSS)) == {}
    assert ext("declined", kinds.Declined(reason=Reason.TOO_FEW_CASES, cases=CASES)) == {"words": 3}
    assert ext("joined", joined) == ours | {"words": 4}
    assert ext("leaving", kinds.Leaving()) == {"words": 2}
    assert ext("hello", kinds.Hello(versions={})) == ours


def test_what_is_new_is_used_only_where_all_who_take_part_can() -> None:
    ours = {"masked-sum", "scaffold"}
    newest, newer, oldest = {"masked-sum", "scaffold", "more"}, {"masked-sum"}, frozenset[str]()
    assert may_use("masked-sum", [newest, newer], ours)
    assert not may_use("scaffold", [newest, newer], ours)
    assert not may_use("more", [newest], ours)
    assert not may_use("masked-sum", [newest, oldest], ours)
    assert share_abilities([newest, newest], ours) == ours
    assert not may_use("masked-sum", [newest, newer])  # this version has none yet


def test_abilities_travel_in_the_ext_of_the_kinds_that_announce_them() -> None:
    able = Author("glioma", "site-a", can=frozenset({"masked-sum", "scaffold"}))
    hello = decode_event(able.write_event("hello", kinds.Hello(versions={}), time=1.0).raw)
    assert hello.ext == {"can-masked-sum": 1, "can-scaffold": 1}
    assert read_abilities(hello.ext) == able.can
    assert not hello.newer
    assert decode_event(able.write_event("round-accepted", kinds.RoundAccepted(), time=1.0).raw).ext == {}
    assert read_abilities({"words": 2, "can-": 1, "cannot": 1}) == frozenset()
    assert read_vocabulary({"words": True}) == 1
    with pytest.raises(MalformedMessage):
        Author("glioma", "site-a", can=frozenset({"x" * 29})).write_event("hello", kinds.Hello(versions={}), time=1.0)


def test_events_without_a_newer_word_are_byte_for_byte_those_of_0_1_but_for_what_their_sender_can() -> None:
    assert set(abilities.NEWER.values()) <= set(range(2, VOCABULARY + 1))
    ours = {f"can-{one}": 1 for one in sorted(abilities.OURS)}
    joined = kinds.Joined(cases=CASES, platform=PLATFORM)
    for kind, body, can in [("joined", joined, ours), ("round-accepted", kinds.RoundAccepted(), {})]:
        event = SITE.write_event(kind, body, time=1.0, experiment="exp", seq=1)
        assert codec.unpack(codec.unpack(event.raw)[0])["ext"] == can


def test_other_has_its_advice_like_every_reason() -> None:
    assert ADVICE[Reason.OTHER]
