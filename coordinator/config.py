"""`coordinator.toml`: what the consortium's operator keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from messages.ground import settings
from messages.ground.operating.exposition import MetricsSettings
from messages.ground.operating.notify import NotifySettings
from messages.ground.settings import BrokerAddress, Name, Settings, SizeBytes
from messages.trust.settings import TrustSettings


class Identity(Settings):
    """Whose coordinator this is.

    Attributes:
        state: folder of journal and blobs, relative to the configuration file.
        sites: admitted sites.
        researchers: who may start experiments.
    """

    consortium: Name
    state: Path
    sites: tuple[Name, ...] = Field(min_length=1)
    researchers: tuple[Name, ...] = Field(min_length=1)


class Limits(Settings):
    """Bounds that no experiment can exceed.

    Attributes:
        keep_updates: most rounds whose updates are kept for replay ("all": no cap).
        model_bytes_max: largest model.
        disk_reserve: free space below which nothing new is written.
        cases_max: most cases that one site may claim, all splits together.
        weight_cap: largest share of one site in a mean, whatever the experiment says.
        norm_factor: an update that moves the model more than so many times the round's median is not used. From 2 on,
            since of two updates none is ever further from their median.
        open_per_researcher: most experiments of one researcher that are not over, paused ones too.
        starts_per_day: most experiments that one researcher starts in a day, whatever became of them.
    """

    keep_updates: Literal["all"] | Annotated[int, Field(ge=0)] = "all"
    model_bytes_max: SizeBytes = 4 * 2**30
    disk_reserve: SizeBytes = 256 * 2**20
    initialise_within: settings.Seconds = 600.0
    cases_max: Annotated[int, Field(ge=1)] | None = None
    weight_cap: Annotated[float, Field(gt=0, le=1)] | None = None
    norm_factor: Annotated[float, Field(ge=2)] | None = None
    open_per_researcher: int = Field(32, ge=1)
    starts_per_day: int = Field(500, ge=1)

    @property
    def keep_cap(self) -> int | None:
        """None: no cap."""
        return None if self.keep_updates == "all" else self.keep_updates


class CoordinatorConfig(Settings):
    """The whole file."""

    schema_version: Literal[1] = Field(1, alias="schema")
    coordinator: Identity
    broker: BrokerAddress = BrokerAddress()
    limits: Limits = Limits()
    metrics: MetricsSettings = MetricsSettings()
    notify: NotifySettings = NotifySettings()
    trust: TrustSettings | None = None


def read_config(path: Path) -> CoordinatorConfig:
    """Read the file; ConfigError lists every mistake. Relative paths are relative to the file."""
    config = settings.read_settings(path, CoordinatorConfig)
    folder = path.resolve().parent
    identity = config.coordinator.model_copy(update={"state": folder / config.coordinator.state})
    broker = config.broker.of_consortium(identity.consortium).relative_to(folder)
    trust = config.trust.relative_to(folder) if config.trust is not None else None
    return config.model_copy(update={"coordinator": identity, "broker": broker, "trust": trust})
