"""What an auditor does with files alone: verify an exported log, prove one entry of it, find what led to a model."""

from __future__ import annotations

import re
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.console import JsonOption, emit_json, format_moment, note_line, say_line
from messages.chain import Entry
from messages.ground.errors import LogBroken, MalformedMessage, RequestError
from messages.ground.units import count_noun
from messages.log import exports, proofs
from messages.log.verification import LogVerdict, verify_export
from messages.trust.notes import Note, read_note

FileArgument = Annotated[Path, typer.Argument(metavar="FILE", help="An exported log.")]
OperatorOption = Annotated[
    str | None,
    typer.Option(
        "--operator", metavar="HEX", help="The operator's public key: 64 digits that you know from elsewhere."
    ),
]
HtmlOption = Annotated[Path | None, typer.Option("--html", metavar="FILE", help="Write a page for print, too.")]
VERIFIER = Path(__file__).parent.parent / "audit_verifier.py"


def read_operator(said: str | None) -> bytes | None:
    """The key that was named; RequestError where it is none."""
    if said is not None and re.fullmatch("[0-9a-f]{64}", said) is None:
        raise RequestError("is no public key: 64 hexadecimal digits", where="--operator")
    return None if said is None else bytes.fromhex(said)


def read_kept_head(path: Path | None) -> Note | None:
    """A head that was kept in a file; RequestError where it is none."""
    if path is None:
        return None
    try:
        return read_note(path.read_bytes())
    except OSError as error:
        raise RequestError(f"cannot be read ({error.strerror})", where=str(path)) from None
    except MalformedMessage as error:
        raise RequestError(f"is no signed head: {error.what}", where=str(path)) from None


def verify(
    file: FileArgument,
    head: Annotated[
        Path | None, typer.Option("--head", help="A head that somebody kept: `konsil site heads --out FILE`.")
    ] = None,
    operator: OperatorOption = None,
    html: HtmlOption = None,
    json_: JsonOption = False,
) -> None:
    """Check an exported log, with broker and network gone: no entry was changed, taken out, added or moved.

    Checked are each entry's hash and links, the tree over the whole journal, the coordinator's signed heads, the sites'
    cosignatures, the signatures of events, and the entries' times. A log without heads (no keys, or exported before
    there were any) is linked, and no more: who can write the whole file anew can write another history.

    Exit status 1: the log was altered, and the first entry concerned is named; or its times contradict the sites'
    clocks.

    Examples:

    konsil audit verify log.konsil

    konsil audit verify log.konsil --operator 5c3f... --head site-a.head --html evidence.html
    """
    from coordinator.record.clocks import SiteClocks, StepTimes, read_times
    from deploy.cli.replay import check_times

    clocks, unread = SiteClocks(), 0

    def look(entry: Entry, times: StepTimes | None) -> None:
        nonlocal unread
        unread += not check_times(entry, times, clocks)

    verdict = LogVerdict()
    try:
        verify_export(file, read_operator(operator), read_kept_head(head), look, read_times, verdict=verdict)
    except LogBroken as error:
        if html is not None:
            _write_evidence(html, file, verdict, [], head, f"{error.where}: {error.what}".replace(str(file), file.name))
        raise
    said, last = clocks.judge(), verdict.last
    told = [*said.lines(), *tell_jumps(verdict), *tell_revoked(verdict), *tell_views(verdict), *tell_behind(verdict)]
    if html is not None:
        _write_evidence(html, file, verdict, told, head)
    if last is None:
        raise LogBroken("the log holds no entry", where=str(file))
    if json_:
        emit_json(
            {
                "file": str(file),
                "verified": said.agrees,
                "entries": verdict.counts,
                "last": {"hash": last.hash.hex(), "number": last.number, "time": last.time},
                "times": {**said.as_plain(), "entries_not_read": unread},
                "heads": [
                    {"size": one.head.size, "root": one.head.root.hex(), "witnesses": one.witnesses}
                    for one in verdict.heads
                ],
                "uncovered": verdict.uncovered,
                "term_jumps": [{"entry": one.entry, "before": one.before, "term": one.term} for one in verdict.jumps],
                "revoked": [asdict(one) for one in verdict.revoked],
                "views": [asdict(one) for one in verdict.views],
                "behind": verdict.behind,
                "signed_events": verdict.signed,
                "unsigned_events": verdict.unsigned,
                "operator_checked": verdict.pinned and verdict.register is not None,
                "kept_head": None if head is None else "agrees",
            }
        )
    else:
        for experiment, count in verdict.counts.items():
            say_line(f"{experiment}: {count_noun(count, 'entry')}, each as it was written")
        for line in [*told, *tell_heads(verdict)]:
            say_line(line)
        if head is not None:
            say_line("the head that was kept is one of this log's")
        if unread:
            say_line(f"the times in {unread} entries were not checked: a newer version wrote them")
        say_line(f"last entry: journal number {last.number}, {format_moment(last.time)}, hash {last.hash.hex()}")
    raise typer.Exit(0 if said.agrees else 1)


