"""A PACS for each of the demo's hospitals: what runs, what lies in it, and how its site fetches from it.

One private Orthanc a hospital. The first site asks over DICOMweb, the second over DIMSE with C-GET, the third with
C-MOVE, and so on in turn; each logs in, or calls under its own AE title, and the PACS knows nobody else.
"""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

from deploy.demo.consortium import write_private
from deploy.demo.data import PhantomShape
from deploy.demo.layout import DemoLayout
from deploy.demo.phantoms import identities, phantom
from deploy.demo.phantoms.dicom import CODES, REFERENCE
from deploy.demo.phantoms.patients import Delivery, DeliveryPlan
from deploy.demo.processes import Child, Children
from deploy.local import ports
from deploy.orthanc.configuration import HOST
from deploy.orthanc.node import OrthancNode
from messages.experiment import Experiment

WAYS = ("DICOMweb", "DIMSE C-GET", "DIMSE C-MOVE")


def choose_way(site_index: int) -> str:
    """How a site fetches from its PACS."""
    return WAYS[site_index % len(WAYS)]


class Hospitals:
    """Every site's PACS, a `deploy.demo.origin.Origin`.

    Args:
        sites: names, in order. cases: of each site.
        experiment: by whose split the patients' identifiers are invented.
    """

    first = True

    def __init__(
        self,
        layout: DemoLayout,
        sites: Sequence[str],
        experiment: Experiment,
        cases: int,
        seed: int,
        size: PhantomShape,
    ) -> None:
        self.cases = cases * len(sites)
        self._layout, self._sites, self._experiment = layout, tuple(sites), experiment
        self._each, self._seed, self._size = cases, seed, size
        self._stack = ExitStack()
        self._passwords = {site: secrets.token_urlsafe(18) for site in sites}
        self._nodes: dict[str, OrthancNode] = {}
        self._listening = {
            site: _free_port() for index, site in enumerate(sites) if choose_way(index) == "DIMSE C-MOVE"
        }

    def bring_images(self, children: Children) -> list[Child]:
        """Start every PACS, and as many workers as there are cores (at most one a site) that fill them.

        Raises:
            Missing: Orthanc is not installed.
            WorkFailed: a PACS does not start.
        """
        for site in self._sites:
            node = OrthancNode(
                self._layout.pacs / site,
                # a caller that only asks needs no port; Orthanc wants one all the same
                aets={site.upper(): (HOST, self._listening.get(site, 104))},
                users={site: self._passwords[site]},
                aet=_make_title(site),
            )
            self._nodes[site] = self._stack.enter_context(node)
        workers = max(1, min(os.cpu_count() or 1, len(self._sites)))
        return [self._start_worker(children, number, workers) for number in range(workers)]

    def count_written(self) -> int:
        """Studies there are by now."""
        return sum(node.rest.count_level("Studies") for node in self._nodes.values())

    def describe_source(self, site: str) -> dict[str, Any]:
        """[datasets.NAME] of a site."""
        node, index = self._nodes[site], self._sites.index(site)
        channels = [REFERENCE, *(name for name in phantom.CONTRASTS if name != REFERENCE)]
        concepts = {concept: {"codes": [f"{scheme}:{value}"]} for concept, (scheme, value, _) in CODES.items()}
        common: Mapping[str, Any] = {
            "channels": channels,
            "query": {"modalities": ["MR"]},
            "labels": {"source": "seg", "concepts": concepts},
        }
        if choose_way(index) == "DICOMweb":
            password = self._layout.run / f"{site}-pacs.password"
            write_private(password, self._passwords[site] + "\n")
            return {"source": "dicomweb", "url": node.url, "user": site, "password": f"file:{password}", **common}
        dimse = {
            "source": "dimse",
            "host": HOST,
            "port": node.dicom_port,
            "ae": site.upper(),
            "called": _make_title(site),
        }
        if choose_way(index) == "DIMSE C-GET":
            return {**dimse, "retrieve": "get", **common}
        return {**dimse, "retrieve": "move", "listen": HOST, "listen_port": self._listening[site], **common}

    def tell_origins(self) -> Mapping[str, str]:
        """Site → how its images come, in words."""
        return {site: f"phantoms from a PACS over {choose_way(index)}" for index, site in enumerate(self._sites)}

    def close(self) -> None:
        """End every PACS; idempotent."""
        self._stack.close()

    def _start_worker(self, children: Children, number: int, workers: int) -> Child:
        plan = DeliveryPlan(
            self._seed,
            self._size.shape or phantom.DEFAULT_SHAPE,
            self._size.spacing_mm or phantom.DEFAULT_SPACING_MM,
            tuple(
                self._plan_delivery(index, site) for index, site in enumerate(self._sites) if index % workers == number
            ),
        )
        name = f"data-{number + 1}"
        path = self._layout.pacs / f"{name}.json"
        write_private(path, json.dumps(plan.as_plain()))
        command = [sys.executable, "-m", "deploy.demo.phantoms.patients", str(path)]
        return children.start_child(name, command, self._layout.log_of(name), environment={"OMP_NUM_THREADS": "1"})

    def _plan_delivery(self, index: int, site: str) -> Delivery:
        known = identities.invent_identities(
            site_index=index,
            cases=self._each,
            secret=(self._layout.site_folder(site) / "secret").read_bytes(),
            seed=self._experiment.seed,
            fractions=self._experiment.data.split.model_dump(),
        )
        return Delivery(index, self._nodes[site].http_port, site, self._passwords[site], known)


def _make_title(site: str) -> str:
    """The AE title of a site's PACS."""
    return f"PACS-{site.rpartition('-')[2].upper()}"


def _free_port() -> int:
    """A port for a site's storage SCP: free until the site takes it."""
    with ports.hold_free_port(HOST) as sock:
        return int(sock.getsockname()[1])
