"""One demo from the first file to the last process: broker, coordinator, sites, experiment, baselines, report."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from coordinator.record.evidence import write_evidence
from coordinator.record.journal_file import open_readonly
from deploy.broker.node import PrivateNode
from deploy.cli.live import View
from deploy.demo import consortium as consortia
from deploy.demo import data as images
from deploy.demo import experiments, machine, toml
from deploy.demo.compare import compare_baselines
from deploy.demo.follow import follow_experiment
from deploy.demo.layout import DemoLayout
from deploy.demo.origin import Dealt, Origin, Phantoms, await_images
from deploy.demo.outcome import Outcome
from deploy.demo.processes import Child, Children
from deploy.session import model_file
from deploy.session import profile as profiles
from deploy.session.connection import BrokerSession, LineState, connect_rabbit
from deploy.story.story import ExperimentStory
from messages.experiment import Experiment
from messages.ground import settings
from messages.ground.errors import WorkFailed
from messages.reasons import advise_on

Say = Callable[[str], None]
GLIOMA_ROUNDS, REAL_ROUNDS = 10, 20
CASES_PER_SITE = 32


@dataclass(frozen=True, slots=True)
class Options:
    """What the person asked for."""

    layout: DemoLayout
    sites: int = 3
    rounds: int | None = None
    seed: int = 1
    data: Path | None = None
    baselines: tuple[str, ...] = ("pooled",)
    from_pacs: bool = False
    """Phantoms as DICOM in a private Orthanc a site, from which it fetches them; not together with `data`."""
    keep: bool = False
    overrides: Mapping[str, Any] = field(default_factory=dict)
    """Sections of the experiment file that replace the demo's own (tests: a tiny net)."""
    cases: int | None = None
    size: images.PhantomShape = field(default_factory=images.PhantomShape)
    trainer: tuple[str, ...] | None = None
    """The operator's training command; None: the one that comes with Konsil."""


def run_demo(options: Options, view: View, say: Say) -> Outcome:
    """Run it all; when this returns or raises, no process is left.

    Raises:
        KonsilError: with what went wrong, where the log is, and the exit status it stands for.
    """
    begun = time.monotonic()
    layout = options.layout
    real = images.read_real(options.data) if options.data else None
    names = consortia.site_names(options.sites)
    experiment = _choose_experiment(options, names, real)
    layout.experiment.write_text(toml.write_toml(experiment.as_plain()))
    consortium = consortia.Consortium.make_keys(layout, names)
    _fix_secrets(layout, names, options.seed)
    origin = _choose_origin(options, names, experiment, real)
    with Children() as children, contextlib.closing(origin), _broker_node(options, consortium) as start_broker:
        if options.from_pacs:
            say("starting a private Orthanc for each site")
        writers = origin.bring_images(children)
        say("starting a private RabbitMQ" + (", writing each site's images" if writers else ""))
        port = start_broker()
        if origin.first:
            await_images(writers, origin, say)
        services = _start_services(children, consortium, options, experiment, origin, port)
        profile = consortium.write_profile(port)
        if not origin.first:
            await_images(writers, origin, say)
        say(f"publishing {experiment.id}: {len(names)} sites, {experiment.rounds.count} rounds")
        with _open_session(profile) as session:
            story = follow_experiment(session, experiment, view, lambda _story: _check_services(services))
        _refuse_failure(story, services)
        # The model is fetched while the baselines train: the broker has nothing else to do.
        digest = _Fetch(profile, experiment.id, layout.model)
        for service in services:
            if service.name != "coordinator":
                children.end_child(service, patience=5.0)  # gives the cores to the baselines
        comparison = compare_baselines(children, consortium, experiment, story, options.baselines, say)
        model_digest = digest.await_digest()
        log = layout.exported_log(experiment.id)
        write_evidence(log, open_readonly(layout.coordinator), experiment.id)
    from deploy import report

    say("drawing the report")
    report.write_report(story, layout.report, baselines=comparison.baselines, log=log, images=origin.tell_origins())
    if not options.keep:
        layout.tidy_up()
    return Outcome(
        experiment, story, comparison, layout, origin.tell_origins(), log, model_digest, time.monotonic() - begun
    )


def _choose_experiment(options: Options, sites: tuple[str, ...], real: images.RealSet | None) -> Experiment:
    rounds = options.rounds or (GLIOMA_ROUNDS if real is None else REAL_ROUNDS)
    if real is None:
        plain = experiments.glioma_demo(rounds=rounds, seed=options.seed, sites=sites)
    else:
        plain = experiments.decathlon_demo(
            rounds=rounds,
            seed=options.seed,
            sites=sites,
            channels=real.channels,
            concepts=tuple(real.labels[value] for value in sorted(real.labels)),
            regions=real.regions,
        )
    if options.from_pacs:  # before a site can say that it joins, it fetches and prepares thousands of objects
        plain["rounds"]["enrol_within"] = "30m"
    for section, content in options.overrides.items():
        both = isinstance(content, Mapping) and isinstance(plain.get(section), Mapping)
        plain[section] = {**plain[section], **content} if both else content
    return settings.parse_settings(plain, Experiment, "the demo's experiment")


