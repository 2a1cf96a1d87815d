"""`konsil simulate`: an experiment in one process, without a broker."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.console import JsonOption
from messages.ground.errors import RequestError, WorkFailed

if TYPE_CHECKING:
    from deploy.demo.outcome import Outcome
    from deploy.simulate.layout import StudyLayout
    from deploy.simulate.results import RunResult


def app(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The experiment file (TOML), as `experiment start` takes it.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            help="Images: a folder to deal out (Decathlon or nnU-Net layout, or with a table labels.csv), or one that "
            "holds a folder a site.",
        ),
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            help="How --data is dealt out: even, sizes as 10,20,30, column:NAME of a table, or drawn from a Dirichlet: "
            "sizes:ALPHA, labels:ALPHA.",
        ),
    ] = "even",
    table: Annotated[
        Path | None, typer.Option("--table", help="CSV for column:NAME, a case a row; default cases.csv in --data.")
    ] = None,
    described_by: Annotated[
        Path | None,
        typer.Option(
            "--described-by",
            help="TOML with the keys of a section `datasets.NAME`, for a table beside images in --data; default: "
            "columns image, patient, label and mask of labels.csv.",
        ),
    ] = None,
    sites: Annotated[
        int | None, typer.Option("--sites", help="So many sites, whatever the file names.", show_default=False)
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="A run for each: 1,2,3 or 1-5; default the file's.")] = "",
    strategy: Annotated[
        str, typer.Option("--strategy", help="A run for each: FedAvg,FedAdam; default the file's.")
    ] = "",
    jobs: Annotated[
        int | None, typer.Option("--jobs", help="Workers that train at once; changes no bit.", show_default=False)
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            "--threads", help="CPU threads of each site, which decide bits; default: as a demo.", show_default=False
        ),
    ] = None,
    secrets: Annotated[
        Path | None,
        typer.Option("--secrets", help="Folder of SITE/secret, which split the patients; default: from the seed."),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="A model file that the experiment file names under net.from.")
    ] = None,
    drop: Annotated[list[str] | None, typer.Option("--drop", help="site-c@3-5: stopped in these rounds.")] = None,
    slow: Annotated[list[str] | None, typer.Option("--slow", help="site-b=10x: its work takes longer.")] = None,
    late: Annotated[list[str] | None, typer.Option("--late", help="site-d@4: comes when this round opens.")] = None,
    step_time: Annotated[
        str, typer.Option("--step-time", help="Virtual time of an optimiser step, for deadlines and grace.")
    ] = "1s",
    out: Annotated[
        Path | None,
        typer.Option("--out", help="Where all goes, and what is gone on with; default simulate-out/DATE-TIME."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Keep images and the sites' state too.")] = False,
    json_: JsonOption = False,
) -> None:
    """Run an experiment file in this one process: real coordinator and agents, real training, no RabbitMQ, no root.

    Hours of waiting pass in moments: time is virtual, and stands still while a worker trains. The model is, bit by
    bit, the one that the same experiment makes over a real broker on this machine. A run that was finished is kept:
    the same command goes on with the next one.

    Examples:

    konsil simulate experiment.toml

    konsil simulate experiment.toml --seeds 1,2,3 --strategy FedAvg,FedAdam --out study

    konsil simulate experiment.toml --data Task04_Hippocampus --sites 8 --split labels:0.5 --drop site-c@3-5
    """
    from deploy import console
    from deploy.demo.run import ending_on_sigterm
    from deploy.simulate import comparison, layout, study
    from deploy.simulate.dealing import parse_split
    from deploy.simulate.headlines import Headlines
    from deploy.simulate.sources import DataWish
    from deploy.simulate.wishes import adapt_experiment, parse_faults, parse_seeds, parse_strategies
    from messages.experiment import read_experiment
    from messages.ground.units import parse_seconds
    from nets import registry

    experiment = adapt_experiment(read_experiment(file), sites=sites, seed=None, strategy=None)
    registry.check_net(experiment)
    try:
        step_seconds = parse_seconds(step_time)
    except ValueError:
        raise RequestError(f"--step-time {step_time!r} is not understood", advice="Give a time, as 2s or 1m") from None
    planned = study.plan_study(
        study.StudyWish(
            experiment,
            DataWish(data, parse_split(split), table, described=described_by),
            parse_seeds(seeds),
            parse_strategies(strategy),
            parse_faults(drop or (), slow or (), late or (), experiment),
            jobs,
            threads,
            secrets,
            step_seconds,
            keep=keep,
            model=model,
        )
    )
    # With --json standard output holds the one object, and everything else goes to standard error.
    with (
        layout.claim_folder(out or layout.default_out()) as folder,
        contextlib.redirect_stdout(sys.stderr if json_ else sys.stdout),
        ending_on_sigterm(),
    ):
        notes = console.make_notes("konsil: ")
        results, outcome = study.run_study(planned, folder, Headlines, notes)
    if json_:
        console.emit_json(
            {
                "runs": [one.as_plain() for one in results],
                "strategies": comparison.comparison_as_plain(results),
                "comparison": str(folder.comparison),
                "jobs": planned.jobs,
                "threads": planned.threads,
            }
        )
    else:
        _show_results(results, outcome, folder)
    failed = [one for one in results if not one.is_complete]
    if failed:
        states = ", ".join(f"seed {one.seed}: {one.plain['state']} ({one.plain['reason']})" for one in failed[:3])
        console.note_line(f"konsil: {len(failed)} of {len(results)} experiments came to no model: {states}")
        raise typer.Exit(WorkFailed.exit_status)


def _show_results(results: Sequence[RunResult], outcome: Outcome | None, folder: StudyLayout) -> None:
    """The demo's table and lines for one run, a row a run for several."""
    from deploy import console
    from deploy.demo import outcome as outcomes
    from deploy.simulate.comparison import comparison_table

    console.say_line()
    if len(results) == 1 and outcome is not None and results[0].is_complete:
        console.print_table(*outcomes.draw_table(outcome))
        for line in outcomes.closing_lines(outcome):
            console.say_line(line)
        return
    console.print_table(*comparison_table(results))
    console.say_line()
    console.say_line(f"compared {folder.comparison}")
