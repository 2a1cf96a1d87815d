"""Backup of a coordinator's state while it runs, and restore from it.

A backup is a folder: `journal.sqlite` (SQLite's online backup of one moment), `blobs/` (what that journal needs to go
on), `models/` (what the operator put in), and `backup.json`, written last, so that a folder without it is an unfinished
one. What is restored goes on under a term of its own (`salvage`).
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from coordinator.core import decisions as d
from coordinator.core.effects import needed_blobs
from coordinator.core.evolve import evolve
from coordinator.core.state import ExperimentState
from coordinator.record.journal import STEP
from coordinator.record.journal_file import open_reader, open_readonly
from coordinator.record.recovery import read_step, recover_states
from coordinator.record.salvage import raise_term
from coordinator.work.blobs import Blobs
from coordinator.work.given_models import FOLDER
from coordinator.work.strategies.table import strategy_of
from messages.chain import Entry
from messages.ground.clock import Clock, SystemClock
from messages.ground.durable import keep_file, sync_to_disk
from messages.ground.errors import RequestError, WorkFailed
from messages.tensors.layout import Manifest

FORMAT = 1
TRIES = 5
PAGES = 1024
"""SQLite pages (4 KiB) between two reports of progress."""

Show = Callable[[str, int, int], None]
"""(what, done, of)"""
Wanted = dict[tuple[str, str], Manifest]
"""(experiment, seal) → how the blob is laid out."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a backup holds."""

    entries: int
    experiments: int
    blobs: int
    bytes: int
    missing: tuple[str, ...] = ()
    """Blobs that the journal needs and the state folder does not have."""


def backup(state: Path, out: Path, show: Show = lambda *_: None, *, clock: Clock = SystemClock()) -> Summary:
    """Copy a coordinator's state; it may be running. What an interrupted backup to `out` has copied is used again.

    Raises:
        RequestError: there is no journal, or `out` holds a finished backup or something else.
        WorkFailed: it cannot be written; or the coordinator prunes faster than can be copied.
        LogBroken: what was copied does not verify.
    """
    source = state / "journal.sqlite"
    if not source.is_file():
        raise RequestError("there is no journal", where=str(state), advice="Name the coordinator's configuration")
    if out.exists():
        raise RequestError("is there already", where=str(out), advice="Name a new folder for each backup")
    part = out.with_name(out.name + ".part")
    try:
        part.mkdir(parents=True, exist_ok=True)
        for tried in range(TRIES):
            _take_snapshot(source, part / "journal.sqlite", show)
            wanted = _wanted_blobs(part)
            missing = _copy_blobs(state / "blobs", part / "blobs", wanted, show)
            if not missing or tried == TRIES - 1:
                break  # else the coordinator has pruned in between: the next snapshot does not need them
        _drop_others(part / "blobs", wanted)
        _copy_given(state, part)
        verify_backup(part, wanted, show, missing)
        summary = _sum_up(part, wanted, missing)
        _write_description(part, summary, clock.wall())
        keep_file(part, out)
    except OSError as error:
        raise WorkFailed(
            f"the backup cannot be written ({error.strerror})",
            where=str(out),
            advice="Free space there; the same command goes on with what is copied",
        ) from None
    return summary


def restore(saved: Path, state: Path, show: Show = lambda *_: None, *, clock: Clock = SystemClock()) -> Summary:
    """Make a backup a coordinator's state, under a term of its own. The journal comes last: half a restore is none.

    Raises:
        RequestError: `saved` is no finished backup, or the state folder has a journal.
        LogBroken, WorkFailed: the backup is damaged, or cannot be copied.
    """
    if not (saved / "backup.json").is_file():
        raise RequestError("is no finished backup", where=str(saved), advice="Use `konsil coordinator backup`")
    place = state / "journal.sqlite"
    if place.exists():
        raise RequestError(
            "a journal is there already", where=str(state), advice="Stop the coordinator and move its state folder away"
        )
    try:
        wanted = _wanted_blobs(saved)
        missing = [name for name in _blob_names(wanted) if not (saved / "blobs" / name).is_file()]
        verify_backup(saved, wanted, show, missing)
        state.mkdir(parents=True, exist_ok=True)
        _copy_blobs(saved / "blobs", state / "blobs", wanted, show)
        _copy_given(saved, state)
        for beside in ("journal.sqlite-wal", "journal.sqlite-shm", "journal.head"):
            (state / beside).unlink(missing_ok=True)
        fresh = state / "journal.sqlite.part"
        shutil.copyfile(saved / "journal.sqlite", fresh)
        raise_term(fresh, clock)
        keep_file(fresh, place)
    except OSError as error:
        raise WorkFailed(f"cannot be restored ({error.strerror})", where=str(state)) from None
    return _sum_up(saved, wanted, missing)


def verify_backup(folder: Path, wanted: Wanted, show: Show = lambda *_: None, missing: Iterable[str] = ()) -> None:
    """Read a backup again: the chain entry by entry, each blob against the seal that it is named by.

    Raises:
        LogBroken: an entry was changed or is missing.
        WorkFailed: a blob is not what its name says.
    """
    for _entry in open_readonly(folder):
        pass
    gone, blobs = set(missing), Blobs(folder / "blobs")
    for done, ((experiment, seal), manifest) in enumerate(wanted.items(), 1):
        if f"{experiment}/{seal}" not in gone and not blobs.is_intact(experiment, seal, manifest):
            raise WorkFailed("a blob is not what its name says", where=str(blobs.path_of(experiment, seal)))
        show("verified", done, len(wanted))


