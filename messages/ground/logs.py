"""The log of a service: lines for a person at a terminal, JSON for everything else, always on standard error.

Every line says which service it is from and, at a site, which site. What concerns an experiment and a round says so:
by `bind_experiment`, which binds them for all lines of a stretch of work on this thread. An exception is told by its
type and the places it came through, never by its message: at a site a message may hold a path or a patient's file name.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars

from messages.ground.errors import KonsilError
from messages.ground.naming import NO_EXPERIMENT
from messages.ground.shown import escape_controls

_ROOT = Path(__file__).resolve().parents[2]
_who: dict[str, str] = {}


def configure_log(service: str, level: int = logging.INFO, *, for_good: bool = False, **who: str) -> None:
    """Set the log of this process up.

    Args:
        service: "coordinator" or "site".
        for_good: this is the process's only log: each module's logger is set up once, which makes a line cheaper.
        who: more that every line says, such as the site's name; may be told later (`identify_service`).
    """
    _who.clear()
    _who.update(service=service, **who)
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        _add_identity,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _told_by_type,
    ]
    drawn: Any = structlog.processors.JSONRenderer()  # in ASCII: it escapes whatever a terminal would obey
    if sys.stderr.isatty():
        shared.append(_escape_values)
        drawn = structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*shared, drawn],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=for_good,
    )
    # What libraries and Python's own warnings say goes the same way.
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, drawn],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.captureWarnings(capture=True)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)


def identify_service(**who: str) -> None:
    """What every line says from now on, too."""
    _who.update(who)


class Complaints:
    """Counts what comes again and again, so that a flood of messages is no flood of lines: the first of its kind is
    told at once, the others once a minute, by how many they are. One thread's.

    Args:
        now: seconds that only grow (`Clock.monotonic`).
    """

    EVERY = 60.0

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._told: dict[tuple[str, str], float] = {}
        self._counted: Counter[tuple[str, str]] = Counter()

    def __bool__(self) -> bool:
        return bool(self._counted)

    def count_messages(self, sender: str, reason: str, count: int = 1) -> bool:
        """Count a message, or some.

        Args:
            sender: whom the broker says that it is from.
            reason: a code, or the type of an exception: never a word of the message.

        Returns:
            whether to write a line about it now.
        """
        matter, now = (sender, reason), self._now()
        if matter not in self._counted and now >= self._told.get(matter, now - self.EVERY) + self.EVERY:
            self._told[matter] = now
            return True
        self._counted[matter] += count
        return False

    def tell_counted(self) -> None:
        """Write the lines that are due."""
        if not self._counted:
            return
        now = self._now()
        for matter in [one for one in self._counted if now >= self._told[one] + self.EVERY]:
            self._told[matter] = now
            sender, reason = matter
            structlog.get_logger("messages").warning(
                "more of the same", sender=sender, reason=reason, count=self._counted.pop(matter)
            )


def bind_experiment(experiment: str | None = None, round_number: int | None = None) -> AbstractContextManager[None]:
    """Bind experiment and round to all lines that this thread writes within; round 0 and no experiment bind nothing."""
    bound: dict[str, Any] = {}
    if experiment and experiment != NO_EXPERIMENT:
        bound["experiment"] = experiment
    if round_number:
        bound["round"] = round_number
    return bound_contextvars(**bound)


def last_word(error: KonsilError) -> int:
    """The one line of a service that ends by an error; returns the exit status.

    Plain for a person or a program that started the service by hand, a line of the log in the system's journal.
    """
    if _in_journal():
        structlog.get_logger("service").critical("ended", error=str(error), exit_status=error.exit_status)
    else:
        sys.stderr.write(escape_controls(f"konsil: {error}", keep="\n") + "\n")
        sys.stderr.flush()
    return error.exit_status


def _in_journal() -> bool:
    """Whether standard error goes to the system's journal (systemd.exec(5), $JOURNAL_STREAM)."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _add_identity(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in _who.items():
        line.setdefault(key, value)
    return line


def _escape_values(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    return {key: escape_controls(value) if isinstance(value, str) else value for key, value in line.items()}


def _told_by_type(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    info = line.pop("exc_info", None)
    if isinstance(info, BaseException):
        error: BaseException | None = info
    elif isinstance(info, tuple):
        error = info[1]
    else:
        error = sys.exc_info()[1] if info else None
    if error is not None:
        line.update(describe_error(error))
    return line


def describe_error(error: BaseException) -> Mapping[str, Any]:
    """An exception without its message: the types from it to what caused it, and the places it came through."""
    types: list[str] = []
    places = [_frame_place(frame) for frame in traceback.extract_tb(error.__traceback__)]
    one: BaseException | None = error
    while one is not None and len(types) < 8:
        types.append(type(one).__name__)
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)
    return {"exception": " from ".join(types), "at": places[-20:]}


def _frame_place(frame: traceback.FrameSummary) -> str:
    path = Path(frame.filename)
    short = path.relative_to(_ROOT) if path.is_relative_to(_ROOT) else Path(*path.parts[-2:])
    return f"{short}:{frame.lineno} {frame.name}"


def _log_uncaught(kind: type[BaseException], error: BaseException | None, _trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    structlog.get_logger("service").critical("defect", exc_info=error)
