"""`konsil broker`: a private RabbitMQ node of this user's, and definitions for a consortium's own broker."""

from __future__ import annotations

import json
import os
import shutil
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.broker import control
from deploy.broker.configuration import limit_lines
from deploy.broker.definitions import Definitions, keeps_old_exchange, render_definitions
from deploy.broker.node import PrivateNode
from deploy.broker.roster import (
    LOGINS,
    Roster,
    list_parties,
    new_roster,
    read_definitions,
    read_roster,
    with_known_hashes,
    write_private,
    write_roster,
)
from deploy.broker.topology import StreamSizes
from deploy.console import say_line, show_working
from messages.ground import starting
from messages.ground.errors import RequestError
from messages.ground.written.documents import read_json

app = typer.Typer(no_args_is_help=True)


class Login(StrEnum):
    """By what the parties of a node log in."""

    CERTIFICATE = "certificate"
    PASSWORD = "password"  # noqa: S105 - a word of the option


AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
Sites = Annotated[list[str] | None, typer.Option("--site", help="Name of a site; may be given several times.")]
Researchers = Annotated[list[str] | None, typer.Option("--researcher", help="Name of a researcher; several times.")]
Auditors = Annotated[list[str] | None, typer.Option("--auditor", help="Name of an auditor; several times.")]
Consortium = Annotated[str, typer.Option("--consortium", help="Name of the consortium (the vhost).")]

OldExchange = Annotated[
    bool | None,
    typer.Option(
        "--old-exchange/--no-old-exchange",
        help="Keep the exchange that parties of 0.1 publish to; default: as at the last run, and none at the first.",
    ),
]


def state_directory() -> Path:
    """Where the private node of this user lives: XDG_STATE_HOME/konsil/broker.

    Raises:
        RequestError: this user has no home folder, and nothing names another one.
    """
    named = os.environ.get("XDG_STATE_HOME")
    home = Path(os.path.expanduser("~"))
    if not named and (not home.is_absolute() or home == Path(starting.NOWHERE)):
        raise RequestError("this user has no home folder", advice="Set XDG_STATE_HOME to a folder of its own")
    return (Path(named) if named else home / ".local" / "state") / "konsil" / "broker"


OPEN = "open, for parties of 0.1: any login reaches every queue by it. Close it with --no-old-exchange"
NEW = ("demo", ["site-a", "site-b", "site-c"], ["dr-a"], ["auditor"])
"""What a node is that is started for the first time and told nothing."""


@app.command()
def up(
    port: Annotated[int, typer.Option(min=0, max=65535, help="AMQP port; 0: a free one, kept afterwards.")] = 0,
    consortium: Annotated[
        str | None, typer.Option("--consortium", help="Name of the consortium (the vhost); a new node's is 'demo'.")
    ] = None,
    site: Sites = None,
    researcher: Researchers = None,
    auditor: Auditors = None,
    login: Annotated[
        Login | None,
        typer.Option(
            "--login",
            help="certificate: TLS alone, no password. Default: as at the last start; at the first: certificate.",
        ),
    ] = None,
    tls: Annotated[
        bool | None,
        typer.Option("--tls/--no-tls", help="With passwords: speak TLS too, on a port of its own."),
    ] = None,
    old_exchange: OldExchange = None,
    as_json: AsJson = False,
) -> None:
    """Start the private node on loopback; it runs until `konsil broker down`.

    A node keeps its consortium, its parties and how they log in: a later start needs no option. Parties that are named
    are added. A new node speaks TLS alone, and each party logs in with the certificate and key of its name in `logins`.
    It prints what `port` and `ca` are to be in the broker section of a configuration.
    """
    directory = state_directory()
    named = list_parties(site or [], researcher or [], auditor or [])
    before = read_roster(directory)
    if before is None:
        roster = new_roster(consortium or NEW[0], named or list_parties(*NEW[1:]))
    else:
        _require_same(before, consortium, directory)
        roster = before.with_parties(named)
    node = PrivateNode(directory, detached=True)
    if node.pid is not None:
        raise RequestError(
            "a private broker already runs here",
            where=str(directory),
            advice="Add parties with `konsil broker add`; stop it with `konsil broker down`",
        )
    rendered = _render_again(directory, roster, old_exchange)
    changed = before is not None and rendered != read_definitions(directory)
    kept = Login.CERTIFICATE if node.speaks_tls_alone or (before is None and tls is None) else Login.PASSWORD
    by_certificate = (login or kept) is Login.CERTIFICATE
    if by_certificate and tls is not None:
        raise RequestError("logins by certificate know TLS alone", where="--tls", advice="Say --login password with it")
    speaks = node.speaks_tls if tls is None else tls
    node = PrivateNode(
        directory, port, definitions=rendered, detached=True, tls=speaks, certificate_logins=by_certificate
    )
    with show_working("starting RabbitMQ, which takes some seconds"):
        node.start()
        if changed:
            control.load_definitions(node)
        if before is not None:
            control.remove_strangers(node)
    _keep_logins(node, roster)
    _show_answer(_read_status(node), as_json)


