"""An event on the wire: `[payload bytes, signature]`, kept verbatim wherever it is stored.

The payload is one msgpack map. Decoding is strict: unknown kind, unknown field outside `ext`, wrong type, too large,
too deep is refused with a reason code. An author that has a key signs the payload's bytes (`messages.trust`); without
one the signature is empty, and the event byte for byte that of 0.1. Who receives an event asks a `Verifier` before it
does anything with it. Signature and `ext` are bounded (`messages.extension`). Of `ext` are read: what the signature is
to cover and the payload lacks (`messages.trust.signatures`), its sender's abilities, and whether the event holds words
of a newer version; only then are unknown kinds, reasons, states and fields no mistake (`messages.abilities`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from messages import abilities, codec, extension
from messages.ground.errors import MalformedMessage
from messages.ground.naming import NO_EXPERIMENT, WHOLE_EXPERIMENT, WHOLE_NAME
from messages.kinds import INBOX, KINDS, Body, KindSpec, Unknown
from messages.names import COORDINATOR, RoutingKey
from messages.reasons import Reason
from messages.trust import signatures
from messages.trust.keys import SigningKey
from messages.words import Reading, needed_vocabulary

SCHEMA = 1


class _Payload(BaseModel):
    """The payload's map."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    v: int
    kind: str = Field(pattern=WHOLE_NAME)
    id: str = Field(pattern=r"^[0-9a-f]{32}$")
    consortium: str = Field(pattern=WHOLE_NAME)
    experiment: str = Field(pattern=WHOLE_EXPERIMENT)
    round: int = Field(ge=0, le=1_000_000)
    sender: str = Field(pattern=WHOLE_NAME)
    attempt: str = Field(max_length=64)
    incarnation: int = Field(ge=0, lt=2**63)
    seq: int = Field(ge=0, lt=2**63)
    time: float
    term: int = Field(ge=0, lt=2**63)
    body: dict[str, Any]
    ext: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Event:
    """A decoded event.

    `incarnation` counts the sender's starts, `seq` its history events within one incarnation without gaps (from 1;
    0 on live events). `term` is the coordinator's (0 from others). `time` is the sender's clock, seconds since 1970.
    `raw` is the message as it was on the wire. `ext` is what it carries beside its body; `newer`: it holds words of a
    newer version than its reader's, so that some of them may be read as "other".
    """

    kind: str
    id: str
    consortium: str
    experiment: str
    round: int
    sender: str
    incarnation: int
    seq: int
    time: float
    term: int
    body: Body
    raw: bytes
    attempt: str = "1"
    """What tells apart events of one sender and kind in one round: part of the id."""
    ext: Mapping[str, Any] = field(default_factory=dict, hash=False)
    newer: bool = False

    @property
    def known(self) -> bool:
        """Whether its kind is one that this version knows."""
        return not isinstance(self.body, Unknown)

    @property
    def key(self) -> str:
        """Routing key for queues of many."""
        return str(RoutingKey(self.kind, self.sender, self.experiment))

    def key_to(self, addressee: str) -> str:
        """Routing key into one party's inbox."""
        return str(RoutingKey(self.kind, self.sender, self.experiment, addressee))


