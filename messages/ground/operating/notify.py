"""`[notify]` of site.toml and coordinator.toml: who gets word when nobody looks, and when."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, model_validator

from messages.ground.settings import Seconds, Settings, SizeBytes

Address = Annotated[str, Field(pattern=r"^[^@\s<>,;]+@[^@\s<>,;]+$", max_length=254)]


class MailSettings(Settings):
    """A mail server that takes messages (RFC 5321), and to whom they go."""

    host: str
    port: int = Field(587, ge=1, le=65535)
    tls: Literal["starttls", "tls", "none"] = "starttls"
    """ "starttls": RFC 3207; "tls": from the first byte (RFC 8314)."""
    user: str = ""
    """Login; empty: the server asks for none."""
    password: SecretStr = SecretStr("")
    """Literal, or "credential:NAME", or "file:PATH"."""
    sender: Address
    to: tuple[Address, ...] = Field(min_length=1, max_length=20)

    @model_validator(mode="after")
    def _hides_its_password(self) -> Self:
        if self.user and self.tls == "none":
            raise ValueError('a password over tls = "none" can be read by anybody: use "starttls" or "tls"')
        return self


class NotifySettings(Settings):
    """Off where neither a mail server nor a command is given."""

    mail: MailSettings | None = None
    command: tuple[str, ...] = Field((), max_length=20)
    """A program of this machine: gets the text on standard input and the matter in KONSIL_NOTICE."""
    absent_after: Seconds = 2 * 3600.0
    """How long a site is absent before it is told. Needs `metrics.listen` at the coordinator."""
    disk_below: SizeBytes = 5 * 2**30

    @property
    def is_on(self) -> bool:
        """Whether anybody gets word."""
        return self.mail is not None or bool(self.command)
