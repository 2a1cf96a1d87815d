"""Keep a format: write what this version of the code writes into a folder, where later versions are tried on it.

    python -m tests.audit.keep_format 0.1-03d2e43

from the repository's root makes `tests/audit/formats/0.1-03d2e43`. Run it with the code of the release, or of the
commit, that the folder is named after, once. `tests/audit/test_kept_formats.py` tries each folder there. A folder is
never edited: a later format is a folder beside it. What changes with the code (an event's new field, a new key) is
added to `format_words`, `format_files` and `format_scenes`, which the next folder is made by.

Exit status: 0 made; 1 a check failed; 2 the folder is there already.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sqlite3
import sys
import tempfile
import typing
from contextlib import closing
from hashlib import sha256
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

import structlog  # noqa: E402 - the path comes first
from format_facts import (  # noqa: E402
    read_journal_facts,
    read_log_facts,
    read_replay_facts,
    read_site_facts,
    replay_folder,
)
from format_files import FILES, check_files  # noqa: E402
from format_rig import PAIR, pack_folder  # noqa: E402
from format_scenes import play_pair, play_scripted  # noqa: E402
from format_walk import write_walks  # noqa: E402
from format_words import wire_words  # noqa: E402
from typer.testing import CliRunner  # noqa: E402

from coordinator.core import decisions as d  # noqa: E402
from coordinator.core.inputs import OWN_KINDS  # noqa: E402
from coordinator.core.machine import WIRE  # noqa: E402
from deploy.cli import audit  # noqa: E402
from messages import chain, envelope, experiment, kinds  # noqa: E402
from messages.experiment import Experiment  # noqa: E402

FORMATS = HERE / "formats"
MOST_BYTES = 2 * 2**20
NEVER_DECIDED = frozenset({"step-answered", "share-unopened", "share-wrong"})
"""Decisions that no walk brings about: secure rounds need sites that reckon (`tests/secure_run.py`)."""
LEFT = ("lock", "journal.lock", "journal.sqlite-shm", "logs", "control.sock")
"""Files of a state folder that say nothing: locks, SQLite's shared memory, trainers' own words."""

README = """\
# What {name} wrote

Made once, by

    python -m tests.audit.keep_format {name}

run in a checkout of the code that the folder is named after, with `tests/audit/keep_format.py` and the `format_*.py`
beside it as they were in the commit that added this folder. Never edited: `SHA256SUMS` holds each file, and
`tests/audit/test_kept_formats.py` says what later code must still make of it.

- `coordinator.zip`: a coordinator's state folder, stopped. It had three scripted sites. Each experiment ended, or was
  left, in a way of its own (`play_scripted` in `tests/audit/format_scenes.py`): `done` complete; `half` in its second
  round without some chunks of site-c's update; `paused`; `failed`; `aborted`; `selected` by validation; one a codec;
  refused starts; spoilt and late updates; repetitions. The coordinator was started twice.
- `site.zip`: the state folders of one consortium, a coordinator and two real agents with the null trainer, stopped in
  mid-round (`play_pair`). `done` is complete. Of `half`, site-a's update is announced without a receipt, and site-b was
  in training. The sites' secrets belong to these folders alone.
- `walks.zip`: a coordinator's journal of {walks} made-up experiments (`format_walk.py`): every kind of input, and
  of decision but those of steps that no round of this version has ({missing}), in many orders.
- `wire.zip`: the bytes of every kind on the wire. `little` says only what it must, `full` all it can.
- `log.export`: what `konsil audit export done` makes of `coordinator.zip`.
- `experiments/*.toml`: experiment files. The JSON beside each is the same as the code sends and stores it.
- `digests.json`: `Experiment.digest()` of each file, and of each experiment-start in `wire.zip` by its name there.
- `facts.json`: what all of this holds: entries, last hashes, phases, digests of models.

