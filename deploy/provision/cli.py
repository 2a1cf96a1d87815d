"""`konsil provision`: who is let into a consortium, by keys that never leave their owners."""

from __future__ import annotations

import time
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deploy.broker import control
from deploy.console import JsonOption, emit_json, print_table, show_working
from deploy.provision import member, talk
from deploy.provision.broker_files import BrokerFolder
from deploy.provision.founding import found_office
from deploy.provision.kit import BrokerFacts, PartyKit, check_host
from deploy.provision.office import Office
from deploy.provision.request import read_request
from messages import names
from messages.ground.errors import RequestError
from messages.ground.written.text import read_content

app = typer.Typer(no_args_is_help=True)


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
    before: Annotated[
        Path | None,
        typer.Option("--before", help="Definitions of `konsil broker`, whose passwords go on until a party has keys."),
    ] = None,
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
    secret = talk.ask_passphrase(passphrase, twice=True) or ""
    office = found_office(
        folder, consortium, facts, time.time(), passphrase=secret, member_secret=coordinator_passphrase, before=before
    )
    talk.say_rows(
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
    talk.say_request(party, keys.event.public)


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
    secret = talk.open_secret(folder, passphrase)
    with Office(folder).alone() as office:
        for path, one in zip(requests, read, strict=True):
            talk.say_rows(("request", f"{one.name}, {one.role}, {talk.name_login(one)}"), ("fingerprint", one.words))
            if one.renews is not None:
                talk.say_rows(("renews", "the old key has signed this too"))
            talk.compare_words(fingerprint, one.words, str(path), yes, f"Does {one.name} read out these words?")
            kit = office.approve(one, time.time(), secret, lost=lost)
            talk.say_rows(
                ("approved", f"{one.name}, register {office.register.serial}"),
                ("kit", f"{kit}   send it: nothing in it is secret"),
            )
        talk.say_broker(office)


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
        talk.say_rows(("operator", f"of {found.consortium}"), ("fingerprint", found.words))
        talk.compare_words(operator, found.words, str(kit), yes, "Does the operator read out these words?")

    done = party.install(read_content(kit, refuse=RequestError), str(kit), time.time(), confirm)
    config = f"{done.config}" + ("" if done.written else "   left as it is")
    talk.say_rows(
        ("installed", f"{done.kit.name} of {done.kit.consortium}, register {done.register.serial}"),
        ("configuration", config),
    )
    if done.renewed:
        talk.say_rows(("keys", "the new ones are in place: restart what runs with them"))
    talk.say_rows(("next", talk.name_next_step(done.kit.role, done.config)))


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
        talk.say_request(party, party.renew(time.time()).event.public)
        return
    secret = talk.open_secret(folder, passphrase)
    with Office(folder).alone() as office:
        office.renew(time.time(), secret)
        talk.say_rows(
            ("renewed", f"coordinator, register {office.register.serial}: restart it with {office.coordinator}"),
            (
                "",
                "broker: give it server.pem and server.key; it takes them at its restart",
            ),
        )
        talk.say_broker(office)


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The party.")],
    folder: Folder = Path(),
    reason: Annotated[str, typer.Option("--reason", help="Why; it stays in the operator's folder.")] = "",
    yes: Yes = False,
    passphrase: Passphrase = "",
) -> None:
    """Shut a party out: no key of its is good any more, its login goes and its connections end. Its name stays barred.

    The coordinator gets new keys instead: restart it with its folder, and running experiments go on.

    Example: konsil provision revoke site-c --reason "key stolen" --folder glioma
    """
    secret = talk.open_secret(folder, passphrase)
    with Office(folder).alone() as office:
        if name == names.COORDINATOR:
            talk.ask_person(yes, "Revoke the coordinator's keys, and give it new ones?")
            office.replace_keys(time.time(), secret, reason)
            talk.say_rows(
                ("revoked", f"the coordinator's old keys, register {office.register.serial}"),
                ("next", f"restart the coordinator with {office.coordinator}: what it says meanwhile nobody believes"),
                ("", "its old certificate opens the broker until it ends: docs/operator.md says what that means"),
            )
            talk.say_broker(office)
            return
        talk.ask_person(yes, f"Revoke {name}, for good?")
        office.revoke(name, time.time(), secret, reason)
        talk.say_rows(("revoked", f"{name}, register {office.register.serial}"))
        talk.say_broker(office, gone=[name])


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
    talk.say_rows(
        (
            "consortium",
            f"{office.facts.consortium}, register {office.register.serial}, signatures {office.register.signatures}",
        ),
        ("operator", office.words),
        (
            "broker",
            f"{office.facts.broker.hosts[0]}:{office.facts.broker.port}, {talk.count_days(ends, now)} days left",
        ),
    )
    table = [[row.name, row.role, row.login, talk.name_days(row, now), row.words, row.reason] for row in rows]
    print_table(["name", "role", "login", "days left", "fingerprint", "revoked because"], table)


@app.command(name="require-signatures")
def require_signatures(folder: Folder = Path(), yes: Yes = False, passphrase: Passphrase = "") -> None:
    """From now on nobody takes an event without a signature. Nothing can switch that back.

    First bring every party to a version that signs, with a kit installed.
    """
    secret = talk.open_secret(folder, passphrase)
    with Office(folder).alone() as office:
        talk.ask_person(yes, "Require signatures of everybody, for ever?")
        office.require_signatures(time.time(), secret)
        talk.say_rows(("signatures", f"required, register {office.register.serial}"))
        talk.say_coordinator(office)


@app.command()
def render(folder: Folder = Path()) -> None:
    """Write the broker's files again, as this version has them, out of the register: after an upgrade."""
    with Office(folder).alone() as office:
        office.render()
        talk.say_broker(office)


@app.command()
def up(folder: Folder = Path()) -> None:
    """Start a private RabbitMQ for this consortium, on loopback, to try it: TLS and logins by certificate alone.

    `--host 127.0.0.1` at `init` makes a consortium that finds it.
    """
    with Office(folder).alone() as office:
        node = BrokerFolder(folder / "broker").open_node(office.facts.broker.port)
        with show_working("starting RabbitMQ, which takes some seconds"):
            node.start()
            control.remove_strangers(node)
        talk.say_rows(("running", f"{node.host}:{node.port}, TLS alone"), ("log", str(node.log)))


@app.command()
def down(folder: Folder = Path()) -> None:
    """Stop the private RabbitMQ of this consortium."""
    with Office(folder).alone() as office:
        node = BrokerFolder(folder / "broker").open_node(office.facts.broker.port)
        was_running = node.pid is not None
        node.stop()
        talk.say_rows(("stopped", "yes" if was_running else "it did not run"))
