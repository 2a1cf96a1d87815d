"""One log for all services of a simulated run: each line with virtual time and the thread that wrote it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import structlog

from messages.ground.clock import Clock
from messages.ground.units import human_moment


@contextmanager
def keep_log(path: Path, clock: Clock) -> Iterator[None]:
    """Within, what the services of this process log goes into a file as JSON lines, and to standard error nothing."""

    def note_place(_logger: Any, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        line["time"] = human_moment(clock.wall())
        line["thread"] = threading.current_thread().name
        return line

    with path.open("a", encoding="utf-8") as file:
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                note_place,
                structlog.processors.add_log_level,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(),
            ],
            wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
            logger_factory=structlog.WriteLoggerFactory(file=file),
            cache_logger_on_first_use=False,
        )
        try:
            yield
        finally:
            structlog.reset_defaults()
