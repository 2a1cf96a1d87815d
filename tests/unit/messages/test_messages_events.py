"""Events: each kind's body survives the wire, and nothing but that kind's body is taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from secure_bodies import BODIES as SECURE_BODIES

from messages import codec, kinds
from messages.envelope import Author, check_origin, decode_event, event_id
from messages.ground.errors import MalformedMessage
from messages.kinds import KINDS, Body
from messages.reasons import Reason
from messages.scores import ScoreSums, SplitScores
from messages.statistics.fingerprint import DataFingerprint
from messages.tensors.layout import Manifest, TensorSpec

SITE = Author("glioma", "site-a", incarnation=7)
COORDINATOR = Author("glioma", "coordinator", term=3)
NONCE, DIGEST = "0" * 32, "1" * 64
TRANSFER = kinds.Transfer(
    round=2,
    attempt=3,
    seal=DIGEST,
    manifest=Manifest(
        tensors=(
            TensorSpec(name="w", shape=(2, 3), dtype="float32"),
            TensorSpec(name="n", shape=(), dtype="int64"),
        )
    ),
)
CASES = kinds.CaseCounts(found=9, used=8, left_out={Reason.NO_LABEL: 1}, train=6, validation=1, test=1)
PLATFORM = kinds.Platform(device_type="cpu", threads=2, versions={"torch": "2.13.0"}, deterministic=True)
SCORES = SplitScores(
    cases=2,
    metrics={"dice": {"WT": ScoreSums(n=2, sum=1.5, squares=1.2)}},
    rows=[{"WT": 0.5}, {"WT": None}],
)
CANDIDATE = kinds.Candidate(label="final", transfer=TRANSFER, model_digest=DIGEST)
READY = kinds.WeightsReady(
    transfer=TRANSFER,
    cases_used=6,
    cases=CASES,
    epochs=1,
    steps=3,
    loss=None,
    seconds=1.0,
    validation=SCORES,
    platform=PLATFORM,
)
BODIES: dict[str, Body] = SECURE_BODIES | {
    "last-heard": kinds.LastHeard(incarnation=3, seq=9, digest=DIGEST, parts={"exp-1": kinds.PartHeard(round=2)}),
    "statistics-start": kinds.StatisticsStart(sites=["site-a"], within=7200.0),
    "statistics-ready": kinds.StatisticsReady(statistics=DataFingerprint(cases=8), memory_mib=4096),
    "statistics-pooled": kinds.StatisticsPooled(
        statistics=DataFingerprint(cases=8), contributors={"site-a": 8}, left_out={"site-b": Reason.TOO_FEW_CASES}
    ),
    "head-witnessed": kinds.HeadWitnessed(size=7, root=DIGEST, cosignature=bytes(76)),
    "log-head": kinds.LogHead(note=b"origin", old_size=3, proof=[bytes(32)], opening=2, witnessed=b"x"),
    "experiment-start": kinds.ExperimentStart(experiment={"a": None, "b": [1, 2.0, "c", True]}),
    "experiment-check": kinds.ExperimentCheck(experiment={}, nonce=NONCE),
    "experiment-accepted": kinds.ExperimentAccepted(
        experiment={"grace": None}, digest=DIGEST, researcher="dr-a", original=b"\x00\xff", enrol_within=60
    ),
    "experiment-refused": kinds.ExperimentRefused(reason=Reason.ID_TAKEN, event=NONCE),
    "experiment-checked": kinds.ExperimentChecked(experiment={}, researcher="dr-a", nonce=NONCE),
    "experiment-complete": kinds.ExperimentComplete(
        model=CANDIDATE, model_round=2, final_digest=DIGEST, test=SCORES, rounds=2
    ),
    "model-ready": kinds.ExperimentComplete(model=CANDIDATE, model_round=2, final_digest=DIGEST, rounds=2),
    "experiment-failed": kinds.ExperimentFailed(reason=Reason.QUORUM_NOT_MET),
    "round-start": kinds.RoundStart(
        transfer=TRANSFER, model_digest=DIGEST, sites=["site-a"], evaluate=True, train_within=60.0
    ),
    "round-complete": kinds.RoundComplete(
        contributors={"site-a": 6}, left_out={"site-b": Reason.ABSENT}, model_digest=DIGEST, seconds=2.5
    ),
    "evaluation-start": kinds.EvaluationStart(models=[CANDIDATE], sites=["site-a"], evaluate_within=60.0),
    "register": kinds.RegisterAnnounced(note=b"konsil register 1\n"),
    "coordinator-hello": kinds.CoordinatorHello(versions={"konsil": "0.1.0"}),
    "hello": kinds.Hello(versions={}),
    "joined": kinds.Joined(cases=CASES, platform=PLATFORM),
    "declined": kinds.Declined(reason=Reason.TOO_FEW_CASES, cases=CASES),
    "weights-ready": READY,
    "round-failed": kinds.RoundFailed(reason=Reason.CUDA_OOM),
    "evaluated": kinds.Evaluated(scores={"final": kinds.ModelScores(model_digest=DIGEST, splits={"test": SCORES})}),
    "nonce": kinds.Nonce(nonce=NONCE),
    "echo": kinds.Echo(nonce=NONCE),
    "echo-reply": kinds.EchoReply(nonce=NONCE, time=1.5),
    "receipt": kinds.Receipt(events=[NONCE]),
    "refused": kinds.Refused(event=NONCE, kind="weights-ready", reason=Reason.LATE),
    "standing": kinds.Standing(state="rounds", events=[b"\x00"]),
    "experiment-exclude": kinds.ExperimentExclude(site="site-a", reason=Reason.WRONG_LABELS),
    "site-excluded": kinds.SiteExcluded(site="site-a", reason=Reason.EXCLUDED),
    "model-wanted": kinds.ModelWanted(round=3),
    "chunks-wanted": kinds.ChunksWanted(round=1, attempt=1, seal=DIGEST, chunks=[0, 5]),
    "alive": kinds.Alive(state="idle"),
    "progress": kinds.Progress(phase="training", done=1, total=2, loss=0.5),
    "check-answer": kinds.CheckAnswer(nonce=NONCE, accepts=False, reason=Reason.SITE_PAUSED),
}


def body_of(kind: str) -> Body:
    """A filled body where one is given, else the kind's empty one."""
    model = KINDS[kind].body
    assert model is not None
    return BODIES.get(kind) or model()


