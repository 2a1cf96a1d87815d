"""`konsil provision`: who is let into a consortium, by keys that never leave their owners."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deploy.console import JsonOption, emit_json, print_table, say_line, show_working
from deploy.provision import broker_files, member
from deploy.provision.broker_files import BrokerFolder
from deploy.provision.kit import BrokerFacts, PartyKit, check_host
from deploy.provision.office import Office, found_office
from deploy.provision.request import JoinRequest, read_request
from messages.ground.errors import RequestError
from messages.ground.settings import read_secret
from messages.ground.written.text import read_content
from messages.trust.keys import say_fingerprint

app = typer.Typer(no_args_is_help=True)

DAY = 86400.0


class JoiningRole(StrEnum):
    """Roles of those who ask to be let in."""

    SITE = "site"
    RESEARCHER = "researcher"
    AUDITOR = "auditor"
    VIEWER = "viewer"


Folder = Annotated[Path, typer.Option("--folder", help="The operator's folder, which `init` made.")]
Passphrase = Annotated[
    str, typer.Option("--passphrase", help='Of the operator\'s keys: "file:PATH", "credential:NAME" or "ask".')
]
Yes = Annotated[bool, typer.Option("--yes", help="Ask nothing.")]


@app.command()
def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The operator's new folder.")],
    consortium: Annotated[str, typer.Option("--consortium", help="Name of the consortium (the vhost).")],
    host: Annotated[
        list[str], typer.Option("--host", help="Name or address of the broker; the first is what parties use.")
    ],
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="On which the broker speaks TLS.")] = 5671,
    passphrase: Passphrase = "",
    coordinator_passphrase: Annotated[
        str,
        typer.Option("--coordinator-passphrase", help='Of the coordinator\'s keys: "file:PATH", "credential:NAME".'),
    ] = "",
) -> None:
    """Make a consortium: the operator's key, the authority, the broker's files and the coordinator's folder.

    Nothing listens, and nothing leaves this folder. Keep it, and a backup, on a machine that is not the broker's.

    Example: konsil provision init glioma --consortium glioma --host broker.example.org
    """
    for one in host:
        try:
            check_host(one)
        except ValueError as error:
            raise RequestError(str(error), where="--host") from None
    facts = BrokerFacts(hosts=tuple(host), port=port)
    secret = _read_passphrase(passphrase, twice=True) or ""
    office = found_office(
        folder, consortium, facts, time.time(), passphrase=secret, member_secret=coordinator_passphrase
    )
    _say_rows(
        ("folder", str(folder)),
        ("consortium", f"{consortium}, register {office.register.serial}"),
        ("fingerprint", f"{office.words}   of the operator's key: read it out to each party on the telephone"),
        ("next", f"1. the broker reads the files of {folder / 'broker'} (docs/operator.md)"),
        ("", f"   or, to try it on this machine: konsil provision up --folder {folder}"),
        ("", "2. each party: konsil provision request NAME --role ROLE --out FOLDER, and sends you NAME.request"),
        ("", f"3. you: konsil provision approve NAME.request --folder {folder}, and send back the kit"),
    )


@app.command()
def request(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The party's name in the consortium.")],
    role: Annotated[JoiningRole, typer.Option("--role", help="What it is to be.")],
    out: Annotated[Path, typer.Option("--out", help="New folder of its keys and, later, its configuration.")],
    passphrase: Annotated[
        str, typer.Option("--passphrase", help='Under which its keys are kept: "file:PATH" or "credential:NAME".')
    ] = "",
    password_login: Annotated[
        bool,
        typer.Option(
            "--password-login", help="Log in by password over one-way TLS: where a firewall breaks client certificates."
        ),
    ] = False,
) -> None:
    """Make a party's keys, which never leave its folder, and the request to send to the operator.

    Example: konsil provision request site-a --role site --out site-a
    """
    party, keys = member.make_party(
        out, name, role.value, time.time(), login="password" if password_login else "certificate", passphrase=passphrase
    )
    _say_request(party, keys.event.public)


@app.command()
def approve(
    requests: Annotated[list[Path], typer.Argument(metavar="REQUEST...", help="Files that parties sent.")],
    folder: Folder = Path(),
    fingerprint: Annotated[
        str, typer.Option("--fingerprint", help="The words that the party read out: approve if it is these.")
    ] = "",
    yes: Yes = False,
    lost: Annotated[
        bool, typer.Option("--lost", help="The party lost its old keys, and nobody else has them: revoke those.")
    ] = False,
    passphrase: Passphrase = "",
) -> None:
    """Let parties in: sign each one's certificate, add its key to the register, write its kit.

    A request for new keys (`renew`) is approved in the same way; the old key is good for two more weeks.

    Example: konsil provision approve site-a.request --folder glioma
    """
    if fingerprint and len(requests) > 1:
        raise RequestError("one fingerprint is of one request", where="--fingerprint", advice="Approve them one by one")
    read = [read_request(read_content(path, refuse=RequestError), str(path)) for path in requests]
    secret = _open_secret(folder, passphrase)
    with Office(folder).alone() as office:
        approved = []
        for path, one in zip(requests, read, strict=True):
            _say_rows(("request", f"{one.name}, {one.role}, {_say_login(one)}"), ("fingerprint", one.words))
            if one.renews is not None:
                _say_rows(("renews", "the old key has signed this too"))
            _compare(fingerprint, one.words, str(path), yes, f"Does {one.name} read out these words?")
            kit = office.approve(one, time.time(), secret, lost=lost)
            approved.append(one)
            _say_rows(
                ("approved", f"{one.name}, register {office.register.serial}"),
                ("kit", f"{kit}   send it: nothing in it is secret"),
            )
        _say_broker(office)


@app.command()
def install(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="The file that the operator sent.")],
    into: Annotated[Path, typer.Option("--into", help="The folder where the request was made.")],
    operator: Annotated[
        str, typer.Option("--operator", help="The words that the operator read out: take the kit if it is these.")
    ] = "",
    yes: Yes = False,
) -> None:
    """Take a kit: check that it fits this folder's keys, and write the configuration if there is none.

    Example: konsil provision install site-a.kit --into site-a
    """
    party = member.PartyFolder(into)

    def confirm(found: PartyKit) -> None:
        _say_rows(("operator", f"of {found.consortium}"), ("fingerprint", found.words))
        _compare(operator, found.words, str(kit), yes, "Does the operator read out these words?")

    done = party.install(read_content(kit, refuse=RequestError), str(kit), time.time(), confirm)
    config = f"{done.config}" + ("" if done.written else "   left as it is")
    _say_rows(
        ("installed", f"{done.kit.name} of {done.kit.consortium}, register {done.register.serial}"),
        ("configuration", config),
    )
    if done.renewed:
        _say_rows(("keys", "the new ones are in place: restart what runs with them"))
    _say_rows(("next", _next_step(done.kit.role, done.config)))


@app.command()
def renew(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A party's folder, or the operator's.")],
    passphrase: Passphrase = "",
) -> None:
    """Make new keys before the old ones end: a party's, with a request to send.

    Of the operator's folder: the coordinator's keys, and the broker's certificate.

    Example: konsil provision renew site-a
    """
    if (folder / member.STATE).exists():
        party = member.PartyFolder(folder)
        _say_request(party, party.renew(time.time()).event.public)
        return
    secret = _open_secret(folder, passphrase)
    with Office(folder).alone() as office:
        office.renew(time.time(), secret)
        _say_rows(
            ("renewed", f"coordinator, register {office.register.serial}: restart it with {office.coordinator}"),
            (
                "",
                "broker: give it server.pem and server.key; it takes them at its restart",
            ),
        )
        _say_broker(office)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The party.")],
    folder: Folder = Path(),
    reason: Annotated[str, typer.Option("--reason", help="Why; it stays in the operator's folder.")] = "",
    yes: Yes = False,
    passphrase: Passphrase = "",
) -> None:
    """Shut a party out: no key of its is good any more, its login goes and its connections end. Its name stays barred.

    Example: konsil provision revoke site-c --reason "key stolen" --folder glioma
    """
    secret = _open_secret(folder, passphrase)
    with Office(folder).alone() as office:
        _ask(yes, f"Revoke {name}, for good?")
        office.revoke(name, time.time(), secret, reason)
        _say_rows(("revoked", f"{name}, register {office.register.serial}"))
        _say_broker(office, gone=[name])


@app.command(name="list")
def list_parties(folder: Folder = Path(), json_: JsonOption = False) -> None:
    """List the parties: role, login, days left, fingerprint, and who was revoked."""
    office = Office(folder)
    now, rows = time.time(), office.list_members()
    ends = office.broker_ends()
    if json_:
        emit_json(
            {
                "consortium": office.facts.consortium,
                "register": office.register.serial,
                "signatures": office.register.signatures,
                "operator": {"key": office.facts.operator, "words": office.words},
                "broker": {**office.facts.broker.model_dump(), "certificate_ends": ends},
                "parties": [asdict(row) for row in rows],
            }
        )
        return
    _say_rows(
        (
            "consortium",
            f"{office.facts.consortium}, register {office.register.serial}, signatures {office.register.signatures}",
        ),
        ("operator", office.words),
        (
            "broker",
            f"{office.facts.broker.hosts[0]}:{office.facts.broker.port}, certificate: {_days(ends, now)} days left",
        ),
    )
    table = [
        [
            row.name,
            row.role,
            row.login,
            "revoked"
            if row.revoked is not None
            else str(min(_days(row.certificate_ends, now), _days(row.key_ends, now))),
            row.words,
            row.reason,
        ]
        for row in rows
    ]
    print_table(["name", "role", "login", "days left", "fingerprint", "revoked because"], table)


@app.command(name="require-signatures")
def require_signatures(folder: Folder = Path(), yes: Yes = False, passphrase: Passphrase = "") -> None:
    """From now on nobody takes an event without a signature. Nothing can switch that back.

    First bring every party to a version that signs, with a kit installed.
    """
    secret = _open_secret(folder, passphrase)
    with Office(folder).alone() as office:
        _ask(yes, "Require signatures of everybody, for ever?")
        office.require_signatures(time.time(), secret)
        _say_rows(("signatures", f"required, register {office.register.serial}"))
        _say_coordinator(office)


@app.command()
def up(folder: Folder = Path()) -> None:
    """Start a private RabbitMQ for this consortium, on loopback, to try it: TLS and logins by certificate alone.

    `--host 127.0.0.1` at `init` makes a consortium that finds it.
    """
    with Office(folder).alone() as office:
        node = BrokerFolder(folder / "broker").open_node(office.facts.broker.port)
        with show_working("starting RabbitMQ, which takes some seconds"):
            node.start()
        _say_rows(("running", f"{node.host}:{node.port}, TLS alone"), ("log", str(node.log)))


@app.command()
def down(folder: Folder = Path()) -> None:
    """Stop the private RabbitMQ of this consortium."""
    with Office(folder).alone() as office:
        node = BrokerFolder(folder / "broker").open_node(office.facts.broker.port)
        was_running = node.pid is not None
        node.stop()
        _say_rows(("stopped", "yes" if was_running else "it did not run"))


def _open_secret(folder: Path, reference: str) -> bytes | None:
    """The passphrase of the operator's keys; asked for where they need one and none is named."""
    needs = Office(folder).is_locked
    found = _read_passphrase(reference or ("ask" if needs else ""))
    return found.encode() if found else None


