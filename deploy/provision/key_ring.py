"""Keys of a whole consortium in one folder, and the operator's register of them.

For consortia whose parties share a machine: the demo, simulations, tests. In production each party makes its own key,
which never leaves it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from messages.ground.durable import replace_file
from messages.trust.keys import SigningKey, derive_key, make_key, read_key, write_key
from messages.trust.register import OPERATOR, KeyEntry, Register, Role, sign_register

FOREVER = 2.0**52
"""Seconds since 1970 until which these keys are good."""


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The folder of a consortium's keys, and its operator's public key in hex."""

    folder: Path
    operator: str

    @property
    def register_file(self) -> Path:
        """The register, which each party's configuration names."""
        return self.folder / "register.note"

    def key_file(self, party: str) -> Path:
        """Where a party's private key lies."""
        return self.folder / f"{party}.key"

    def trust_of(self, party: str) -> dict[str, Any]:
        """The section `[trust]` of a party's configuration."""
        return {"key": str(self.key_file(party)), "operator": self.operator, "register_file": self.register_file}


def make_key_ring(
    folder: Path,
    consortium: str,
    roles: Mapping[str, Role],
    *,
    seed: str | None = None,
    signatures: Literal["accepted", "required"] = "required",
) -> KeyRing:
    """Make the operator's key, a key of each party, and the register; keys that are there already are kept.

    Args:
        roles: party → its role.
        seed: words from which the keys follow, for runs that repeat to the bit; None: keys are random.
        signatures: what the register says of events without one.

    Raises:
        RequestError, ConfigError: the folder cannot be written, or holds something else.
    """

    def open_key(name: str) -> SigningKey:
        path = folder / f"{name}.key"
        if path.exists():
            return read_key(path)
        key = make_key() if seed is None else derive_key(sha256(f"konsil keys|{seed}|{name}".encode()).digest())
        write_key(key, path)
        return key

    operator = open_key(OPERATOR)
    entries = tuple(
        KeyEntry(name=name, role=role, key=open_key(name).public.hex(), since=0.0, until=FOREVER)
        for name, role in sorted(roles.items())
    )
    register = Register(consortium=consortium, serial=1, made=0.0, signatures=signatures, keys=entries)
    ring = KeyRing(folder, operator.public.hex())
    replace_file(ring.register_file, sign_register(register, operator), mode=0o644)
    return ring
