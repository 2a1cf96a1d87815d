"""Logs with signed heads for tests: made once by the real services in virtual time, exported, and altered."""

from __future__ import annotations

import io
import json
import re
import runpy
import sys
from collections.abc import Callable, Iterable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from coordinator_kit import CONSORTIUM, plain
from places import ROOT
from trusted import TrustKit
from virtual_consortium import VirtualConsortium

from coordinator.record.evidence import gather_evidence, list_records
from coordinator.record.heads import HEAD, read_published
from coordinator.record.journal_file import open_readonly
from deploy.cli.command import run_command
from messages import chain, codec, kinds
from messages.chain import Entry
from messages.ground.virtual.clock import VirtualClock
from messages.log import exports
from messages.log.heads import Head, origin_of, sign_head
from messages.log.tree import Tree, hash_leaf
from messages.trust.keys import SigningKey

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


def told_by_both(path: Path, *options: str | Path) -> tuple[str, str]:
    """What the two verifiers say of a log that does not hold; they agree on the exit status."""
    ours, theirs = run_konsil("audit", "verify", path, *options), run_standalone(path, *options)
    assert ours.status == theirs.status, (ours, theirs)
    assert not ours.holds, ours
    return ours.words, theirs.words


def numbers_in(words: str) -> list[int]:
    return [int(one) for one in re.findall(r"journal numbers? (\d+)", words)]


def relink(entries: list[Entry]) -> list[Entry]:
    """Numbers, links and hashes made anew, as somebody does who can write the whole journal."""
    last: dict[str, Entry] = {}
    made: list[Entry] = []
    for number, one in enumerate(entries, 1):
        before = last.get(one.experiment)
        last[one.experiment] = replace(
            one,
            number=number,
            index=before.index + 1 if before else 1,
            previous=before.hash if before else chain.ZERO,
            before=made[-1].hash if made else chain.ZERO,
        ).with_hash()
        made.append(last[one.experiment])
    return made


def write_anew(
    entries: list[Entry],
    key: SigningKey,
    change: Callable[[Entry], Entry] = lambda one: one,
    later: tuple[int, SigningKey] | None = None,
) -> list[Entry]:
    """The whole journal written anew by who has this key, its heads among it; from a place on by a later one."""
    tree, made = Tree(), list[Entry]()
    for one in entries:
        one = change(one)
        if one.type == HEAD and (head := read_published(one)) is not None:
            signer = key if later is None or len(made) < later[0] else later[1]
            note = sign_head(Head(ORIGIN, head.size, tree.root(head.size)), signer).encode()
            one = replace(one, body=codec.pack({**codec.unpack(one.body), "note": note}))
        made = relink([*made, one])
        tree.append_leaf(hash_leaf(made[-1].encode()))
    return made


def mine(evidence: Evidence) -> list[int]:
    """Places of the experiment's entries in the journal's list."""
    return [place for place, one in enumerate(evidence.entries) if one.experiment == "exp-1"]