def changed(raw: bytes, **fields: Any) -> bytes:
    """The event with fields of its payload replaced; None takes one out."""
    payload = codec.unpack(codec.unpack(raw)[0]) | fields
    return codec.pack([codec.pack({key: value for key, value in payload.items() if value is not None}), b""])


@pytest.mark.parametrize("kind", [kind for kind, spec in KINDS.items() if spec.body])
def test_each_kind_comes_back_equal_and_verbatim(kind: str) -> None:
    event = COORDINATOR.write_event(kind, body_of(kind), time=5, experiment="exp", round_number=2, seq=4)
    assert decode_event(event.raw) == event
    assert event.body.model_validate(codec.unpack(codec.pack(event.body.as_plain()))) == event.body


READY_EVENT = SITE.write_event("weights-ready", READY, time=1.0, experiment="exp", round_number=2, attempt=3, seq=1)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"v": 2}, Reason.UNKNOWN_SCHEMA),
        ({"v": True}, Reason.WRONG_TYPE),
        (
            {"kind": "no-such-kind", "id": event_id("exp", 2, "no-such-kind", "site-a", 3)},
            Reason.UNKNOWN_KIND,
        ),
        (
            {"kind": "update-chunk", "id": event_id("exp", 2, "update-chunk", "site-a", 3)},
            Reason.UNKNOWN_KIND,
        ),
        ({"Mueller": 1}, Reason.UNKNOWN_FIELD),
        ({"seq": None}, Reason.WRONG_TYPE),
        ({"seq": True}, Reason.WRONG_TYPE),
        ({"seq": "1"}, Reason.WRONG_TYPE),
        ({"seq": 1.0}, Reason.WRONG_TYPE),
        ({"seq": -1}, Reason.WRONG_TYPE),
        ({"seq": 2**63}, Reason.WRONG_TYPE),
        ({"incarnation": 2**63}, Reason.WRONG_TYPE),
        ({"term": 2**64 - 1}, Reason.WRONG_TYPE),
        ({"time": float("nan")}, Reason.WRONG_TYPE),
        ({"time": float("inf")}, Reason.WRONG_TYPE),
        ({"round": 2**40}, Reason.WRONG_TYPE),
        ({"experiment": "../etc"}, Reason.WRONG_TYPE),
        ({"sender": "site-a\n"}, Reason.WRONG_TYPE),
        ({"sender": "site-b"}, Reason.MALFORMED),  # the id is another sender's
        ({"id": "f" * 32}, Reason.MALFORMED),
        ({"body": []}, Reason.WRONG_TYPE),
        ({"body": {"reason": "late"}}, Reason.UNKNOWN_FIELD),
        ({"body": READY.as_plain() | {"patient": "Mueller"}}, Reason.UNKNOWN_FIELD),
        ({"body": READY.as_plain() | {"cases_used": "6"}}, Reason.WRONG_TYPE),
        ({"body": READY.as_plain() | {"cases_used": 6.0}}, Reason.WRONG_TYPE),
        ({"body": READY.as_plain() | {"cases_used": True}}, Reason.WRONG_TYPE),
        ({"body": READY.as_plain() | {"cases_used": 2**60}}, Reason.WRONG_TYPE),
        ({"body": READY.as_plain() | {"loss": float("nan")}}, Reason.WRONG_TYPE),
        (
            {"body": READY.as_plain() | {"cases": CASES.as_plain() | {"left_out": {"Mueller": 1}}}},
            Reason.WRONG_TYPE,
        ),
        (
            {"body": READY.as_plain() | {"platform": PLATFORM.as_plain() | {"device_type": "Mueller"}}},
            Reason.WRONG_TYPE,
        ),
        (
            {"body": READY.as_plain() | {"platform": PLATFORM.as_plain() | {"versions": {"Mueller, Karl": "1"}}}},
            Reason.WRONG_TYPE,
        ),
        (
            {"body": READY.as_plain() | {"platform": PLATFORM.as_plain() | {"versions": {"torch": "Mueller, Karl"}}}},
            Reason.WRONG_TYPE,
        ),
    ],
)
def test_what_is_not_this_kinds_event_is_refused_by_code_and_without_its_content(
    fields: dict[str, Any], reason: Reason
) -> None:
    assert decode_event(changed(READY_EVENT.raw)).id == READY_EVENT.id
    with pytest.raises(MalformedMessage) as caught:
        decode_event(changed(READY_EVENT.raw, **fields))
    assert caught.value.reason == reason
    assert "Mueller" not in str(caught.value)