The arithmetic is exact, or IEEE operations one by one in a fixed order: the digests are the same on every machine.
"""


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="tests.audit.keep_format", description="Keep this version's formats.")
    parser.add_argument("name", help="release and commit, such as 0.1-03d2e43")
    out = FORMATS / parser.parse_args().name
    if out.exists():
        sys.stderr.write(f"{out} is there already: a kept format is never edited\n")
        return 2
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    FORMATS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="konsil-format-") as folder:
        made = Path(folder, "made")
        made.mkdir()
        write_format(Path(folder), made, out.name)
        shutil.copytree(made, out)
    size = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    sys.stderr.write(f"{out}: {size} bytes\n")
    return 0


def write_format(scratch: Path, out: Path, name: str) -> None:
    """Write all parts of a format into the empty folder `out`."""
    check_files()
    scripted, pair, walks = scratch / "coordinator", scratch / "pair", scratch / "walks"
    play_scripted(scripted)
    play_pair(pair)
    walks.mkdir()
    _check_walks(set(write_walks(walks)))
    for folder in (scripted, pair / "coordinator", walks):
        _checkpoint(folder / "journal.sqlite")
    # Reading a site's facts opens its spool, which is a start of the agent: a copy is read.
    shutil.copytree(pair, scratch / "read")
    for folder, file in ((scripted, "coordinator.zip"), (pair, "site.zip"), (walks, "walks.zip")):
        pack_folder(folder, out / file, leave=LEFT)
    words = wire_words()
    _write_words(scratch / "wire", words, out / "wire.zip")
    _export(scripted, out / "log.export")
    digests = _write_experiments(out / "experiments") | _digests_of_words(words)
    _write_json(out / "digests.json", digests)
    facts = {
        "coordinator": _journal_facts(scripted),
        "site": {
            "coordinator": _journal_facts(pair / "coordinator"),
            **{site: read_site_facts(scratch / "read" / site, site) for site in PAIR},
        },
        "walks": _journal_facts(walks),
        "log": read_log_facts(list(chain.read_export(out / "log.export"))),
    }
    _check_facts(facts)
    _write_json(out / "facts.json", facts)
    (out / "README.md").write_text(
        README.format(name=name, walks=len(facts["walks"]["experiments"]), missing=", ".join(sorted(NEVER_DECIDED))),
        "utf-8",
    )
    sums = {path: sha256(path.read_bytes()).hexdigest() for path in sorted(out.rglob("*")) if path.is_file()}
    lines = [f"{digest}  {path.relative_to(out)}\n" for path, digest in sums.items()]
    (out / "SHA256SUMS").write_text("".join(lines), "utf-8")
    assert sum(path.stat().st_size for path in sums) < MOST_BYTES


def _checkpoint(journal: Path) -> None:
    """Bring what a reader has kept in SQLite's write-ahead log into the database itself."""
    with closing(sqlite3.connect(journal)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _check_walks(met: set[str]) -> None:
    """The walks hold every kind of input, and of decision but `NEVER_DECIDED`."""
    decisions = {one.model_fields["decision"].default for one in typing.get_args(typing.get_args(d.AnyDecision)[0])}
    due = (decisions - NEVER_DECIDED) | set(WIRE) | set(OWN_KINDS)
    assert due <= met, due - met


def _journal_facts(folder: Path) -> dict[str, Any]:
    steps = replay_folder(folder)
    assert [step.problem for step in steps if not step.agrees] == []
    return read_journal_facts(folder) | {"aggregates": read_replay_facts(steps)}


def _check_facts(facts: dict[str, Any]) -> None:
    """What `half` and `paused` will come to is known: it is what `done` came to, which differs by its id alone."""
    found = facts["coordinator"]["experiments"]
    assert (found["half"]["phase"], found["half"]["round"]) == ("running", [2, ["site-a", "site-b"]])
    assert (found["paused"]["phase"], found["failed"]["phase"]) == ("paused", "failed")
    assert (found["aborted"]["phase"], found["selected"]["yields"]) == ("aborted", ["selected", 1])
    assert found["half"]["models"]["2"] == found["done"]["models"]["2"]
    pair = facts["site"]["coordinator"]["experiments"]
    assert pair["half"]["models"]["2"] == pair["done"]["models"]["2"]
    assert facts["site"]["site-a"]["jobs"]["half"]["phase"] == "sending"
    assert "weights-ready" in facts["site"]["site-a"]["waiting"]
    assert facts["site"]["site-b"]["jobs"]["half"]["phase"] == "training"


def _write_words(folder: Path, words: dict[str, bytes], out: Path) -> None:
    folder.mkdir()
    for name, raw in words.items():
        (folder / name).write_bytes(raw)
    pack_folder(folder, out)


def _digests_of_words(words: dict[str, bytes]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, raw in words.items():
        if name.startswith("experiment-start."):
            body = envelope.decode_event(raw).body
            assert isinstance(body, kinds.ExperimentStart)
            found[name] = Experiment.model_validate(body.experiment).digest()
    return found


def _write_experiments(folder: Path) -> dict[str, str]:
    folder.mkdir()
    digests: dict[str, str] = {}
    for name, content in FILES.items():
        (folder / name).write_text(content, "utf-8")
        read = experiment.read_experiment(folder / name)
        _write_json((folder / name).with_suffix(".json"), read.as_plain())
        digests[f"experiments/{name}"] = read.digest()
    assert digests["experiments/minimal.toml"] == digests["experiments/defaults-written.toml"]
    assert len(set(digests.values())) == len(digests) - 1
    return digests


def _export(folder: Path, out: Path) -> None:
    done = CliRunner().invoke(audit.app, ["export", "done", "--journal", str(folder), "--out", str(out)])
    assert done.exit_code == 0, done.output


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    raise SystemExit(main())
