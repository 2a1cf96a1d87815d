"""`[trust]` of site.toml, coordinator.toml and a person's profile: the party's own key, and whose register it believes.

    [trust]
    key = "keys/event.key"            # or "credential:NAME"
    passphrase = "credential:NAME"    # optional
    operator = "5c3f…"                # the operator's public key, 64 hex digits
    register_file = "register.note"   # the newest register that came with the kit; later ones come with the log

Without the section a party neither signs nor checks, as in 0.1. The consortium's register ends that: once it says that
signatures are required, nobody takes an event without one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydantic import SecretStr

from messages.ground.errors import ConfigError, MalformedMessage
from messages.ground.settings import Settings, read_secret, secret_beside, secret_path
from messages.trust.keys import SigningKey, read_key
from messages.trust.register import Key, Register, read_register
from messages.trust.verifier import Verifier


class TrustSettings(Settings):
    """The section, as it is written."""

    key: str
    passphrase: SecretStr = SecretStr("")
    operator: Key
    register_file: Path

    def relative_to(self, folder: Path) -> TrustSettings:
        """The same, with relative paths taken from `folder`, as people mean them."""
        own = self.key if self.key.startswith("credential:") else str(folder / self.key)
        secret = SecretStr(secret_beside(self.passphrase.get_secret_value(), folder))
        return self.model_copy(update={"key": own, "passphrase": secret, "register_file": folder / self.register_file})


@dataclass(frozen=True, slots=True)
class Trust:
    """What a party begins with: its key, the operator's public key, and the register that its kit brought."""

    key: SigningKey
    operator: bytes
    register: Register


def load_trust(settings: TrustSettings, consortium: str, name: str) -> Trust:
    """Read the files that the section names.

    Raises:
        ConfigError: a file is missing or is not what it should be, or the register has not this key for this party.
    """
    passphrase = read_secret(settings.passphrase.get_secret_value(), "trust.passphrase").encode()
    key = read_key(secret_path(settings.key, "trust.key"), passphrase or None)
    operator = bytes.fromhex(settings.operator)
    register = load_register(settings.register_file, operator, consortium)
    if key.public not in {one.public for one in register.keys if one.name == name}:
        raise ConfigError(
            f"the register does not have this key for {name}",
            where=settings.key,
            advice="Ask the operator for a new kit (`konsil provision approve`)",
        )
    return Trust(key, operator, register)


def make_verifier(consortium: str, trust: Trust | None) -> Verifier:
    """What a party checks events by; without `[trust]` it checks nothing."""
    return Verifier(consortium) if trust is None else Verifier(consortium, trust.operator, trust.register)


def load_register(path: Path, operator: bytes, consortium: str) -> Register:
    """Read a register's file; ConfigError where it cannot be read or is not this operator's."""
    try:
        return read_register(path.read_bytes(), operator, consortium)
    except OSError as error:
        raise ConfigError(f"the register cannot be read ({error.strerror})", where=str(path)) from None
    except MalformedMessage as error:
        raise ConfigError(
            f"cannot be used: {error.what}", where=str(path), advice="Ask the operator for the register"
        ) from None
