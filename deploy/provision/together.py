"""A whole consortium's keys at once, where one person is everybody: the demo, trials, tests."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deploy.broker.certificates import Identity
from deploy.broker.configuration import Tls
from deploy.provision import broker_files, member
from deploy.provision.founding import found_office
from deploy.provision.kit import BrokerFacts
from deploy.provision.office import Office
from deploy.provision.request import read_request
from messages import names
from messages.trust.register import Role


@dataclass(frozen=True, slots=True)
class Household:
    """The operator's folder, and each party's."""

    office: Office
    folders: Mapping[str, Path]

    @property
    def secured(self) -> Tls:
        """What a private node of theirs shows: it knows parties by their certificates alone."""
        broker = self.office.folder / "broker"
        server = Identity(broker / broker_files.SERVER, broker / broker_files.SERVER_KEY)
        return Tls(broker / "ca.pem", server, logins="certificate")

    def broker_keys(self, party: str) -> dict[str, str | Path]:
        """Keys of [broker] in a party's configuration, but for host and port."""
        keys = self.folders[party] / member.KEYS
        return {
            "ca": self.folders[party] / member.CA,
            "login": "certificate",
            "cert": keys / member.CERTIFICATE,
            "key": keys / "tls.key",
        }

    def trust_keys(self, party: str) -> dict[str, str | Path]:
        """Keys of [trust]."""
        folder = self.folders[party]
        return {
            "key": folder / member.KEYS / "event.key",
            "operator": self.office.facts.operator,
            "register_file": folder / member.REGISTER,
        }


def make_parties(folder: Path, consortium: str, broker: BrokerFacts, parties: Mapping[str, Role]) -> Household:
    """Make a consortium below a folder as `konsil provision` does, each party in a folder of its own.

    Args:
        parties: name → role; the coordinator comes by itself.

    Raises:
        RequestError: as `init`, `request`, `approve` and `install` do.
    """
    at = time.time()
    office = found_office(folder / "office", consortium, broker, at)
    made = {name: member.make_party(folder / name, name, role, at)[0] for name, role in parties.items()}
    for party in made.values():
        office.approve(read_request(party.request.read_bytes(), str(party.request)), at, None)
    office.require_signatures(at, None)
    for name, party in made.items():  # once all are in: each begins with the newest register
        request = read_request(party.request.read_bytes(), str(party.request))
        kit = office.approve(request, at, None)
        party.install(kit.read_bytes(), name, at, lambda _kit: None, config=False)
    return Household(office, {names.COORDINATOR: office.coordinator} | {name: one.folder for name, one in made.items()})