@app.command()
def add(site: Sites = None, researcher: Researchers = None, auditor: Auditors = None, as_json: AsJson = False) -> None:
    """Add parties to the private node; a running one takes them on at once, and goes on.

    The coordinator admits a site or researcher where its coordinator.toml names it.

    Example: konsil broker add --site site-d
    """
    directory, before = _known_node()
    named = list_parties(site or [], researcher or [], auditor or [])
    if not named:
        raise RequestError("no party is named", advice="Name each with --site, --researcher or --auditor")
    roster = before.with_parties(named)
    _change_roster(directory, roster, "adding parties")
    added = [name for name in roster.names if name not in before.names]
    _show_answer({"consortium": roster.consortium, "added": added, "users": sorted(roster.names)}, as_json)


@app.command()
def remove(
    party: Annotated[list[str], typer.Argument(metavar="NAME...", help="Logins to take away.")], as_json: AsJson = False
) -> None:
    """Take logins away from the private node; a running one ends their connections and goes on.

    What lies in a party's queues stays.

    Example: konsil broker remove site-d
    """
    directory, before = _known_node()
    roster = before.without_parties(party)
    node = PrivateNode(directory, detached=True)
    _change_roster(directory, roster, "removing parties")
    if node.pid is not None:
        control.remove_users(node, party)
    _show_answer({"consortium": roster.consortium, "removed": party, "users": sorted(roster.names)}, as_json)


