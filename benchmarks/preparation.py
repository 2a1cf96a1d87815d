"""Preparing a data set from DICOM: seconds a study, and whether memory grows with their number.

python -m benchmarks.preparation [--studies 4,16] [--small] [--json]

Each line prepares so many of the demo's studies (four series of 48 slices, a localizer, a segmentation; with `--small`
of four small slices, for archives of a thousand) out of a folder, in a process of its own, and prepares them again with
nothing new. Writing the studies is not timed. Memory is the largest resident size of a process; the tenths say whether
a study late in a large archive takes longer than an early one.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from deploy.demo.phantoms import dicom, phantom
from site_agent.dicom.config import FolderSource

SPACING = phantom.DEFAULT_SPACING_MM
SECRET = bytes(range(32))


SMALL: dict[str, Any] = {"shape": (16, 18, 4), "spacing_mm": (10.0, 10.0, 30.0)}


def write(folder: Path, studies: int, *, small: bool = False) -> int:
    """Write the studies; the number of objects."""
    spacing = SMALL["spacing_mm"] if small else SPACING
    count = 0
    for patient in range(studies):
        images, label = phantom.make_case(site_index=0, patient=patient, visit=0, seed=1, **(SMALL if small else {}))
        examined = dicom.invent_examination(1, 0, patient, 0, f"B-{patient:05d}", dicom.make_uid("benchmark", patient))
        place = folder / str(patient)
        place.mkdir(parents=True)
        for number, obj in enumerate(dicom.make_objects(images, label, spacing, examined)):
            (place / f"{number}.dcm").write_bytes(dicom.encode_dataset(obj))
            count += 1
    return count


def settings(folder: Path) -> FolderSource:
    """A data set of them; the source is always asked."""
    codes = {name: {"codes": [f"{scheme}:{value}"]} for name, (scheme, value, _) in dicom.CODES.items()}
    channels = [*phantom.CONTRASTS]
    plain = {"source": "dicom", "path": str(folder), "channels": channels, "labels": {"concepts": codes}}
    return FolderSource.model_validate({**plain, "refresh": "0s"})


def peak(process: int | str = "self") -> float:
    """The largest resident size of a process so far, in MiB; 0 where it is gone.

    By proc(5): getrusage(2) counts what a process was before it executed this program.
    """
    try:
        lines = Path(f"/proc/{process}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")), 0.0)


class Watch:
    """When each study was done, and how large processes were that made them."""

    def __init__(self) -> None:
        self.told, self.at, self.child = 0, [time.perf_counter()], 0.0

    def __call__(self, done: int, _total: int) -> None:
        self.told += 1
        if self.told % 16 == 0:
            self.child = max([self.child, *(peak(one.pid) for one in psutil.Process().children())])
        self.at += [time.perf_counter()] * (done + 1 - len(self.at))

    def tenths(self) -> list[float]:
        """Seconds a study in each tenth of them."""
        count = len(self.at) - 1
        edges = [count * part // 10 for part in range(11)]
        pairs = [(begin, end) for begin, end in pairwise(edges) if end > begin]
        return [(self.at[end] - self.at[begin]) / (end - begin) for begin, end in pairs]


def measure(folder: Path, state: Path) -> dict[str, Any]:
    """Prepare twice in this process: seconds of each, CPU seconds of both, and the largest resident sizes in MiB."""
    from site_agent.dicom.prepared import accounts
    from site_agent.dicom.preparing import build

    seconds, watches = [], []
    for _ in range(2):
        watches.append(Watch())
        begun = time.perf_counter()
        build.prepare_dataset("benchmark", settings(folder), state, SECRET, watches[-1])
        seconds.append(time.perf_counter() - begun)
    counted = accounts.read_accounting(state, "benchmark")
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "cases": counted.used if counted else 0,
        "seconds": seconds,
        "cpu_seconds": sum(one.ru_utime + one.ru_stime for one in used),
        "mib": [peak(), max(watch.child for watch in watches)],
        "seconds_a_study_by_tenths": watches[0].tenths(),
        "told": watches[0].told,
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.preparation")
    parser.add_argument("--studies", default="4,16")
    parser.add_argument("--small", action="store_true", help="four small slices a series")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "STATE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(Path(options.measure[0]), Path(options.measure[1]))))
        return 0
    for studies in map(int, options.studies.split(",")):
        with tempfile.TemporaryDirectory() as place:
            objects = write(Path(place, "export"), studies, small=options.small)
            command = [sys.executable, "-m", "benchmarks.preparation", "--measure", f"{place}/export", f"{place}/state"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = {"studies": studies, "objects": objects, **json.loads(done.stdout.splitlines()[-1])}
        if options.json:
            print(json.dumps(found), flush=True)
            continue
        (first, again), (own, child) = found["seconds"], found["mib"]
        cpu = found["cpu_seconds"] / studies
        print(f"{studies} studies, {objects} objects: {first:.1f} s, {cpu:.2f} CPU s a study; again {again:.1f} s")
        print(f"  peak {own:.0f} MiB, and {child:.0f} MiB a process that makes cases")
        tenths = " ".join(f"{one:.3f}" for one in found["seconds_a_study_by_tenths"])
        print(
            f"  {found['cases']} cases; seconds a study by tenths {tenths}; progress told {found['told']} times",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