def _fix_secrets(layout: DemoLayout, sites: tuple[str, ...], seed: int) -> None:
    for site in sites:
        folder = layout.site_folder(site)
        folder.mkdir(mode=0o700)
        (folder / "secret").write_bytes(consortia.derive_secret(seed, site))


@contextlib.contextmanager
def _broker_node(options: Options, consortium: consortia.Consortium) -> Iterator[Callable[[], int]]:
    """A node that is started by calling what this yields, and ended with the context."""
    secured = None if consortium.household is None else consortium.household.secured
    node = PrivateNode(options.layout.broker, definitions=consortium.make_definitions(), secured=secured)

    def start() -> int:
        node.start()
        return node.port

    try:
        yield start
    finally:
        # Orderly only where its data are kept: nobody reads them else.
        if options.keep and sys.exc_info()[0] is None:
            node.stop()
        else:
            node.kill_node()


def _choose_origin(
    options: Options, sites: tuple[str, ...], experiment: Experiment, real: images.RealSet | None
) -> Origin:
    if real is not None:
        return Dealt(options.layout, sites, real, options.seed)
    cases = options.cases or CASES_PER_SITE
    if options.from_pacs:
        from deploy.demo.pacs import Hospitals

        return Hospitals(options.layout, sites, experiment, cases, options.seed, options.size)
    return Phantoms(options.layout, sites, cases, options.seed, options.size)


def _start_services(
    children: Children,
    consortium: consortia.Consortium,
    options: Options,
    experiment: Experiment,
    origin: Origin,
    port: int,
) -> list[Child]:
    """The coordinator and the site agents, as production starts them."""
    layout, gpus = consortium.layout, machine.count_gpus()
    config = consortium.write_coordinator(port)
    command = [sys.executable, "-m", "coordinator", "--config", str(config)]
    services = [children.start_child("coordinator", command, layout.log_of("coordinator"))]
    for index, site in enumerate(consortium.sites):
        config = consortium.write_site(
            site,
            port,
            dataset=experiment.data.dataset,
            source=origin.describe_source(site),
            threads=machine.share_threads(len(consortium.sites)),
            gpus=machine.share_gpus(index, gpus),
            trainer=options.trainer,
        )
        command = [sys.executable, "-m", "site_agent", "--config", str(config)]
        services.append(children.start_child(site, command, layout.log_of(site)))
    return services


@contextlib.contextmanager
def _open_session(profile: Path) -> Iterator[BrokerSession]:
    loaded = profiles.load_profile(profile)
    line = LineState()
    with BrokerSession(connect_rabbit(loaded, line), loaded, line) as opened:
        yield opened


def _check_services(services: list[Child]) -> None:
    for service in services:
        service.check_alive()
        if not service.running:
            raise WorkFailed(f"{service.name} stopped too early", where=str(service.log))


def _refuse_failure(story: ExperimentStory, services: list[Child]) -> None:
    if story.phase == "complete":
        return
    advice = advise_on(story.reason, by_coordinator=True) if story.reason else ""
    declined = ", ".join(f"{name}: {site.reason}" for name, site in sorted(story.sites.items()) if site.reason)
    raise WorkFailed(
        f"the experiment ended as {story.phase} ({story.reason})" + (f"; {declined}" if declined else ""),
        where=str(services[0].log.parent),
        advice=advice,
    )


class _Fetch:
    """Takes the model out of the broker on a thread of its own."""

    def __init__(self, profile: Path, experiment: str, path: Path) -> None:
        self._digest = ""
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._fetch_model, args=(profile, experiment, path), daemon=True)
        self._thread.start()

    def _fetch_model(self, profile: Path, experiment: str, path: Path) -> None:
        try:
            with _open_session(profile) as session:
                self._digest = model_file.fetch_model(session, experiment, path, lambda _text: None)
        except Exception as error:  # noqa: BLE001 - carried over to the thread that waits for the result
            self._error = error

    def await_digest(self) -> str:
        """The model's digest, once it lies on the disk."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._digest


@contextlib.contextmanager
def ending_on_sigterm() -> Iterator[None]:
    """SIGTERM ends the demo as Ctrl-C does, with exit status 143; while it cleans up neither can disturb it."""

    def stop(number: int, _frame: object) -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
