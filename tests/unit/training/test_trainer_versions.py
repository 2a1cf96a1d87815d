"""The trainers' protocol has a version: what an older or newer trainer is told, and what is taken of it."""

from __future__ import annotations

import json
import threading
from typing import Literal

import msgpack
import pytest
import site_consortium as script
from brokers import PATIENCE, eventually
from own_trainer import command
from pydantic import Field

from messages.ground.errors import MalformedMessage
from site_agent.training import client, protocol
from site_agent.training.client import TrainerProcess
from site_agent.training.compatibility import (
    OURS,
    UNSAID,
    ForeignTrainer,
    NewerThanTrainer,
    ProtocolVersion,
    encode_for,
    read_ready,
    read_reply,
)
from site_agent.training.protocol import (
    CaseRow,
    Evaluate,
    Evaluated,
    Failed,
    Frame,
    Prepare,
    Prepared,
    Progress,
    Ready,
    RegionRow,
    SplitRows,
    encode_frame,
    in_frame,
)

PREPARE = Prepare(
    experiment=script.experiment_file(), dataset={}, site="site-a", secret=b"", threads=1, cache="/nowhere"
)
FROZEN = {
    "Prepare": "kind experiment dataset site secret threads gpus ram_bytes disk_bytes cache state",
    "Train": "kind round attempt model manifest update output evaluate checkpoint_seconds",
    "Evaluate": "kind round model manifest splits label",
    "Stop": "kind",
}
"""Requests as 0.1 has them: version 1.0."""


class Wider(Frame):
    """A request that later versions gave fields."""

    kind: Literal["wider"] = "wider"
    old: int = 1
    newer: int = Field(7, json_schema_extra={"since": 1})
    newest: str | None = Field(None, json_schema_extra={"since": 2})


def plain(frame: bytes) -> dict[str, object]:
    found: dict[str, object] = msgpack.unpackb(frame[4:])
    return found


@pytest.mark.parametrize("name", sorted(FROZEN))
def test_a_field_that_a_request_got_after_0_1_says_since_when_and_has_a_default(name: str) -> None:
    model = getattr(protocol, name)
    for field, info in model.model_fields.items():
        if field not in FROZEN[name].split():
            assert isinstance(info.json_schema_extra, dict), field
            assert 1 <= int(str(info.json_schema_extra["since"])) <= OURS.minor, field
            assert not info.is_required(), field
    assert set(FROZEN[name].split()) <= set(model.model_fields)


@pytest.mark.parametrize("request_", [PREPARE, Evaluate(round=1, model="m", manifest={}, splits=[], label="final")])
def test_what_0_1_has_words_for_is_said_to_its_trainers_byte_for_byte(request_: Frame) -> None:
    words = FROZEN[type(request_).__name__].split()
    assert encode_for(request_, UNSAID) == in_frame(request_.model_dump(include=set(words)))


def test_an_older_trainer_is_not_told_of_fields_that_say_nothing_new() -> None:
    assert plain(encode_for(Wider(), ProtocolVersion(1, 0))) == {"kind": "wider", "old": 1}
    assert plain(encode_for(Wider(newer=8), ProtocolVersion(1, 1))) == {"kind": "wider", "old": 1, "newer": 8}
    assert (
        plain(encode_for(Wider(newer=8, newest="x"), ProtocolVersion(1, 2))) == Wider(newer=8, newest="x").model_dump()
    )
    with pytest.raises(NewerThanTrainer, match=r"version 1\.1 of the protocol, which has no 'newest'"):
        encode_for(Wider(newest="x"), ProtocolVersion(1, 1))


def test_the_first_word_tells_the_version_whatever_else_stands_in_it() -> None:
    assert read_ready(encode_frame(Ready())[4:]) == OURS
    later = {"kind": "ready", "protocol": f"{OURS.major}.99", "watts": 3}
    assert read_ready(msgpack.packb(later)) == ProtocolVersion(OURS.major, 99)
    assert read_ready(encode_frame(Failed(code="late", round=1))[4:]) is None
    for said in ("2", "1.x", "", "1.2.3", 1):
        with pytest.raises(MalformedMessage):
            read_ready(msgpack.packb({"kind": "ready", "protocol": said}))
    with pytest.raises(ForeignTrainer, match=r"speaks version 9\.0 .* this agent 1.*Update Konsil"):
        read_ready(msgpack.packb({"kind": "ready", "protocol": "9.0"}))
    with pytest.raises(ForeignTrainer, match="Bring the trainer to version"):
        read_ready(msgpack.packb({"kind": "ready", "protocol": "0.9"}))


