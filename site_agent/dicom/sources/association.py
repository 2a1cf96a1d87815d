"""Associations with a PACS (PS3.8): made and ended here, and every way in which they fail as one line of ours.

pynetdicom's exceptions and empty answers stop at this module and `dimse`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from tenacity import RetryCallState, RetryError, Retrying, retry_if_exception_type, stop_after_attempt

from messages.ground.errors import KonsilError, PacsRefused, PacsUnreachable
from site_agent.dicom.config import DimseSource
from site_agent.dicom.hush import hush_pynetdicom, silence_libraries
from site_agent.dicom.sources import tls

ATTEMPTS = 3
"""Associations asked for while the PACS says that it is at its limit for the moment."""
PAUSE = 1.0
"""Seconds before the second attempt; twice as many before the third."""
LINGER = 5.0
"""Seconds for pynetdicom's thread to notice that its association is over."""
PDU = 131072
"""Bytes of a PDU that we take at most: larger ones are fewer, and this is the most that DCMTK sends."""

Contexts = Sequence[Any]


class _AskAgain(Exception):
    """An association may come about with the next try; `because`: what to say if it does not."""

    def __init__(self, because: KonsilError, pause: float) -> None:
        self.because, self.pause = because, pause
        super().__init__(str(because))


def _pause(state: RetryCallState) -> float:
    """Seconds before the next try: more with each that failed."""
    again = state.outcome.exception() if state.outcome is not None else None
    return again.pause * state.attempt_number if isinstance(again, _AskAgain) else 0.0


