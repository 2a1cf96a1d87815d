"""Fetching a study from a real PACS: objects a second over C-GET, C-MOVE and DICOMweb, beside other programs.

python -m benchmarks.retrieval [--studies 1] [--times 3] [--json]

A private Orthanc on loopback holds the demo's studies (four series of 48 slices, a localizer, a segmentation). Konsil's
sources fetch them series by series, as a preparation does, and keep nothing. DCMTK's getscu, movescu with storescp, and
a plain dicomweb-client fetch the same studies and write files. A program that is not installed is left out and named.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.phases import free_port
from benchmarks.preparation import settings as demo_settings
from benchmarks.preparation import write
from deploy.orthanc.node import OrthancNode
from site_agent.dicom import sources
from site_agent.dicom.config import DicomDataset, DicomWebSource, DimseSource
from site_agent.dicom.sources.dimse import Dimse

TITLE = "KONSIL"
WITHIN = 600.0
"""Seconds that a fetch may take."""
Fetch = Callable[[Path], int]
"""Fetches everything, into a folder where it writes files; how many objects came."""


def settings(way: str, node: OrthancNode) -> DicomDataset:
    """The demo's data set out of the node."""
    common = demo_settings(Path("unused")).model_dump(mode="json", include={"channels", "labels"})
    if way == "web":
        return DicomWebSource.model_validate({"source": "dicomweb", "url": node.url, **common})
    dimse = {"source": "dimse", "host": "127.0.0.1", "port": node.dicom_port, "ae": TITLE, "called": node.aet}
    listens = {"retrieve": way, "listen": "127.0.0.1", "listen_port": free_port()}
    return DimseSource.model_validate({**dimse, **listens, **common})


def konsil(way: str, node: OrthancNode) -> Fetch:
    """Konsil's own source, which keeps nothing of what it takes."""

    def fetch(_folder: Path) -> int:
        source = sources.open_source(settings(way, node), Path("unused"))
        try:
            if isinstance(source, Dimse) and way == "move":
                node.register_modality(TITLE, "127.0.0.1", source.scp.port)
            found = source.find_studies()
            return sum(
                source.fetch_series(series, lambda _: False, lambda _: None).received
                for study in found
                for series in study.series
            )
        finally:
            source.close()

    return fetch


def getscu(node: OrthancNode, studies: list[str]) -> Fetch:
    def fetch(folder: Path) -> int:
        for uid in studies:
            run_program([*dcmtk("getscu", node), "-S", "+B", "-od", str(folder), *keys(uid)])
        return count_files(folder)

    return fetch


def movescu(node: OrthancNode, studies: list[str]) -> Fetch:
    def fetch(folder: Path) -> int:
        port = free_port()
        node.register_modality(TITLE, "127.0.0.1", port)
        with running(["storescp", "-q", "-aet", TITLE, "+B", "-od", str(folder), str(port)], port):
            for uid in studies:
                run_program([*dcmtk("movescu", node), "-S", "-aem", TITLE, *keys(uid)])
        return count_files(folder)

    return fetch


def web_client(node: OrthancNode, studies: list[str]) -> Fetch:
    """dicomweb-client as its documentation uses it: a study at a time, in whatever syntax it lies."""

    def fetch(folder: Path) -> int:
        from dicomweb_client.api import DICOMwebClient

        client = DICOMwebClient(node.url)
        for uid in studies:
            for obj in client.retrieve_study(uid, media_types=(("application/dicom", "*"),)):
                obj.save_as(folder / f"{obj.SOPInstanceUID}.dcm")
        return count_files(folder)

    return fetch


def dcmtk(program: str, node: OrthancNode) -> list[str]:
    return [program, "-q", "-aet", TITLE, "-aec", node.aet, "127.0.0.1", str(node.dicom_port)]


def keys(uid: str) -> list[str]:
    return ["-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={uid}"]


def run_program(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=WITHIN)


def count_files(folder: Path) -> int:
    return sum(path.is_file() for path in folder.iterdir())


@contextmanager
def running(command: list[str], port: int) -> Iterator[None]:
    """A server for the block, from when it takes connections."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def measure(fetch: Fetch, objects: int, times: int) -> list[float]:
    """Objects a second, of each time.

    Raises:
        RuntimeError: not all came.
    """
    rates = []
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            came = fetch(Path(folder))
            rates.append(came / (time.perf_counter() - begun))
        if came != objects:
            raise RuntimeError(f"{came} of {objects} objects came")
    return rates


def contenders(node: OrthancNode, studies: list[str]) -> Iterator[tuple[str, str, Fetch]]:
    """Name, the program that it needs (none: ""), and what fetches."""
    yield "konsil C-GET", "", konsil("get", node)
    yield "getscu", "getscu", getscu(node, studies)
    yield "konsil C-MOVE", "", konsil("move", node)
    yield "movescu, storescp", "movescu", movescu(node, studies)
    yield "konsil DICOMweb", "", konsil("web", node)
    yield "dicomweb-client", "", web_client(node, studies)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.retrieval")
    parser.add_argument("--studies", type=int, default=1)
    parser.add_argument("--times", type=int, default=3, help="times that each fetches everything; the median counts")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, Any] = {}
    with (
        tempfile.TemporaryDirectory() as place,
        OrthancNode(Path(place, "orthanc"), aets={TITLE: ("127.0.0.1", 104)}) as node,
    ):
        objects = write(Path(place, "export"), options.studies)
        for path in Path(place, "export").rglob("*.dcm"):
            node.store_files(path)
        listed = json.loads(node.request("GET", "/studies?expand"))
        studies = [one["MainDicomTags"]["StudyInstanceUID"] for one in listed]
        if not options.json:
            print(f"{objects} objects in {len(studies)} studies; objects a second, median (lowest to highest)")
        for name, program, fetch in contenders(node, studies):
            if program and not shutil.which(program):
                print(f"{name:<20} left out: {program} is not installed (Debian: dcmtk)", file=sys.stderr)
                continue
            rates = measure(fetch, objects, options.times)
            found[name] = rates
            if not options.json:
                print(f"{name:<20} {statistics.median(rates):8.1f}  ({min(rates):.1f} to {max(rates):.1f})", flush=True)
    if options.json:
        print(json.dumps({"objects": objects, "rates": found}))
    elif "getscu" in found:
        ratio = statistics.median(found["konsil C-GET"]) / statistics.median(found["getscu"])
        print(f"C-GET is {ratio:.1f} times as fast as getscu")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
