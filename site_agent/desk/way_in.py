"""How a party came in to its broker, as a finding; and when clocks are too far apart. Without anything that trains."""

from __future__ import annotations

from messages.bus.amqp.tls import end_of_certificate
from messages.ground.settings import BrokerAddress
from site_agent.desk.checks import Check, Grade

CLOCK_WARNING = 5.0
"""Seconds."""
RENEW_WITHIN = 30
"""Days before its end in which a certificate is to be renewed."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def judge_way_in(broker: BrokerAddress, now: float) -> Check:
    """How a party came in, once it did: encrypted or not, and for how long its certificate is good."""
    address = f"{broker.host}:{broker.port}"
    if broker.cert is not None:
        days = int((end_of_certificate(broker.cert.read_bytes()) - now) // 86400)
        words = f"{address} reachable over TLS, login right: {broker.way}; ours is good for {days} days"
        if days < RENEW_WITHIN:
            return Check("broker", Grade.WARN, words, "Make new keys with `konsil provision renew`")
        return Check("broker", Grade.OK, words)
    if broker.ca is not None:
        return Check("broker", Grade.OK, f"{address} reachable over TLS, certificate and login right: {broker.way}")
    if broker.host in LOOPBACK:
        return Check("broker", Grade.OK, f"{address} reachable, login right")
    return Check(
        "broker", Grade.WARN, f"{address} reachable, login right, and nothing is encrypted, the password included",
        "Set broker.ca and the broker's TLS port",
    )  # fmt: skip
