"""site.toml as a strict model: what a hospital's operator keeps. Nothing in any message can change it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from messages.ground import settings
from messages.ground.operating.exposition import MetricsSettings
from messages.ground.operating.notify import NotifySettings
from messages.ground.settings import BrokerAddress, Name, Rate, Seconds, Settings, SizeBytes, WorkHours
from messages.sections import OWN_TRAINER
from messages.trust.settings import TrustSettings
from site_agent.core.budget import DataBudget, find_unlike
from site_agent.core.permissions import PolicyConfig
from site_agent.data.described import AnyDataset, place_paths


class Site(Settings):
    """Who this is, and where the agent keeps its state."""

    name: Name
    consortium: Name
    state: Path


class Limits(Settings):
    """What the agent may use of the machine. Absent: no limit (GPUs: none)."""

    gpus: tuple[Annotated[int, Field(ge=0)], ...] = ()
    threads: int = Field(4, ge=1, le=1024)
    """CPU threads of the training process; part of reproducibility."""
    ram: SizeBytes | None = None
    """Most memory the training process may take; it limits itself (see `site_agent.training`)."""
    gpu_memory: SizeBytes | None = None
    """Of the smallest GPU that is lent: a net that configures itself is made for no more."""
    disk: SizeBytes | None = None
    """Most bytes under the state directory."""
    bandwidth: Rate | None = None
    """Cap on sending updates, bytes per second."""
    hours: WorkHours | None = None
    """Local time in which new work begins; what runs at the end of the hours is finished."""


class Trainer(Settings):
    """The training process."""

    command: tuple[str, ...] | None = None
    """Program that speaks `site_agent.training.protocol`; None: the trainer that comes with Konsil. Only the
    operator can name another one: no message can."""
    stuck_after: Seconds = 900.0
    """Without any progress for so long, the process is ended and the round reported as failed."""
    checkpoint_every: Seconds = 600.0
    """A round's training is saved so often, and goes on from there after a kill or a stop; 0: never."""
    nice: int = Field(5, ge=0, le=19)
    warm: int = Field(2, ge=1, le=1024)
    """Most training processes at a time, of all experiments: one works, the others wait for their next round."""
    processes: int = Field(1, ge=1, le=16)
    """Processes that train a round together: they share `limits.threads` and `limits.ram`, and have a GPU of
    `limits.gpus` each."""
    compile: bool = False
    """Whether torch compiles nets for training; other bits, and minutes before a first round."""


class ExternalTrainer(Settings):
    """A program of the site's own, which experiments ask for by its name (docs/trainers.md).

    Attributes:
        command: the program and its arguments.
        program: the word of `command` that is the file whose hash is held; None: the first.
        sha256: of that file; checked before each start.
        datasets: the data sets that it may read; None: all that a rule of the policy allows.
        sandbox: "namespaces": no network, nothing to see but what it needs; "none": as any program of the agent's user.
        reads: further folders or files that it sees.
        within: longest time of one run. ram: most memory; None: `limits.ram`. disk: most bytes that it may write.
    """

    command: tuple[str, ...] = Field(min_length=1)
    program: str | None = None
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    datasets: tuple[Name, ...] | None = None
    sandbox: Literal["namespaces", "none"] = "namespaces"
    reads: tuple[Path, ...] = ()
    within: Seconds = 3600.0
    ram: SizeBytes | None = None
    disk: SizeBytes = 4 * 2**30

    @model_validator(mode="after")
    def _program_is_in_the_command(self) -> Self:
        if self.program is not None and self.program not in self.command:
            raise ValueError(f"program: {self.program!r} is no word of the command")
        if "/" not in (self.program or self.command[0]):
            raise ValueError("command: say with a path which file the program is")
        return self

    @property
    def file(self) -> Path:
        """The file whose hash is held."""
        return Path(self.program or self.command[0])

    def relative_to(self, folder: Path) -> Self:
        """The same, with relative paths taken from `folder`, as people mean them."""
        first, *more = self.command
        first = str(folder / first) if "/" in first else first
        program = None if self.program is None else str(folder / self.program)
        command = (first, *(program or "" if word == self.program else word for word in more))
        return self.model_copy(
            update={"command": command, "program": program, "reads": tuple(folder / path for path in self.reads)}
        )


class Retention(Settings):
    """How long the agent keeps what it no longer needs."""

    cache: Seconds = 30 * 86400.0
    """Preprocessed cases of an experiment that ended."""
    sent_ledger: Seconds = 10 * 365.25 * 86400.0
    """The record of what left the site."""


class SiteConfig(Settings):
    """The whole of site.toml."""

    schema_version: Literal[1] = Field(alias="schema")
    site: Site
    broker: BrokerAddress = BrokerAddress()
    limits: Limits = Limits()
    datasets: dict[Name, AnyDataset] = {}
    policy: PolicyConfig = PolicyConfig()
    retention: Retention = Retention()
    training: Trainer = Trainer()
    trainers: dict[Name, ExternalTrainer] = {}
    metrics: MetricsSettings = MetricsSettings()
    notify: NotifySettings = NotifySettings()
    trust: TrustSettings | None = None

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.site.name in ("coordinator", "none"):
            raise ValueError(f"site.name: {self.site.name!r} is reserved")
        if OWN_TRAINER in self.trainers:
            raise ValueError(f"trainers.{OWN_TRAINER}: this name is reserved")
        if self.limits.gpus and self.training.processes > len(self.limits.gpus):
            raise ValueError(
                f"training.processes = {self.training.processes}: each has a GPU of its own, and limits.gpus names "
                f"{len(self.limits.gpus)}"
            )
        if self.training.command is not None and (self.training.processes > 1 or self.training.compile):
            key = "processes" if self.training.processes > 1 else "compile"
            raise ValueError(f"training.{key} goes with the trainer that comes with Konsil, not with a command")
        if (unlike := find_unlike(self.budgets)) is not None:
            raise ValueError(unlike)
        return self

    @property
    def budgets(self) -> dict[str, DataBudget]:
        """Data set → what may be learned of its patients, where site.toml says it."""
        return {name: one.privacy for name, one in self.datasets.items() if one.privacy is not None}

    @property
    def budgeted(self) -> frozenset[str]:
        """Data sets with a privacy budget."""
        return frozenset(name for name, one in self.budgets.items() if one.limits)

    @property
    def readable_by_trainers(self) -> dict[str, tuple[str, ...] | None]:
        """Name of a registered trainer → the data sets that it may read; None: any."""
        return {name: one.datasets for name, one in self.trainers.items()}


def read_config(path: Path) -> SiteConfig:
    """Read site.toml; ConfigError names every mistake.

    Relative are to the file: `state`, the broker's files, and all paths of data sets.
    """
    config = settings.read_settings(path, SiteConfig)
    folder = path.resolve().parent
    site = config.site.model_copy(update={"state": folder / config.site.state})
    datasets = {name: place_paths(dataset, folder) for name, dataset in config.datasets.items()}
    broker = config.broker.of_consortium(site.consortium).relative_to(folder)
    trust = config.trust.relative_to(folder) if config.trust is not None else None
    trainers = {name: trainer.relative_to(folder) for name, trainer in config.trainers.items()}
    update = {"site": site, "broker": broker, "datasets": datasets, "trainers": trainers, "trust": trust}
    return config.model_copy(update=update)
