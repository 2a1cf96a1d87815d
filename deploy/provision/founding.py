"""`konsil provision init`: the operator's folder is made, whole or not at all."""

from __future__ import annotations

import tempfile
from pathlib import Path

from deploy.broker import roster
from deploy.broker.certificates import Authority
from deploy.provision import admission, broker_files, member
from deploy.provision.facts import AUTHORITY, BROKER, OPERATOR_KEY, REGISTER, STATE, Guest, OfficeFacts, write_file
from deploy.provision.kit import BrokerFacts
from deploy.provision.office import LIFE, Office
from deploy.provision.request import read_request
from messages import names
from messages.ground.errors import RequestError
from messages.ground.written.documents import read_json
from messages.trust.keys import make_key, write_key
from messages.trust.register import sign_register


def found_office(
    folder: Path,
    consortium: str,
    broker: BrokerFacts,
    at: float,
    *,
    passphrase: str = "",
    member_secret: str = "",
    before: Path | None = None,
) -> Office:
    """Make the operator's folder, with the coordinator's in it; whole or not at all.

    Args:
        passphrase: of the operator's and the authority's key, itself; "": they are kept in clear, mode 0600.
        member_secret: where the coordinator finds the passphrase of its own keys, as in `member.make_party`.
        before: definitions by which parties logged in until now, with passwords: they go on until they have keys.

    Raises:
        RequestError: the folder is there and not empty, or cannot be written, or the name cannot be.
    """
    names.check_name(consortium, "consortium")
    guests = {} if before is None else read_guests(before, consortium)
    try:
        taken = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
        if taken:
            raise RequestError("there is something already", where=str(folder), advice="Name a new folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as place:
            made = Path(place) / "made"
            facts = OfficeFacts(consortium=consortium, broker=broker, operator="0" * 64, guests=guests)
            _found_in(made, facts, at, passphrase.encode() or None, member_secret)
            if folder.exists():
                folder.rmdir()
            made.rename(folder)
    except OSError as error:
        raise RequestError(f"the folder cannot be made ({error.strerror})", where=str(folder)) from None
    return Office(folder)


def read_guests(file: Path, consortium: str) -> dict[str, Guest]:
    """Who logs in by definitions that `konsil broker definitions` wrote, but for the coordinator.

    Raises:
        RequestError: it is no such file, or another consortium's.
    """
    plain = read_json(file, refuse=RequestError)
    try:
        roles = roster.roles_of(plain)
        hashes = {one["name"]: str(one["password_hash"]) for one in plain["users"]}
        found = {
            name: Guest.model_validate({"role": role, "password_hash": hashes[name]})
            for name, role in roles.items()
            if name != names.COORDINATOR
        }
        vhosts = [one["name"] for one in plain["vhosts"]]
    except (KeyError, TypeError, ValueError):
        raise RequestError("this is not a file of definitions that 'konsil broker' wrote", where=str(file)) from None
    if vhosts != [consortium]:
        raise RequestError(f"these definitions are of {', '.join(map(str, vhosts))}", where=str(file))
    return found


def _found_in(folder: Path, wanted: OfficeFacts, at: float, passphrase: bytes | None, member_secret: str) -> None:
    folder.mkdir(mode=0o700)
    operator = make_key()
    write_key(operator, folder / OPERATOR_KEY, passphrase)
    authority = Authority(folder / AUTHORITY, f"Konsil consortium {wanted.consortium}", passphrase=passphrase)
    facts = wanted.model_copy(update={"operator": operator.public.hex()})
    write_file(folder / STATE, facts.model_dump_json(indent=1).encode() + b"\n", 0o600)
    coordinator = folder / names.COORDINATOR
    party, keys = member.make_party(coordinator, names.COORDINATOR, "coordinator", at, passphrase=member_secret)
    register = admission.first_register(facts.consortium, keys.event.public, at, at + LIFE)
    write_file(folder / REGISTER, sign_register(register, operator), 0o644)
    write_file(folder / "register.1.note", (folder / REGISTER).read_bytes(), 0o644)
    broker_files.write_server(folder / BROKER, authority, facts.broker.hosts)
    office = Office(folder)
    office._write_certificate(names.COORDINATOR, authority, keys.tls.public_key())
    request = read_request(party.request.read_bytes(), str(party.request))
    kit = office.approve(request, at, passphrase)
    party.install(kit.read_bytes(), str(kit), at, lambda _kit: None, config=False)
    office.render()
