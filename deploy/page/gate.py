"""Who may see a page: a one-time link, a cookie, a login with a password; whose requests are heard at all. No HTTP.

Passwords are kept as scrypt (RFC 7914) makes them, a login a line: NAME:scrypt:N:R:P:SALT:KEY, salt and key in hex.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from cryptography.exceptions import InvalidKey
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from messages.ground.durable import replace_file
from messages.ground.errors import ConfigError, RequestError

SESSION_SECONDS = 12 * 3600.0
ORDER_SECONDS = 120.0
MOST_SESSIONS = 64
N, R, P, LENGTH = 2**15, 8, 1, 32
"""32 MiB a try (RFC 7914, 2)."""
SHORTEST = 12
PAUSE_AFTER, PAUSE = 5, 30.0
"""So many wrong passwords in a row, and nobody may try for so many seconds."""


@dataclass
class Visit:
    """One browser that was let in. `token`: what its forms must bring back; `orders`: what awaits a second click."""

    login: str
    until: float
    token: str = field(default_factory=lambda: secrets.token_urlsafe(32))
    orders: dict[str, tuple[Mapping[str, str], float]] = field(default_factory=dict)

    def propose_order(self, order: Mapping[str, str], now: float) -> str:
        """What the second click must bring."""
        self.orders = {key: one for key, one in self.orders.items() if one[1] > now}
        while len(self.orders) >= MOST_SESSIONS:
            self.orders.pop(next(iter(self.orders)))
        name = secrets.token_urlsafe(32)
        self.orders[name] = (dict(order), now + ORDER_SECONDS)
        return name

    def take_order(self, name: str, now: float) -> Mapping[str, str] | None:
        """The order that was proposed under this name: once, and not later than `ORDER_SECONDS`."""
        order, until = self.orders.pop(name, ({}, 0.0))
        return order if until > now else None


class Gate:
    """Lets in, and remembers whom.

    Args:
        login: who comes by the link; logins: name → line of the password file, None: there is none, the link counts.
        clock: seconds that only grow.
    """

    def __init__(self, login: str, logins: Mapping[str, str] | None, clock: Callable[[], float]) -> None:
        self.login, self.logins, self._clock = login, logins, clock
        self._link = None if logins is not None else secrets.token_urlsafe(32)
        self._visits: dict[str, Visit] = {}
        self._wrong, self._paused_until = 0, 0.0
        self._one_try = threading.Lock()

    @property
    def link(self) -> str | None:
        """The secret of the link, until it was used."""
        return self._link

    def use_link(self, secret: str) -> str | None:
        """The cookie of who brings the link's secret, once; None: it is not the one, or was used."""
        if self._link is None or not hmac.compare_digest(secret.encode(), self._link.encode()):
            return None
        self._link = None
        return self._begin_visit(self.login)

    def try_password(self, name: str, password: str) -> str | None:
        """The cookie of who brings a login's password. Takes a tenth of a second, for a wrong name, too.

        One after another: tries at once would all begin before the first is counted, with 32 MiB each.
        """
        with self._one_try:
            return self._try_password(name, password)

    def _try_password(self, name: str, password: str) -> str | None:
        if self.logins is None or self._clock() < self._paused_until:
            return None
        known = check_password(self.logins.get(name, DUMMY), password)
        if not known or name not in self.logins:
            self._wrong += 1
            if self._wrong >= PAUSE_AFTER:
                self._wrong, self._paused_until = 0, self._clock() + PAUSE
            return None
        self._wrong = 0
        return self._begin_visit(name)

    def now(self) -> float:
        """The clock by which visits end."""
        return self._clock()

    def _begin_visit(self, login: str) -> str:
        now = self._clock()
        self._visits = {key: one for key, one in self._visits.items() if one.until > now}
        while len(self._visits) >= MOST_SESSIONS:
            self._visits.pop(next(iter(self._visits)))
        cookie = secrets.token_urlsafe(32)
        self._visits[_name_of(cookie)] = Visit(login, now + SESSION_SECONDS)
        return cookie

    def find_visit(self, cookie: str | None) -> Visit | None:
        """Whose cookie it is."""
        found = self._visits.get(_name_of(cookie or ""))
        return found if found is not None and found.until > self._clock() else None


def _name_of(cookie: str) -> str:
    """The cookie itself is nowhere kept."""
    return sha256(cookie.encode()).hexdigest()


def hash_password(password: str, salt: bytes) -> str:
    """The line of a login without its name."""
    key = Scrypt(salt=salt, length=LENGTH, n=N, r=R, p=P).derive(password.encode())
    return f"scrypt:{N}:{R}:{P}:{salt.hex()}:{key.hex()}"


def check_password(line: str, password: str) -> bool:
    """Whether a password is that of a line; a line that is none fits nothing."""
    try:
        kind, n, r, p, salt, key = line.split(":")
        if kind != "scrypt" or int(n) > 2**20 or int(r) > 32 or int(p) > 16:
            return False
        kdf = Scrypt(salt=bytes.fromhex(salt), length=LENGTH, n=int(n), r=int(r), p=int(p))
        kdf.verify(password.encode(), bytes.fromhex(key))
    except (ValueError, InvalidKey):
        return False
    return True


DUMMY = f"scrypt:{N}:{R}:{P}:{'00' * 16}:{'00' * LENGTH}"
"""What a password is held against where there is no such login: no answer comes sooner."""


def read_logins(path: Path) -> dict[str, str]:
    """Name → line. ConfigError: the file cannot be read, others may read it, or it holds no login."""
    try:
        if path.stat().st_mode & 0o077:
            raise ConfigError("others may read the logins", where=str(path), advice=f"chmod 600 {path}")
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "no text"
        raise ConfigError(f"the logins cannot be read ({why})", where=str(path), advice=_MAKE) from None
    found: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        name, _, rest = line.partition(":")
        if not line.strip():
            continue
        if not name or len(rest.split(":")) != 6 or not rest.startswith("scrypt:"):
            raise ConfigError(f"line {number} is no login", where=str(path), advice=_MAKE)
        found[name] = rest
    if not found:
        raise ConfigError("there is no login in it", where=str(path), advice=_MAKE)
    return found


_MAKE = "Write one with --add-login NAME"


def add_login(path: Path, name: str, password: str) -> None:
    """Write a login into the file, or a new password of it; RequestError where either cannot be."""
    if not name.isprintable() or ":" in name or not name.strip():
        raise RequestError(f"{name!r} can be no login", advice="Use letters and digits")
    if len(password) < SHORTEST:
        raise RequestError("the password is too short", advice=f"Take {SHORTEST} characters or more")
    known = read_logins(path) if path.exists() else {}
    known[name] = hash_password(password, secrets.token_bytes(16))
    try:
        replace_file(path, "".join(f"{one}:{line}\n" for one, line in sorted(known.items())).encode(), mode=0o600)
    except OSError as error:
        raise RequestError(f"cannot be written ({error.strerror})", where=str(path)) from None
