"""`konsil broker`: a private RabbitMQ node of this user's, and definitions for a consortium's own broker."""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.broker.definitions import Party, StreamSizes, render_definitions
from deploy.broker.node import PrivateNode, answers_amqp
from deploy.console import show_working
from messages import names
from messages.ground.durable import replace_file
from messages.ground.errors import RequestError
from messages.ground.written.documents import read_json

app = typer.Typer(no_args_is_help=True)

LOGINS = "logins"
"""Folder of the private node's passwords, a file a login."""

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Sites = Annotated[list[str] | None, typer.Option("--site", help="Name of a site; may be given several times.")]
Researchers = Annotated[list[str] | None, typer.Option("--researcher", help="Name of a researcher; several times.")]
Auditors = Annotated[list[str] | None, typer.Option("--auditor", help="Name of an auditor; several times.")]
Consortium = Annotated[str, typer.Option("--consortium", help="Name of the consortium (the vhost).")]


def state_directory() -> Path:
    """Where the private node of this user lives: XDG_STATE_HOME/konsil/broker."""
    base = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(base).expanduser() / "konsil" / "broker"


def name_parties(sites: list[str], researchers: list[str], auditors: list[str], known: dict[str, str]) -> list[Party]:
    """The consortium's logins; passwords are those already known, else fresh ones of 192 bits."""
    roles = {names.COORDINATOR: "coordinator"}
    listed = [(names.COORDINATOR, "coordinator")]
    for role, given in (("site", sites), ("researcher", researchers), ("auditor", auditors)):
        for name in given:
            if name in roles:
                raise RequestError(f"name {name!r} is given twice", advice="Every party needs its own name")
            roles[name] = role
            listed.append((name, role))
    return [Party(name, role, known.get(name) or secrets.token_urlsafe(24)) for name, role in listed]


@app.command()
def up(
    port: Annotated[int, typer.Option(min=0, max=65535, help="AMQP port; 0: a free one, kept afterwards.")] = 0,
    consortium: Consortium = "demo",
    site: Sites = None,
    researcher: Researchers = None,
    auditor: Auditors = None,
    tls: Annotated[bool, typer.Option("--tls", help="Speak TLS too, on a port of its own.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start the private node on loopback; it runs until `konsil broker down`.

    With --tls it prints the TLS port and the authority's file: what `port` and `ca` are to be in the
    broker section of a configuration.
    """
    directory = state_directory()
    logins_file = directory / "logins.json"
    logins = name_parties(
        site or ["site-a", "site-b", "site-c"],
        researcher or ["dr-a"],
        auditor or ["auditor"],
        _read_passwords(logins_file),
    )
    node = PrivateNode(directory, port, definitions=render_definitions(consortium, logins), detached=True, tls=tls)
    with show_working("starting RabbitMQ, which takes some seconds"):
        node.start()
    _write_private(
        logins_file,
        json.dumps({"consortium": consortium, "passwords": {party.name: party.password for party in logins}}),
    )
    _write_logins(directory / LOGINS, logins)
    _show_answer(_read_status(node), as_json)


@app.command()
def down(
    wipe: Annotated[bool, typer.Option(help="Also forget every message.")] = False, as_json: AsJson = False
) -> None:
    """Stop the private node; without one running, nothing happens."""
    node = PrivateNode(state_directory(), detached=True)
    was_running = node.pid is not None
    node.stop()
    if wipe:
        node.wipe_messages()
    _show_answer({"running": False, "stopped": was_running, "wiped": wipe}, as_json)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Say whether the private node runs, where, and who may log in."""
    _show_answer(_read_status(PrivateNode(state_directory(), detached=True)), as_json)


@app.command()
def definitions(
    consortium: Consortium,
    out: Annotated[Path, typer.Option("--out", help="Definitions file for RabbitMQ's load_definitions.")],
    site: Sites = None,
    researcher: Researchers = None,
    auditor: Auditors = None,
    as_json: AsJson = False,
) -> None:
    """Render topology, users and permissions; the passwords go into a file of mode 0600 beside it.

    Passwords of an earlier run are kept, so that adding a site changes nobody else's login.
    """
    beside = out.with_name(f"{out.stem}.passwords.json")
    if not site:
        raise RequestError("no site is named", where="--site", advice="Name each site with --site")
    logins = name_parties(site, researcher or [], auditor or [], _read_passwords(beside))
    rendered = render_definitions(consortium, logins, StreamSizes())
    _write_private(
        beside,
        json.dumps({"consortium": consortium, "passwords": {one.name: one.password for one in logins}}, indent=1),
    )
    _write_private(out, json.dumps(rendered, indent=1) + "\n")
    _show_answer({"definitions": str(out), "passwords": str(beside), "users": [one.name for one in logins]}, as_json)


def _read_status(node: PrivateNode) -> dict[str, Any]:
    running = node.pid is not None
    if not running:
        return {"running": False, "directory": str(node.directory)}
    logins_file = node.directory / "logins.json"
    shown: dict[str, Any] = {
        "running": True,
        "answers": answers_amqp(node.host, node.port),
        "host": node.host,
        "port": node.port,
        "pid": node.pid,
        "directory": str(node.directory),
        "log": str(node.log),
    }
    if node.speaks_tls:
        shown |= {"tls_port": node.tls_port, "ca": str(node.ca)}
    if logins_file.exists():
        shown["consortium"] = read_json(logins_file)["consortium"]
        shown["users"] = sorted(_read_passwords(logins_file))
        shown["passwords"] = str(logins_file)
        if (node.directory / LOGINS).is_dir():  # not of a node that an earlier version started
            shown["logins"] = str(node.directory / LOGINS)
    return shown


def _show_answer(answer: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(answer))
        return
    for name, value in answer.items():
        text = ", ".join(value) if isinstance(value, list) else value
        text = {True: "yes", False: "no"}[value] if isinstance(value, bool) else text
        typer.echo(f"{name:<12} {text}")


def _read_passwords(path: Path) -> dict[str, str]:
    """Passwords that an earlier run wrote; empty where there was none."""
    try:
        return dict(read_json(path)["passwords"]) if path.exists() else {}
    except (RequestError, ValueError, KeyError, TypeError):
        raise RequestError(
            "this is not a file of passwords that 'konsil broker' wrote",
            where=str(path),
            advice="Move it away; new passwords will be made",
        ) from None


def _write_logins(folder: Path, logins: list[Party]) -> None:
    """A file for each login that holds its password and nothing else: what `file:PATH` in a configuration reads."""
    folder.mkdir(mode=0o700, exist_ok=True)
    for gone in {one.name for one in folder.iterdir()} - {one.name for one in logins}:
        (folder / gone).unlink()
    for one in logins:
        _write_private(folder / one.name, one.password + "\n")


def _write_private(path: Path, text: str) -> None:
    """Replace a file whole, readable by its owner only."""
    try:
        replace_file(path, text.encode(), mode=0o600)
    except OSError as error:
        raise RequestError(
            f"cannot be written ({error.strerror})", where=str(path), advice="Choose a folder that exists"
        ) from None
