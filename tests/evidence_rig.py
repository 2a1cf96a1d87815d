"""Logs with signed heads for tests: made once by the real services in virtual time, exported, and altered."""

from __future__ import annotations

import io
import json
import runpy
import sys
from collections.abc import Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator_kit import CONSORTIUM, plain
from places import ROOT
from trusted import TrustKit
from virtual_consortium import VirtualConsortium

from coordinator.record.evidence import gather_evidence, list_records
from coordinator.record.journal_file import open_readonly
from deploy.cli.command import run_command
from messages import kinds
from messages.chain import Entry
from messages.ground.virtual.clock import VirtualClock
from messages.log import exports
from messages.log.heads import origin_of

SITES = ("site-a", "site-b", "site-c")
ORIGIN = origin_of(CONSORTIUM)
VERIFIER = ROOT / "deploy" / "audit_verifier.py"


@dataclass(frozen=True)
class Evidence:
    """A consortium that has run, and its exported log."""

    folder: Path
    kit: TrustKit
    log: Path
    entries: list[Entry]


def make_evidence(folder: Path, names: Iterable[str] = ("exp-1", "exp-2")) -> Evidence:
    """Two experiments of two rounds, one after the other begun, whose entries lie among each other's."""
    kit, clock = TrustKit(SITES, "accepted"), VirtualClock()

    def work() -> None:
        consortium = VirtualConsortium(
            folder, clock, lambda site, number: 100.0, SITES, kit.write_sections(folder / "keys")
        )
        times = {"count": 2, "enrol_within": 100.0, "train_within": 5000.0, "grace": 50.0}
        for name in names:
            consortium.say("experiment-start", kinds.ExperimentStart(experiment=plain(id=name, rounds=times)), name)
        wanted = len(list(names))
        assert clock.wait_until(lambda: len(consortium.of("experiment-complete")) == wanted, 20_000.0, every=60.0)
        clock.sleep(60.0)
        consortium.close()

    clock.run(work)
    entries = list(open_readonly(folder / "coordinator"))
    log = folder / "log.konsil"
    write_export(log, entries)
    return Evidence(folder, kit, log, entries)


def write_export(path: Path, entries: Iterable[Entry], name: str = "exp-1") -> None:
    found = gather_evidence(entries, name)
    exports.write_records(path, list_records(found, ORIGIN), max(found.heads))


@dataclass(frozen=True)
class Said:
    """What a verifier said."""

    status: int
    words: str
    out: str = ""

    @property
    def holds(self) -> bool:
        return self.status == 0


def run_konsil(*arguments: str | Path) -> Said:
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        status = run_command([str(one) for one in arguments])
    return Said(status, out.getvalue() + err.getvalue(), out.getvalue())


_STANDALONE: dict[str, Any] = {}


def run_standalone(*arguments: str | Path) -> Said:
    """The standalone verifier's `main`, in this process: the file is read once."""
    if not _STANDALONE:
        _STANDALONE.update(runpy.run_path(str(VERIFIER)))
    out, old = io.StringIO(), sys.argv
    sys.argv = ["verify.py", *(str(one) for one in arguments)]
    try:
        with redirect_stdout(out), redirect_stderr(out):
            status = _STANDALONE["main"]()
    finally:
        sys.argv = old
    return Said(status, out.getvalue(), out.getvalue())


def read_json(said: Said) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(said.out)
    return found
