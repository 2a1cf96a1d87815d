"""Waiting for a server that starts on this machine."""

from __future__ import annotations

from collections.abc import Callable

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from messages.ground.errors import WorkFailed

LOOK_EVERY = 0.05
"""Seconds between two looks."""


def wait_for_server(is_up: Callable[[], bool], ended: Callable[[], WorkFailed | None], within: float) -> bool:
    """Look until the server is up; False where that takes longer than `within` seconds.

    Args:
        ended: the error of a server that will never be up, since its process has ended; None: it runs.

    Raises:
        WorkFailed: what `ended` says.
    """

    def look() -> bool:
        if is_up():
            return True
        if (error := ended()) is not None:
            raise error
        return False

    looking = Retrying(
        retry=retry_if_result(lambda up: not up), stop=stop_after_delay(within), wait=wait_fixed(LOOK_EVERY)
    )
    try:
        return looking(look)
    except RetryError:
        return False
