"""The demo's consortium on paper: names, logins, and the very kinds of files that production runs with."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from deploy.broker.definitions import Definitions, render_definitions
from deploy.broker.topology import Party, StreamSizes
from deploy.demo import toml
from deploy.demo.layout import DemoLayout
from deploy.provision.key_ring import KeyRing, make_key_ring
from deploy.provision.kit import BrokerFacts
from deploy.provision.together import Household, make_parties
from messages.names import COORDINATOR
from messages.tasks.registry import TASKS
from messages.trust.register import Role

CONSORTIUM = "demo"
RESEARCHER = "dr-a"
ROLES: Mapping[str, Role] = MappingProxyType({COORDINATOR: "coordinator", RESEARCHER: "researcher"})
"""Of all who are no sites."""
MOST_SITES = 26

SIZES = StreamSizes(
    events=256 * 2**20, audit=2**30, model_chunks=2**30, update_chunks=2**29, segment=16 * 2**20, small_segment=2**20
)
"""A demo's models are small, and so is a laptop's disk."""


def site_names(count: int) -> tuple[str, ...]:
    """site-a, site-b, …"""
    return tuple(f"site-{chr(ord('a') + index)}" for index in range(count))


def derive_secret(seed: int, site: str) -> bytes:
    """A site's secret from a seed, so that the same seed splits the same patients: a hospital's is random."""
    return hashlib.sha256(f"konsil demo|{seed}|{site}".encode()).digest()


def list_roles(sites: Iterable[str]) -> dict[str, Role]:
    """Each party's role."""
    return {**ROLES, **dict.fromkeys(sites, "site")}


def coordinator_content(layout: DemoLayout, sites: Sequence[str]) -> dict[str, Any]:
    """coordinator.toml without its broker."""
    identity = {
        "consortium": CONSORTIUM,
        "state": layout.coordinator,
        "sites": list(sites),
        "researchers": [RESEARCHER],
    }
    return {"schema": 1, "coordinator": identity}


def site_content(
    layout: DemoLayout,
    site: str,
    *,
    dataset: str,
    source: Mapping[str, Any],
    threads: int,
    gpus: Sequence[int],
    trainer: Sequence[str] | None = None,
) -> dict[str, Any]:
    """site.toml without its broker; see `Consortium.write_site`."""
    return {
        "schema": 1,
        "site": {"name": site, "consortium": CONSORTIUM, "state": layout.site_folder(site)},
        "limits": {"threads": threads, "gpus": list(gpus)},
        "datasets": {dataset: dict(source)},
        "training": {"command": list(trainer) if trainer else None},
        "policy": {
            "default": "deny",
            "approval": "auto",
            "allow": [{"researchers": [RESEARCHER], "datasets": [dataset], "tasks": [*TASKS]}],
            # A demo has a handful of test cases and nobody's secrets: it tells each score, so that gains can be
            # paired case by case. A hospital keeps the defaults (see docs/site.md).
            "floors": {"least_cases": 2, "least_metric_cases": 1, "share_case_metrics": True},
        },
    }


@dataclass(frozen=True, slots=True)
class Consortium:
    """Who takes part, and how each one logs in.

    Attributes:
        passwords: each one's; empty where all have certificates.
        household: their keys and certificates; None: they have passwords.
        ring: their keys, where they have passwords.
    """

    layout: DemoLayout
    sites: tuple[str, ...]
    passwords: Mapping[str, str] = field(repr=False)
    sizes: StreamSizes = SIZES
    household: Household | None = None
    ring: KeyRing | None = None

    @classmethod
    def make_keys(cls, layout: DemoLayout, sites: Sequence[str], sizes: StreamSizes = SIZES) -> Consortium:
        """With fresh keys and certificates, as `konsil provision` makes them."""
        roles = list_roles(sites)
        others = {name: role for name, role in roles.items() if name != COORDINATOR}
        household = make_parties(layout.parties, CONSORTIUM, BrokerFacts(hosts=("127.0.0.1", "localhost")), others)
        return cls(layout, tuple(sites), dict.fromkeys(roles, ""), sizes, household)

    @classmethod
    def invent_logins(cls, layout: DemoLayout, sites: Sequence[str], sizes: StreamSizes = SIZES) -> Consortium:
        """With fresh passwords, and keys to sign with."""
        roles = list_roles(sites)
        passwords = {party: secrets.token_urlsafe(18) for party in roles}
        ring = make_key_ring(layout.run / "keys", CONSORTIUM, roles)
        return cls(layout, tuple(sites), passwords, sizes, ring=ring)

    def make_definitions(self) -> Definitions:
        """What the broker boots with."""
        roles = list_roles(self.sites)
        parties = [Party(name, roles[name], word) for name, word in self.passwords.items()]
        return render_definitions(CONSORTIUM, parties, self.sizes)

    def config_of(self, party: str) -> Path:
        """Where a party's configuration lies: coordinator.toml, site-a.toml, profile.toml."""
        return self.layout.profile if party == RESEARCHER else self.layout.run / f"{party}.toml"

    def write_coordinator(self, port: int, ca: Path | None = None) -> Path:
        """coordinator.toml; here and below `ca` is the broker's authority where logins are by password over TLS."""
        content = coordinator_content(self.layout, self.sites)
        return self._write_config(COORDINATOR, content | self._sections(COORDINATOR, port, ca))

    def write_profile(self, port: int, ca: Path | None = None) -> Path:
        """The researcher's profile.toml."""
        return self._write_config(
            RESEARCHER,
            {
                "name": RESEARCHER,
                "role": "researcher",
                "consortium": CONSORTIUM,
                "journal": self.layout.coordinator,
                **self._sections(RESEARCHER, port, ca),
            },
        )

    def write_site(
        self,
        site: str,
        port: int,
        ca: Path | None = None,
        *,
        dataset: str,
        source: Mapping[str, Any],
        threads: int,
        gpus: Sequence[int],
        trainer: Sequence[str] | None = None,
    ) -> Path:
        """A hospital's site.toml.

        Args:
            dataset: the name by which experiments ask for it.
            source: the keys under [datasets.NAME].
            trainer: the operator's training command; None: the one that comes with Konsil.
        """
        content = site_content(
            self.layout, site, dataset=dataset, source=source, threads=threads, gpus=gpus, trainer=trainer
        )
        return self._write_config(site, content | self._sections(site, port, ca))

    def _sections(self, party: str, port: int, ca: Path | None) -> dict[str, Any]:
        """[broker], and [trust] where there are keys."""
        broker = {"host": "127.0.0.1", "port": port, "vhost": CONSORTIUM, "user": party}
        if self.household is not None:
            own = self.household.broker_keys(party)
            return {"broker": broker | own, "trust": self.household.trust_keys(party)}
        secret = self.layout.run / f"{party}.password"
        write_private(secret, self.passwords[party] + "\n")
        trust = {} if self.ring is None else {"trust": self.ring.trust_of(party)}
        return {"broker": broker | {"password": f"file:{secret}", "ca": ca}, **trust}

    def _write_config(self, party: str, content: Mapping[str, Any]) -> Path:
        path = self.config_of(party)
        write_private(path, toml.write_toml(content))
        return path


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone may read."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