def _read_passphrase(reference: str, *, twice: bool = False) -> str | None:
    if reference != "ask":
        return read_secret(member.place_secret(reference), "--passphrase") or None
    _require_terminal("--passphrase", "Name it with --passphrase file:PATH or credential:NAME")
    return str(typer.prompt("Passphrase of the operator's keys", hide_input=True, confirmation_prompt=twice, err=True))


def _compare(said: str, words: str, where: str, yes: bool, question: str) -> None:
    """Go on where the words are the same, or a person says so."""
    if said:
        if said.lower().split() != words.split():
            raise RequestError("the fingerprint is another", where=where, advice="Do not go on: ask who made this file")
        return
    _ask(yes, question)


def _ask(yes: bool, question: str) -> None:
    if yes:
        return
    _require_terminal("", "Say --yes, or give the words")
    if not typer.confirm(question, err=True):
        raise RequestError("nothing was changed")


def _require_terminal(where: str, advice: str) -> None:
    if not sys.stdin.isatty():
        raise RequestError("nobody is here to be asked", where=where, advice=advice)


def _say_request(party: member.PartyFolder, public: bytes) -> None:
    _say_rows(
        ("request", f"{party.request}   send it to the consortium's operator: nothing in it is secret"),
        ("fingerprint", f"{say_fingerprint(public)}   read it out when the operator calls"),
        ("keys", f"{party.folder}   they never leave this folder"),
    )