def test_only_of_a_newer_trainer_unknown_fields_and_kinds_are_left_out() -> None:
    newer = ProtocolVersion(OURS.major, OURS.minor + 1)
    known = Progress(round=1, phase="training", done=1, total=2)
    wider = msgpack.packb(known.model_dump() | {"watts": 300})
    assert read_reply(wider, newer) == known
    assert read_reply(msgpack.packb({"kind": "temperature"}), newer) is None
    for wrong in (msgpack.packb(known.model_dump() | {"watts": 3, "done": "x"}), b"\xc1", msgpack.packb([1])):
        with pytest.raises(MalformedMessage):
            read_reply(wrong, newer)
    for version in (OURS, UNSAID):
        for body in (wider, msgpack.packb({"kind": "temperature"})):
            with pytest.raises(MalformedMessage):
                read_reply(body, version)


def test_unknown_fields_of_a_newer_trainer_are_left_out_within_its_scores_too() -> None:
    row = RegionRow(dice=0.5, reference_empty=False, prediction_empty=False)
    rows = SplitRows(split="validation", cases=[CaseRow(case="a", regions={"WT": row})])
    known = Evaluated(round=1, label="final", scores=[rows])
    plain_ = known.model_dump()
    plain_["watts"] = plain_["scores"][0]["seconds"] = plain_["scores"][0]["cases"][0]["nice"] = 1
    assert read_reply(msgpack.packb(plain_), ProtocolVersion(OURS.major, OURS.minor + 1)) == known
    with pytest.raises(MalformedMessage):
        read_reply(msgpack.packb(plain_), OURS)


class Talk:
    """A trainer's process, and what it answers."""

    def __init__(self, version: str) -> None:
        self.replies: list[object] = []
        self.news = threading.Condition()
        self.status: list[int] = []
        self.process = TrainerProcess(self._take, self.status.append, program=command(version))

    def _take(self, reply: object) -> None:
        with self.news:
            self.replies.append(reply)
            self.news.notify_all()

    def answer(self) -> object:
        with self.news:
            assert self.news.wait_for(lambda: self.replies, PATIENCE)
            return self.replies.pop(0)


def ask(talk: Talk, request: Frame) -> object:
    talk.process.send_request(request)  # type: ignore[arg-type]
    return talk.answer()


def test_a_process_that_says_nothing_first_is_taken_for_one_of_0_1(capfd: pytest.CaptureFixture[str]) -> None:
    talk = Talk("none")
    assert isinstance(ask(talk, PREPARE), Prepared)
    assert talk.process.wait_version(0) is None
    assert "says no version of its protocol" in capfd.readouterr().out
    talk.process.stop()


def test_a_process_of_another_major_version_is_ended_with_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    talk = Talk("2.0")
    answer = talk.answer()
    assert isinstance(answer, Failed)
    assert (answer.code, answer.fatal) == ("unsupported", True)
    assert talk.process.wait(PATIENCE) is not None
    with pytest.raises(ForeignTrainer):
        talk.process.wait_version(0)
    assert "speaks version 2.0 of the protocol" in capfd.readouterr().out


class NewPrepare(Prepare):
    """As a later version of the agent would say it."""

    manner: dict[str, float] = Field({}, json_schema_extra={"since": 1})


def test_what_a_trainer_has_no_words_for_is_answered_in_its_stead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "READY_WITHIN", 0.2)
    for version in ("none", "1.0"):
        talk = Talk(version)
        answer = ask(talk, NewPrepare(**PREPARE.model_dump(), manner={"mu": 0.1}))
        assert isinstance(answer, Failed)
        assert answer.code == "unsupported"
        assert "has no 'manner'" in answer.detail
        assert json.dumps(answer.detail)
        talk.process.stop()


def test_a_request_with_newer_words_waits_until_the_process_has_said_its_version() -> None:
    talk = Talk("1.1")
    talk.process.send_request(NewPrepare(**PREPARE.model_dump(), manner={"mu": 0.1}))
    assert talk.process.wait_version(PATIENCE) == ProtocolVersion(1, 1)
    eventually(lambda: not talk.process._held, what="it is handed over")
    assert talk.replies == []  # (the null trainer of today does not know the field)
    talk.process.kill()
