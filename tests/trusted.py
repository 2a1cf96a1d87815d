"""Keys for tests: an operator, a coordinator and sites with keys that repeat, their register and `[trust]` sections."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from coordinator_kit import CONSORTIUM

from messages.trust.keys import SigningKey, derive_key, write_key
from messages.trust.register import KeyEntry, Register, Role, sign_register
from messages.trust.settings import Trust


class TrustKit:
    """A consortium's keys.

    Args:
        sites: those that have a key.
        signatures: as in the register.
    """

    def __init__(
        self,
        sites: tuple[str, ...],
        signatures: Literal["accepted", "required"] = "required",
        consortium: str = CONSORTIUM,
    ) -> None:
        self.operator = self.key_of("operator")
        roles: dict[str, Role] = {"coordinator": "coordinator", "dr-a": "researcher"}
        roles |= dict.fromkeys(sites, "site")
        entries = tuple(
            KeyEntry(name=name, role=role, key=self.key_of(name).public.hex(), since=0.0, until=2.0**52)
            for name, role in roles.items()
        )
        self.register = Register(consortium=consortium, serial=1, made=0.0, signatures=signatures, keys=entries)
        self.note = sign_register(self.register, self.operator)

    @staticmethod
    def key_of(name: str) -> SigningKey:
        return derive_key(sha256(f"key of {name}".encode()).digest())

    def trust_of(self, name: str) -> Trust:
        return Trust(self.key_of(name), self.operator.public, self.register)

    def write_section(self, name: str, folder: Path) -> dict[str, Any]:
        """`[trust]` of a party, and the files that it names."""
        folder.mkdir(parents=True, exist_ok=True)
        key, register = folder / f"{name}.key", folder / "register.note"
        if not key.exists():
            write_key(self.key_of(name), key)
        register.write_bytes(self.note)
        return {"key": str(key), "operator": self.operator.public.hex(), "register_file": str(register)}

    def write_sections(self, folder: Path) -> dict[str, Any]:
        """`[trust]` of every party that has a key."""
        return {one.name: self.write_section(one.name, folder) for one in self.register.keys}
