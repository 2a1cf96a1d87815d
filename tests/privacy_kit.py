"""A site's agenda on its spool, with its privacy ledger: what it hears, and a disk that fails at any statement."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import agenda_kit as kit
import site_consortium as script

from messages.bus.memory import MemoryBus
from messages.ground.virtual.clock import VirtualClock
from messages.kinds import ExperimentAccepted
from messages.kinds import Transfer as Sealed
from site_agent.core.agenda import restore_agenda
from site_agent.core.budget import ORDERS, Account, Price
from site_agent.core.inputs import AnyInput, ChunksSent, Heard, Prepared, Receipted, Restarted
from site_agent.core.jobs import Trained
from site_agent.disk.spool import Spool
from site_agent.loop.budgets import Budgets
from site_agent.loop.steps import Steps
from site_agent.wire.outbox import Outbox

DP = {"noise_multiplier": 2.0, "clip_norm": 1.0, "sample_rate": 0.25}
A_ROUND = 4
STEP = tuple(order / (2 * 10.0**2) for order in ORDERS)


class Struck(Exception):
    """The process was killed here."""


class FailingDatabase:
    """The spool's connection, which fails before a statement of this number."""

    def __init__(self, real: Any, number: int) -> None:
        self._real, self.left = real, number

    def execute(self, *words: Any) -> Any:
        if words[0] != "ROLLBACK":
            self.left -= 1
            if self.left == 0:
                raise Struck
        return self._real.execute(*words)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)


class Site:
    """A site that is told what happens; `datasets`: name → its section `privacy`."""

    def __init__(self, state: Path, datasets: dict[str, dict[str, Any] | None]) -> None:
        described = {
            name: {"source": "brats", "path": str(state), "labels": {3: "ET"}, "privacy": privacy}
            for name, privacy in datasets.items()
        }
        self.config = script.site_config(state, datasets=described)
        self.broker, self.clock, self.state = script.broker(), VirtualClock(), state
        self.begin()

    def begin(self) -> None:
        self.spool = Spool(self.state)
        self.bus = MemoryBus(self.broker, "site-a")
        voice = Outbox(self.bus, self.spool, script.CONSORTIUM, "site-a", self.clock)
        agenda = restore_agenda(self.spool.load_agenda("site-a"))
        self.budgets = Budgets(self.config, self.spool)
        self.steps = Steps(self.spool, voice, agenda, self.clock.make_event(), self.clock, self.budgets)

    def end(self) -> None:
        self.bus.close()
        self.spool.close()

    def restart(self) -> None:
        self.end()
        self.begin()
        self.take(Restarted())

    def take(self, given: AnyInput) -> None:
        self.steps.atomically(lambda: self.steps.take_step(given))

    def take_until_struck(self, given: AnyInput, number: int) -> bool:
        """Take an input while the disk fails at a statement; whether it came so far."""
        real = self.spool._db
        failing: Any = FailingDatabase(real, number)
        self.spool._db = self.spool.privacy._db = failing
        try:
            self.take(given)
        except Struck:
            return True
        finally:
            self.spool._db = self.spool.privacy._db = real
        return False

    def phase(self, name: str = "e") -> str:
        return self.steps.agenda.phase_of(name).value

    def account(self, dataset: str = "glioma") -> Account:
        return self.budgets.open_account(dataset)

    def train(self, number: int, *, name: str = "e", attempt: int = 1, seal: str = "a") -> None:
        """A round, to the update."""
        self.take(kit.round_start(number, name))
        self.take(kit.model_ready(number, name))
        self.take(trained(number, name, attempt, seal))

    def deliver(self, number: int, name: str = "e") -> None:
        self.take(ChunksSent(name, number, 1))
        self.take(Receipted(name, number, 1))


def accepted(name: str = "e", dataset: str = "glioma", rounds: int = 5, **dp: Any) -> Heard:
    file = script.experiment_file(
        name, data={"dataset": dataset}, rounds={"count": rounds}, privacy={"dp": {**DP, **dp}}
    )
    digest = sha256(name.encode()).hexdigest()
    body = ExperimentAccepted(experiment=file, digest=digest, researcher="dr-a", original=b"", enrol_within=1.0)
    return Heard(kit.said("experiment-accepted", body, name=name))


def prepared(name: str = "e", rounds: int = 5, epsilon: float = 1.0) -> Prepared:
    price = Price(A_ROUND * rounds, A_ROUND, epsilon, 1e-5, STEP)
    return Prepared(name, kit.COUNTS, kit.PLATFORM, price=price)


def trained(number: int, name: str = "e", attempt: int = 1, seal: str = "a") -> Trained:
    transfer = Sealed(round=number, attempt=attempt, seal=seal * 64, manifest=kit.MANIFEST)
    return kit.trained(number, attempt, name).model_copy(update={"transfer": transfer, "steps": A_ROUND})
