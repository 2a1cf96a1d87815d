"""Peers that the policy names by their keys, held against the operator's register. Pure."""

from __future__ import annotations

from collections.abc import Collection

from messages.trust.keys import fingerprint_of
from messages.trust.register import Register


def list_lapsed(register: Register, pinned: Collection[str], now: float) -> list[str]:
    """A line for each pinned key that speaks for no site any more, or never did: who pinned it counts that site as one
    that may collude.

    Args:
        pinned: fingerprints.
        now: seconds since 1970.
    """
    keys = {fingerprint_of(one.public): one for one in register.keys}
    lines: list[str] = []
    for fingerprint in sorted(pinned):
        known = keys.get(fingerprint)
        if known is None:
            lines.append(f"policy.floors.peers: the register has no key {fingerprint[:16]}…")
        elif not known.is_good(now):
            newer = [name for name, one in keys.items() if one.name == known.name and one.is_good(now)]
            instead = f" and has {newer[0][:16]}… now" if newer else ""
            lines.append(
                f"policy.floors.peers: {known.name} does not use its key {fingerprint[:16]}… any more{instead}"
            )
    return lines
