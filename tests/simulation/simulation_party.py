"""What a party of a simulated world is: a machine, and the real service that runs on it."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from coordinator_kit import CONSORTIUM
from simulation_broker import Line, PartyBus
from simulation_clock import Dial, PartyClock
from simulation_judge import MODEL
from simulation_plan import COORDINATOR, RESEARCHER
from simulation_secure import MASKABLE
from simulation_trainers import WatchedTrainers

from coordinator.config import CoordinatorConfig
from coordinator.service import Coordinator
from messages.experiment import Experiment
from messages.tensors.layout import manifest_of, write_into
from site_agent.config import SiteConfig
from site_agent.service import Agent
from site_agent.training.protocol import Prepare, Request, Train

if TYPE_CHECKING:
    from simulation_world import SimulatedWorld


def build_model(experiment: Experiment, out: Path, manifest: Path, _limits: Any) -> None:
    """The initial model, without torch."""
    model = MASKABLE if experiment.privacy.secure_aggregation else MODEL
    described = manifest_of(model, 1024)
    buffer = bytearray(described.nbytes)
    write_into(model, described, memoryview(buffer))
    out.write_bytes(buffer)
    manifest.write_text(described.model_dump_json())


@dataclass
class Machine:
    """A party's machine; `clock`, `service` and `bus` are those of the process that runs on it, if one does."""

    name: str
    line: Line
    dial: Dial
    clock: PartyClock | None = None
    service: Coordinator | Agent | None = None
    trainers: WatchedTrainers | None = None
    bus: PartyBus | None = None
    starts: int = 0
    full: float | None = None
    """Until when its disk has no space for files."""
    stuck: bool = False
    """Its disk takes no byte, not even of the database."""
    armed: tuple[str, Callable[[], None]] | None = None
    """(step, what to do behind it)."""
    boots_at: float | None = 0.0
    stopping: bool = False
    dead: list[PartyClock] = field(default_factory=list)


def make_coordinator(world: SimulatedWorld, machine: Machine, clock: PartyClock) -> Coordinator:
    """The coordinator's service, on its machine's state."""
    identity = {
        "consortium": CONSORTIUM,
        "state": world.folder / COORDINATOR,
        "sites": world.schedule.sites,
        "researchers": [RESEARCHER],
    }
    config = {"schema": 1, "coordinator": identity, "limits": {"disk_reserve": 0}, **world.trust_of(COORDINATOR)}

    def slowly(*given: Any) -> None:
        world.do_work("build")
        build_model(*given)

    return Coordinator(
        CoordinatorConfig.model_validate(config),
        connect=lambda _config, notice: world.connect(machine, clock, notice),
        build=slowly,
        clock=clock,
    )


def make_agent(world: SimulatedWorld, machine: Machine, clock: PartyClock) -> Agent:
    """A site's service, on its machine's state."""
    site, schedule = machine.name, world.schedule
    data = world.folder / f"data-{site}"
    data.mkdir(parents=True, exist_ok=True)
    allowed = "dr-b" if site in schedule.strict else RESEARCHER
    config = {
        "schema": 1,
        "site": {"name": site, "consortium": CONSORTIUM, "state": str(world.folder / site)},
        "datasets": {"glioma": {"source": "brats", "path": str(data), "labels": {2: "ED"}}},
        "policy": {"approval": "auto", "allow": [{"researchers": [allowed]}]},
        **world.trust_of(site),
    }

    def pause_of(_site: str, request: Request) -> float:
        if isinstance(request, Train):
            return 0.0
        return schedule.works["prepare" if isinstance(request, Prepare) else "evaluate"]

    def start(*given: Any) -> WatchedTrainers:
        machine.trainers = WatchedTrainers(
            *given, seconds=schedule.train_seconds, cases=schedule.cases[site], pause=pause_of, watch=world.watch
        )
        return machine.trainers

    return Agent(
        SiteConfig.model_validate(config),
        lambda _config, notice: world.connect(machine, clock, notice),
        trainers=start,
        clock=clock,
        draw=secrets.token_bytes,  # looked up here: the world's, while it runs
    )