def _say_login(one: JoinRequest) -> str:
    return "by certificate" if one.login == "certificate" else "by PASSWORD over one-way TLS"


def _next_step(role: str, config: Path) -> str:
    if role == "site":
        return f"name your data in it, then: konsil site preflight --config {config}"
    return f"konsil experiment list --profile {config}"


def _say_broker(office: Office, gone: list[str] | None = None) -> None:
    """Have a private node take the change on, or say what is to be typed at the broker; then the coordinator's part."""
    folder = office.folder / "broker"
    node = BrokerFolder(folder).open_node(office.facts.broker.port)
    if node.pid is not None:
        with show_working("telling the private RabbitMQ, which takes some seconds"):
            broker_files.tell_node(node, gone or [])
        _say_rows(("broker", "the private node has taken it on"))
    else:
        broker_files.tell_node(node)
        lines = broker_files.commands_for(gone or [])
        _say_rows(("broker", f"copy {folder} to {broker_files.PLACE}, and there:"), *(("", line) for line in lines))
    _say_coordinator(office)


def _say_coordinator(office: Office) -> None:
    _say_rows(("coordinator", f"{office.coordinator / 'coordinator.toml'}: {office.admit_at_coordinator()}"))


def _say_rows(*rows: tuple[str, str]) -> None:
    for head, text in rows:
        say_line(f"{head:<14} {text}")


def _days(ends: float | None, now: float) -> int:
    return int(((ends or now) - now) // DAY)
