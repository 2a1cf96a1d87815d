"""Pages that an auditor prints: what a verified log shows, and what led to a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

from coordinator.record.lineage import say_privacy
from deploy.report.html import NOTHING, format_count, make_definitions, make_table
from deploy.report.page import frame_page
from messages.ground.units import count_noun, human_moment
from messages.log.verification import HeadCheck, LogVerdict
from messages.trust.keys import say_fingerprint

SHOWN = 20
"""Heads in the table, the newest ones; the others are counted."""
NOT_SHOWN = (
    "that a site said the truth: its cases and scores are its own word, which it signed",
    "that coordinator, operator and all witnesses did not act together",
    "what came behind the newest head",
)


def render_evidence_page(
    file: Path, verdict: LogVerdict, *, problem: str = "", times: Sequence[str] = (), kept: Path | None = None
) -> str:
    """What a verification found, as text of a page.

    Args:
        verdict: where the log does not hold, what was found before that place.
        problem: the first entry that does not hold, and why; "": the log holds.
        times: what is to be said of the entries' times.
        kept: the file of a head that the log was held against.
    """
    sections = [
        ("First bad entry", f"<p><strong>{escape(problem)}</strong></p>" if problem else ""),
        ("What was checked", _checks_section(verdict, problem, times, kept)),
        ("File", _file_section(file, verdict)),
        ("Signatures of events", _parties_section(verdict)),
        ("Heads and witnesses", _heads_section(verdict)),
        ("Keys", _keys_section(verdict)),
        ("Times", _list(times)),
        ("Not proven", _list(NOT_SHOWN)),
        ("How to check this without Konsil", _again_section(file, kept)),
    ]
    return frame_page(f"Evidence: {', '.join(verdict.counts) or file.name}", _lead(verdict, problem), sections)


def _lead(verdict: LogVerdict, problem: str) -> str:
    if problem:
        return f"This log was altered, or is not whole. Before that place {_count_entries(verdict)} hold."
    newest = verdict.newest
    if newest is None:
        return "Each entry is as it was written. Nobody has signed that these are all: the log has no signed heads."
    by = ", ".join(f"{site} ({human_moment(time)})" for site, time in sorted(newest.witnesses.items()))
    return f"Each entry is as it was written. Complete to {newest.head.size}, witnessed by {by or 'nobody'}."


def _count_entries(verdict: LogVerdict) -> str:
    return count_noun(sum(verdict.counts.values()), "entry")


def _checks_section(verdict: LogVerdict, problem: str, times: Sequence[str], kept: Path | None) -> str:
    held = "holds up to the bad entry" if problem else "holds"
    heads = held if verdict.heads else "no signed heads"
    kept_head = NOTHING if kept is None else "not reached" if problem else "is one of this log's"
    signed = f"{held}: {format_count(verdict.signed, 'event')}" if verdict.signed else "no event is signed"
    witnessed = sum(1 for one in verdict.heads if one.witnesses)
    rows = [
        ["Chain: each entry's hash, and its link to the one before", held],
        ["Tree over the whole journal (RFC 9162)", heads],
        ["Heads that the coordinator signed", f"{held}: {len(verdict.heads)}" if verdict.heads else "none"],
        ["Sites that cosigned heads", f"{held}: under {witnessed} of {len(verdict.heads)}" if witnessed else "nobody"],
        ["Signatures of events", signed],
        ["Registers: none goes back behind the one before", held if verdict.register else "no register"],
        ["The operator's key", _say_operator(verdict)],
        ["Times of entries", "see below" if times else held],
        ["A head that somebody kept", kept_head],
    ]
    return make_table("Checks", ["Check", "Result"], rows, words={0, 1})


def _say_operator(verdict: LogVerdict) -> str:
    if not verdict.pinned:
        return "not given: as the log says"
    return "is the one that was given" if verdict.register else "no register to hold the given one against"


def _file_section(file: Path, verdict: LogVerdict) -> str:
    last, newest = verdict.last, verdict.newest
    pairs = [("File", file.name), ("SHA-256", _digest_file(file)), ("Checked with", f"Konsil {version('konsil')}")]
    pairs += [("Experiment", f"{name}: {count_noun(count, 'entry')}") for name, count in verdict.counts.items()]
    if last is not None:
        pairs.append(("Last entry", f"journal number {last.number}, {human_moment(last.time)}, hash {last.hash.hex()}"))
    if newest is not None:
        pairs.append(("Newest head", f"{newest.head.size} entries, root {newest.head.root.hex()}"))
        pairs.append(("Behind the newest head", count_noun(verdict.uncovered, "entry")))
    return make_definitions(pairs)


def _digest_file(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _parties_section(verdict: LogVerdict) -> str:
    register = verdict.register
    rows = []
    for party, (signed, unsigned) in sorted(verdict.by_party.items()):
        role = None if register is None else register.role_of(party)
        rows.append([party, role or "not in the register", str(signed), str(unsigned)])
    if not rows:
        return ""
    head = ["Party", "Role", "Signed, and holding", "Without a signature"]
    return make_table("Events by sender", head, rows, words={1})


def _heads_section(verdict: LogVerdict) -> str:
    if not verdict.heads:
        return "<p>The log has no signed heads.</p>"
    shown = verdict.heads[-SHOWN:]
    rows = [
        [str(one.head.size), one.head.root.hex()[:24] + "…", ", ".join(sorted(one.witnesses)) or "nobody", _span(one)]
        for one in reversed(shown)
    ]
    more = len(verdict.heads) - len(shown)
    rest = f"<p class=note>and {format_count(more, 'older head')}, which were checked too.</p>" if more else ""
    head = ["Entries", "Root", "Witnesses", "By their clocks"]
    return make_table("Newest first", head, rows, words={1, 2, 3}) + rest


def _span(one: HeadCheck) -> str:
    """When witnesses cosigned a head: the first and the last one."""
    times = sorted(one.witnesses.values())
    return " to ".join(dict.fromkeys(human_moment(time) for time in (times[0], times[-1]))) if times else NOTHING


def _keys_section(verdict: LogVerdict) -> str:
    register = verdict.register
    if register is None:
        return ""
    rows = [
        [
            one.name,
            one.role,
            f"{human_moment(one.since)[:10]} to {human_moment(one.until)[:10]}".replace("no date", "without end"),
            NOTHING if one.revoked is None else human_moment(one.revoked),
            say_fingerprint(one.public),
        ]
        for one in sorted(register.keys, key=lambda one: (one.name, one.since))
    ]
    caption = f"The operator's register {register.serial}: signatures are {register.signatures}"
    return make_table(caption, ["Party", "Role", "Good", "Revoked", "Fingerprint"], rows, words={1, 2, 3, 4})


def _list(lines: Sequence[str]) -> str:
    return "<ul>" + "".join(f"<li>{escape(one)}</li>" for one in lines) + "</ul>" if lines else ""


def _again_section(file: Path, kept: Path | None) -> str:
    head = "" if kept is None else f" --head {kept.name}"
    line = escape(f"python verify.py {file.name} --operator HEX{head}")
    return (
        "<p>The standalone verifier is one file of 400 lines. It needs Python and its package cryptography.</p>"
        f"<pre>konsil audit verifier &gt; verify.py\n{line}</pre>"
    )


def render_lineage_page(model: str, steps: Sequence[dict[str, Any]], files: Sequence[Path]) -> str:
    """What led to a model (`coordinator.record.lineage.trace_model`), as text of a page."""
    sections = [(escape(f"Experiment {step['experiment']}"), _step_section(step)) for step in steps]
    read = ", ".join(one.name for one in files)
    sections.append(("Logs", f"<p>Read, and verified before: {escape(read)}.</p>"))
    made = steps[0]
    lead = f"Made by {made['experiment']} in {format_count(made['rounds'], 'round')}, for {made['researcher']}."
    return frame_page(f"Lineage of model {made['model_digest'][:12]}", lead, sections)


def _step_section(step: dict[str, Any]) -> str:
    began = step["began_with"]
    origin = "its own initial model" if began is None else f"{began['model_digest']} of {began['experiment']}"
    pairs = [
        ("Model", step["model_digest"]),
        ("Researcher", step["researcher"]),
        ("Experiment file", step["experiment_digest"]),
        ("Data set", step["dataset"]),
        ("Strategy", step["strategy"]),
        ("Began with", origin),
    ]
    if "missing" in step:
        pairs.append(("Not here", step["missing"]))
    sites = [_site_row(site, said) for site, said in step["sites"].items()]
    sites += [[site, NOTHING, f"declined: {reason}", NOTHING, NOTHING] for site, reason in step["declined"].items()]
    rounds = [
        [
            number,
            ", ".join(f"{site} ({cases})" for site, cases in one.get("contributors", {}).items()) or "nobody",
            ", ".join(f"{site}: {reason}" for site, reason in one.get("left_out", {}).items()) or NOTHING,
            one.get("model_digest", NOTHING)[:32],
        ]
        for number, one in step["made_in"].items()
    ]
    head = ["Round", "Sites (cases)", "Left out", "Model"]
    return (
        make_definitions(pairs)
        + make_table("Sites", ["Site", "Training cases", "Let in", "Privacy spent", "Versions"], sites, words={2, 3, 4})
        + make_table("Rounds", head, rounds, words={1, 2, 3})
    )


def _site_row(site: str, said: dict[str, Any]) -> list[str]:
    versions = ", ".join(f"{name} {number}" for name, number in sorted(said.get("versions", {}).items()))
    hand = "by hand" if said.get("approved_by_hand") else "by its rules"
    cases = str(said.get("cases", {}).get("train", NOTHING))
    return [site, cases, hand, say_privacy(said) or NOTHING, versions or NOTHING]
