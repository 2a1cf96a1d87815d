"""`konsil site requests`: what awaits the operator's approval, in words that they can judge and compare."""

from __future__ import annotations

import json
from datetime import date
from typing import TYPE_CHECKING, Annotated

import typer

from deploy.console import JsonOption, emit_json, note_line, print_table, say_line
from deploy.site.options import DEFAULT, ConfigOption
from messages.ground.errors import KonsilError, RequestError

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.estimate import Estimate
    from deploy.site.asked import Asked
    from site_agent.config import SiteConfig
    from site_agent.core.jobs import Job


def requests(
    config: ConfigOption = DEFAULT,
    show: Annotated[
        str | None,
        typer.Option("--show", metavar="ID", help="The whole file of this experiment."),
    ] = None,
    diff: Annotated[
        tuple[str, str] | None,
        typer.Option("--diff", metavar="ID ID", help="The settings in which two experiments differ."),
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Count no cases and measure no net.")] = False,
    json_: JsonOption = False,
) -> None:
    """What awaits your approval: who asks, for what, with which data, and what would leave this site.

    The words after "read out" are a short form of the file's digest. Read them to the researcher over the phone: if
    theirs are the same (konsil experiment check), both see the same file. The agent need not run.

    Example: konsil site requests
    """
    from site_agent.config import read_config
    from site_agent.disk.known_jobs import read_jobs

    site = read_config(config)
    jobs = {job.experiment: job for job in read_jobs(site.site.state)}
    if show is not None:
        _show_file(_find_job(jobs, show), json_)
        return
    if diff is not None:
        _show_changes(_find_job(jobs, diff[0]), _find_job(jobs, diff[1]), json_)
        return
    waiting = [asked for job in jobs.values() if (asked := _look_at(site, job, config, quick=quick)).waits]
    if json_:
        emit_json({"site": site.site.name, "requests": [one.as_plain() for one in waiting]})
        return
    if not waiting:
        note_line("No experiment awaits your approval")
    for number, one in enumerate(waiting):
        if number:
            say_line()
        say_line(f"{one.job.experiment} awaits your approval")
        for title, text in one.describe():
            say_line(f"  {title:<12} {text}")
        say_line(f"  {'the file':<12} konsil site requests --show {one.job.experiment}")
        say_line(f"  {'to approve':<12} konsil site resume --approve {one.job.experiment}")


def _find_job(jobs: dict[str, Job], name: str) -> Job:
    if name not in jobs:
        known = f"It knows {', '.join(sorted(jobs))}" if jobs else "It knows none yet"
        raise RequestError(f"this site knows no experiment {name!r}", advice=known)
    return jobs[name]


def _look_at(site: SiteConfig, job: Job, config: Path, *, quick: bool) -> Asked:
    """The experiment with what can be looked up of it; what cannot be had is told, and left out."""
    from deploy.site.asked import Asked

    asked = Asked(job, site.policy, date.today())
    if quick or not asked.waits:
        return asked
    cases = _count_cases(site, asked, config)
    return Asked(job, site.policy, asked.today, cases, _measure_net(asked), _price_training(site, asked, cases))


def _count_cases(site: SiteConfig, asked: Asked, config: Path) -> tuple[int, int] | None:
    from site_agent.data.inventory import take_stock_of

    name = asked.experiment.data.dataset
    if name not in site.datasets:
        note_line(f"{asked.job.experiment}: data set {name!r} is not described in {config} any more")
        return None
    note_line(f"{name}: counting its cases; that may take a while the first time (--quick leaves it out) ...")
    try:
        found = take_stock_of(name, site.datasets[name], site.site.state, asked.experiment, limit=site.limits.disk)
    except KonsilError as error:
        note_line(f"{name}: {error}")
        return None
    return found.found, found.used


def _measure_net(asked: Asked) -> Estimate | None:
    from deploy.estimate import estimate

    if asked.experiment.training.trainer is not None or asked.experiment.measures_first:
        return None
    note_line(f"{asked.experiment.net.name}: measuring the net ...")
    try:
        return estimate(asked.experiment)
    except KonsilError as error:
        note_line(f"{asked.experiment.net.name}: {error}")
        return None


def _price_training(site: SiteConfig, asked: Asked, cases: tuple[int, int] | None) -> str | None:
    from site_agent.desk.spending import explain_price
    from site_agent.disk.privacy_ledger import read_accounts
    from site_agent.privacy.price import price_training

    experiment = asked.experiment
    if experiment.privacy.dp is None:
        return None
    note_line("asking what its training would spend ...")
    name = experiment.data.dataset
    try:
        price = price_training(experiment, cases[1] if cases is not None else 1)
        account = read_accounts(site.site.state, [name], site.budgets)[0]
    except KonsilError as error:
        note_line(f"{name}: {error}")
        return None
    return None if price is None else explain_price(account, experiment, price)


def _show_file(job: Job, json_: bool) -> None:
    if json_:
        emit_json({"experiment": job.experiment, "digest": job.digest, "file": job.file})
        return
    say_line(f"# digest {job.digest}")
    for line in json.dumps(job.file, indent=2, ensure_ascii=False, default=str).splitlines():
        say_line(line)


def _show_changes(one: Job, other: Job, json_: bool) -> None:
    from deploy.site.asked import compare_files

    changes = compare_files(one.file, other.file)
    if json_:
        rows = [{"key": key, one.experiment: ours, other.experiment: theirs} for key, ours, theirs in changes]
        emit_json({"differences": rows})
    else:
        print_table(["setting", one.experiment, other.experiment], [list(row) for row in changes])
