"""What is said in a secure round, as the records that its rules take. Coordinator and sites read it in one way."""

from __future__ import annotations

from collections.abc import Iterable

from messages import kinds
from messages.envelope import Event, decode_event
from messages.ground.errors import MalformedMessage
from messages.reasons import Reason
from messages.secure.context import Member
from messages.secure.dealing import Reveal
from messages.secure.site_rules import Consent
from messages.trust.signatures import KEY


def name_signer(event: Event) -> str | None:
    """Which key an event is signed with, by what its own signature covers (the first 32 digits of the fingerprint);
    None: with none. Whether the signature is good says the register (`messages.trust.verifier`)."""
    named = event.ext.get(KEY)
    return named if isinstance(named, str) and named else None


def read_member(event: Event) -> Member:
    """A site of the roster, out of its `secure-keys`; MalformedMessage: it is another event, or without a signature."""
    signer = name_signer(event)
    if not isinstance(event.body, kinds.SecureKeys) or signer is None:
        raise MalformedMessage(Reason.BAD_ROSTER, "no signed secure-keys")
    return Member(event.sender, event.body.sealing, event.body.masking, signer)


def read_consent(event: Event) -> Consent:
    """A site's `secure-consent`; MalformedMessage: it is another event, or without a signature."""
    signer = name_signer(event)
    if not isinstance(event.body, kinds.SecureConsent) or signer is None:
        raise MalformedMessage(Reason.CONSENT_MISSING, "no signed secure-consent")
    return Consent(event.sender, signer, event.body.context, event.body.closing)


def read_said(said: Iterable[bytes]) -> list[Event]:
    """The events of others that an event holds verbatim; MalformedMessage: one is none."""
    return [decode_event(raw) for raw in said]


def read_reveal(body: kinds.SecureReveal) -> Reveal:
    """What a site reveals."""
    return Reveal(of_seeds=dict(body.seeds), of_keys=dict(body.keys))
