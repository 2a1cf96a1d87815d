"""Reading a TOML file into a strict model: one clear line per mistake, naming file, key, value and what is allowed."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator

from messages.ground import units
from messages.ground.errors import ConfigError
from messages.ground.naming import WHOLE_NAME
from messages.ground.shown import escape_controls
from messages.ground.strictness import StrictModel
from messages.ground.written.documents import read_toml
from messages.ground.written.text import read_text, split_lines


class Settings(StrictModel):
    """Base of every model that a person writes: strict about keys, frozen, lenient about nothing."""

    model_config = ConfigDict(arbitrary_types_allowed=True)


def _parse_text(parse: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


Seconds = Annotated[float, _parse_text(units.parse_seconds), Field(ge=0, le=100 * 365.25 * 86400)]
SizeBytes = Annotated[int, _parse_text(units.size_bytes), Field(ge=0, lt=2**63)]
Rate = Annotated[float, _parse_text(units.bytes_per_second), Field(gt=0)]
WorkHours = Annotated[units.Hours, _parse_text(units.Hours.parse_hours)]
Name = Annotated[str, Field(pattern=WHOLE_NAME)]


def _is_place(address: str) -> bool:
    """Whether an address of a form that fits names a host, and a port that there can be."""
    try:
        parts = urlsplit(address)
        return bool(parts.hostname and parts.port)
    except ValueError:
        return False


class BrokerAddress(Settings):
    """Where the broker of a consortium is and how one party logs in."""

    host: str = "127.0.0.1"
    port: int = Field(5672, ge=1, le=65535)
    vhost: str = "konsil"
    user: str = ""
    """Login; empty: the party's own name."""
    password: SecretStr = SecretStr("")
    """Literal, or "credential:NAME" (systemd LoadCredential), or "file:PATH"."""
    ca: Path | None = None
    """PEM of the authority that signed the broker's certificate; with it the connection is TLS."""
    login: Literal["password", "certificate"] = "password"
    """By which the broker knows this party: its password, or the name in `cert` (SASL EXTERNAL)."""
    cert: Path | None = None
    """PEM of this party's own certificate, where the broker asks for one."""
    key: str | None = None
    """Private key of `cert`: a path or "credential:NAME"."""
    passphrase: SecretStr = SecretStr("")
    """Of `key`, where it has one; written as `password` is."""
    heartbeat_seconds: int = Field(15, ge=5, le=20)
    server_name: str | None = None
    """The name in the broker's certificate, where it is another than `host`: behind a proxy that goes by SNI."""
    proxy: str | None = Field(None, pattern=r"^http://[A-Za-z0-9.\-\[\]:]+:[0-9]{1,5}/?$")
    """A hospital's way out: "http://proxy:3128", which is asked to CONNECT to host and port."""
    proxy_user: str = ""
    proxy_password: SecretStr = SecretStr("")
    """Written as `password` is."""

    @model_validator(mode="after")
    def _stays_private(self) -> Self:
        if self.proxy is not None and self.ca is None:
            raise ValueError("proxy: a way through others' machines needs TLS: name the broker's authority with ca")
        if self.proxy is not None and not _is_place(self.proxy):
            raise ValueError('proxy: write it as "http://proxy.example.org:3128", with a port from 1 to 65535')
        if self.proxy is None and (self.proxy_user or self.proxy_password.get_secret_value()):
            raise ValueError("proxy_user and proxy_password mean nothing without proxy")
        return self

    @property
    def name_in_certificate(self) -> str:
        """What the broker's certificate must be made out to."""
        return self.server_name or self.host

    def relative_to(self, folder: Path) -> BrokerAddress:
        """The same, with relative paths of certificates, key and secret taken from `folder`, as people mean them."""
        update: dict[str, Any] = {
            name: folder / path for name, path in (("ca", self.ca), ("cert", self.cert)) if path is not None
        }
        secrets = {"password": self.password, "passphrase": self.passphrase, "proxy_password": self.proxy_password}
        for name, secret in secrets.items():
            update[name] = SecretStr(secret_beside(secret.get_secret_value(), folder))
        if self.key is not None and not self.key.startswith("credential:"):
            update["key"] = str(folder / self.key)
        return self.model_copy(update=update)

    def of_consortium(self, consortium: str) -> BrokerAddress:
        """The same, with the vhost that the broker's definitions make for a consortium where the file names none."""
        return self if "vhost" in self.model_fields_set else self.model_copy(update={"vhost": consortium})

    @property
    def way(self) -> str:
        """How this party comes in, in words."""
        if self.login == "certificate":
            return "by certificate"
        return "by password, over one-way TLS" if self.ca is not None else "by password, and nothing is encrypted"

    def resolved_password(self) -> str:
        """The password itself; raises ConfigError where a reference leads nowhere."""
        return read_secret(self.password.get_secret_value(), "broker.password")

    def resolved_proxy_password(self) -> str:
        """The proxy's password itself, "" where it wants none; raises ConfigError where a reference leads nowhere."""
        return read_secret(self.proxy_password.get_secret_value(), "broker.proxy_password")

    def resolved_passphrase(self) -> str:
        """The key's passphrase itself, "" where it has none; raises ConfigError where a reference leads nowhere."""
        return read_secret(self.passphrase.get_secret_value(), "broker.passphrase")


