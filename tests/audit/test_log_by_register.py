"""Both verifiers hold an exported log against the register in force, by the rules that the coordinator went by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
from coordinator_kit import CONSORTIUM
from evidence_rig import (
    ORIGIN,
    Evidence,
    make_evidence,
    mine,
    numbers_in,
    read_json,
    run_konsil,
    run_standalone,
    told_by_both,
    write_anew,
    write_export,
)
from trusted import TrustKit

from coordinator.record.evidence import gather_evidence, list_records
from coordinator.record.heads import HEAD, read_published
from coordinator.record.journal import REGISTER
from messages import chain, codec
from messages.chain import Entry
from messages.kinds import HeadWitnessed
from messages.log import exports
from messages.log.heads import cosign_head, read_head
from messages.log.verification import verify_export
from messages.trust.notes import read_note
from messages.trust.register import KeyEntry, Register, sign_register

SITE = "site-b"
DAY = 86400.0


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return make_evidence(tmp_path_factory.mktemp("evidence"), ("exp-1",))


def body_of(entry: Entry) -> dict[str, Any]:
    body: dict[str, Any] = codec.unpack(entry.body, max_bytes=chain.MAX_ENTRY)
    return body


def payload_of(entry: Entry) -> dict[str, Any]:
    given = body_of(entry).get("input")
    raw = given.get("raw") if isinstance(given, dict) else None
    return {} if raw is None else codec.unpack(codec.unpack(raw)[0])


def said_by_site(evidence: Evidence) -> list[Entry]:
    return [one for one in evidence.entries if one.experiment == "exp-1" and payload_of(one).get("sender") == SITE]


def register_with(
    evidence: Evidence, serial: int = 1, signatures: Literal["accepted", "required"] = "accepted", **site: Any
) -> bytes:
    """The operator's register with another key entry of the site; `name=None`: without one."""
    keys = [one.model_copy(update=site) if one.name == SITE else one for one in evidence.kit.register.keys]
    keys = [one for one in keys if one.name]
    made = Register(consortium=CONSORTIUM, serial=serial, made=0.0, signatures=signatures, keys=tuple(keys))
    return sign_register(made, evidence.kit.operator)


def write_with(
    evidence: Evidence, path: Path, register: bytes, change: Callable[[Entry], Entry] = lambda one: one
) -> Path:
    """The log as the coordinator itself writes it anew, with this register."""

    def exchange(one: Entry) -> Entry:
        return (
            replace(one, body=codec.pack({**body_of(one), "note": register})) if one.type == REGISTER else change(one)
        )

    write_export(path, write_anew(list(evidence.entries), TrustKit.key_of("coordinator"), exchange))
    return path


def strip_site(one: Entry) -> Entry:
    """The site's events without signatures."""
    if payload_of(one).get("sender") != SITE:
        return one
    body = body_of(one)
    body["input"]["raw"] = codec.pack([codec.unpack(body["input"]["raw"])[0], b""])
    return replace(one, body=codec.pack(body))


def insert_register(entries: list[Entry], place: int, note: bytes) -> list[Entry]:
    """A register that the coordinator took in mid-experiment."""
    entry = replace(entries[0], type=REGISTER, body=codec.pack({"note": note}), time=entries[place].time)
    return [*entries[:place], entry, *entries[place:]]


def both_hold(path: Path, *options: str | Path) -> None:
    for said in (run_konsil("audit", "verify", path, *options), run_standalone(path, *options)):
        assert said.holds, said


@pytest.mark.parametrize(
    ("signatures", "site"),
    [("required", {"name": None}), ("accepted", {"revoked": 1.0}), ("accepted", {"until": 1.0})],
    ids=["unknown, though signatures are required", "revoked", "ended"],
)
def test_unsigned_events_of_who_cannot_sign_any_more_are_found(
    evidence: Evidence, tmp_path: Path, signatures: Literal["accepted", "required"], site: dict[str, Any]
) -> None:
    register = register_with(evidence, signatures=signatures, **site)
    path = write_with(evidence, tmp_path / "forged", register, strip_site)
    for words in told_by_both(path):
        assert "is missing or does not hold" in words
        assert numbers_in(words) == [said_by_site(evidence)[0].number]


