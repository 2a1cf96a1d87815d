"""Pages of the three roles over what tests invent, and browsers that are let in."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brokers import PARTIES, consortium_definitions
from starlette.testclient import TestClient
from storytelling import complete, events, recruited

from coordinator.config import read_config as read_coordinator
from coordinator.record.journal import Journal
from deploy.page.consortium import ConsortiumFollower
from deploy.page.gate import Gate
from deploy.page.hospital import HospitalFace
from deploy.page.operator import OperatorFace
from deploy.page.ordering import SiteOrders
from deploy.page.researcher import ResearcherFace
from deploy.page.web import COOKIE, OrderDesk, Web, WebSettings
from deploy.session.connection import BrokerSession
from deploy.session.profile import Profile
from deploy.story.story import ExperimentStory
from deploy.story.telling import tell_all
from messages.bus.memory import MemoryBroker, MemoryBus
from site_agent.config import read_config
from site_agent.core.jobs import Agenda, Job, Phase
from site_agent.desk.control import ControlServer
from site_agent.desk.status import status_of
from site_agent.disk.spool import Spool

HOST = "127.0.0.1:8470"
ORIGIN = f"http://{HOST}"


@dataclass
class Browser:
    """One that was let in; `get`, `post` as a browser of this page asks."""

    client: TestClient
    web: Web

    def get(self, path: str, **headers: str) -> Any:
        return self.client.get(path, headers={"host": HOST, **headers})

    def post(self, path: str, form: dict[str, str], **headers: str) -> Any:
        return self.client.post(path, data=form, headers={"host": HOST, "origin": ORIGIN, **headers})


class Ticking:
    """A clock that goes on by hand."""

    def __init__(self, now: float | None = None) -> None:
        self.now = time.time() if now is None else now

    def __call__(self) -> float:
        return self.now


def open_browser(
    face: Any, clock: Callable[[], float] = time.time, desk: OrderDesk | None = None, *, enter: bool = True
) -> Browser:
    """A browser at a page of this face."""
    gate = Gate("dr-a", None, clock)
    web = Web(face, gate, WebSettings(frozenset({HOST})), clock, desk)
    client = TestClient(web.app, base_url=ORIGIN, follow_redirects=False)
    if enter:
        client.get(f"/open/{gate.link}", headers={"host": HOST})
        assert client.cookies.get(COOKIE)
    return Browser(client, web)


def told(story_of: Any, identity: str = "try") -> ExperimentStory:
    return tell_all(ExperimentStory(identity), events(story_of))


def researcher(role: str = "researcher", clock: Callable[[], float] = time.time) -> ResearcherFace:
    """A researcher's page of two experiments: one is over, and one recruited."""
    broker = MemoryBroker(consortium_definitions(PARTIES))
    session = BrokerSession(MemoryBus(broker, "dr-a"), Profile(name="dr-a", role=role, consortium="test"))  # type: ignore[arg-type]
    follower = ConsortiumFollower(session, clock)
    follower.caught_up, follower.heard_at = True, clock()
    second = told(recruited())
    object.__setattr__(second, "id", "second")
    follower.stories = {"try": told(complete()), "second": second}
    return ResearcherFace("researcher dr-a", follower, clock=clock)


SITE = """schema = 1
[site]
name = "site-a"
consortium = "c"
state = "{state}"
[broker]
host = "localhost"
password = "x"
[datasets.glioma]
source = "brats"
path = "{data}"
labels = {{ 1 = "NCR", 2 = "ED", 3 = "ET" }}
[policy]
approval = "hand"
[[policy.allow]]
researchers = ["dr-a"]
"""


class Hospital:
    """A site with an agent that answers, and obeys."""

    def __init__(self, folder: Path, *jobs: Job) -> None:
        config = folder / "site.toml"
        config.write_text(SITE.format(state=folder / "state", data=folder))
        self.ordered: list[dict[str, Any]] = []
        self.spool = Spool(folder / "state")
        self.agenda = Agenda("site-a", {job.experiment: job for job in jobs})
        self.spool.store_agenda(Agenda("site-a"), self.agenda, 1.0)
        self.server: ControlServer | None = ControlServer(folder / "state", self._obey)
        self.site = read_config(config)
        self.face = HospitalFace(self.site, config)
        self.desk = SiteOrders(self.site, self.face)

    def _obey(self, request: dict[str, Any]) -> dict[str, Any]:
        if request["do"] != "status":
            self.ordered.append(request)
        return status_of(
            self.agenda, site="site-a", broker="connected", progress={}, refusals={}, waiting=0, pids={},
            used_bytes=10**9, bytes_down=5, bytes_up=7,
        )  # fmt: skip

    def look(self) -> None:
        """One look of the page at everything, without its threads."""
        self.face.ask_now()

    def stop_agent(self) -> None:
        if self.server is not None:
            self.server.close()
            self.server = None

    def close(self) -> None:
        self.stop_agent()
        self.spool.close()


def job_of(file: dict[str, Any], phase: Phase = Phase.AWAITING, **more: Any) -> Job:
    from messages.experiment import Experiment

    one = Experiment.model_validate(file)
    plain = one.model_dump(mode="json", by_alias=True)
    return Job(experiment=one.id, digest=one.digest(), file=plain, researcher="dr-a", phase=phase, **more)


COORDINATOR = """schema = 1
[coordinator]
consortium = "test"
state = "{state}"
sites = ["site-a", "site-b", "site-never"]
researchers = ["dr-a"]
[broker]
password = "x"
"""


def operator(folder: Path) -> tuple[OperatorFace, Journal]:
    """An operator's page beside a coordinator that holds its journal; whoever asks closes the journal."""
    file = folder / "coordinator.toml"
    file.write_text(COORDINATOR.format(state=folder / "head"))
    journal = Journal(folder / "head")
    for entry in complete().entries:
        journal.append_entry(entry.experiment, entry.type, entry.body, time=entry.time)
    return OperatorFace(read_coordinator(file), file), journal
