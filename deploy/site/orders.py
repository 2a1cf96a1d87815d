"""`konsil site status`, `pause`, `resume`, `drain`: orders to the running agent, and its state in words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.console import JsonOption, emit_json, say_line
from deploy.site.options import DEFAULT, ConfigOption

SLOW_CONFIRM = 10.0
"""Seconds without the broker's confirm that are worth a line of `status`."""


def status(config: ConfigOption = DEFAULT, as_json: JsonOption = False) -> None:
    """What the running agent does now, experiment by experiment, and who waits for the training slot."""
    _give_order(config, {"do": "status"}, as_json)


def pause(config: ConfigOption = DEFAULT, as_json: JsonOption = False) -> None:
    """Take no new work; what was accepted is finished. Holds over restarts, until `resume`."""
    _give_order(config, {"do": "pause"}, as_json)


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
        return "awaits your approval (konsil site requests)"
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
    for line in answer.get("privacy", ()):
        say_line(f"  privacy: {line}")
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
        if one["secure"] and one["phase"] != "ended":
            line += f"; secure rounds by {one['secure']}"
        if one["reason"]:
            line += f" ({one['reason']}: {one['advice']})"
        say_line(line)
    if answer["unreceipted"]:
        say_line(f"  {answer['unreceipted']} events wait for the coordinator's receipt")