def _write_evidence(
    html: Path, file: Path, verdict: LogVerdict, times: list[str], kept: Path | None, problem: str = ""
) -> None:
    from deploy.report.evidence import render_evidence_page
    from deploy.report.page import write_page

    write_page(html, render_evidence_page(file, verdict, problem=problem, times=times, kept=kept))
    note_line(f"{html}: a page for print")


def tell_jumps(verdict: LogVerdict) -> list[str]:
    """Terms of the coordinator that do not follow, in lines for people."""
    return [
        f"journal number {one.entry}: the coordinator's term went from {one.before} to {one.term}: its journal was "
        "restored or cut, or another one wrote on"
        for one in verdict.jumps
    ]


def tell_revoked(verdict: LogVerdict) -> list[str]:
    """Keys that were revoked, by which entry, in lines for people."""
    return [
        f"journal number {one.entry}: the operator revokes the key {one.key[:16]} of {one.name}, from "
        f"{format_moment(one.since)} on"
        for one in verdict.revoked
    ]


def tell_views(verdict: LogVerdict) -> list[str]:
    """Sites that were shown something else than the log has, in lines for people."""
    told = {
        "opening": "answers an opening of round {} that this log does not hold",
        "model": "began round {} with another model than this log names",
    }
    return [
        f"journal number {one.entry}: {one.site} {told[one.what].format(one.round)}: it was shown something else, or "
        "says so"
        for one in verdict.views
    ]


def tell_behind(verdict: LogVerdict) -> list[str]:
    """Sites that do not witness, and since when, in lines for people."""
    lines = []
    for site, size in verdict.behind.items():
        time = next((one.witnesses[site] for one in verdict.heads if one.head.size == size and size), None)
        since = "any head" if time is None else f"since the head of {size} entries ({format_moment(time)})"
        lines.append(f"{site} has not witnessed {since}")
    return lines


def tell_heads(verdict: LogVerdict) -> list[str]:
    """What the heads and signatures say, in lines for people."""
    newest = verdict.newest
    if newest is None:
        return ["no signed heads: the entries are linked, and nobody has signed that these are all"]
    by = ", ".join(f"{site} ({format_moment(time)})" for site, time in sorted(newest.witnesses.items()))
    lines = [f"complete to {newest.head.size}, witnessed by {by or 'nobody'}"]
    if not newest.witnesses and (seen := [one for one in verdict.heads if one.witnesses]):
        by = ", ".join(sorted(seen[-1].witnesses))
        lines.append(f"the head before, of {seen[-1].head.size} entries, is witnessed by {by}")
    lines.append(f"{count_noun(len(verdict.heads), 'signed head')}, each with the root of the entries that it covers")
    if verdict.uncovered:
        lines.append(
            f"{count_noun(verdict.uncovered, 'entry')} behind the newest head: linked, and signed by no head yet"
        )
    if verdict.signed:
        lines.append(f"{count_noun(verdict.signed, 'event')} with signatures that hold")
    if verdict.unsigned:
        lines.append(f"{count_noun(verdict.unsigned, 'event')} without a signature")
    if not verdict.pinned:
        lines.append(
            "whose keys these are says the register in the log; --operator HEX holds it against the operator's key"
        )
    return lines


def prove(
    file: FileArgument,
    entry: Annotated[
        int, typer.Argument(metavar="ENTRY", help="Its number within the experiment, as `replay` shows it.")
    ],
    out: Annotated[Path, typer.Option("--out", help="The file to write.")],
    json_: JsonOption = False,
) -> None:
    """Write a proof that one entry is in the log, which shows nothing of the others.

    The proof is the entry, hashes up to the root, the signed head, and the register with the coordinator's key.

    Example: konsil audit prove log.konsil 42 --out entry-42.proof
    """
    import json

    from messages.ground.durable import replace_file

    verify_export(file)
    if exports.read_form(file) != exports.FORM:
        raise RequestError("the log has no signed heads to prove by", where=str(file))
    proof = proofs.prove_entry(file, entry)
    try:
        replace_file(out, json.dumps(proof, indent=1).encode() + b"\n")
    except OSError as error:
        raise RequestError(f"cannot be written ({error.strerror})", where=str(out)) from None
    if json_:
        emit_json({"file": str(out), "entry": entry, "hashes": len(proof["path"])})
    else:
        say_line(f"{out}: entry {entry} with {count_noun(len(proof['path']), 'step')}")


