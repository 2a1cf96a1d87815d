"""`konsil site …`: run a site's agent, see what it does and what would stop it, pause it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.console import JsonOption, emit_json, format_moment, note_line, print_table, say_line
from deploy.notify.cli import notify_site
from deploy.privacy.site_cli import probe_membership
from deploy.site import asking, orders, record, spending
from deploy.site.options import DEFAULT, ConfigOption
from deploy.site.stock import say_case, say_stock, stock_as_plain
from messages.experiment import read_experiment
from messages.ground.errors import ConfigError, KonsilError
from messages.ground.naming import NO_EXPERIMENT

if TYPE_CHECKING:
    from site_agent.config import SiteConfig

app = typer.Typer(no_args_is_help=True)

SHOWN_SECONDS = 2.0


@app.callback()
def _group() -> None:
    """The site agent: run it, see what it does, pause it."""


@app.command()
def run(config: ConfigOption = DEFAULT) -> None:
    """Run the site's agent until SIGTERM.

    Example: konsil site run --config /etc/konsil/site.toml
    """
    from site_agent import service

    raise typer.Exit(service.run_agent(config))


@app.command()
def preflight(
    config: ConfigOption = DEFAULT,
    experiment: Annotated[
        Path | None,
        typer.Option("--experiment", help="Ask the policy about this one, and try the trainer with its net and patch."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Find what would stop this site from taking part: policy, broker, login, data sets, GPU, disk, memory, clock.

    At the end the trainer does one step on invented data: by the experiment's net and patch, or a small U-Net's.
    """
    from deploy.findings import emit_findings, show_finding
    from site_agent.config import read_config
    from site_agent.desk.checks import Check, Grade, exit_status
    from site_agent.desk.preflight import run_checks
    from site_agent.desk.trainer_trial import try_trainer

    done: list[Check] = []
    _quieten_logs()
    site = read_config(config)
    wanted = None if experiment is None else read_experiment(experiment)

    def show_check(check: Check) -> None:
        done.append(check)
        if not as_json:
            show_finding(check)

    note_line("trying the broker, the coordinator and each data set; that may take a minute ...")
    for check in run_checks(site, experiment=wanted, file=config):
        show_check(check)
    if done[0].grade is not Grade.FAIL:  # the state folder takes what the trainer writes
        note_line("trying the trainer: one step on invented data; a minute where torch comes from a slow disk ...")
        for check in try_trainer(site, wanted, tell=lambda words: note_line(f"trainer: {words} ...")):
            show_check(check)
    status = exit_status(done)
    if as_json:
        emit_findings(done)
    raise typer.Exit(status)


