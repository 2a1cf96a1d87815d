"""The operator's register: taken from its file, journaled, told to all; who is revoked is left out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog

from coordinator.core import inputs as i
from coordinator.core.announce import Announcement
from coordinator.core.logic import LOGIC
from coordinator.core.state import ExperimentState, Standing
from coordinator.loop.steps import Parts, Steps
from coordinator.record.journal import REGISTER
from messages import codec, kinds
from messages.chain import MAX_ENTRY, Entry
from messages.ground.errors import ConfigError, KonsilError, MalformedMessage
from messages.ground.naming import NO_EXPERIMENT
from messages.names import COORDINATOR
from messages.trust.register import Register

log = structlog.get_logger("coordinator")


def read_register_entry(entry: Entry) -> bytes:
    """The note in a journal's entry; MalformedMessage where there is none."""
    body = codec.unpack(entry.body, max_bytes=MAX_ENTRY)
    note = body.get("note") if isinstance(body, dict) else None
    if not isinstance(note, bytes):
        raise MalformedMessage("malformed", "a register's entry without a note")
    return note


class Registers:
    """Looks after the register. Main loop's thread.

    Args:
        path: the file that the operator replaces; None: the coordinator checks nothing.
    """

    def __init__(self, parts: Parts, steps: Steps, path: Path | None) -> None:
        self._parts, self._steps, self._path = parts, steps, path
        self._note = b""
        self._mark: tuple[int, int, int] | None = None
        self._barred: frozenset[str] = frozenset()

    def begin(self) -> None:
        """Go on from the journal's register with that of the file, and tell it.

        Raises:
            ConfigError: the file's does not follow from the journal's, or the journal has one and nothing is checked.
        """
        verifier, kept = self._parts.verifier, self._parts.journal.register
        if self._path is None:
            if kept is not None:
                raise ConfigError(
                    "[trust] is missing, and the journal goes by the operator's register",
                    where=str(self._parts.journal.path),
                    advice="Put the section back: nobody's events would be checked without it",
                )
            return
        self._mark = _mark_of(self._path)
        try:
            note = None if kept is None else read_register_entry(kept)
            if note is not None and verifier.go_on_from(note):
                self._note = note
            else:
                data = self._path.read_bytes()
                verifier.take_register(data)
                self._keep(data, verifier.known_register())
        except (KonsilError, OSError) as error:
            raise ConfigError(f"cannot be used: {error}", where=str(self._path)) from None
        self._tell()

    def look_at_file(self) -> None:
        """Take a newer register where the operator has put one; once a second."""
        if self._path is None:
            return
        mark = _mark_of(self._path)
        if mark is not None and mark != self._mark:
            self._mark = mark
            self._take_file(self._path)
        self._leave_out_barred()

    def _take_file(self, path: Path) -> None:
        try:
            data = path.read_bytes()
            new = self._parts.verifier.take_register(data)
        except OSError as error:
            log.error("the register cannot be read", where=str(path), detail=error.strerror)
        except KonsilError as error:
            log.error("the register is not taken", where=str(path), detail=error.what)
        else:
            if new is not None:
                self._keep(data, new)
                self._tell()

    def _keep(self, data: bytes, register: Register) -> None:
        self._note = data
        body: Mapping[str, Any] = {"note": data, "serial": register.serial, "logic": LOGIC}
        self._parts.journal.append_entry(NO_EXPERIMENT, REGISTER, body, time=self._parts.clock.now())
        self._parts.audit.wake_up()
        log.info("register", serial=register.serial, parties=len(register.keys), signatures=register.signatures)
        own = self._parts.say.public_key
        if own is not None and own not in register.keys_of(COORDINATOR, self._parts.clock.now()):
            log.critical(
                "the operator's register does not have this coordinator's key any more: nobody believes what it says",
                serial=register.serial,
                advice="start it again with the new keys that `konsil provision revoke coordinator` made",
            )

    def _tell(self) -> None:
        """Announce it; who is older than vocabulary 5 stays deaf to the kind."""
        register = self._parts.verifier.known_register()
        body = kinds.RegisterAnnounced(note=self._note)
        self._parts.say.announce_to_all(Announcement("register", NO_EXPERIMENT, body, attempt=register.serial))

    def tell_again(self) -> None:
        """The broker lost what was told."""
        if self._path is not None:
            self._tell()

    def _leave_out_barred(self) -> None:
        now = self._parts.clock.now()
        barred = self._parts.verifier.list_barred(now)
        for name in sorted(barred - self._barred):
            log.warning("a party's key is revoked: it is left out", party=name)
        self._barred = barred
        if barred:
            for experiment, state in sorted(self._steps.states.items()):
                for party in sorted(barred & _waited_for(state)):
                    self._steps.take_step(experiment, i.Barred(time=now, site=party))


def _waited_for(state: ExperimentState) -> frozenset[str]:
    if state.ended is not None:
        return frozenset()
    sites = (site for site, one in state.members.items() if one.standing in (Standing.INVITED, Standing.JOINED))
    return frozenset((*sites, state.researcher))


def _mark_of(path: Path) -> tuple[int, int, int] | None:
    """What changes with a file's content; None where it is not there."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