def verify_proof(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `konsil audit prove` wrote.")],
    operator: OperatorOption = None,
    json_: JsonOption = False,
) -> None:
    """Check a proof of one entry, and tell what the entry says. Exit status 1: it does not hold.

    Example: konsil audit verify-proof entry-42.proof --operator 5c3f...
    """
    from coordinator.record.story import tell_entry

    proven = proofs.verify_proof(file, read_operator(operator))
    entry = proven.entry
    who, what = tell_entry(entry)
    witnesses = dict(sorted(proven.witnesses.items()))
    if json_:
        emit_json(
            {
                "experiment": entry.experiment,
                "entry": entry.index,
                "number": entry.number,
                "time": entry.time,
                "who": who,
                "what": what,
                "size": proven.size,
                "witnesses": witnesses,
                "operator_checked": proven.pinned,
            }
        )
        return
    say_line(f"entry {entry.index} of {entry.experiment} (journal number {entry.number}), {format_moment(entry.time)}")
    say_line(f"  {who}: {what}")
    say_line(f"  it is in the log of {proven.size} entries, witnessed by {', '.join(witnesses) or 'nobody'}")
    if not proven.pinned:
        say_line(
            "  whose keys these are says the register in the proof: --operator HEX holds it against the operator's"
        )


def lineage(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model's digest, or its first 12 digits or more.")],
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Exported logs.")],
    html: HtmlOption = None,
    json_: JsonOption = False,
) -> None:
    """List what led to a model: rounds, sites with their cases and versions, and the model that it began with.

    Each log is verified first. Give the logs of earlier experiments along where a model began with theirs.

    Example: konsil audit lineage 3f2a9c81d07b log.konsil pretraining.konsil
    """
    from coordinator.record import lineage as lineages

    entries = []
    for path in files:
        verify_export(path)
        entries += list(exports.read_entries(path))
    steps = lineages.trace_model(model.lower(), lineages.read_made(entries))
    if html is not None:
        from deploy.report.evidence import render_lineage_page
        from deploy.report.page import write_page

        write_page(html, render_lineage_page(model, steps, files))
        note_line(f"{html}: a page for print")
    if json_:
        emit_json({"model": model, "lineage": steps})
    else:
        for line in lineages.tell_lineage(steps):
            say_line(line)


def verifier() -> None:
    """Print the standalone verifier: one file for Python and its package `cryptography`, which you can read whole.

    Example: konsil audit verifier > verify.py; python verify.py log.konsil
    """
    typer.echo(VERIFIER.read_text("utf-8"), nl=False)


def compare_exports(first: Path, second: Path) -> dict[str, Any]:
    """Two views of one log: how much is the same, and the first place where they disagree ("" where they do not).

    Raises:
        LogBroken: one of them does not hold.
        RequestError: they are not of one experiment.
    """
    views = [verify_export(first), verify_export(second)]
    logs = [list(exports.read_entries(path)) for path in (first, second)]
    if {one.experiment for one in logs[0]} != {one.experiment for one in logs[1]}:
        raise RequestError("the two logs are of different experiments", where=f"{first}, {second}")
    heads = [{one.head.size: one.head.root for one in view.heads} for view in views]
    forks = [size for size in sorted(heads[0]) if size in heads[1] and heads[0][size] != heads[1][size]]
    same, found = 0, ""
    for one, other in zip(*logs, strict=False):
        if one != other:
            mine, theirs = one.hash.hex()[:16], other.hash.hex()[:16]
            found = f"entry {one.index} of {one.experiment}: {first} has {mine}, {second} {theirs}"
            break
        same += 1
    if forks:
        found = (found and found + "; ") + f"the coordinator signed two heads of {forks[0]} entries: a forked log"
    longer = {str(path): len(log) - same for path, log in zip((first, second), logs, strict=True) if len(log) > same}
    return {"agrees": not found, "same": same, "first": found, "further": {} if found else longer}