@app.command()
def datasets(
    config: ConfigOption = DEFAULT,
    experiment: Annotated[
        Path | None, typer.Option("--experiment", help="Look with this experiment's channels and concepts.")
    ] = None,
    again: Annotated[
        bool, typer.Option("--again", help="Ask the PACS now, however short ago it was asked (refresh in site.toml).")
    ] = False,
    case: Annotated[
        str | None,
        typer.Option("--case", metavar="KEY", help="Show this one case: files, why it is used, grid, values, label."),
    ] = None,
    compare: Annotated[
        list[Path] | None,
        typer.Option("--compare", metavar="FILE", help="Compare volumes with what another site wrote; several times."),
    ] = None,
    volumes_to: Annotated[
        Path | None,
        typer.Option("--volumes-to", metavar="FILE", help="Write median volumes for other sites to compare with."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What the agent would train on: cases found, used, and left out with the reason. For local eyes only.

    Data sets from DICOM are prepared: fetched, cleaned of what identifies a patient, and made into cases.

    --volumes-to FILE writes the median volume of each concept (two digits; of least_metric_cases cases or more) and no
    case: whether others see it is your decision. --compare FILE tells where yours contradict another site's.
    """
    from site_agent.config import read_config
    from site_agent.data import volumes
    from site_agent.data.inventory import take_stock_of

    theirs = [volumes.read_volumes_file(path) for path in compare or ()]
    shared: dict[str, dict[str, volumes.SharedVolume]] = {}
    _quieten_logs()
    site = read_config(config)
    if case is not None:
        _show_case(site, case, as_json)
        return
    wanted = None if experiment is None else read_experiment(experiment)
    if wanted is not None and wanted.data.dataset not in site.datasets:
        raise ConfigError(
            f"data set {wanted.data.dataset!r} is not described",
            where=str(config),
            advice=f"Add [datasets.{wanted.data.dataset}]",
        )
    names = list(site.datasets) if wanted is None else [wanted.data.dataset]
    floors = site.policy.floors
    result: dict[str, Any] = {}
    status = 0
    for name in names:
        dataset = site.datasets[name]
        show = _show_progress(name, _count_word(dataset))
        try:
            stock = take_stock_of(
                name, dataset, site.site.state, wanted, show, again=again, limit=site.limits.disk, measure=True
            )
        except KonsilError as error:  # a PACS that does not answer must not hide the other data sets
            status = max(status, error.exit_status)
            details = list(getattr(error, "details", ()))
            result[name] = {"error": str(error)} | ({"details": details} if details else {})
            note_line("\n  ".join([f"{name}: {error}", *details]))
            continue
        shared[name] = volumes.share_volumes(stock.volumes, floors.least_metric_cases, floors.round_counts_to)
        others = [one.datasets[name] for one in theirs if name in one.datasets and one.site != site.site.name]
        contradictions = volumes.compare_volumes(stock.volumes, others)
        result[name] = stock_as_plain(stock, contradictions)
        if not as_json:
            say_stock(name, stock, contradictions)
            if theirs and not others:
                say_line("  no other site's file tells of this data set")
    if volumes_to is not None:
        content = volumes.VolumesFile(volumes=1, site=site.site.name, datasets=shared)
        volumes.write_volumes_file(volumes_to, content)
        note_line(f"{volumes_to}: median volumes, and no case; send it only if your rules allow that")
    if as_json:
        emit_json({"datasets": result})
    elif not names:
        note_line("No data set is described: add [datasets.NAME] to site.toml")
    if status:
        raise typer.Exit(status)


def _show_case(site: SiteConfig, key: str, as_json: bool) -> None:
    """One case, of whichever data set has it."""
    from site_agent.data.shown import require_case, show_case

    found = ((name, show_case(name, dataset, site.site.state, key)) for name, dataset in site.datasets.items())
    name, shown = next((one for one in found if one[1] is not None), ("", None))
    shown = require_case(shown, key)
    if as_json:
        emit_json({"dataset": name, "case": asdict(shown)})
    else:
        say_case(name, shown)


def _quieten_logs() -> None:
    """What the agent's parts log goes to standard error, and only if it is worth a person's attention here."""
    from messages.ground import logs

    logs.configure_log("site", logging.WARNING)


def _count_word(dataset: Any) -> str:
    from site_agent.data.described import FOLDERS

    return "cases" if dataset.source in FOLDERS else "studies"


def _show_progress(name: str, what: str = "studies") -> Callable[[int, int], None]:
    """Progress worth showing: what takes longer than two seconds, then every two where there is any."""
    shown, last = time.monotonic(), (-1, -1)

    def progress(done: int, total: int) -> None:
        nonlocal shown, last
        now = time.monotonic()
        if now - shown >= SHOWN_SECONDS and (done, total) != last:
            shown, last = now, (done, total)
            note_line(f"{name}: {done} of {total} {what}" if total else f"{name}: another process prepares it; waiting")

    return progress


@app.command()
def preview(
    name: Annotated[str, typer.Argument(help="A data set of site.toml.")],
    config: ConfigOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Draw what would be trained on: each case's middle slices with the label's outline, as PNG in the state folder.

    Heads show faces: the pictures are readable by you alone, and must not leave the site.
    """
    from site_agent.config import read_config
    from site_agent.data.shown import draw_any_sheets
    from site_agent.dicom.prepared.preview import WARNING

    _quieten_logs()
    site = read_config(config)
    if name not in site.datasets:
        raise ConfigError(f"data set {name!r} is not described", where=str(config), advice=f"Add [datasets.{name}]")
    sheets = draw_any_sheets(name, site.datasets[name], site.site.state, _show_progress(name))
    if as_json:
        emit_json({"sheets": [str(path) for path in sheets], "warning": WARNING})
        return
    for path in sheets:
        say_line(str(path))
    note_line(WARNING)


@app.command()
def ledger(
    config: ConfigOption = DEFAULT,
    experiment: Annotated[str | None, typer.Option("--experiment", metavar="ID", help="Of this one only.")] = None,
    since: Annotated[
        datetime | None, typer.Option("--since", formats=["%Y-%m-%d"], help="From this day on (UTC).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """What left this site: every event and update, when, for which experiment, how many bytes, its digest.

    Not recorded: the pulse, progress, and answers to `konsil experiment check`. The agent need not run. With --json it
    is what `konsil audit compare` holds against the coordinator's log.
    """
    from site_agent.config import read_config
    from site_agent.disk.ledger import read_ledger, read_orders

    day = 0.0 if since is None else since.replace(tzinfo=UTC).timestamp()
    site = read_config(config).site
    entries = read_ledger(site.state, experiment, day)
    updates = [one for one in entries if one.kind == "update"]
    if as_json:
        about = {"site": site.name, "consortium": site.consortium, "taken": time.time(), "since": day}
        about["experiment"] = experiment
        about["orders"] = [asdict(one) for one in read_orders(site.state) if one.time >= day]
        emit_json({**about, "ledger": [asdict(one) for one in entries], "bytes": sum(one.bytes for one in entries)})
        return
    if not entries:
        note_line("Nothing has left this site" + ("" if experiment is None and since is None else " that fits"))
        return
    rows = [
        [
            format_moment(one.time),
            "" if one.experiment == NO_EXPERIMENT else one.experiment,
            str(one.round or ""),
            one.kind,
            f"{one.bytes:,}",
            one.digest[:16],
            "" if one.settled else "awaits its receipt",
        ]
        for one in entries
    ]
    print_table(["time", "experiment", "round", "what", "bytes", "digest", ""], rows)
    say_line(
        f"{len(entries) - len(updates)} events and {len(updates)} updates, {sum(one.bytes for one in entries):,} bytes"
    )


for _command in (
    record.heads,
    record.lineage,
    record.forget,
    record.commitments,
    asking.requests,
    orders.status,
    orders.pause,
    orders.resume,
    orders.drain,
):
    app.command()(_command)
app.command("notify")(notify_site)
spending.app.command("test")(probe_membership)
app.add_typer(spending.app, name="privacy")