class Caller:
    """Makes associations with one PACS.

    Args:
        config: whom we are, whom we call, TLS, patience.

    Raises:
        ConfigError: certificates cannot be used.
    """

    def __init__(self, config: DimseSource) -> None:
        silence_libraries()
        hush_pynetdicom()
        self.config = config
        self.where = f"{config.called} at {config.host}:{config.port}"
        self._tls = tls.client_context(config.ca, config.cert, config.key)

    @contextmanager
    def open_association(
        self, contexts: Contexts, *, roles: Sequence[Any] = (), handlers: Sequence[Any] = ()
    ) -> Iterator[Any]:
        """An established association, released at the end and aborted where the block raises.

        Raises:
            PacsUnreachable: nothing answers, or not as a DICOM node.
            PacsRefused: the association is rejected.
        """
        made = self._make_association(contexts, roles, handlers)
        try:
            yield made
        except BaseException:
            if made.is_established:
                made.abort()
            raise
        else:
            if made.is_established:
                made.release()
        finally:
            made.join(LINGER)
            _close_socket(made)

    def require_context(self, made: Any, abstract: str, verb: str) -> None:
        """Refuse an association in which the PACS does not offer `verb`.

        Raises:
            PacsRefused: its presentation context was rejected.
        """
        if not any(context.abstract_syntax == abstract for context in made.accepted_contexts):
            raise PacsRefused(
                f"it rejects the presentation context of {verb}",
                where=self.where,
                advice=f"Have {verb} (Study Root) allowed for AE title {self.config.ae!r} in the PACS",
            )

    def broken_error(self, doing: str) -> PacsUnreachable:
        """The error of an association that ended, or fell silent, in the midst of something."""
        return PacsUnreachable(
            f"the association broke off, or {self.config.patience:g} s went by without a word, {doing}",
            where=self.where,
            advice="What came is kept; the next preparation goes on from there",
        )

    def _make_association(self, contexts: Contexts, roles: Sequence[Any], handlers: Sequence[Any]) -> Any:
        """An association, asked for again as long as it may be a matter of the moment."""
        asking = Retrying(retry=retry_if_exception_type(_AskAgain), stop=stop_after_attempt(ATTEMPTS), wait=_pause)
        try:
            return asking(self._made_once, contexts, roles, handlers)
        except RetryError as given_up:
            again = given_up.last_attempt.exception()
            raise (again.because if isinstance(again, _AskAgain) else given_up) from None

    def _made_once(self, contexts: Contexts, roles: Sequence[Any], handlers: Sequence[Any]) -> Any:
        began = time.monotonic()
        made = self._ask_association(contexts, roles, handlers)
        if made.is_established:
            return made
        _close_socket(made)
        if made.rejected_contexts:
            raise PacsRefused(
                "it accepts the association and rejects each presentation context",
                where=self.where,
                advice=f"Have query and retrieval (Study Root) allowed for AE title {self.config.ae!r} in the PACS",
            )
        if not made.is_rejected:
            if time.monotonic() - began < PAUSE:
                # Ended at once: a rejection may be lost where the connection is closed right behind it.
                raise _AskAgain(self._unreachable_error(), pause=0.0)
            raise self._unreachable_error()
        answer = made.acceptor.primitive
        if answer.result == 0x02:  # rejected for the moment (PS3.8, 9.3.4)
            raise _AskAgain(self._rejection_error(answer), pause=PAUSE)
        raise self._rejection_error(answer)

    def _ask_association(self, contexts: Contexts, roles: Sequence[Any], handlers: Sequence[Any]) -> Any:
        from pynetdicom import AE

        from site_agent.dicom.sources.prompt_socket import HASTEN

        config = self.config
        entity = AE(ae_title=config.ae)
        entity.connection_timeout = entity.acse_timeout = entity.dimse_timeout = config.patience
        entity.network_timeout = 10 * config.patience  # between our own requests, while an object is dealt with
        return entity.associate(
            config.host,
            config.port,
            contexts=list(contexts),
            ae_title=config.called,
            max_pdu=PDU,
            ext_neg=list(roles),
            tls_args=None if self._tls is None else (self._tls, config.host),
            evt_handlers=[HASTEN, *handlers],
        )

    def _rejection_error(self, answer: Any) -> PacsRefused:
        """PS3.8, 9.3.4: result, source and reason of an A-ASSOCIATE-RJ."""
        config = self.config
        if (answer.result_source, answer.diagnostic) == (1, 3):
            return PacsRefused(
                f"it does not know our AE title {config.ae!r}",
                where=self.where,
                advice="Have it registered in the PACS with this machine's address, or correct ae in site.toml",
            )
        if (answer.result_source, answer.diagnostic) == (1, 7):
            return PacsRefused(
                f"it is not called {config.called!r}",
                where=self.where,
                advice="Correct called in site.toml: the PACS's own AE title",
            )
        said = f"{answer.reason_str}".strip().lower().rstrip(".")
        return PacsRefused(
            f"it rejects the association ({said}; result {answer.result}, source {answer.result_source}, "
            f"reason {answer.diagnostic})",
            where=self.where,
            advice="Ask the PACS's operator whether this AE title may associate, and how many times at once",
            # for the moment, or without a reason: maintenance looks like that; every other reason is about who we are
            passing=answer.result == 0x02 or (answer.result_source, answer.diagnostic) in ((1, 1), (2, 1)),
        )

    def _unreachable_error(self) -> KonsilError:
        """Why no association came about: pynetdicom does not say, so the same way is gone once more by hand."""
        config = self.config
        try:
            with socket.create_connection((config.host, config.port), timeout=min(config.patience, 10.0)) as line:
                if self._tls is not None:
                    self._tls.wrap_socket(line, server_hostname=config.host).close()
        except OSError as error:
            if self._tls is not None and (why := tls.explain_handshake(error)):
                advice = "Check ca, cert and key, and that the port is TLS"
                return PacsUnreachable(why, where=self.where, advice=advice, passing=False)
            return PacsUnreachable(
                f"nothing answers ({error.strerror or 'no answer in time'})",
                where=self.where,
                advice="Check host and port, and that the PACS runs and no firewall is in between",
            )
        return PacsUnreachable(
            f"it takes the connection, and no association comes about within {config.patience:g} s",
            where=self.where,
            advice="Check that this port speaks DICOM"
            + ("" if self._tls else "; if it speaks TLS, name ca")
            + f", and that the PACS knows AE title {config.ae!r}",
        )


def _close_socket(made: Any) -> None:
    """Close the socket of an association that is over: pynetdicom leaves some of them to the garbage collector."""
    line = getattr(made.dul.socket, "socket", None)
    if line is not None:
        line.close()


def echo_pacs(config: DimseSource) -> None:
    """C-ECHO (PS3.7, 9.1.5): whether the PACS answers us.

    Raises:
        ConfigError, PacsUnreachable, PacsRefused: it does not; one line says why.
    """
    from pynetdicom import build_context

    from site_agent.dicom.sources import statuses

    verification = "1.2.840.10008.1.1"
    caller = Caller(config)
    with caller.open_association([build_context(verification)]) as made:
        caller.require_context(made, verification, "C-ECHO")
        answer = made.send_c_echo()
        if "Status" not in answer:
            raise caller.broken_error("in C-ECHO")
        if answer.Status != 0x0000:
            raise PacsRefused(f"it answers C-ECHO with {statuses.tell_meaning(answer.Status)}", where=caller.where)
