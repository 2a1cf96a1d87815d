"""`python -m tests.simulation --schedules 1000 --seed 1 --jobs 2`: the real services in virtual time, under faults.

A run that is broken off goes on where it was (`--state FILE`). `--only SEED` runs one seed and tells all of it;
`--shrink SEED` looks for the shortest schedule that fails as that seed does. `--mutations` makes deliberate mistakes in
a copy of the product, and counts the schedules until each is found. Exit status: 0 all well, 1 something was violated.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from simulation_mutations import MUTATIONS, survey_mutation  # noqa: E402 - the path comes first
from simulation_plan import draw_schedule  # noqa: E402
from simulation_report import sum_outcomes, write_table  # noqa: E402
from simulation_run import run_schedule, run_seed  # noqa: E402
from simulation_shrink import cut_schedule, shrink_schedule  # noqa: E402

from messages.ground.durable import replace_file  # noqa: E402
from messages.ground.kernel import allow_many_files  # noqa: E402

KEEP_EVERY = 50
"""Schedules between two writes of the state's file."""
A_WORKER = 60
"""Schedules that a worker runs: what was killed in them leaves files open, as nobody closes them."""
COLLECT_EVERY = 8
"""Schedules between two collections of garbage, in a worker."""


def main() -> int:
    """Entry point."""
    given = _parse_arguments()
    if given.mutations:
        return _try_mutations(given)
    if given.only is not None:
        return _run_alone(given)
    if given.shrink is not None:
        return _shrink(given.shrink)
    done: dict[str, Any] = {}
    if given.state is not None and given.state.exists():
        done = json.loads(given.state.read_text())
    seeds = _choose_seeds(given)
    began = time.monotonic()
    for number, one in enumerate(_run_all([seed for seed in seeds if str(seed) not in done], given.jobs), 1):
        done[str(one["seed"])] = one
        if given.state is not None and number % KEEP_EVERY == 0:
            replace_file(given.state, json.dumps(done).encode())
        if one["violations"] and not given.json:
            print(f"seed {one['seed']}: {'; '.join(one['violations'])}", flush=True)
        if one["violations"] and given.until_violated:
            break
        if number % 200 == 0 and not given.json:
            print(f"{number} schedules, {time.monotonic() - began:.0f} s", flush=True)
    if given.state is not None:
        replace_file(given.state, json.dumps(done).encode())
    return _report([done[str(seed)] for seed in seeds if str(seed) in done], given, time.monotonic() - began)


def _choose_seeds(given: argparse.Namespace) -> list[int]:
    """So many, from the first on: all, or those whose schedule has what was asked for."""
    wanted = {*given.having}
    fitting = (seed for seed in itertools.count(given.seed) if not wanted or wanted <= draw_schedule(seed).list_words())
    return list(itertools.islice(fitting, given.schedules))


def _parse_arguments() -> argparse.Namespace:
    asked = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    asked.add_argument("--schedules", type=int, default=1000)
    asked.add_argument("--seed", type=int, default=1, help="the first seed")
    asked.add_argument("--jobs", type=int, default=1, help="processes side by side")
    asked.add_argument("--json", action="store_true", help="one JSON object, on the last line")
    asked.add_argument("--state", type=Path, help="go on with what this file says was done, and note it there")
    asked.add_argument("--until-violated", action="store_true", help="stop at the first violation")
    asked.add_argument(
        "--with", dest="having", action="append", default=[], help="only schedules with this fault or plan"
    )
    asked.add_argument("--only", type=int, metavar="SEED", help="run this seed alone, and tell its story")
    asked.add_argument("--faults", help="of --only: the numbers of the faults that strike, as 0,3")
    asked.add_argument("--rounds", type=int, help="of --only: so many rounds")
    asked.add_argument("--shrink", type=int, metavar="SEED", help="the shortest schedule that fails as this seed does")
    asked.add_argument("--mutations", action="store_true", help="deliberate mistakes: each has to be found")
    asked.add_argument("--named", action="append", help="of --mutations: those whose name holds this word")
    return asked.parse_args()


def _run_all(seeds: list[int], jobs: int) -> Iterator[dict[str, Any]]:
    with multiprocessing.get_context("fork").Pool(jobs, _set_worker_up, maxtasksperchild=A_WORKER) as workers:
        yield from workers.imap(_run_in_worker, seeds)


def _set_worker_up() -> None:
    """Its threads take turns, so they are quickest on one core."""
    allow_many_files()
    cores = sorted(os.sched_getaffinity(0))
    number = multiprocessing.current_process()._identity[0]
    os.sched_setaffinity(0, {cores[number % len(cores)]})


def _run_in_worker(seed: int) -> dict[str, Any]:
    """A schedule makes no garbage worth a look in its midst."""
    gc.disable()
    found = run_seed(seed)
    if seed % COLLECT_EVERY == 0:
        gc.collect()
    return found


def _run_alone(given: argparse.Namespace) -> int:
    strikes = None if given.faults is None else tuple(int(one) for one in given.faults.split(",") if one)
    outcome = run_schedule(cut_schedule(given.only, strikes, given.rounds), tell=True)
    if given.json:
        print(json.dumps(asdict(outcome)))
    else:
        print("\n".join([*outcome.story, f"ended: {outcome.ended}; trace {outcome.trace}", *outcome.violations]))
    return 1 if outcome.violations else 0


def _shrink(seed: int) -> int:
    strikes, rounds, outcome = shrink_schedule(seed)
    if not outcome.violations:
        print(f"seed {seed} violates nothing")
        return 0
    for number in strikes:
        print(f"fault {number}: {draw_schedule(seed).strikes[number]}")
    print("\n".join(outcome.story))
    print(f"again: python -m tests.simulation --only {seed} --faults '{','.join(map(str, strikes))}' --rounds {rounds}")
    return 1


def _try_mutations(given: argparse.Namespace) -> int:
    missed, told = 0, []
    for mutation in MUTATIONS:
        if given.named and not any(word in mutation.name for word in given.named):
            continue
        found = survey_mutation(mutation, given.seed, given.schedules, given.jobs)
        missed += not found.schedules
        told.append(asdict(found))
        if not given.json:
            after = f"{found.schedules:>5} schedules" if found.schedules else "  NOT FOUND"
            print(f"{after}  {found.name}: {found.violation}", flush=True)
    if given.json:
        print(json.dumps({"mutations": told, "missed": missed}))
    else:
        print(f"{len(told)} mutations, {missed} not found in {given.schedules} schedules")
    return 1 if missed else 0


def _report(found: list[Any], given: argparse.Namespace, wall: float) -> int:
    summed = sum_outcomes(found, given.seed, wall)
    if given.json:
        print(json.dumps(summed))
        return 1 if summed["violated"] else 0
    for line in write_table(found):
        print(line)
    for name, value in summed.items():
        if name != "violated":
            print(f"{name}: {value}")
    for one in summed["violated"]:
        print(f"seed {one['seed']}: {'; '.join(one['violations'])}")
        print(f"  shorter: python -m tests.simulation --shrink {one['seed']}")
    return 1 if summed["violated"] else 0


if __name__ == "__main__":
    sys.exit(main())
