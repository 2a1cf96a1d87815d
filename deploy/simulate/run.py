"""One simulated run, from its experiment file to its report: the demo's outcome, without a broker."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from coordinator.record.evidence import write_evidence
from coordinator.record.journal_file import open_readonly
from coordinator.work.given_models import FOLDER, GivenModels
from deploy.cli.live import View
from deploy.demo import toml
from deploy.demo.compare import Comparison
from deploy.demo.consortium import derive_secret
from deploy.demo.follow import follow_experiment
from deploy.demo.layout import DemoLayout
from deploy.demo.origin import Origin
from deploy.demo.outcome import Outcome
from deploy.session import model_file
from deploy.simulate.consortium import SimulatedConsortium
from deploy.simulate.crew import Crew
from deploy.simulate.layout import clear_run
from deploy.simulate.logbook import keep_log
from deploy.simulate.tempo import Tempo
from deploy.simulate.wishes import Faults
from deploy.story.story import ExperimentStory
from messages.experiment import Experiment
from messages.ground.durable import replace_file, without_syncing
from messages.ground.errors import ConfigError, KonsilError, WorkFailed
from messages.ground.virtual.clock import VirtualClock

T = TypeVar("T")
LOOK_EVERY = 1.0
"""Virtual seconds between two looks of the researcher's."""
UNWOUND_WITHIN = 15.0
"""Real seconds for a run that is interrupted."""


@dataclass(frozen=True, slots=True)
class RunOrder:
    """One run.

    Attributes:
        threads: CPU threads of each site.
        gpus: whether the sites train on a GPU.
        secrets: folder with SITE/secret, as sites' state folders are; None: derived from the seed.
        step_seconds: virtual seconds of an optimiser step.
        model: a model file that the coordinator has; None: it has none.
    """

    experiment: Experiment
    layout: DemoLayout
    threads: int
    gpus: bool
    faults: Faults
    secrets: Path | None = None
    step_seconds: float = 1.0
    model: Path | None = None


def run_simulation(order: RunOrder, origin: Origin, crew: Crew, view: View, say: Callable[[str], None]) -> Outcome:
    """Run it; an experiment that fails is an outcome too, without a model.

    Raises:
        KonsilError: it could not be simulated.
    """
    begun = time.monotonic()
    layout, experiment = order.layout, order.experiment
    clear_run(layout)
    replace_file(layout.experiment, toml.write_toml(experiment.as_plain()).encode())
    for site, secret in read_secrets(order).items():
        folder = layout.site_folder(site)
        folder.mkdir(mode=0o700)
        (folder / "secret").write_bytes(secret)
    if order.model is not None:
        GivenModels(layout.coordinator / FOLDER).put_model(order.model)
    sources = {site: origin.describe_source(site) for site in experiment.sites}
    clock = VirtualClock()
    simulated = _Simulation(order, sources, clock, crew, view)
    with keep_log(layout.log_of("services"), clock), without_syncing():
        story, digest = _run_apart(lambda: clock.run(simulated.play), crew.close)
    say("drawing the report")
    log = layout.exported_log(experiment.id)
    write_evidence(log, open_readonly(layout.coordinator), experiment.id)
    from deploy import report

    report.write_report(story, layout.report, log=log, images=origin.tell_origins())
    return Outcome(
        experiment, story, Comparison(), layout, origin.tell_origins(), log, digest, time.monotonic() - begun
    )


def read_secrets(order: RunOrder) -> dict[str, bytes]:
    """Each site's secret; ConfigError where --secrets lacks one."""
    seed, sites = order.experiment.seed, order.experiment.sites
    if order.secrets is None:
        return {site: derive_secret(seed, site) for site in sites}
    found = {}
    for site in sites:
        file = order.secrets / site / "secret"
        try:
            found[site] = file.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"the site's secret cannot be read ({error.strerror})",
                where=str(file),
                advice="--secrets names a folder that holds SITE/secret for each site",
            ) from None
    return found


class _Simulation:
    """What happens in virtual time."""

    def __init__(
        self,
        order: RunOrder,
        sources: Mapping[str, Mapping[str, Any]],
        clock: VirtualClock,
        crew: Crew,
        view: View,
    ) -> None:
        self._order, self._sources, self._clock, self._crew, self._view = order, sources, clock, crew, view
        self._broken: KonsilError | None = None
        self._opened = self._complete = 0

    def play(self) -> tuple[ExperimentStory, str]:
        """All of it: story, the model's digest ("": no model)."""
        try:
            return self._play_out()
        except BaseException:
            self._crew.close()  # or whoever unwinds would wait for what the workers still train
            raise

    def _play_out(self) -> tuple[ExperimentStory, str]:
        order, faults = self._order, self._order.faults
        experiment = order.experiment
        self._consortium = SimulatedConsortium(
            order.layout,
            self._clock,
            self._crew,
            Tempo(order.step_seconds, faults.slow),
            dataset=experiment.data.dataset,
            sources=self._sources,
            threads=order.threads,
            gpus=order.gpus,
            on_broken=self._note_broken,
        )
        for site in experiment.sites:
            if site not in faults.late:
                self._consortium.start_site(site)
        with self._consortium.open_session() as session:
            story = follow_experiment(session, experiment, self._view, self._look, LOOK_EVERY)
        digest = ""
        if story.phase == "complete" and story.model_digest is not None:
            with self._consortium.open_session() as session:
                digest = model_file.fetch_model(session, experiment.id, order.layout.model, lambda _text: None)
        self._consortium.close()
        return story, digest

    def _note_broken(self, error: KonsilError) -> None:
        self._broken = self._broken or error

    def _look(self, story: ExperimentStory) -> None:
        """After each message: what is to go wrong now."""
        if self._broken is not None:
            raise self._broken
        if story.completed_rounds > self._complete:
            self._complete = story.completed_rounds
            self._consortium.forget_updates(self._order.experiment.sites)
        opened = max(story.rounds, default=0)
        for number in range(self._opened + 1, opened + 1):
            self._open_round(number)
        self._opened = max(self._opened, opened)

    def _open_round(self, number: int) -> None:
        for drop in self._order.faults.drops:
            if drop.last + 1 == number:
                self._consortium.start_site(drop.site)
            elif drop.first == number:
                self._consortium.stop_site(drop.site)
        for site, first in self._order.faults.late.items():
            if first == number:
                self._consortium.start_site(site)


def _run_apart(work: Callable[[], T], stop: Callable[[], None]) -> T:
    """Call `work` on a thread of its own: a signal that comes to the main thread leaves virtual time as it is.

    Args:
        stop: has `work` end soon; called where this thread is interrupted.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def call() -> None:
        try:
            done.append(work())
        except BaseException as error:  # noqa: BLE001 - carried over to the thread that waits
            failed.append(error)

    thread = threading.Thread(target=call, name="virtual-time", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(0.5)
    except BaseException:
        stop()
        thread.join(UNWOUND_WITHIN)
        raise
    if failed:
        raise failed[0]
    if not done:
        raise WorkFailed("the simulation ended without a word")
    return done[0]