def read_secret(reference: str, where: str) -> str:
    """Resolve "credential:NAME" (in $CREDENTIALS_DIRECTORY) and "file:PATH"; anything else is the secret itself."""
    kind, _, rest = reference.partition(":")
    if kind == "credential":
        path = secret_path(reference, where)
    elif kind == "file":
        path = Path(rest)
    else:
        return reference
    try:
        text = read_text(path, pipes=True)
    except ConfigError as error:
        why = error.what.removeprefix("cannot be read (").removesuffix(")")
        raise ConfigError(
            f"cannot read the secret in {error.where} ({why})", where=where, advice=error.advice
        ) from None
    secret = text.strip()
    if len(split_lines(secret)) > 1:
        raise ConfigError(f"the secret in {path} has several lines", where=where, advice="A secret is one line")
    return secret


def secret_beside(reference: str, folder: Path) -> str:
    """A secret's reference with the relative PATH of "file:PATH" taken from `folder`; anything else as it is."""
    kind, _, rest = reference.partition(":")
    return f"file:{folder / rest}" if kind == "file" else reference


def secret_path(reference: str, where: str) -> Path:
    """The file behind "credential:NAME" or a plain path."""
    if not reference.startswith("credential:"):
        return Path(reference)
    name = reference.removeprefix("credential:")
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    # LoadCredential=konsil:FOLDER gives each file of a folder the name konsil_FILE (systemd.exec(5))
    paths = [Path(folder, loaded) for loaded in (name, f"konsil_{name}")] if folder else []
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise ConfigError(
            f"credential {name!r} is not loaded",
            where=where,
            advice="Put it into the folder that the systemd unit loads (/etc/konsil/credentials), or use file:PATH",
        )
    return path


Model = TypeVar("Model", bound=BaseModel)


def read_settings(path: Path, model: type[Model]) -> Model:
    """Read and check a TOML file.

    Raises:
        ConfigError: the file is missing, is no text in UTF-8, is not TOML, or says what is not allowed; names each key.
    """
    return parse_settings(read_toml(path), model, str(path))


def parse_settings(content: Any, model: type[Model], where: str) -> Model:
    """Check plain types against a model; ConfigError lists every mistake, one line each."""
    try:
        return model.model_validate(content)
    except ValidationError as error:
        raise ConfigError("; ".join(_list_mistakes(error, _keys_of(model))), where=where) from None


def _keys_of(model: Any) -> set[str]:
    """Every key that a file of this model may hold, in whatever section."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        own = {field.alias or name for name, field in model.model_fields.items()}
        parts = [field.annotation for field in model.model_fields.values()]
        return own.union(*(_keys_of(part) for part in (*parts, *model.__subclasses__())))
    return set().union(*(_keys_of(part) for part in get_args(model)))


def _list_mistakes(error: ValidationError, keys: set[str]) -> list[str]:
    lines = []
    found = error.errors(include_url=False)
    for item in found:
        place = item["loc"]
        if item["type"] == "too_short" and any(place == one["loc"][: len(place)] != one["loc"] for one in found):
            continue  # it is too short because what stands in it is wrong, which is said already
        # In brackets stand pydantic's own words: "[key]", and the tags of unions.
        key = ".".join(str(part) for part in item["loc"] if not str(part).startswith("["))
        if item["type"] == "extra_forbidden":
            near = get_close_matches(str(item["loc"][-1]), sorted(keys), n=1, cutoff=0.75)
            lines.append(f"key {key!r} is unknown" + (f" (did you mean {near[0]!r}?)" if near else ""))
        elif item["type"] == "missing":
            lines.append(f"key {key!r} is missing")
        else:
            value = "" if isinstance(item["input"], dict) else f" = {_show_value(key, item['input'])}"
            message = _say_plainly(item)
            # A mistake of the whole file names its keys itself.
            lines.append(f"{escape_controls(key)}{value}: {message[:1].lower()}{message[1:]}" if key else message)
    return lines


_PLAIN = {
    "tuple_type": "give a list, as [1, 2, 3]",
    "list_type": "give a list, as [1, 2, 3]",
    "dict_type": "give a table",
    "model_type": "give a table",
    "model_attributes_type": "give a table",
    "string_type": "give text in quotes",
    "bool_type": "give true or false",
}
"""What is meant by pydantic's types, which are Python's, in words of the file."""


def _say_plainly(item: Any) -> str:
    """One mistake in the words of who writes the file, with the word that may have been meant."""
    message: str = _PLAIN.get(item["type"]) or item["msg"].removeprefix("Value error, ")
    if item["type"] in ("too_short", "too_long") and "actual_length" in item.get("ctx", {}):
        context = item["ctx"]
        most = context.get("max_length")
        bound = f"at most {most}" if item["type"] == "too_long" else f"at least {context['min_length']}"
        message = f"give {bound}, not {context['actual_length']}"
    if item["type"] in ("literal_error", "enum") and isinstance(item["input"], str):
        words = re.findall(r"'([^']*)'", str(item.get("ctx", {}).get("expected", "")))
        message += suggest_word(item["input"], words)
    return message


def suggest_word(given: str, known: Iterable[str]) -> str:
    """ " (did you mean 'UNet'?)" where a known word is near, whatever its case; else nothing."""
    by_case = {word.lower(): word for word in known}
    near = get_close_matches(given.lower(), sorted(by_case), n=1, cutoff=0.7)
    return f" (did you mean {by_case[near[0]]!r}?)" if near else ""


def _show_value(key: str, value: Any) -> str:
    """A value in an error's line: bounded, and never a secret."""
    text = "***" if "pass" in key or key.endswith("token") else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
