"""The error tree. Each error says what happened, to what, and what to do; no user's mistake ends in a traceback.

Exit statuses of the `konsil` command: 0 done, 1 the work failed, 2 the request was wrong,
3 something needed is not reachable.
"""

from __future__ import annotations


class KonsilError(Exception):
    """Any failure that Konsil explains itself.

    Args:
        what: what happened, one sentence without a full stop.
        where: file, key, queue or address it happened to.
        advice: what the reader can do about it.
    """

    exit_status = 1

    def __init__(self, what: str, *, where: str = "", advice: str = "") -> None:
        self.what = what
        self.where = where
        self.advice = advice
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. {self.advice}" if self.advice else text


class WorkFailed(KonsilError):
    """The request was right, and the work failed (exit status 1)."""


class RequestError(KonsilError):
    """The request was wrong: arguments, configuration or input (exit status 2)."""

    exit_status = 2


class ConfigError(RequestError):
    """A configuration or experiment file is missing, malformed, or says what is not allowed."""


class TooLarge(RequestError):
    """More bytes than whoever is asked takes; a status of its own, since a program asks (`python -m nets.initial`)."""

    exit_status = 4


class DataError(RequestError):
    """A data set cannot be used as it is."""


class Unreachable(KonsilError):
    """Something needed is not reachable: broker, PACS, device (exit status 3)."""

    exit_status = 3


class PacsFailed(Unreachable):
    """A PACS does not do what it is asked.

    Args:
        passing: whether this may be over by itself, as maintenance and overload are, with nothing in site.toml wrong;
            None: as the kind of error usually is.
    """

    usually_passes = False

    def __init__(self, what: str, *, where: str = "", advice: str = "", passing: bool | None = None) -> None:
        super().__init__(what, where=where, advice=advice)
        self.passing = self.usually_passes if passing is None else passing


class PacsUnreachable(PacsFailed):
    """A PACS does not answer, or not in time."""

    usually_passes = True


class PacsRefused(PacsFailed):
    """A PACS answered and will not do it: unknown AE title, credentials, verb, or a failure of its own."""


class BrokerUnreachable(Unreachable):
    """The broker does not answer."""


class TlsFailed(BrokerUnreachable):
    """The broker is not whom `broker.ca` vouches for, or no TLS can be spoken with it: trying again will not help."""


class LoginRefused(Unreachable):
    """The broker answers and refuses this party's credentials or permissions."""


class NameTaken(RequestError):
    """Another process already runs under this party's name (exclusive consumer of its inbox)."""


class MalformedMessage(KonsilError):
    """Bytes from the wire are not a valid message; carries the reason code to count and log.

    Args:
        reason: code out of `messages.reasons.Reason`.
        what: one sentence for the log, without any content of the message.
    """

    def __init__(self, reason: str, what: str) -> None:
        self.reason = reason
        super().__init__(what)


class UnboundedMessage(MalformedMessage):
    """A message has more than its bounds allow where later versions may add: of its bytes only a digest is kept."""


class LogBroken(KonsilError):
    """An event log does not verify; `where` names the entry."""