def test_unsigned_events_of_who_has_no_key_are_taken_where_signatures_are_not_required(
    evidence: Evidence, tmp_path: Path
) -> None:
    both_hold(write_with(evidence, tmp_path / "unknown", register_with(evidence, name=None), strip_site))
    both_hold(write_with(evidence, tmp_path / "later", register_with(evidence, since=2.0**40), strip_site))


@pytest.mark.parametrize("record", [[], {}, 5, "", {"log": 0, "exp-1": 0, "x": 0}, ["log"], None])
def test_a_record_that_is_none_is_found(evidence: Evidence, tmp_path: Path, record: Any) -> None:
    data, path = codec.pack(record), tmp_path / "odd"
    path.write_bytes(exports.MAGIC + len(data).to_bytes(4, "big") + data + bytes(4))
    for words in told_by_both(path):
        assert "record 1" in words


@pytest.mark.parametrize("change", ["serial", "signatures", "vanished", "not revoked", "owner"])
def test_a_register_that_goes_back_within_the_log_is_found(evidence: Evidence, tmp_path: Path, change: str) -> None:
    """The operator signed each of them; only their order tells."""
    good = {"serial": 2, "signatures": "required", "revoked": 2.0**40}
    first = register_with(evidence, **good)  # type: ignore[arg-type]
    back: dict[str, Any] = {
        "serial": {"serial": 1},
        "signatures": {"serial": 3, "signatures": "accepted"},
        "vanished": {"serial": 3, "name": None},
        "not revoked": {"serial": 3, "revoked": None},
        "owner": {"serial": 3, "name": "site-x"},
    }
    place, key = mine(evidence)[6], TrustKit.key_of("coordinator")
    entries = [
        replace(one, body=codec.pack({**body_of(one), "note": first})) if one.type == REGISTER else one
        for one in evidence.entries
    ]
    path = tmp_path / "log"
    for onward in ({}, {"serial": 3, "revoked": 2.0**39}):
        write_export(path, write_anew(insert_register(entries, place, register_with(evidence, **good | onward)), key))
        both_hold(path)
    write_export(path, write_anew(insert_register(entries, place, register_with(evidence, **good | back[change])), key))
    for words in told_by_both(path):
        assert numbers_in(words) == [place + 1]
        assert "its register cannot be used" in words


def cosignature_of(name: str, key: str, note: bytes, size: int) -> HeadWitnessed:
    text = read_note(note).text
    mark = cosign_head(text, name, TrustKit.key_of(key), 5)
    return HeadWitnessed(
        size=size, root=read_head(read_note(note), ORIGIN).root.hex(), cosignature=mark.key_id + mark.signature
    )


def test_a_revocation_is_named_with_the_journal_number_of_its_register(evidence: Evidence, tmp_path: Path) -> None:
    last = said_by_site(evidence)[-1]
    revoked = register_with(evidence, serial=2, revoked=last.time + 1.0)
    entries = insert_register(list(evidence.entries), evidence.entries.index(last) + 1, revoked)
    path = tmp_path / "revoked"
    write_export(path, write_anew(entries, TrustKit.key_of("coordinator")))
    said = run_konsil("audit", "verify", path)
    key = TrustKit.key_of(SITE).public.hex()[:16]
    assert said.holds, said
    assert f"journal number {last.number + 1}: the operator revokes the key {key} of {SITE}, from " in said.words
    assert "revokes" not in run_konsil("audit", "verify", evidence.log).words


def test_a_cosignature_by_a_key_that_came_after_the_head_is_left_out_of_the_export(
    evidence: Evidence, tmp_path: Path
) -> None:
    """A site that is let in, or has a new key, cosigns what it is shown, older heads too."""
    place = mine(evidence)[12]
    time = evidence.entries[place].time
    new = [("site-d", "site-d"), ("site-a", "site-a anew")]
    more = [
        KeyEntry(name=name, role="site", key=TrustKit.key_of(key).public.hex(), since=time, until=2.0**52)
        for name, key in new
    ]
    later = evidence.kit.register.model_copy(update={"serial": 2, "keys": (*evidence.kit.register.keys, *more)})
    note = sign_register(later, evidence.kit.operator)
    entries = write_anew(insert_register(list(evidence.entries), place, note), TrustKit.key_of("coordinator"))
    found = gather_evidence(entries, "exp-1")
    first, last = min(found.heads), max(found.heads)
    assert first <= place < last
    for size in (first, last):
        for name, key in (("site-a", "site-a"), *new):
            found.note_mark(name, cosignature_of(name, key, found.heads[size].note, size), entries[-1].time)
    path = tmp_path / "log"
    exports.write_records(path, list_records(found, ORIGIN), last)
    both_hold(path)
    said = read_json(run_konsil("audit", "verify", path, "--json"))["heads"]
    seen = {one["size"]: sorted(one["witnesses"]) for one in said}
    assert (seen[first], seen[last]) == (["site-a", "site-b", "site-c"], ["site-a", "site-d"])


