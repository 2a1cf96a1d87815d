"""A person's connection: who they are and where the broker is. Read by the `experiment` and `audit` commands.

name = "dr-a"
role = "researcher"            # or "auditor", "viewer"
consortium = "glioma"
journal = "/var/lib/konsil"    # optional, on the coordinator's machine: its state directory

[broker]
host = "broker.example.org"
port = 5671
ca = "ca.pem"                  # with it the connection is TLS
password = "file:/home/dr-a/.config/konsil/password"
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import Field

from messages.ground import settings
from messages.ground.errors import ConfigError
from messages.ground.settings import BrokerAddress, Name, Settings
from messages.trust.settings import TrustSettings

ProfileOption = Annotated[
    Path | None,
    typer.Option(
        "--profile",
        help="Your connection (TOML); else $KONSIL_PROFILE, else ~/.config/konsil/profile.toml.",
        show_default=False,
    ),
]


class Profile(Settings):
    """One person's connection to one consortium."""

    name: Name
    role: Literal["researcher", "auditor", "viewer", "coordinator"] = "researcher"
    consortium: Name
    broker: BrokerAddress = Field(default_factory=BrokerAddress)
    journal: Path | None = None
    """State directory of the coordinator, for operators and auditors on its machine."""
    trust: TrustSettings | None = None

    def broker_address(self) -> BrokerAddress:
        """The broker's address with the defaults filled in: vhost is the consortium, login the person's name."""
        filled = {
            key: value for key, value in (("vhost", self.consortium), ("user", self.name)) if not self._is_given(key)
        }
        return self.broker.model_copy(update=filled)

    def _is_given(self, key: str) -> bool:
        return key in self.broker.model_fields_set and bool(getattr(self.broker, key))


def default_path() -> Path:
    """`$XDG_CONFIG_HOME/konsil/profile.toml`."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "konsil" / "profile.toml"


def locate_profile(option: Path | None) -> Path:
    """Which file holds the profile: --profile, else $KONSIL_PROFILE, else the default place."""
    named = os.environ.get("KONSIL_PROFILE")
    return option or (Path(named) if named else default_path())


def profile_exists(option: Path | None) -> bool:
    """Whether a profile was named, or lies in the default place."""
    return option is not None or "KONSIL_PROFILE" in os.environ or default_path().exists()


def load_profile(option: Path | None = None) -> Profile:
    """The person's profile; relative paths in it are relative to its folder.

    Raises:
        ConfigError: there is none, or it says what is not allowed.
    """
    path = locate_profile(option)
    if not path.exists():
        raise ConfigError(
            "there is no profile",
            where=str(path),
            advice="Name yours with --profile FILE or $KONSIL_PROFILE; it holds name, consortium and [broker]",
        )
    profile = settings.read_settings(path, Profile)
    folder = path.resolve().parent
    journal = folder / profile.journal if profile.journal is not None else None
    trust = profile.trust.relative_to(folder) if profile.trust is not None else None
    return profile.model_copy(update={"broker": profile.broker.relative_to(folder), "journal": journal, "trust": trust})
