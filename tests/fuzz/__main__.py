"""python -m tests.fuzz --kind dicom --count 100000 --seed 1: damage inputs and print a table of what was seen.

A run that is broken off goes on where it was (its figures lie in the file of --state). --keep FOLDER writes each input
that shows a fault there; into tests/fuzz/corpus/KIND it goes by hand, under a name that says what it does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections import Counter
from pathlib import Path

from messages.ground.durable import replace_file
from tests.fuzz.harness import Figures, Kind, Runner, find_kinds


def main() -> int:
    """Exit status 1 where a fault was seen."""
    kinds = find_kinds()
    asked = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    asked.add_argument("--kind", choices=sorted(kinds), action="append", help="all, if none is given")
    asked.add_argument("--count", type=int, default=1000)
    asked.add_argument("--seed", type=int, default=1)
    asked.add_argument("--state", type=Path, help="go on with what this file says was done, and note it there")
    asked.add_argument("--keep", type=Path, help="a folder for inputs that show a fault")
    given = asked.parse_args()
    rows, faults = [], 0
    for name in given.kind or sorted(kinds):
        figures = _run_kind(kinds[name], given.seed, given.count, given.state, given.keep)
        rows.append(_make_row(name, given.seed, figures))
        rows += [f"  {number}: {what}" for number, what in figures.faults]
        faults += len(figures.faults)
    print("kind      seed     tried  faults  died  s/input  slowest  MiB more  outcomes")
    print(*rows, sep="\n")
    return 1 if faults else 0


def _run_kind(kind: Kind, seed: int, count: int, state: Path | None, keep: Path | None) -> Figures:
    figures = _read_state(state, kind.name, seed)
    with Runner(kind) as runner:
        for batch in runner.try_numbers(seed, figures.tried, max(0, count - figures.tried)):
            figures.add_batch(batch)
            if keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                for number, _ in batch.faults:
                    if number.isdigit():
                        (keep / f"{kind.name}-{seed}-{number}").write_bytes(kind.damaged_input(seed, int(number)))
            _write_state(state, kind.name, seed, figures)
            if sys.stderr.isatty():
                print(f"\r{kind.name}: {figures.tried} of {count}", end="", file=sys.stderr)
    return figures


def _make_row(name: str, seed: int, one: Figures) -> str:
    outcomes = ", ".join(f"{count} {word}" for word, count in one.outcomes.most_common())
    return (
        f"{name:<9} {seed:>4} {one.tried:>9} {len(one.faults):>7} {one.died:>5} {one.seconds / max(1, one.tried):>8.4f}"
        f" {one.slowest:>8.3f} {one.grown / 2**20:>9.0f}  {outcomes}"
    )


def _read_state(path: Path | None, kind: str, seed: int) -> Figures:
    if path is None or not path.exists():
        return Figures()
    plain = json.loads(path.read_text()).get(f"{kind} {seed}")
    if plain is None:
        return Figures()
    return Figures(**{**plain, "outcomes": Counter(plain["outcomes"]), "faults": [tuple(f) for f in plain["faults"]]})


def _write_state(path: Path | None, kind: str, seed: int, figures: Figures) -> None:
    if path is None:
        return
    known = json.loads(path.read_text()) if path.exists() else {}
    replace_file(path, json.dumps({**known, f"{kind} {seed}": vars(figures)}, indent=1).encode())


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)  # a process that hangs must not keep this one