def moved_by(seconds: float) -> Callable[[Entry], Entry]:
    """The coordinator took everything so much later."""

    def move(one: Entry) -> Entry:
        body = body_of(one)
        if isinstance(body.get("input"), dict) and "time" in body["input"]:
            body["input"]["time"] += seconds
        return replace(one, time=one.time + seconds, body=codec.pack(body))

    return move


def test_an_event_that_was_written_while_its_key_was_good_holds_though_it_came_after_its_end(
    evidence: Evidence, tmp_path: Path
) -> None:
    """As the coordinator takes it: 10 minutes for clocks, 30 days for the outbox."""
    last = max(payload_of(one)["time"] for one in said_by_site(evidence))
    both_hold(write_with(evidence, tmp_path / "clock", register_with(evidence, until=last - 590.0)))
    late = write_with(evidence, tmp_path / "late", register_with(evidence, until=last + 1.0), moved_by(29 * DAY))
    verify_export(late)  # that the sites' clocks seem to be wrong, `audit verify` tells besides
    assert run_standalone(late).holds


def test_an_event_that_was_written_or_came_too_long_after_its_keys_end_is_found(
    evidence: Evidence, tmp_path: Path
) -> None:
    events = said_by_site(evidence)
    times = [payload_of(one)["time"] for one in events]
    late = write_with(evidence, tmp_path / "late", register_with(evidence, until=max(times) + 1.0), moved_by(31 * DAY))
    ended = write_with(evidence, tmp_path / "ended", register_with(evidence, until=max(times) - 600.0))
    revoked = write_with(evidence, tmp_path / "revoked", register_with(evidence, revoked=events[-1].time))
    after = next(one.number for one in events if payload_of(one)["time"] >= max(times))
    at_once = next(one.number for one in events if one.time >= events[-1].time)
    for path, number in ((late, events[0].number), (ended, after), (revoked, at_once)):
        for words in told_by_both(path):
            assert numbers_in(words)[0] == number, (path, words)


def test_an_entry_is_proven_across_the_renewal_of_the_coordinators_key(evidence: Evidence, tmp_path: Path) -> None:
    """By the first head that covers it, and the register at that head: keys that come later cannot make it void."""
    register, new = evidence.kit.register, TrustKit.key_of("coordinator anew")
    place = mine(evidence)[12]
    time = evidence.entries[place].time
    keys = [one.model_copy(update={"until": time}) if one.name == "coordinator" else one for one in register.keys]
    keys.append(KeyEntry(name="coordinator", role="coordinator", key=new.public.hex(), since=time, until=2.0**52))
    renewed = register.model_copy(update={"serial": 2, "keys": tuple(keys)})
    entries = insert_register(list(evidence.entries), place, sign_register(renewed, evidence.kit.operator))
    path, proof = tmp_path / "log", tmp_path / "entry.proof"
    made = write_anew(entries, TrustKit.key_of("coordinator"), later=(place, new))
    write_export(path, made)
    operator = ("--operator", evidence.kit.operator.public.hex())
    both_hold(path, *operator)
    sizes = sorted(head.size for one in made if one.type == HEAD and (head := read_published(one)) is not None)
    for one in made:
        if one.experiment == "exp-1" and one.number <= sizes[-1]:
            assert run_konsil("audit", "prove", path, str(one.index), "--out", proof).holds
            said = run_konsil("audit", "verify-proof", proof, *operator, "--json")
            assert said.holds, (one.number, said)
            assert read_json(said)["size"] == next(size for size in sizes if size >= one.number)
            assert run_standalone(proof, *operator).holds, one.number
