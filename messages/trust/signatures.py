"""The signature of an event: made by its author over the payload's bytes as sent, and never over a re-encoding.

It lies in the envelope's second place. What the payload's map lacks stands in the payload's `ext`, under the words
below: so the signature covers it, and a reader that does not know it passes over it.
"""

from __future__ import annotations

from hashlib import sha256

from messages import codec
from messages.trust.keys import SigningKey, verify_message

CONTEXT = "konsil event 1"
"""The line that an event's signature begins with."""
KEY, TO, AFTER, ANSWERS, MODEL = "key", "to", "after", "answers", "model"
"""Words of `ext`: the key's name, the addressee or queue, the author's previous history event, what is answered; the
model that a site's update began with, as it received it."""
KEY_NAME_DIGITS = 32
"""Hex digits of a fingerprint that name a key in an event."""


def name_key(fingerprint: str) -> str:
    """How an event names the key that signed it."""
    return fingerprint[:KEY_NAME_DIGITS]


def sign_payload(key: SigningKey, payload: bytes) -> bytes:
    """64 bytes over an event's payload as it is sent."""
    return key.sign_message(CONTEXT, payload)


def is_signed_by(public: bytes, payload: bytes, signature: bytes) -> bool:
    """Whether a key signed this payload as an event. Never raises."""
    return verify_message(public, CONTEXT, payload, signature)


def split_event(raw: bytes) -> tuple[bytes, bytes]:
    """Payload and signature of a message that was decoded already."""
    payload, signature = codec.unpack(raw)
    return payload, signature


def digest_payload(raw: bytes) -> str:
    """SHA-256 (hex) of a message's payload: what an event is known by, whatever is written around it."""
    return sha256(split_event(raw)[0]).hexdigest()
