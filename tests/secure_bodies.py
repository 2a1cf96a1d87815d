"""A filled body of each kind of event of a secure round."""

from __future__ import annotations

from messages import kinds
from messages.kinds import Body
from messages.reasons import Reason

DIGEST = "1" * 64
START = kinds.SecureStart(tried=1, threshold="two-thirds", within=600.0)
BODIES: dict[str, Body] = {
    "secure-keys": kinds.SecureKeys(tried=1, sealing=bytes(32), masking=b"\x01" * 32),
    "secure-roster": kinds.SecureRoster(tried=1, keys=[b"as it was said"], within=600.0),
    "secure-shares": kinds.SecureShares(tried=1, roster=DIGEST, shares={"site-b": b"sealed"}, seed=DIGEST),
    "secure-masking": kinds.SecureMasking(tried=1, weights={"site-a": 6, "site-b": 7}, within=60.0),
    "secure-mail": kinds.SecureMail(tried=1, shares={"site-b": b"sealed"}),
    "secure-figures": kinds.SecureFigures(tried=1, masked=b"masked"),
    "secure-closing": kinds.SecureClosing(tried=1, sites=["site-a", "site-b"], within=600.0),
    "secure-consent": kinds.SecureConsent(tried=1, context=DIGEST, closing=DIGEST),
    "secure-unmasking": kinds.SecureUnmasking(tried=1, consents=[b"as it was said"], within=600.0),
    "secure-reveal": kinds.SecureReveal(tried=1, seeds={"site-a": bytes(33)}, keys={"site-c": bytes(33)}),
    "secure-complaint": kinds.SecureComplaint(tried=1, against="site-b", secret=bytes(32)),
    "round-void": kinds.RoundVoid(
        reason=Reason.QUORUM_NOT_MET, left_out={"site-b": Reason.ABSENT}, model_digest=DIGEST, seconds=9.0
    ),
}