@app.command()
def down(
    wipe: Annotated[bool, typer.Option(help="Also forget every message.")] = False,
    forget: Annotated[
        bool, typer.Option("--forget", help="Also forget consortium, parties and passwords, and every message.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Stop the private node; without one running, nothing happens. Consortium, parties and passwords stay."""
    directory = state_directory()
    node = PrivateNode(directory, detached=True)
    was_running = node.pid is not None
    node.stop()
    if wipe or forget:
        node.wipe_messages()
    answer: dict[str, Any] = {"running": False, "stopped": was_running, "wiped": wipe or forget}
    if forget:
        answer["forgotten"] = _forget_roster(directory)
    _show_answer(answer, as_json)


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
    old_exchange: OldExchange = None,
    as_json: AsJson = False,
) -> None:
    """Render topology, users and permissions; the passwords go into a file of mode 0600 beside it.

    Passwords of an earlier run are kept, so that adding a site changes nobody else's login. Who was there then and is
    not named now is named in the answer: the file holds that login no more. `settings` are lines for rabbitmq.conf.
    """
    beside = out.with_name(f"{out.stem}.passwords.json")
    if not site:
        raise RequestError("no site is named", where="--site", advice="Name each site with --site")
    known = _read_passwords(beside)
    roster = new_roster(consortium, list_parties(site, researcher or [], auditor or []), known)
    keep = keeps_old_exchange(out) if old_exchange is None else old_exchange
    rendered = render_definitions(consortium, roster.parties, StreamSizes(), old_exchange=keep)
    dropped = sorted(known.keys() - set(roster.names))
    write_private(beside, json.dumps({"consortium": consortium, "passwords": roster.passwords}, indent=1))
    write_private(out, json.dumps(rendered, indent=1) + "\n")
    answer: dict[str, Any] = {"definitions": str(out), "passwords": str(beside), "users": roster.names}
    answer |= {"dropped": dropped} if dropped else {}
    answer |= {"old_exchange": OPEN} if keep else {}
    _show_answer(answer | {"settings": limit_lines(len(site))}, as_json)


def _known_node() -> tuple[Path, Roster]:
    directory = state_directory()
    roster = read_roster(directory)
    if roster is None:
        raise RequestError(
            "this private broker was never started", where=str(directory), advice="Start it with `konsil broker up`"
        )
    return directory, roster


def _require_same(before: Roster, consortium: str | None, directory: Path) -> None:
    if consortium is not None and consortium != before.consortium:
        raise RequestError(
            f"this node is the consortium {before.consortium!r}",
            where=str(directory),
            advice=f"Start it without --consortium. To make it {consortium!r}, forget it first with `konsil broker down"
            " --forget`, which loses its logins and messages",
        )


def _change_roster(directory: Path, roster: Roster, what: str) -> None:
    """Keep a roster, and have the node take it on where it runs."""
    rendered = _render_again(directory, roster)
    write_private(directory / "definitions.json", json.dumps(rendered))
    node = PrivateNode(directory, detached=True)
    _keep_logins(node, roster)
    if node.pid is not None:
        with show_working(f"{what}, which takes some seconds"):
            control.load_definitions(node)


def _keep_logins(node: PrivateNode, roster: Roster) -> None:
    """Write the roster, and what each party logs in with."""
    write_roster(node.directory, roster)
    if node.speaks_tls_alone:
        authority = node.make_authority()
        for name in roster.names:
            authority.issue_client_identity(name, folder=node.directory / LOGINS)


def _render_again(directory: Path, roster: Roster, old_exchange: bool | None = None) -> Definitions:
    """A node's definitions; None: with the old exchange where it has it."""
    keep = keeps_old_exchange(directory / "definitions.json") if old_exchange is None else old_exchange
    rendered = render_definitions(roster.consortium, roster.parties, old_exchange=keep)
    return with_known_hashes(rendered, directory, roster)


def _forget_roster(directory: Path) -> list[str]:
    """Forget who may log in; their names."""
    try:
        before = read_roster(directory)
        gone = [] if before is None else before.names
    except RequestError:
        gone = ["logins that could not be read"]
    for name in ("logins.json", "definitions.json"):
        (directory / name).unlink(missing_ok=True)
    shutil.rmtree(directory / LOGINS, ignore_errors=True)
    return gone


def _read_status(node: PrivateNode) -> dict[str, Any]:
    running = node.pid is not None
    if not running:
        kept = read_roster(node.directory)
        known = {} if kept is None else {"consortium": kept.consortium, "users": sorted(kept.names)}
        return {"running": False, "directory": str(node.directory), **known}
    logins_file = node.directory / "logins.json"
    shown: dict[str, Any] = {
        "running": True,
        "answers": node.answers,
        "host": node.host,
        "port": node.port,
        "pid": node.pid,
        "directory": str(node.directory),
        "log": str(node.log),
    }
    by_certificate = node.speaks_tls_alone
    shown["login"] = (Login.CERTIFICATE if by_certificate else Login.PASSWORD).value
    if by_certificate:
        shown["ca"] = str(node.ca)
    elif node.speaks_tls:
        shown |= {"tls_port": node.tls_port, "ca": str(node.ca)}
    if keeps_old_exchange(node.directory / "definitions.json"):
        shown["old_exchange"] = OPEN
    if logins_file.exists():
        shown["consortium"] = read_json(logins_file)["consortium"]
        shown["users"] = sorted(_read_passwords(logins_file))
        shown |= {} if by_certificate else {"passwords": str(logins_file)}
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
        say_line(f"{name:<12} {text}")


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
