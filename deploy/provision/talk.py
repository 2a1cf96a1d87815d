"""What `konsil provision` asks people, and what it tells them."""

from __future__ import annotations

import sys
from pathlib import Path

import typer

from deploy.console import say_line, show_working
from deploy.provision import broker_files, member
from deploy.provision.broker_files import BrokerFolder
from deploy.provision.facts import MemberRow
from deploy.provision.office import Office
from deploy.provision.request import JoinRequest
from messages.ground.errors import RequestError
from messages.ground.settings import read_secret
from messages.trust.keys import say_fingerprint

DAY = 86400.0


def open_secret(folder: Path, reference: str) -> bytes | None:
    """The passphrase of the operator's keys; asked for where they need one and none is named."""
    needs = Office(folder).is_locked
    found = ask_passphrase(reference or ("ask" if needs else ""))
    return found.encode() if found else None


def ask_passphrase(reference: str, *, twice: bool = False) -> str | None:
    """The passphrase behind a reference, or what the person types where it is "ask"."""
    if reference != "ask":
        return read_secret(member.place_secret(reference), "--passphrase") or None
    _require_terminal("--passphrase", "Name it with --passphrase file:PATH or credential:NAME")
    return str(typer.prompt("Passphrase of the operator's keys", hide_input=True, confirmation_prompt=twice, err=True))


def compare_words(said: str, words: str, where: str, yes: bool, question: str) -> None:
    """Go on where the words are the same, or a person says so."""
    if said:
        if said.lower().split() != words.split():
            raise RequestError("the fingerprint is another", where=where, advice="Do not go on: ask who made this file")
        return
    ask_person(yes, question)


def ask_person(yes: bool, question: str) -> None:
    """Go on where a person says so; RequestError where not, or where nobody is there."""
    if yes:
        return
    _require_terminal("", "Say --yes, or give the words")
    if not typer.confirm(question, err=True):
        raise RequestError("nothing was changed")


def _require_terminal(where: str, advice: str) -> None:
    if not sys.stdin.isatty():
        raise RequestError("nobody is here to be asked", where=where, advice=advice)


def say_request(party: member.PartyFolder, public: bytes) -> None:
    """What a party does with its request."""
    say_rows(
        ("request", f"{party.request}   send it to the consortium's operator: nothing in it is secret"),
        ("fingerprint", f"{say_fingerprint(public)}   read it out when the operator calls"),
        ("keys", f"{party.folder}   they never leave this folder"),
    )


def name_login(one: JoinRequest) -> str:
    """How the party wants to log in: what is weaker stands out."""
    return "by certificate" if one.login == "certificate" else "by PASSWORD over one-way TLS"


def name_next_step(role: str, config: Path) -> str:
    """What a party does once its kit is installed."""
    if role == "site":
        return f"name your data in it, then: konsil site preflight --config {config}"
    return f"konsil experiment list --profile {config}"


def say_broker(office: Office, gone: list[str] | None = None) -> None:
    """Have a private node take the change on, or say what is to be typed at the broker; then the coordinator's part."""
    folder = office.folder / "broker"
    node = BrokerFolder(folder).open_node(office.facts.broker.port)
    if node.pid is not None:
        with show_working("telling the private RabbitMQ, which takes some seconds"):
            broker_files.tell_node(node, gone or [])
        say_rows(("broker", "the private node has taken it on"))
    else:
        broker_files.tell_node(node)
        lines = broker_files.commands_for(gone or [])
        say_rows(("broker", f"copy {folder} to {broker_files.PLACE}, and there:"), *(("", line) for line in lines))
    say_coordinator(office)


def say_coordinator(office: Office) -> None:
    """What becomes of the coordinator's configuration."""
    say_rows(("coordinator", f"{office.coordinator / 'coordinator.toml'}: {office.admit_at_coordinator()}"))


def say_rows(*rows: tuple[str, str]) -> None:
    """Lines of a heading and a text."""
    for head, text in rows:
        say_line(f"{head:<14} {text}")


def name_days(row: MemberRow, now: float) -> str:
    """How many days certificate and key are good for, or why they are none."""
    if row.revoked is not None:
        return "revoked"
    ends = [end for end in (row.certificate_ends, row.key_ends) if end is not None]
    return str(count_days(min(ends), now)) if ends else "no key yet"


def count_days(ends: float, now: float) -> int:
    """Whole days from now on."""
    return int((ends - now) // DAY)
