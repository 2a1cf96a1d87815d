"""`python -m tests.interleavings --count 1000 --jobs 2`: pause, resume, abort, full disks, kills, in virtual time.

A run that is broken off goes on where it was (its figures lie in the file of --state). `--only SEED` runs one seed
alone and tells all of it. Exit status: 0 all well, 1 something failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from interleaving_run import run_seed  # noqa: E402 - the path comes first

from messages.ground.durable import replace_file  # noqa: E402


def main() -> int:
    """Entry point."""
    asked = argparse.ArgumentParser(prog="python -m tests.interleavings", description=__doc__)
    asked.add_argument("--count", type=int, default=1000)
    asked.add_argument("--first", type=int, default=1, help="the first seed")
    asked.add_argument("--jobs", type=int, default=1, help="processes side by side")
    asked.add_argument("--state", type=Path, help="go on with what this file says was done, and note it there")
    asked.add_argument("--only", type=int, action="append", help="run this seed alone (may be repeated)")
    given = asked.parse_args()
    if given.only:
        return _run_alone(given.only)
    done = json.loads(given.state.read_text()) if given.state is not None and given.state.exists() else {}
    seeds = [seed for seed in range(given.first, given.first + given.count) if str(seed) not in done]
    began = time.monotonic()
    with multiprocessing.get_context("spawn").Pool(given.jobs, maxtasksperchild=100) as workers:
        for number, found in enumerate(workers.imap_unordered(run_seed, seeds), 1):
            done[str(found["seed"])] = found
            if given.state is not None and (number % 20 == 0 or number == len(seeds)):
                replace_file(given.state, json.dumps(done).encode())
            if found["failures"] or number % 50 == 0:
                print(
                    f"{number}/{len(seeds)}  seed {found['seed']}: {'; '.join(found['failures']) or 'well'}", flush=True
                )
    wanted = [done[str(seed)] for seed in range(given.first, given.first + given.count)]
    return _report(wanted, time.monotonic() - began)


def _run_alone(seeds: list[int]) -> int:
    found = [run_seed(seed) for seed in seeds]
    print(json.dumps(found, indent=1))
    return 1 if any(one["failures"] for one in found) else 0


def _report(found: list[dict[str, Any]], wall: float) -> int:
    struck: Counter[str] = Counter()
    for one in found:
        for fault in one["struck"]:
            what, where = fault.split(": ", 1)
            struck[f"{what.rsplit(' ', 1)[0]} in {where.split(' (')[0]}"] += 1
    bad = [one for one in found if one["failures"]]
    print(f"{len(found)} seeds, {len(bad)} failed; {sum(len(one['struck']) for one in found)} faults struck")
    print("ended:", dict(Counter(one["ended"] for one in found)))
    hours, cpu = sum(one["seconds"] for one in found) / 3600, sum(one["cpu"] for one in found)
    print(f"services started: {sum(one['starts'] for one in found)}; hours: {hours:.1f} virtual,", end=" ")
    print(f"{cpu / 3600:.2f} of CPU; seconds of this run: {wall:.0f}")
    print("rounds with fewer than all sites:", sum(len(sites) < 3 for one in found for sites in one["rounds"]))
    for what, count in sorted(struck.items()):
        print(f"  {count:>5} {what}")
    for one in bad:
        print(f"seed {one['seed']}: {'; '.join(one['failures'])}")
        print(f"  again: python -m tests.interleavings --only {one['seed']}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
