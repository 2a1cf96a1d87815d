"""Preparing a data set from DICOM: seconds a study, and whether memory grows with their number.

python -m benchmarks.preparation [--studies 4,16] [--json]

Each line prepares so many of the demo's studies (four series of 48 slices, a localizer, a segmentation) out of a
folder, in a process of its own, and prepares them again with nothing new. Writing the studies is not timed.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from deploy.demo import dicom, phantom
from site_agent.dicom.config import FolderSource

SPACING = phantom.DEFAULT_SPACING_MM
SECRET = bytes(range(32))


def write(folder: Path, studies: int) -> int:
    """Write the studies; the number of objects."""
    count = 0
    for patient in range(studies):
        images, label = phantom.make_case(site_index=0, patient=patient, visit=0, seed=1)
        examined = dicom.examination(1, 0, patient, 0, f"B-{patient:05d}", dicom.uid("benchmark", patient))
        place = folder / str(patient)
        place.mkdir(parents=True)
        for number, obj in enumerate(dicom.objects(images, label, SPACING, examined)):
            (place / f"{number}.dcm").write_bytes(dicom.encoded(obj))
            count += 1
    return count


def settings(folder: Path) -> FolderSource:
    """A data set of them; the source is always asked."""
    codes = {name: {"codes": [f"{scheme}:{value}"]} for name, (scheme, value, _) in dicom.CODES.items()}
    channels = [*phantom.CONTRASTS]
    plain = {"source": "dicom", "path": str(folder), "channels": channels, "labels": {"concepts": codes}}
    return FolderSource.model_validate({**plain, "refresh": "0s"})


def measure(folder: Path, state: Path) -> dict[str, Any]:
    """Prepare twice in this process: seconds of each, CPU seconds of both, and the largest resident sizes in MiB."""
    from site_agent.dicom import build

    seconds = []
    for _ in range(2):
        begun = time.perf_counter()
        build.materialise("benchmark", settings(folder), state, SECRET, lambda _done, _total: None)
        seconds.append(time.perf_counter() - begun)
    counted = build.accounting(state, "benchmark")
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return {
        "cases": counted.used if counted else 0,
        "seconds": seconds,
        "cpu_seconds": sum(one.ru_utime + one.ru_stime for one in used),
        "mib": [one.ru_maxrss / 1024 for one in used],
    }


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.preparation")
    parser.add_argument("--studies", default="4,16")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--measure", nargs=2, metavar=("FOLDER", "STATE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(Path(options.measure[0]), Path(options.measure[1]))))
        return 0
    for studies in map(int, options.studies.split(",")):
        with tempfile.TemporaryDirectory() as place:
            objects = write(Path(place, "export"), studies)
            command = [sys.executable, "-m", "benchmarks.preparation", "--measure", f"{place}/export", f"{place}/state"]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = {"studies": studies, "objects": objects, **json.loads(done.stdout.splitlines()[-1])}
        if options.json:
            print(json.dumps(found), flush=True)
            continue
        (first, again), (own, child) = found["seconds"], found["mib"]
        cpu = found["cpu_seconds"] / studies
        print(f"{studies} studies, {objects} objects: {first:.1f} s, {cpu:.2f} CPU s a study; again {again:.1f} s")
        print(f"  peak {own:.0f} MiB, and {child:.0f} MiB a process that makes cases", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
