"""What is said in a secure round (Bonawitz et al. 2017, "Practical Secure Aggregation for Privacy-Preserving Machine
Learning", CCS): keys, shares, who masks with whom, consents and what is revealed. docs/protocol.md has the order.

The opening that an answer is about is its attempt, as in each step (`messages.envelope.event_id`). What a site has to
believe of the others travels verbatim, as they signed it. Sizes grow with the sites of a round, and are bounded.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from messages.ground.strictness import at_most
from messages.kinds.base import Body, Code, Count, Digest, SiteName, Sites
from messages.sections import MOST_SITES

MOST_TRIES = 3
"""Tries of a round to exchange keys and shares."""
MOST_SAID_BYTES = 2**11
"""Bytes of a signed event that is passed on verbatim: a site's keys, or its consent."""
MOST_SEALED_BYTES = 256
"""Bytes of the two shares that are sealed for one peer."""
MOST_SHARE_BYTES = 40
"""Bytes of one share that is revealed: a number below 2^256 + 297."""
MOST_FIGURES_BYTES = 2**20
"""Bytes of the masked figures of a secure evaluation."""

Try = Annotated[int, Field(ge=1, le=MOST_TRIES)]
SecretBytes = Annotated[bytes, Field(min_length=32, max_length=32)]
PublicBytes = Annotated[bytes, Field(min_length=32, max_length=32)]
"""A public key of X25519 (RFC 7748)."""
Said = Annotated[list[Annotated[bytes, Field(max_length=MOST_SAID_BYTES)]], at_most(MOST_SITES)]
"""Events of sites, verbatim, in the order of the sites' names."""
Sealed = Annotated[dict[SiteName, Annotated[bytes, Field(max_length=MOST_SEALED_BYTES)]], at_most(MOST_SITES)]
Shares = Annotated[dict[SiteName, Annotated[bytes, Field(max_length=MOST_SHARE_BYTES)]], at_most(MOST_SITES)]
Weight = Annotated[int, Field(ge=1, le=2**53)]


class SecureStart(Body):
    """What `round-start` and `evaluation-start` say of a secure round: the step KEYS opens with them.

    Attributes:
        tried: the try, from 1; a later one repeats the round with the same model, and training goes on.
        threshold: of the roster's n sites, ⌊2n/3⌋ + 1 ("two-thirds") or ⌊n/2⌋ + 1 ("majority") reveal.
        within: deadline of each exchange, seconds.
    """

    tried: Try
    threshold: Literal["two-thirds", "majority"]
    within: float


class SecureKeys(Body):
    """Answers KEYS: a site's keys of this try, drawn for it alone, in an event that the site has signed: its `key` in
    `ext` is the signer that the roster names. `sealing`: for what peers send each other;
    `masking`: for the masks of each pair. They are two keys."""

    tried: Try
    sealing: PublicBytes
    masking: PublicBytes


class SecureRoster(Body):
    """Opens SHARES: who takes part, by their own `secure-keys`, verbatim."""

    tried: Try
    keys: Said
    within: float


class SecureShares(Body):
    """Answers SHARES.

    Attributes:
        roster: digest of the exchange that the site acts on (`messages.secure.context.Exchange`).
        shares: by peer, this site's share for it of the self-mask's seed and of the masking key, sealed for the peer.
        seed: SHA-256 of the self-mask's seed: what is rebuilt from shares later is held against it.
    """

    tried: Try
    roster: Digest
    shares: Sealed
    seed: Digest


class SecureMasking(Body):
    """Opens the masked UPDATES. `weights`: by site that has shared, what its difference is multiplied by, before it is
    divided by the sum of all; so it says who masks with whom (U2)."""

    tried: Try
    weights: Annotated[dict[SiteName, Weight], at_most(MOST_SITES)]
    within: float


class SecureMail(Body):
    """To one site's inbox, beside `secure-masking`: what each peer has sealed for it."""

    tried: Try
    shares: Sealed


class SecureFigures(Body):
    """Answers the masked step of a secure evaluation: the masked figures themselves, since they are few."""

    tried: Try
    masked: Annotated[bytes, Field(max_length=MOST_FIGURES_BYTES)]


class SecureClosing(Body):
    """Opens CONSENT: whose masked updates are here (U3)."""

    tried: Try
    sites: Sites
    within: float


class SecureConsent(Body):
    """Answers CONSENT. `context`: digest of what the site masked under; `closing`: of that and of U3, as it was shown
    it (`messages.secure.context`)."""

    tried: Try
    context: Digest
    closing: Digest


class SecureUnmasking(Body):
    """Opens REVEAL: as many consents as the threshold asks for, verbatim."""

    tried: Try
    consents: Said
    within: float


class SecureReveal(Body):
    """Answers REVEAL, by the site whose secret it was. `seeds`: shares of the self-masks of U3; `keys`: of the masking
    keys of those who masked and whose update is not here. Never both of one site."""

    tried: Try
    seeds: Shares
    keys: Shares = {}


class SecureComplaint(Body):
    """What `against` sealed for this site does not open, or holds no shares.

    `secret`: the one-time key of that message, which shows whose fault it is (`messages.secure.dealing`). Sites tell it
    only of a message that its dealer is known to have signed (`prove_complaint`). `secure-mail` does not show that: a
    coordinator that spoilt the mail would be told keys that open both shares of an honest dealer.
    """

    tried: Try
    against: SiteName
    secret: SecretBytes | None = None


class RoundVoid(Body):
    """A secure round has ended without a sum: the model that it received goes on to the next round.

    Attributes:
        reason: why nothing came of it.
        left_out: by site that was not in it to the end.
        model_digest: of the model that goes on.
    """

    reason: Code
    left_out: Annotated[dict[SiteName, Code], at_most(MOST_SITES)] = {}
    model_digest: Digest
    seconds: float


class PooledFigures(Body):
    """What a secure round tells of its sites, all together: nobody knows more. `loss`: mean training loss over the
    cases that it was told of; None: of none."""

    cases: Count
    loss: float | None = None