def event_id(experiment: str, round_number: int, kind: str, sender: str, attempt: int | str = 1) -> str:
    """The id of an event: a repeated effect is the same event. `attempt` may be a nonce where nothing else differs.

    Two different events cannot share one: the words before `attempt` are names, which hold no "|".
    """
    text = f"{experiment}|{round_number}|{kind}|{sender}|{attempt}"
    return sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Author:
    """What all events of one running service share. `can`: the abilities that it announces; `key`: what it signs with,
    None: it does not."""

    consortium: str
    name: str
    incarnation: int = 0
    term: int = 0
    can: frozenset[str] = abilities.OURS
    key: SigningKey | None = None

    def write_event(
        self,
        kind: str,
        body: Body,
        *,
        time: float,
        experiment: str = NO_EXPERIMENT,
        round_number: int = 0,
        attempt: int | str = 1,
        seq: int = 0,
        to: str | None = None,
        after: str | None = None,
        answers: str | None = None,
        more: Mapping[str, str] | None = None,
    ) -> Event:
        """Make and encode an event, and sign it where the author has a key.

        Args:
            to: whose inbox it is for; None: it goes to the queue of its kind.
            after: digest of the author's previous history event (`signatures.digest_payload`).
            answers: digest of the event that it answers.
            more: hashes and code words that go into its `ext`, beside what is announced there.

        Raises:
            MalformedMessage: no reader would take it: a name outside the grammar, or too large.
            TypeError: the body is not the kind's.
        """
        spec = KINDS[kind]
        if spec.body is None or not isinstance(body, spec.body):
            raise TypeError(f"the body of {kind!r} is {spec.body}, not {type(body)}")
        RoutingKey.parse(str(RoutingKey(kind, self.name, experiment)))
        identity = event_id(experiment, round_number, kind, self.name, attempt)
        ext: dict[str, Any] = {}
        if kind in abilities.ANNOUNCING:
            ext |= abilities.announce_abilities(self.can)
        if (vocabulary := needed_vocabulary(kind, body)) > 1:
            ext[abilities.WORDS] = vocabulary
        ext |= more or {}
        if self.key is not None:
            ext |= _cover(self.key, spec.queue, to, after, answers)
        extension.check_ext(ext)
        payload = {
            "v": SCHEMA,
            "kind": kind,
            "id": identity,
            "consortium": self.consortium,
            "experiment": experiment,
            "round": round_number,
            "sender": self.name,
            "attempt": str(attempt),
            "incarnation": self.incarnation,
            "seq": seq,
            "time": time,
            "term": self.term,
            "body": body.as_plain(),
            "ext": ext,
        }
        packed = codec.pack(payload)
        raw = codec.pack([packed, b"" if self.key is None else signatures.sign_payload(self.key, packed)])
        if len(raw) > codec.MAX_EVENT_BYTES:
            raise MalformedMessage(Reason.TOO_LARGE, f"{kind} of {len(raw)} bytes, at most {codec.MAX_EVENT_BYTES}")
        return Event(
            kind,
            identity,
            self.consortium,
            experiment,
            round_number,
            self.name,
            self.incarnation,
            seq,
            time,
            self.term,
            body,
            raw,
            str(attempt),
            ext,
        )


def _cover(key: SigningKey, queue: str, to: str | None, after: str | None, answers: str | None) -> dict[str, str]:
    """What a signature covers beside the payload's own fields, as entries of its `ext`."""
    if to is None and queue == INBOX:
        raise TypeError("an event for an inbox names its addressee")
    said = {signatures.AFTER: after, signatures.ANSWERS: answers}
    known = {word: value for word, value in said.items() if value is not None}
    return {signatures.KEY: signatures.name_key(key.fingerprint), signatures.TO: to or queue, **known}


def digest_facts(event: Event) -> str:
    """SHA-256 (hex) of what an event says, and not of when and in which place it was said: its id and its body."""
    body = codec.unpack(signatures.split_event(event.raw)[0])["body"]
    return sha256(codec.pack([event.id, body])).hexdigest()


def decode_event(raw: bytes) -> Event:
    """Decode a message from the wire.

    Raises:
        MalformedMessage: carries the reason code.
        UnboundedMessage: the same, of a signature or an `ext` beyond its bounds.
    """
    return _decode(raw, abilities.VOCABULARY, bounded=True)


def decode_stored(raw: bytes, vocabulary: int | None = None) -> Event:
    """Decode a message that was taken from the wire and stored: 0.1 took any signature and any `ext`.

    Args:
        vocabulary: of the reader that took it, where the event held words that were unknown to that one; they are
            read as they were then.

    Raises:
        MalformedMessage: carries the reason code.
    """
    return _decode(raw, abilities.VOCABULARY if vocabulary is None else vocabulary, bounded=False)


