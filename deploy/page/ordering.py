"""Orders that a reader of a site's page gives: which there are, in words, and how the agent is told."""

from __future__ import annotations

from collections.abc import Mapping

from deploy.page.hospital import HospitalFace
from messages.ground.errors import RequestError
from messages.trust.keys import say_digest
from site_agent.config import SiteConfig
from site_agent.desk.control import ask_agent

WORDS = {
    "pause": "The site takes no new work until it is resumed; what was accepted is finished.",
    "resume": "The site takes work again.",
    "drain": "The site finishes what it accepted, and its agent then stops.",
}


class SiteOrders:
    """The agent's orders, as the page gives them."""

    def __init__(self, site: SiteConfig, face: HospitalFace) -> None:
        self._site, self._face = site, face

    def list_orders(self) -> list[tuple[dict[str, str], str]]:
        """What can be ordered now."""
        status = self._face.status
        if status is None:
            return []
        told = [
            ({"do": what, "experiment": job.experiment, "digest": job.digest}, f"{what.title()} {job.experiment} …")
            for job in self._face.awaiting()
            for what in ("approve", "decline")
        ]
        switch = "resume" if status["paused"] or status["draining"] else "pause"
        return [*told, *(({"do": one}, f"{one.title()} …") for one in (switch, "drain"))]

    def describe_order(self, order: Mapping[str, str]) -> str:
        """What it would do; RequestError: there is no such order, or what it is about has changed."""
        what = order.get("do", "")
        if what in WORDS:
            return WORDS[what]
        if what not in ("approve", "decline"):
            raise RequestError("there is no such order")
        job = next((one for one in self._face.awaiting() if one.experiment == order.get("experiment")), None)
        if job is None or job.digest != order.get("digest"):
            raise RequestError("no such experiment awaits approval", advice="Look at the page again")
        use = "may use this site" if what == "approve" else "is declined; that is told to its researcher"
        return f"{job.experiment} by {job.researcher} {use}. Its digest reads out as: {say_digest(job.digest)}."

    def carry_out(self, order: Mapping[str, str], login: str) -> str:
        """Tell the agent. KonsilError: it refuses, or does not answer."""
        self.describe_order(order)
        request = {"do": order["do"], "by": login}
        if name := order.get("experiment"):
            request["experiment"] = name
        ask_agent(self._site.site.state, request)
        self._face.ask_now()
        return f"{order['do']}{f' {name}' if name else ''}: done, and logged under {login}."
