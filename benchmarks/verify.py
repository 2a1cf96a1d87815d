"""How long both verifiers take over an exported log of 100,000 entries, and how much memory (issue 15: 20 s).

    PYTHONPATH=.:tests python benchmarks/verify.py [--entries 100000] [--folder DIR]

The entries are those of a real experiment in virtual time, said again and again, each event signed by its sender. Every
100 entries a head follows, which three sites cosign.
"""

from __future__ import annotations

import argparse
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import structlog
from evidence_rig import ORIGIN, SITES, VERIFIER, make_evidence
from trusted import TrustKit

from coordinator.record.evidence import JournalEvidence, list_records
from coordinator.record.heads import HEAD, PublishedHead
from coordinator.record.journal import REGISTER
from messages import chain, codec
from messages.chain import Entry
from messages.log import exports
from messages.log.examining import find_event
from messages.log.heads import Head, cosign_head, sign_head
from messages.log.tree import hash_leaf
from messages.trust.notes import read_note
from messages.trust.signatures import CONTEXT

EVERY = 100


def sign_event(body: bytes, entry: Entry, kit: TrustKit) -> bytes:
    plain = codec.unpack(body, max_bytes=chain.MAX_ENTRY)
    found = find_event(plain)
    if found is None:
        return body
    sender, payload = found[:2]
    plain["input"]["raw"] = codec.pack([payload, kit.key_of(sender).sign_message(CONTEXT, payload)])
    return codec.pack(plain)


def write_log(folder: Path, count: int) -> Path:
    made = make_evidence(folder)
    kit = made.kit
    first = made.entries[0]
    bodies = [(one, sign_event(one.body, one, kit)) for one in made.entries if one.experiment == "exp-1"]
    found = JournalEvidence("exp-1")
    previous = before = chain.ZERO
    index = 0
    began = bodies[0][0].time
    last: dict[str, bytes] = {}

    def add(entry: Entry) -> Entry:
        nonlocal before
        whole = replace(
            entry, number=found.tree.size + 1, previous=last.get(entry.experiment, chain.ZERO), before=before
        ).with_hash()
        before = last[entry.experiment] = whole.hash
        found.tree.append_leaf(hash_leaf(whole.encode()))
        return whole

    entered = next(one for one in made.entries if one.type == REGISTER)
    found.beside += [add(replace(first, number=1)), add(entered)]
    while index < count:
        one, body = bodies[index % len(bodies)]
        index += 1
        found.entries.append(add(replace(one, index=index, body=body)))
        if index % EVERY == 0:
            head = sign_head(Head(ORIGIN, found.tree.size, found.tree.root()), kit.key_of("coordinator"))
            published = PublishedHead(found.tree.size, head.encode(), ("exp-1", index // EVERY, 1))
            found.heads[published.size] = published
            text = read_note(published.note).text
            marks = {site: cosign_head(text, site, kit.key_of(site), int(began)) for site in SITES}
            found.marks[published.size] = {(site, mark.key_id): mark for site, mark in marks.items()}
            add(Entry(1, index // EVERY, "none", one.time, HEAD, codec.pack(published.write_body())))
    assert previous == chain.ZERO
    path = folder / "large.konsil"
    exports.write_records(path, list_records(found, ORIGIN), max(found.heads))
    return path


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--folder", type=Path, default=None)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        path = write_log(folder, given.entries)
        size = path.stat().st_size
        results = {}
        commands = {
            "konsil": [sys.executable, "-m", "deploy.cli", "audit", "verify", str(path)],
            "standalone": [sys.executable, str(VERIFIER), str(path)],
        }
        for name, command in commands.items():
            began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            results[name] = {
                "status": done.returncode,
                "seconds": round(time.monotonic() - began, 2),
                "cpu_seconds": round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2),
                "peak_mib_of_all_so_far": after.ru_maxrss // 1024,
                "said": (done.stdout + done.stderr).strip().splitlines()[-3:],
            }
        print(json.dumps({"entries": given.entries, "megabytes": round(size / 1e6, 1), **results}, indent=1))


if __name__ == "__main__":
    main()
