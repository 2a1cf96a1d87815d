"""The operator's orders, as they come over the control socket."""

from __future__ import annotations

import queue
from collections.abc import Callable
from typing import Any

import structlog

from messages.ground.clock import Clock, Queue
from messages.ground.errors import KonsilError, RequestError
from site_agent.core.inputs import Approved, Switched, TurnedDown
from site_agent.core.jobs import Phase
from site_agent.loop.effect_runner import EffectRunner
from site_agent.loop.steps import Steps

log = structlog.get_logger()

ANSWER_WITHIN = 8.0
ABOUT_ONE = ("approve", "decline")
"""Orders about one experiment."""
LONGEST_LOGIN = 64
AT_THE_SOCKET = "command line"
"""Who gives an order without a login: whoever may enter the state directory."""


class Orders:
    """Obeys on the main loop, answers on the control socket's thread.

    Args:
        status: what the agent does now; called on the main loop.
        note: keeps who ordered what: order, experiment (empty: of none), login.
    """

    def __init__(
        self,
        *,
        steps: Steps,
        errands: EffectRunner,
        post: Callable[[Callable[[], None]], None],
        status: Callable[[], dict[str, Any]],
        clock: Clock,
        note: Callable[[str, str, str], None] = lambda _order, _experiment, _login: None,
    ) -> None:
        self._steps, self._errands, self._post, self._status = steps, errands, post, status
        self._clock, self._note = clock, note

    def take_order(self, request: dict[str, Any]) -> dict[str, Any]:
        """Obey a request, and answer with the status after it.

        Raises:
            RequestError: there is no such order, or nothing to approve.
            KonsilError: the main loop did not come to it.
        """
        answers: Queue[dict[str, Any] | KonsilError] = self._clock.make_queue()

        def work() -> None:
            try:
                answers.put(self._obey_order(request))
            except KonsilError as error:
                answers.put(error)
            except Exception:
                log.critical("an order cannot be carried out", order=str(request.get("do")), exc_info=True)
                answers.put(KonsilError("the agent could not do it: a defect", advice="Its log says more"))

        self._post(work)
        try:
            answer = answers.get(timeout=ANSWER_WITHIN)
        except queue.Empty:
            raise KonsilError("the agent is busy", advice="Try again") from None
        if isinstance(answer, KonsilError):
            raise answer
        return answer

    def _obey_order(self, request: dict[str, Any]) -> dict[str, Any]:
        order = request.get("do")
        if order == "pause":
            self._errands.apply_input(Switched(paused=True))
        elif order == "resume":
            self._errands.apply_input(Switched(paused=False, draining=False))
        elif order == "drain":
            self._errands.apply_input(Switched(draining=True))
        elif order == "approve":
            self._errands.apply_input(Approved(self._find_awaiting(request)))
        elif order == "decline":
            self._errands.apply_input(TurnedDown(self._find_awaiting(request)))
        elif order != "status":
            raise RequestError(f"unknown order {order!r}")
        if order != "status":
            self._note_order(str(order), request)
        return self._status()

    def _note_order(self, order: str, request: dict[str, Any]) -> None:
        """Who ordered what, in the log and beside the ledger; `by`: a page's login, as it says."""
        about = {"experiment": str(request["experiment"])} if order in ABOUT_ONE else {}
        login = str(request.get("by") or "")[:LONGEST_LOGIN]
        log.info("ordered", what=order, **about, **({"by": login} if login else {}))
        self._note(order, about.get("experiment", ""), login or AT_THE_SOCKET)

    def _find_awaiting(self, request: dict[str, Any]) -> str:
        name = str(request.get("experiment"))
        if self._steps.agenda.phase_of(name) is not Phase.AWAITING:
            raise RequestError(
                f"no experiment {name!r} awaits approval",
                advice="`konsil site status` lists those that do",
            )
        return name