@pytest.mark.parametrize("changes", [{"state": "Mueller"}, {"busy_with": "Mueller, Karl"}])
def test_a_sites_sign_of_life_holds_no_free_text(changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="Alive"):
        kinds.Alive.model_validate({"state": "idle"} | changes)


MANY = {f"{number:05x}": 1 for number in range(50_000)}
MANIFEST_PLAIN = TRANSFER.as_plain()["manifest"]


@pytest.mark.parametrize(
    "body",
    [
        READY.as_plain() | MANY,
        READY.as_plain() | {"cases": CASES.as_plain() | {"left_out": MANY}},
        READY.as_plain() | {"platform": PLATFORM.as_plain() | {"versions": dict.fromkeys(MANY, "1")}},
        READY.as_plain() | {"validation": {"cases": 1, "metrics": {name: {} for name in MANY}}},
        READY.as_plain() | {"validation": {"cases": 1, "metrics": {"dice": {name: {} for name in MANY}}}},
        READY.as_plain() | {"validation": {"cases": 1, "rows": [{"": 2.0}] * 50_000}},
        READY.as_plain()
        | {"transfer": TRANSFER.as_plain() | {"manifest": MANIFEST_PLAIN | {"tensors": [{}] * 50_000}}},
        READY.as_plain()
        | {
            "transfer": TRANSFER.as_plain()
            | {"manifest": MANIFEST_PLAIN | {"tensors": [{"name": "w", "dtype": "int8", "shape": [""] * 50_000}]}}
        },
    ],
    ids=["body", "left-out", "versions", "metrics", "regions", "rows", "tensors", "shape"],
)
def test_thousands_of_mistakes_are_refused_at_the_first_of_them(body: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        kinds.WeightsReady.model_validate(body)
    assert caught.value.error_count() <= 5


def test_a_payload_with_thousands_of_fields_is_refused_unread() -> None:
    with pytest.raises(MalformedMessage, match="more fields than there are"):
        decode_event(changed(READY_EVENT.raw, **MANY))


@given(st.binary(max_size=150))
def test_random_bytes_are_malformed_and_nothing_else(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_event(data)
    with pytest.raises(MalformedMessage):
        decode_event(codec.pack([data, b""]))


@given(st.integers(0, len(READY_EVENT.raw) - 1), st.integers(1, 255))
def test_a_changed_byte_gives_an_event_or_malformed_and_nothing_else(position: int, flip: int) -> None:
    data = bytearray(READY_EVENT.raw)
    data[position] ^= flip
    try:
        event = decode_event(bytes(data))
    except MalformedMessage:
        return
    assert event.raw == bytes(data)
    assert event.id == READY_EVENT.id


WORDS = st.text(alphabet="ab1-", min_size=1, max_size=3)
PARTS = st.tuples(WORDS, st.integers(0, 20), WORDS, WORDS, st.text(alphabet="a1|-", max_size=4))


@given(PARTS, PARTS)
def test_two_events_share_an_id_only_where_they_are_the_same(one: Any, two: Any) -> None:
    assert (event_id(*one) == event_id(*two)) == (one == two)


def test_an_author_writes_nothing_that_no_reader_takes() -> None:
    with pytest.raises(MalformedMessage):
        SITE.write_event("leaving", kinds.Leaving(), time=0, experiment="a|b")
    with pytest.raises(MalformedMessage) as caught:
        COORDINATOR.write_event("standing", kinds.Standing(state="x", events=[bytes(2**20)] * 5), time=0)
    assert caught.value.reason == Reason.TOO_LARGE
    with pytest.raises(TypeError):
        SITE.write_event("leaving", kinds.Hello(versions={}), time=0)


def test_an_event_is_taken_only_from_the_one_whom_broker_key_and_payload_name() -> None:
    check_origin(READY_EVENT, READY_EVENT.key, "site-a", "glioma")
    check_origin(READY_EVENT, READY_EVENT.key_to("coordinator"), "site-a", "glioma")
    for key, user, consortium in [
        (READY_EVENT.key, None, "glioma"),
        (READY_EVENT.key, "site-b", "glioma"),
        ("weights-ready.site-b.exp", "site-a", "glioma"),
        ("joined.site-a.exp", "site-a", "glioma"),
        ("weights-ready.site-a.other", "site-a", "glioma"),
        (READY_EVENT.key, "site-a", "other"),
    ]:
        with pytest.raises(MalformedMessage) as caught:
            check_origin(READY_EVENT, key, user, consortium)
        assert caught.value.reason == Reason.SENDER_MISMATCH


def test_a_site_cannot_speak_as_the_coordinator_nor_the_other_way_round() -> None:
    forged = SITE.write_event("experiment-failed", BODIES["experiment-failed"], time=0, experiment="exp")
    with pytest.raises(MalformedMessage):
        check_origin(forged, forged.key, "site-a", "glioma")
    odd = COORDINATOR.write_event("joined", BODIES["joined"], time=0, experiment="exp")
    with pytest.raises(MalformedMessage):
        check_origin(odd, odd.key, "coordinator", "glioma")
    both = COORDINATOR.write_event("chunks-wanted", BODIES["chunks-wanted"], time=0, experiment="exp")
    check_origin(both, both.key_to("site-a"), "coordinator", "glioma")
