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

from deploy.cli import site_record
from deploy.cli.stock import say_case, say_stock, stock_as_plain
from deploy.console import JsonOption, emit_json, format_moment, note_line, print_table, say_line
from messages.experiment import read_experiment
from messages.ground.errors import ConfigError, KonsilError
from messages.ground.naming import NO_EXPERIMENT

if TYPE_CHECKING:
    from site_agent.config import SiteConfig

app = typer.Typer(no_args_is_help=True)

DEFAULT = Path("/etc/konsil/site.toml")
SLOW_CONFIRM = 10.0
"""Seconds without the broker's confirm that are worth a line of `status`."""
SHOWN_SECONDS = 2.0
ConfigOption = Annotated[Path, typer.Option("--config", help="The site's configuration, site.toml.")]


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
    from site_agent.config import read_config
    from site_agent.desk.checks import Check, Grade, exit_status
    from site_agent.desk.preflight import run_checks
    from site_agent.desk.trainer_trial import try_trainer

    marks = {"ok": "✓", "warn": "!", "fail": "✗"}
    done: list[Check] = []
    _quieten_logs()
    site = read_config(config)
    wanted = None if experiment is None else read_experiment(experiment)

    def show_check(check: Check) -> None:
        done.append(check)
        if not as_json:
            advice = f". {check.advice}" if check.advice else ""
            say_line(f"{marks[check.grade]} {check.name:<18} {check.what}{advice}")

    note_line("trying the broker, the coordinator and each data set; that may take a minute ...")
    for check in run_checks(site, experiment=wanted, file=config):
        show_check(check)
    if done[0].grade is not Grade.FAIL:  # the state folder takes what the trainer writes
        note_line("trying the trainer: one step on invented data; a minute where torch comes from a slow disk ...")
        for check in try_trainer(site, wanted, tell=lambda words: note_line(f"trainer: {words} ...")):
            show_check(check)
    status = exit_status(done)
    if as_json:
        rows = [{"name": one.name, "grade": one.grade.value, "what": one.what, "advice": one.advice} for one in done]
        emit_json({"checks": rows, "exit_status": status})
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
    from site_agent.disk import ledger as record

    day = 0.0 if since is None else since.replace(tzinfo=UTC).timestamp()
    site = read_config(config).site
    entries = record.read_ledger(site.state, experiment, day)
    updates = [one for one in entries if one.kind == "update"]
    if as_json:
        about = {"site": site.name, "consortium": site.consortium, "taken": time.time(), "since": day}
        about["experiment"] = experiment
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


app.command()(site_record.heads)
app.command()(site_record.lineage)
app.command()(site_record.forget)
app.command()(site_record.commitments)


@app.command()
def status(config: ConfigOption = DEFAULT, as_json: JsonOption = False) -> None:
    """What the running agent does now, experiment by experiment, and who waits for the training slot."""
    _give_order(config, {"do": "status"}, as_json)


@app.command()
def pause(config: ConfigOption = DEFAULT, as_json: JsonOption = False) -> None:
    """Take no new work; what was accepted is finished. Holds over restarts, until `resume`."""
    _give_order(config, {"do": "pause"}, as_json)


@app.command()
def resume(
    config: ConfigOption = DEFAULT,
    approve: Annotated[
        str | None,
        typer.Option("--approve", metavar="ID", help="Approve this experiment, which waits for it."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Take work again; with --approve ID let one experiment that awaits approval use this site."""
    order = {"do": "resume"} if approve is None else {"do": "approve", "experiment": approve}
    _give_order(config, order, as_json)


@app.command()
def drain(config: ConfigOption = DEFAULT, as_json: JsonOption = False) -> None:
    """Finish what was accepted, then stop the agent."""
    _give_order(config, {"do": "drain"}, as_json)


def unconfirmed_words(waits: dict[str, Any]) -> str | None:
    """A line for what has long waited for the broker, or None; `waits` as in the status."""
    if not waits["messages"] or not (waits["blocked"] or waits["seconds"] >= SLOW_CONFIRM):
        return None
    why = ": it has raised an alarm (disk or memory) and takes nothing" if waits["blocked"] else ""
    count = f"{waits['bytes']:,} bytes in {waits['messages']} messages"
    return f"{count} not confirmed by the broker, the first for {waits['seconds']:.0f} s{why}"


def outside_hours(answer: dict[str, Any]) -> str:
    """What follows the state's word outside the hours, with the time at which they begin; `answer`: the status."""
    begin = f" until {answer['opens_at'][11:]}" if answer["opens_at"] else ""
    return begin if answer["state"] == "outside-hours" else f", outside its hours{begin}"


def standing_words(one: dict[str, Any]) -> str:
    """Where an experiment stands, and what the operator is to do about it; `one`: its part of the status."""
    if one["phase"] == "awaiting":
        return f"awaits your approval (konsil site resume --approve {one['experiment']})"
    if one["phase"] == "ended":
        return "ended"
    return f"{one['phase']}, round {one['round']}" if one["round"] else str(one["phase"])


def _give_order(config: Path, request: dict[str, Any], as_json: bool) -> None:
    from site_agent.config import read_config
    from site_agent.desk import control
    from site_agent.desk.read_file import outdated_words

    read = read_config(config)
    answer = control.ask_agent(read.site.state, request)
    outdated = outdated_words(answer, config)
    if as_json:
        emit_json(answer | {"file_outdated": outdated is not None, "login": read.broker.way})
        return
    hours = "" if answer["within_hours"] else outside_hours(answer)
    say_line(f"{answer['site']}: {answer['state']}{hours}, broker {answer['broker']} ({read.broker.way})")
    if outdated:
        say_line(f"  {outdated}")
    if line := unconfirmed_words(answer["unconfirmed"]):
        say_line(f"  {line}")
    if log := answer.get("log"):
        if log["forked"]:
            say_line("  the coordinator's log was FORKED: this site takes no further part (konsil site heads)")
        for term in log["declared_forks"]:
            say_line(f"  the operator declared that the log was restored, under term {term}")
    for before, after in answer.get("term_jumps", ()):
        say_line(f"  the coordinator's term went from {before} to {after}: restored, cut, or not heard between")
    for one in answer.get("lists", ()):
        say_line(f"  {one['dataset']}: {one['said']}")
    for name in answer.get("unboxed_trainers", ()):
        say_line(f"  trainer {name}: runs without a sandbox")
    for one in answer["experiments"]:
        line = f"  {one['experiment']}: {standing_words(one)}, by {one['researcher']}"
        if one["place_in_queue"]:
            line += f", number {one['place_in_queue']} in the queue for the training slot"
        if (progress := one["progress"]) and one["phase"] != "ended":
            line += f", {progress['phase']} {progress['done']}/{progress['total']}"
        if one["resumed_at_step"] is not None:
            line += f", resumed at step {one['resumed_at_step']}"
        if one["reason"]:
            line += f" ({one['reason']}: {one['advice']})"
        say_line(line)
    if answer["unreceipted"]:
        say_line(f"  {answer['unreceipted']} events wait for the coordinator's receipt")
