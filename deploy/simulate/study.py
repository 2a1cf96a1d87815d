"""A simulation: one run for each seed and strategy, each kept once it is finished, and a page over all of them."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from deploy.cli.live import View
from deploy.demo import machine
from deploy.demo.origin import Origin, await_images
from deploy.demo.outcome import Outcome
from deploy.demo.processes import Children
from deploy.simulate.comparison import write_comparison
from deploy.simulate.crew import PROGRAM, Crew
from deploy.simulate.layout import StudyLayout, result_file, tidy_run
from deploy.simulate.results import RunResult, digest_settings, make_result, read_result, write_result
from deploy.simulate.run import RunOrder, read_secrets, run_simulation
from deploy.simulate.sources import DataWish, MakeOrigin, choose_origin
from deploy.simulate.wishes import Faults, adapt_experiment
from messages.experiment import Experiment
from messages.ground import kernel
from messages.ground.errors import RequestError

Say = Callable[[str], None]
WHOLE = ".whole"
"""Beside a seed's images, once all of them are there."""


@dataclass(frozen=True, slots=True)
class StudyWish:
    """What a person asked for.

    Attributes:
        seeds, strategies: empty: the file's.
        jobs: workers that train; None: one a GPU, or as many as the cores take at so many threads.
        threads: CPU threads of each site; None: the cores shared among the sites, as the demo does.
    """

    experiment: Experiment
    data: DataWish = field(default_factory=DataWish)
    seeds: tuple[int, ...] = ()
    strategies: tuple[str, ...] = ()
    faults: Faults = field(default_factory=Faults)
    jobs: int | None = None
    threads: int | None = None
    secrets: Path | None = None
    step_seconds: float = 1.0
    trainer: tuple[str, ...] = PROGRAM
    """What a worker runs (tests: no training)."""
    keep: bool = False
    """Keep images and the sites' state folders too."""
    model: Path | None = None
    """A model file that the experiment begins with, or scores."""


@dataclass(frozen=True, slots=True)
class Study:
    """A simulation whose every run is known to be possible.

    Attributes:
        origins: the images of each seed.
    """

    wish: StudyWish
    jobs: int
    threads: int
    runs: tuple[tuple[Experiment, str | None], ...]
    """Each run's experiment, and its strategy's name where several are compared."""
    make_origin: MakeOrigin

    def order_run(self, layout: StudyLayout, experiment: Experiment, strategy: str | None) -> RunOrder:
        """One run."""
        wish = self.wish
        return RunOrder(
            experiment,
            layout.run_of(experiment.seed, strategy),
            self.threads,
            machine.count_gpus() > 0,
            wish.faults,
            wish.secrets,
            wish.step_seconds,
            wish.model,
        )

    def settings_of(self, order: RunOrder) -> str:
        """What a run was made with, but for --jobs and --out."""
        wish = self.wish
        content = {
            "experiment": order.experiment.digest(),
            "data": None if wish.data.data is None else str(wish.data.data.absolute()),
            "dealt": asdict(wish.data.rule),
            "cases": wish.data.cases,
            "faults": asdict(wish.faults),
            "threads": self.threads,
            "gpus": order.gpus,
            "secrets": None if wish.secrets is None else str(wish.secrets.absolute()),
            "step": wish.step_seconds,
        }
        return digest_settings(content)


def plan_study(wish: StudyWish) -> Study:
    """Check all that can be checked before anything is written.

    Raises:
        KonsilError: with exit status 2, what cannot be.
    """
    cores, gpus, sites = machine.count_cores(), machine.count_gpus(), len(wish.experiment.sites)
    threads = wish.threads or machine.share_threads(sites)
    for option, value in (("--threads", wish.threads), ("--jobs", wish.jobs)):
        if value is not None and not 1 <= value <= cores:
            raise RequestError(
                f"{option} {value} is not allowed", advice=f"This machine has {cores} cores: use 1 to {cores}"
            )
    jobs = wish.jobs or gpus or max(1, min(cores // threads, sites))
    runs = tuple(
        (
            adapt_experiment(wish.experiment, sites=None, seed=seed, strategy=strategy),
            strategy if len(wish.strategies) > 1 else None,
        )
        for seed in wish.seeds or (wish.experiment.seed,)
        for strategy in wish.strategies or (None,)
    )
    make_origin = choose_origin(wish.data, wish.experiment)
    study = Study(wish, jobs, threads, runs, make_origin)
    read_secrets(study.order_run(StudyLayout(Path()), *runs[0]))
    return study


def run_study(
    study: Study, layout: StudyLayout, make_view: Callable[[], View], say: Say
) -> tuple[list[RunResult], Outcome | None]:
    """Run what is not finished yet; the results of all runs, and the outcome of the last one that was run now.

    Raises:
        KonsilError: a run could not be simulated; those before it are kept.
    """
    kernel.allow_many_files()  # each site has its database, socket and log
    results: list[RunResult] = []
    outcome: Outcome | None = None
    orders = [study.order_run(layout, *one) for one in study.runs]
    kept = [read_result(result_file(one.layout), study.settings_of(one)) for one in orders]
    crew = Crew(study.jobs, layout.logs, gpus=machine.count_gpus(), say=say, program=study.wish.trainer)
    with contextlib.closing(crew):
        for number, (order, result) in enumerate(zip(orders, kept, strict=True), start=1):
            name = f"seed {order.experiment.seed}, {order.experiment.plan.strategy.name}"
            if result is None:
                say(f"run {number} of {len(orders)}, {name}: {len(order.experiment.sites)} sites, {study.jobs} workers")
                with contextlib.closing(_bring_images(study, layout, order, say)) as origin:
                    outcome = run_simulation(order, origin, crew, make_view(), say)
                result = make_result(outcome, threads=study.threads, settings=study.settings_of(order))
                write_result(result_file(order.layout), result)
                if not study.wish.keep:
                    tidy_run(order.layout, order.experiment.sites)
            else:
                say(f"run {number} of {len(orders)}, {name}: kept as it was finished before")
            results.append(result)
    write_comparison(layout.comparison, study.wish.experiment.id, results)
    if not study.wish.keep:
        for order in orders:
            shutil.rmtree(layout.images_of(order.experiment.seed).data, ignore_errors=True)
    return results, outcome


def _bring_images(study: Study, layout: StudyLayout, order: RunOrder, say: Say) -> Origin:
    """A seed's images; those that an earlier run brought are there already."""
    images = layout.images_of(order.experiment.seed)
    origin = study.make_origin(images, order.experiment.seed)
    whole = images.data / WHOLE
    if not whole.exists():
        shutil.rmtree(images.data, ignore_errors=True)
        images.data.mkdir(parents=True)
        images.logs.mkdir(parents=True, exist_ok=True)
        with Children() as children:
            await_images(origin.bring_images(children), origin, say)
        whole.touch()
    return origin
