"""`konsil audit`: replay, verify, export. What trained which model, and that nobody altered the record."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.cli import evidence
from deploy.cli.experiment import checked_id
from deploy.console import JsonOption, emit_json, note_line, say_line, show_working
from deploy.session import profile as profiles
from deploy.session.profile import ProfileOption
from messages import chain
from messages.chain import Entry
from messages.ground.errors import RequestError
from messages.ground.units import count_noun
from messages.log import exports

app = typer.Typer(no_args_is_help=True)

IdArgument = Annotated[str, typer.Argument(metavar="ID", help="The experiment's id.")]
FromBroker = Annotated[bool, typer.Option("--from-broker", help="Read the broker's `audit` stream.")]
BlobsOption = Annotated[
    Path | None,
    typer.Option("--blobs", help="Where stored models and updates lie: a coordinator's state folder, or its `blobs`."),
]
JournalOption = Annotated[
    Path | None, typer.Option("--journal", help="The coordinator's state folder (on its machine).")
]


@app.callback()
def _group() -> None:
    """The event log: every decision and every aggregate, derived anew."""


@dataclass(frozen=True, slots=True)
class LogSource:
    """Where a log was read from; `blobs` is the folder of stored models and updates, if there is one."""

    where: str
    entries: list[Entry]
    blobs: Path | None = None


def read_source(
    identity: str | None, profile: Path | None, from_broker: bool, journal: Path | None, file: Path | None
) -> LogSource:
    """The entries of one experiment (of all, without an id), as their source holds them.

    One of the three is read: an exported file, a journal (named, or by the profile), the broker.

    Raises:
        RequestError: more than one source is named; the source knows no such experiment.
        LogBroken: the journal or file cannot be read to its end.
    """
    if sum((from_broker, journal is not None, file is not None)) > 1:
        raise RequestError("more than one source", advice="Give --from-broker, or --journal, or a file")
    if file is not None:
        beside = file.parent / "blobs"
        kept = beside if identity is not None and (beside / identity).is_dir() else None
        source = LogSource(str(file), _entries_of(exports.read_entries(file), identity), kept)
    else:
        folder = journal
        if folder is None and not from_broker:
            folder = profiles.load_profile(profile).journal
        source = _from_journal(folder, identity) if folder is not None else _from_broker(identity, profile)
    if identity is not None and not source.entries:
        raise RequestError(f"no experiment {identity!r} in this log", where=source.where)
    return source


def _find_blobs(folder: Path, identity: str) -> Path:
    """The folder of blobs that was named: itself, or the one in a state folder; RequestError where it is none."""
    for place in (folder, folder / "blobs"):
        if (place / identity).is_dir():
            return place
    raise RequestError(
        f"holds no models and updates of {identity!r}",
        where=str(folder),
        advice="Name the coordinator's state folder, or a copy of its folder `blobs`",
    )


def _entries_of(entries: Iterator[Entry], identity: str | None) -> list[Entry]:
    return [entry for entry in entries if identity is None or entry.experiment == identity]


def _from_journal(folder: Path, identity: str | None) -> LogSource:
    from coordinator.record.journal import open_readonly

    base = folder if folder.is_dir() else folder.parent
    blobs = base / "blobs"
    return LogSource(str(folder), _entries_of(open_readonly(folder), identity), blobs if blobs.is_dir() else None)


def _from_broker(identity: str | None, profile: Path | None) -> LogSource:
    from deploy.session.connection import open_session
    from deploy.session.history import read_audit

    with open_session(profile) as opened:
        entries = read_audit(opened, identity)
        if opened.malformed:
            note_line(f"konsil: {opened.malformed} messages in `audit` are no entries, or not the coordinator's")
    return LogSource("the broker's audit stream", entries)


@app.command()
def replay(
    identity: IdArgument,
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="An exported log.")] = None,
    from_broker: FromBroker = False,
    journal: JournalOption = None,
    blobs: BlobsOption = None,
    profile: ProfileOption = None,
    json_: JsonOption = False,
) -> None:
    """Tell an experiment's story from its log, and derive every decision and every aggregate anew.

    For each round: recomputed (from the stored updates), digest only (the updates were not kept, or are not here), or
    missing; and whether it agrees. The stored updates are taken from --blobs, from the journal's folder, or from a
    folder `blobs` beside FILE. Exit status 0: all agrees; 1: something does not, and it is named.

    Examples:

    konsil audit replay glioma-unet3d-01 --journal /var/lib/konsil

    konsil audit replay glioma-unet3d-01 log.konsil

    konsil audit replay glioma-unet3d-01 --from-broker
    """
    from deploy.cli import replay as cli_replay
    from deploy.session.history import find_described

    with show_working("reading the log"):
        source = read_source(checked_id(identity), profile, from_broker, journal, file)
    kept = source.blobs if blobs is None else _find_blobs(blobs, identity)
    verdict = cli_replay.replay_log(source.entries, kept, None if json_ else say_line)
    if json_:
        described = find_described(source.entries, identity)
        plain = described.as_plain() if described is not None else None
        emit_json({"experiment": identity, "source": source.where, **verdict.as_plain(), "file": plain})
    else:
        say_line(verdict.summary_line(identity))
    raise typer.Exit(0 if verdict.agrees else 1)


app.command()(evidence.verify)
app.command()(evidence.prove)
app.command("verify-proof")(evidence.verify_proof)
app.command()(evidence.lineage)
app.command()(evidence.verifier)


@app.command()
def compare(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An exported log.")],
    ledgers: Annotated[
        list[Path],
        typer.Argument(
            metavar="LEDGER...", help="What `konsil site ledger --json` gave; or another export of the log."
        ),
    ],
    json_: JsonOption = False,
) -> None:
    """Hold the sites' own records of what they sent against the coordinator's log: each event and update by its digest.

    A site that disagrees is named, with what the two say. Which of the two is right, neither proves where events are
    not signed. Another export is compared entry by entry and head by head, and the first disagreement is named.
    Exit status 1: they disagree.

    Examples:

    konsil audit compare log.konsil site-a.json site-b.json

    konsil audit compare log-at-site-a.konsil log-at-site-b.konsil
    """
    from deploy.cli import ledgers as site_ledgers

    others = [path for path in ledgers if exports.read_form(path)]
    if others:
        _compare_views(file, others, json_)
        if others == ledgers:
            return
    ledgers = [path for path in ledgers if path not in others]
    read = [site_ledgers.read_ledger_file(path) for path in ledgers]
    log = site_ledgers.LogOfSites(chain.verify(exports.read_entries(file)))
    found = [site_ledgers.compare_ledger(one, log) for one in read]
    silent = sorted(site for site in log.sites if site not in {one.site for one in found})
    agrees = not any(one.wrong for one in found)
    if json_:
        plain = {one.site: one.as_plain() for one in found}
        emit_json({"file": str(file), "agrees": agrees, "sites": plain, "without_ledger": silent})
    else:
        for one in found:
            say_line(one.summary_line())
            for line in one.wrong:
                say_line(f"  {line}")
        if silent:
            say_line(f"no ledger was given of: {', '.join(silent)}")
    raise typer.Exit(0 if agrees else 1)


@app.command()
def commitments(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An exported log.")],
    proofs: Annotated[
        list[Path], typer.Argument(metavar="PROOF...", help="What `konsil site commitments --out` wrote.")
    ],
    json_: JsonOption = False,
) -> None:
    """Check under which policy, and with which data, sites took part: what they show is what they committed to.

    Exit status 1: a text is not what the site committed to in the log as it joined.

    Example: konsil audit commitments log.konsil site-a.proof.json --json
    """
    from deploy.site import record as site_record

    read = [site_record.read_proof(path) for path in proofs]
    logged = site_record.committed_in(chain.verify(exports.read_entries(file)))
    rows = [row for one in read for row in site_record.check_proof(one, logged) if _is_told(row, logged)]
    holds = bool(rows) and all(row["holds"] for row in rows)
    if json_:
        emit_json({"file": str(file), "holds": holds, "commitments": rows})
    else:
        for row in rows:
            said = "is what the site joined with" if row["holds"] else f"does NOT hold: {row['why']}"
            say_line(f"{row['experiment']}, {row['site']}, {row['kind']} {row['digest'][:16]}: {said}")
        if not rows:
            say_line("the proofs are of no experiment in this log")
    raise typer.Exit(0 if holds else 1)


def _is_told(row: dict[str, Any], logged: Mapping[tuple[str, str], object]) -> bool:
    """Whether the log has the experiment: of others it cannot say anything."""
    return any(experiment == row["experiment"] for experiment, _site in logged)


@app.command()
def export(
    identity: IdArgument,
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    from_broker: FromBroker = False,
    journal: JournalOption = None,
    profile: ProfileOption = None,
    json_: JsonOption = False,
) -> None:
    """Write one experiment's log to one file that verifies without broker, journal or network.

    Where the coordinator signs heads of its log, the file holds them with the sites' cosignatures, and what proves that
    its entries are in the log.

    Example: konsil audit export glioma-unet3d-01 --out log.konsil
    """
    from coordinator.record.evidence import write_evidence

    with show_working("reading the log"):
        source = read_source(None, profile, from_broker, journal, None)
        count, newest, last = write_evidence(out, source.entries, checked_id(identity))
    if last is None:
        raise RequestError(f"no experiment {identity!r} in this log", where=source.where)
    head = last.hash.hex()
    if json_:
        emit_json(
            {
                "experiment": identity,
                "file": str(out),
                "entries": count,
                "source": source.where,
                "last_hash": head,
                "head": newest or None,
            }
        )
    else:
        proven = f", proven by a signed head of {newest}" if newest else ", without signed heads"
        say_line(f"{out}: {count_noun(count, 'entry')}, last hash {head}{proven}")


def _compare_views(file: Path, others: list[Path], json_: bool) -> None:
    """Compare an export with others of the same log; exit status 1 where one disagrees."""
    found = {str(other): evidence.compare_exports(file, other) for other in others}
    if json_:
        emit_json({"file": str(file), "agrees": all(one["agrees"] for one in found.values()), "exports": found})
    else:
        for name, one in found.items():
            longer = "".join(f"; {path} goes on for {more}" for path, more in one["further"].items())
            agreed = f"agree on {count_noun(one['same'], 'entry')}{longer}"
            say_line(f"{name}: {agreed if one['agrees'] else 'DISAGREE, first at ' + one['first']}")
    if not all(one["agrees"] for one in found.values()):
        raise typer.Exit(1)