def _decode(raw: bytes, vocabulary: int, *, bounded: bool) -> Event:
    outer = codec.unpack(raw)
    if not (isinstance(outer, list) and len(outer) == 2 and all(isinstance(part, bytes) for part in outer)):
        raise MalformedMessage(Reason.MALFORMED, "an event is [payload, signature]")
    content = codec.unpack(outer[0])
    if not isinstance(content, dict):
        raise MalformedMessage(Reason.MALFORMED, "payload is not a map")
    if bounded:  # before anything else is found wrong with it: what is beyond these is not stored
        extension.check_signature(outer[1])
        extension.check_ext(content.get("ext", {}))
    if content.get("v") != SCHEMA:
        raise MalformedMessage(Reason.UNKNOWN_SCHEMA, "unknown schema version")
    if len(content) > len(_Payload.model_fields):
        raise MalformedMessage(Reason.UNKNOWN_FIELD, "a payload with more fields than there are")
    payload = _validate_model(_Payload, content)
    if payload.id != event_id(payload.experiment, payload.round, payload.kind, payload.sender, payload.attempt):
        # Receivers drop duplicates by id: nobody may take another sender's id in advance.
        raise MalformedMessage(Reason.MALFORMED, "the id does not derive from what it stands for")
    newer = abilities.read_vocabulary(payload.ext) > vocabulary
    return Event(
        payload.kind,
        payload.id,
        payload.consortium,
        payload.experiment,
        payload.round,
        payload.sender,
        payload.incarnation,
        payload.seq,
        payload.time,
        payload.term,
        _read_body(payload, Reading(vocabulary) if newer else None),
        raw,
        payload.attempt,
        payload.ext,
        newer,
    )


def _read_body(payload: _Payload, reading: Reading | None) -> Body:
    spec: KindSpec | None = KINDS.get(payload.kind)
    if reading is not None and (spec is None or not abilities.is_known(payload.kind, reading.vocabulary)):
        return Unknown()
    if spec is None or spec.body is None:
        raise MalformedMessage(Reason.UNKNOWN_KIND, "unknown kind of event")
    return _validate_model(spec.body, payload.body, reading)


def wrap_payload(raw: bytes) -> bytes:
    """An event's payload in the one message that this version writes around it: the same for every encoding of the
    outer list, and whatever the signature is."""
    return codec.pack([codec.unpack(raw)[0], b""])


def check_origin(event: Event, key: str, user: str | None, consortium: str) -> None:
    """Refuse an event whose routing key, broker-validated user and payload name different senders.

    So is an event of a kind that only the coordinator sends from anybody else, and the other way round.

    Raises:
        MalformedMessage: sender-mismatch; an absent user id is refused too.
    """
    route = RoutingKey.parse(key)
    same = (route.kind, route.sender, route.experiment) == (event.kind, event.sender, event.experiment)
    roles = KINDS[event.kind].senders if event.known else None  # whose an unknown kind is, nobody here can say
    fits = roles is None or ("coordinator" in roles if event.sender == COORDINATOR else roles != {"coordinator"})
    if not same or not fits or user != event.sender or event.consortium != consortium:
        raise MalformedMessage(Reason.SENDER_MISMATCH, "user, routing key and event name different senders")


Checked = TypeVar("Checked", bound=BaseModel)


def _validate_model(model: type[Checked], content: dict[str, Any], reading: Reading | None = None) -> Checked:
    try:
        return model.model_validate(content, context=reading)
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_input=False, include_context=False)
        unknown = any(item["type"] == "extra_forbidden" for item in mistakes)
        reason = Reason.UNKNOWN_FIELD if unknown else Reason.WRONG_TYPE
        # The words of the error, unknown fields and keys of maps are content: only our own fields are named.
        where = ", ".join(f"{_field_name(model, item['loc'])} ({item['type']})" for item in mistakes[:5])
        raise MalformedMessage(reason, f"{model.__name__}: {where}") from None


def _field_name(model: type[BaseModel], place: tuple[int | str, ...]) -> str:
    return str(place[0]) if place and place[0] in model.model_fields else "?"