def _take_snapshot(source: Path, out: Path, show: Show) -> None:
    """SQLite's online backup (https://sqlite.org/backup.html) of one moment: the reading transaction holds it still."""
    out.unlink(missing_ok=True)
    with contextlib.closing(open_reader(source)) as db, contextlib.closing(sqlite3.connect(out)) as copy:
        db.execute("BEGIN")
        db.execute("SELECT count(*) FROM meta").fetchone()
        db.backup(copy, pages=PAGES, progress=lambda _status, left, total: show("journal", total - left, total))
        copy.execute("PRAGMA journal_mode = DELETE")  # one file, without a log beside it
    sync_to_disk(out)


def _wanted_blobs(folder: Path) -> Wanted:
    """What the journal in a folder needs of blobs, as far as they must be there."""
    entries = list(open_readonly(folder))
    known = _describe_blobs(entries)
    wanted: Wanted = {}
    for name, state in sorted(recover_states(entries).items()):
        for seal in sorted(needed_blobs(state) - _under_way(state)):
            if (name, seal) in known:
                wanted[name, seal] = known[name, seal]
    return wanted


def _under_way(state: ExperimentState) -> set[str]:
    """Updates that are announced and not here yet."""
    parts = state.round.parts.values() if state.round is not None else ()
    return {part.update.seal for part in parts if part.update is not None and not part.stored}


def _describe_blobs(entries: Iterable[Entry]) -> Mapping[tuple[str, str], Manifest]:
    """How each blob that the entries name is laid out."""
    known: dict[tuple[str, str], Manifest] = {}
    states: dict[str, ExperimentState | None] = {}
    for entry in entries:
        if entry.type != STEP:
            continue
        for one in read_step(entry)[1]:
            state = states[entry.experiment] = evolve(states.get(entry.experiment), one)
            if state is None or state.manifest is None:
                continue
            if isinstance(one, d.InitialModel | d.RoundCompleted):
                if one.seal:  # none where each site has a model of its own
                    known[state.id, one.seal] = state.manifest
                if one.wire is not None:
                    known[state.id, one.wire] = state.manifest.in_codec(state.codec.model)
                for own in one.own.values() if isinstance(one, d.RoundCompleted) else ():
                    known[state.id, own.seal] = state.manifest
                    if own.wire is not None:
                        known[state.id, own.wire] = state.manifest.in_codec(state.codec.model)
                remembered = strategy_of(state.experiment.plan.strategy).memory(state.manifest)
                if isinstance(one, d.RoundCompleted) and one.memory is not None and remembered is not None:
                    known[state.id, one.memory] = remembered
            elif isinstance(one, d.UpdateAnnounced) and state.update_manifest is not None:
                known[state.id, one.seal] = state.update_manifest.model_copy(update={"chunk_bytes": one.chunk_bytes})
    return known


def _blob_names(wanted: Wanted) -> Iterator[str]:
    return (f"{experiment}/{seal}" for experiment, seal in wanted)


def _copy_blobs(source: Path, out: Path, wanted: Wanted, show: Show) -> list[str]:
    """Copy the blobs that are not there yet; returns those that the source does not have."""
    missing: list[str] = []
    # What is pruned next is copied first: the newest files.
    for done, ((experiment, seal), manifest) in enumerate(reversed(wanted.items()), 1):
        place = out / experiment / seal
        if not (place.is_file() and place.stat().st_size == manifest.nbytes):
            place.parent.mkdir(parents=True, exist_ok=True)
            part = place.with_name(f"{seal}.copy")
            try:
                shutil.copyfile(source / experiment / seal, part)
            except FileNotFoundError:
                missing.append(f"{experiment}/{seal}")
                continue
            sync_to_disk(part)
            os.replace(part, place)
        show("blobs", done, len(wanted))
    return missing


def _copy_given(source: Path, out: Path) -> None:
    """Copy the models that the operator put in. Each is named by its digest, and whoever reads it compares that."""
    for path in sorted((source / FOLDER).glob("*.safetensors")):
        place = out / FOLDER / path.name
        place.parent.mkdir(exist_ok=True)
        part = place.with_name(f"{path.name}.copy")
        shutil.copyfile(path, part)
        keep_file(part, place)


def _drop_others(folder: Path, wanted: Wanted) -> None:
    """What an earlier try has copied and this snapshot does not need."""
    names = set(_blob_names(wanted))
    for path in list(folder.glob("*/*")):
        if f"{path.parent.name}/{path.name}" not in names:
            path.unlink()


def _sum_up(folder: Path, wanted: Wanted, missing: Iterable[str]) -> Summary:
    entries = sum(1 for _ in open_readonly(folder))
    gone = tuple(missing)
    return Summary(
        entries=entries,
        experiments=len({experiment for experiment, _seal in wanted}),
        blobs=len(wanted) - len(gone),
        bytes=sum(manifest.nbytes for manifest in wanted.values()),
        missing=gone,
    )


def _write_description(folder: Path, summary: Summary, now: float) -> None:
    path = folder / "backup.json"
    content = {"format": FORMAT, "entries": summary.entries, "time": now, "missing": list(summary.missing)}
    path.write_bytes(json.dumps(content, indent=1).encode() + b"\n")
    sync_to_disk(path)
