"""What is done to an exported log is found by Konsil's verifier and by the standalone one, and its place is named."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from coordinator_kit import CONSORTIUM
from evidence_rig import (
    ORIGIN,
    SITES,
    VERIFIER,
    Evidence,
    Said,
    make_evidence,
    mine,
    numbers_in,
    read_json,
    relink,
    run_konsil,
    run_standalone,
    told_by_both,
    write_anew,
    write_export,
)
from trusted import TrustKit

from coordinator.record.evidence import gather_evidence, list_records
from coordinator.record.journal import REGISTER, TERM
from messages import chain, codec
from messages.chain import Entry
from messages.ground.errors import KonsilError, LogBroken
from messages.log import cores, exports
from messages.log.exports import LogRecord
from messages.log.heads import Head, sign_head
from messages.log.verification import verify_export
from messages.log.views import OPENING
from messages.trust.notes import read_note
from messages.trust.register import replace_keys, sign_register

FLIPS = 60


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    return make_evidence(tmp_path_factory.mktemp("evidence"))


def names(words: str, number: int) -> bool:
    """Whether the entry is named, or lies between the two that are."""
    found = numbers_in(words)
    return bool(found) and min(found) <= number <= max(found)


def records_of(path: Path) -> list[LogRecord]:
    return list(exports.read_records(path))


def rewrite(path: Path, records: list[LogRecord]) -> Path:
    exports.write_records(path, records, max(exports.size_of(one.data) for one in records if one.type == exports.HEAD))
    return path


def test_an_untouched_log_holds_and_says_up_to_where_and_who_saw_it(evidence: Evidence) -> None:
    operator = evidence.kit.operator.public.hex()
    ours = run_konsil("audit", "verify", evidence.log, "--operator", operator, "--json")
    theirs = run_standalone(evidence.log, "--operator", operator, "--json")
    assert (ours.status, theirs.status) == (0, 0), (ours, theirs)
    said, other = read_json(ours), read_json(theirs)
    assert said["heads"][-1]["size"] == other["complete_to"]
    assert said["heads"][-1]["witnesses"] == other["witnesses"]
    assert sorted(other["witnesses"]) == ["site-a", "site-b", "site-c"]
    assert (said["entries"], said["uncovered"]) == (other["entries"], other["uncovered"]) == ({"exp-1": 37}, 0)
    assert said["operator_checked"]
    assert other["operator_checked"]


def test_each_flipped_bit_is_found_at_its_record_or_before_its_head(evidence: Evidence, tmp_path: Path) -> None:
    """Of each byte one bit; a seeded sample of the bytes."""
    data, path = evidence.log.read_bytes(), tmp_path / "flipped"
    draw = random.Random(15)
    bounds, listed = list(spans(evidence.log)), records_of(evidence.log)
    for place in sorted(draw.sample(range(len(data)), FLIPS)):
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :])
        with pytest.raises(KonsilError) as found:
            verify_export(path)
        said = run_standalone(path)
        assert said.status == found.value.exit_status, (place, found.value, said)
        if place < len(exports.MAGIC):
            assert said.status == 2
            continue
        assert isinstance(found.value, LogBroken), place
        record = next((number for number, (start, end) in enumerate(bounds, 1) if start <= place < end), len(bounds))
        for words in (str(found.value), said.words):
            assert at_or_before_head(words, record, listed), (place, record, words)


def spans(path: Path) -> Iterator[tuple[int, int]]:
    start = len(exports.MAGIC)
    for record in exports.read_records(path):
        end = start + 4 + len(record.pack())
        yield start, end
        start = end


def at_or_before_head(words: str, record: int, listed: list[LogRecord]) -> bool:
    """Whether words name a record: by its number, or by entries between the heads that lie about it."""
    place = re.search(r"record (\d+)", words)
    if place is not None:
        return abs(int(place[1]) - record) <= 1
    sizes = [(number, exports.size_of(one.data)) for number, one in enumerate(listed, 1) if one.type == exports.HEAD]
    before = max((size for number, size in sizes if number < record), default=0)
    after = min((size for number, size in sizes if number >= record), default=2**53)
    found = numbers_in(words)
    return bool(found) and before < min(found) <= max(found) <= after


Change = Callable[[list[Entry], int], list[Entry]]


def change_cases(entries: list[Entry], place: int) -> list[Entry]:
    body = codec.unpack(entries[place].body, max_bytes=chain.MAX_ENTRY)
    body["decisions"] = [*body.get("decisions", ()), {"decision": "settled", "event": "0" * 32, "sender": "site-a"}]
    return [*entries[:place], replace(entries[place], body=codec.pack(body)), *entries[place + 1 :]]


def drop_one(entries: list[Entry], place: int) -> list[Entry]:
    return [*entries[:place], *entries[place + 1 :]]


def repeat_one(entries: list[Entry], place: int) -> list[Entry]:
    return [*entries[:place], entries[place], *entries[place:]]


def swap_two(entries: list[Entry], place: int) -> list[Entry]:
    return [*entries[:place], entries[place + 1], entries[place], *entries[place + 2 :]]


def insert_one(entries: list[Entry], place: int) -> list[Entry]:
    body = codec.pack({"reason": "other", "what": b""})
    return [*entries[:place], replace(entries[place], type="set-aside", body=body), *entries[place:]]


def move_clock(entries: list[Entry], place: int) -> list[Entry]:
    """An hour on from there: the entries' times and those of their inputs."""
    moved = entries[:place]
    for one in entries[place:]:
        body = codec.unpack(one.body, max_bytes=chain.MAX_ENTRY)
        if one.type == "step":
            body["input"]["time"] += 3600.0
        moved.append(replace(one, time=one.time + 3600.0, body=codec.pack(body)))
    return moved


@pytest.mark.parametrize("change", [change_cases, drop_one, repeat_one, swap_two, insert_one, move_clock])
def test_a_journal_that_was_written_anew_has_another_root_than_its_heads(
    evidence: Evidence, tmp_path: Path, change: Change
) -> None:
    """The chain is made anew, so that nothing but the signed heads contradicts it."""
    place = mine(evidence)[12]
    forged = relink(change(list(evidence.entries), place))
    path = tmp_path / "forged"
    write_export(path, forged)
    for words in told_by_both(path):
        assert "another root" in words
        assert names(words, place + 1), words


@pytest.mark.parametrize("change", [drop_one, repeat_one, swap_two, insert_one])
def test_a_file_whose_entries_were_moved_names_the_first_that_does_not_follow(
    evidence: Evidence, tmp_path: Path, change: Callable[[list[Any], int], list[Any]]
) -> None:
    """Records of the file, as they are: nothing is made anew."""
    records = records_of(evidence.log)
    places = [place for place, one in enumerate(records) if one.type == exports.ENTRY]
    place = next(at for at in places[8:] if records[at + 1].type == exports.ENTRY)
    if change is insert_one:
        other = next(one for one in evidence.entries if one.experiment == "exp-2")
        moved = [*records[:place], LogRecord(exports.ENTRY, 0, b"", other), *records[place:]]
    else:
        moved = change(records, place)
    entry, following = records[place].entry, records[place + 1].entry
    assert entry is not None
    assert following is not None
    for words in told_by_both(rewrite(tmp_path / "moved", moved)):
        named = {drop_one: following.number, swap_two: following.number, repeat_one: entry.number}
        named[insert_one] = next(one.number for one in evidence.entries if one.experiment == "exp-2")
        assert min(numbers_in(words)) == named[change], words


@pytest.mark.parametrize("signature", [b"", bytes(64)])
def test_an_event_whose_signature_was_taken_out_or_exchanged_is_found_though_all_heads_are_made_anew(
    evidence: Evidence, tmp_path: Path, signature: bytes
) -> None:
    """The coordinator itself rewrites its journal, and has no key of the site."""
    place = next(at for at in mine(evidence) if b"weights-ready" in evidence.entries[at].body)
    target = evidence.entries[place]

    def strip(one: Entry) -> Entry:
        if one.number != target.number:
            return one
        body = codec.unpack(one.body, max_bytes=chain.MAX_ENTRY)
        body["input"]["raw"] = codec.pack([codec.unpack(body["input"]["raw"])[0], signature])
        return replace(one, body=codec.pack(body))

    path = tmp_path / "stripped"
    write_export(path, write_anew(list(evidence.entries), TrustKit.key_of("coordinator"), strip))
    for words in told_by_both(path):
        assert "is missing or does not hold" in words
        assert numbers_in(words) == [target.number]


def strip_signature(evidence: Evidence, place: int) -> Callable[[Entry], Entry]:
    target = evidence.entries[place].number

    def strip(one: Entry) -> Entry:
        if one.number != target:
            return one
        body = codec.unpack(one.body, max_bytes=chain.MAX_ENTRY)
        body["input"]["raw"] = codec.pack([codec.unpack(body["input"]["raw"])[0], b""])
        return replace(one, body=codec.pack(body))

    return strip


def test_what_is_found_first_does_not_depend_on_the_number_of_processes(
    evidence: Evidence, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signature was taken out, and a record behind it cannot be read: signatures are checked elsewhere, later."""
    monkeypatch.setattr(cores, "BATCH", 3)
    place = next(at for at in mine(evidence) if b"joined" in evidence.entries[at].body)
    path = tmp_path / "two"
    strip = strip_signature(evidence, place)
    write_export(path, write_anew(list(evidence.entries), TrustKit.key_of("coordinator"), strip))
    data = bytearray(path.read_bytes())
    data[-200] ^= 1
    path.write_bytes(data)
    for processes in (1, 2):
        with pytest.raises(LogBroken) as found:
            verify_export(path, processes=processes)
        assert numbers_in(str(found.value)) == [evidence.entries[place].number]
    for said in (run_standalone(path, "--jobs", "1"), run_apart(path, "--jobs", "2")):
        assert (said.status, numbers_in(said.words)) == (1, [evidence.entries[place].number]), said
    assert verify_export(evidence.log, processes=1) == verify_export(evidence.log, processes=2)
    assert run_apart(evidence.log, "--jobs", "2").out == run_standalone(evidence.log, "--jobs", "1").out


def run_apart(*arguments: str | Path) -> Said:
    """The standalone verifier as an auditor starts it: its processes have to find it again."""
    done = subprocess.run(
        [sys.executable, str(VERIFIER), *map(str, arguments)], capture_output=True, text=True, check=False
    )
    return Said(done.returncode, done.stdout + done.stderr, done.stdout)


def test_a_head_that_is_text_and_a_byte_behind_the_end_are_found(evidence: Evidence, tmp_path: Path) -> None:
    data, path = evidence.log.read_bytes(), tmp_path / "odd"
    path.write_bytes(data + b"\x00")
    assert all("what closes it" in words or "the record that closes it" in words for words in told_by_both(path))
    head = codec.pack([exports.HEAD, b"", "konsil/demo"])
    first = int.from_bytes(data[13:17], "big")
    place = 17 + first
    path.write_bytes(data[:place] + len(head).to_bytes(4, "big") + head + data[place:])
    for words in told_by_both(path):
        assert "cannot be read" in words


def test_a_head_that_another_key_signed_is_none(evidence: Evidence, tmp_path: Path) -> None:
    """Who rewrites the journal signs its heads with a key of their own."""
    made = write_anew(change_cases(list(evidence.entries), mine(evidence)[5]), TrustKit.key_of("thief"))
    path = tmp_path / "resigned"
    write_export(path, made)
    for words in told_by_both(path):
        assert names(words, mine(evidence)[0] + 1) or "head" in words


def test_a_register_of_another_operator_is_found_where_the_operator_is_known(
    evidence: Evidence, tmp_path: Path
) -> None:
    """Everything is made anew, with keys that a false register names: only a key from elsewhere tells."""
    note = sign_register(evidence.kit.register, TrustKit.key_of("false operator"))

    def exchange(one: Entry) -> Entry:
        said = codec.unpack(one.body, max_bytes=chain.MAX_ENTRY)
        return replace(one, body=codec.pack({**said, "note": note})) if one.type == REGISTER else one

    made = write_anew(list(evidence.entries), TrustKit.key_of("coordinator"), exchange)
    path = tmp_path / "false"
    write_export(path, made)
    assert run_konsil("audit", "verify", path).holds
    assert run_standalone(path).holds
    for words in told_by_both(path, "--operator", evidence.kit.operator.public.hex()):
        assert "operator did not sign" in words
        assert numbers_in(words) == [next(one.number for one in evidence.entries if one.type == REGISTER)]


def test_a_cut_at_an_earlier_head_holds_and_shows_against_a_head_that_a_site_kept(
    evidence: Evidence, tmp_path: Path
) -> None:
    records = records_of(evidence.log)
    heads = [place for place, one in enumerate(records) if one.type == exports.HEAD]
    cut = rewrite(tmp_path / "cut", records[: heads[2] + 1])
    assert "complete to" in run_konsil("audit", "verify", cut).words
    assert run_standalone(cut).holds
    kept = tmp_path / "kept.head"
    kept.write_bytes(records[heads[3]].data)
    for words in told_by_both(cut, "--head", kept):
        assert "cut" in words
        assert numbers_in(words) == [exports.size_of(records[heads[2]].data)]
    assert run_konsil("audit", "verify", evidence.log, "--head", kept).holds
    assert run_standalone(evidence.log, "--head", kept).holds


def test_a_kept_head_with_another_root_shows_that_the_log_was_forked(evidence: Evidence, tmp_path: Path) -> None:
    head = next(one for one in records_of(evidence.log) if one.type == exports.HEAD)
    size, kept = exports.size_of(head.data), tmp_path / "other.head"
    kept.write_bytes(sign_head(Head(ORIGIN, size, bytes(32)), TrustKit.key_of("coordinator")).encode())
    for words in told_by_both(evidence.log, "--head", kept):
        assert "forked" in words
    kept.write_bytes(sign_head(Head(ORIGIN, size, bytes(32)), TrustKit.key_of("site-a")).encode())
    for words in told_by_both(evidence.log, "--head", kept):
        assert "did not sign" in words


def test_a_file_that_ends_early_is_found(evidence: Evidence, tmp_path: Path) -> None:
    data, path = evidence.log.read_bytes(), tmp_path / "short"
    for end in (len(data) - 1, len(data) - 45, len(data) // 2, 20):
        path.write_bytes(data[:end])
        for words in told_by_both(path):
            assert "record" in words


def test_a_cosignature_that_was_exchanged_or_made_by_another_is_found(evidence: Evidence, tmp_path: Path) -> None:
    records = records_of(evidence.log)
    first, second = [place for place, one in enumerate(records) if one.type == exports.HEAD][:2]
    other = read_note(records[second].data).signatures[1]
    note = read_note(records[first].data)
    marks = tuple(other if one.name == other.name else one for one in note.signatures)
    records[first] = replace(records[first], data=replace(note, signatures=marks).encode())
    for words in told_by_both(rewrite(tmp_path / "exchanged", records)):
        assert "signature" in words
        assert names(words, exports.size_of(records[first].data)) or numbers_in(words)


def test_of_two_views_of_a_forked_log_the_first_disagreement_is_named(evidence: Evidence, tmp_path: Path) -> None:
    place = mine(evidence)[12]
    made = write_anew(change_cases(list(evidence.entries), place), TrustKit.key_of("coordinator"))
    path = tmp_path / "other-view"
    write_export(path, made)
    assert run_konsil("audit", "verify", path).holds, "the coordinator itself wrote both"
    said = run_konsil("audit", "compare", evidence.log, path)
    assert said.status == 1
    assert f"entry {evidence.entries[place].index} of exp-1" in said.words
    assert "forked log" in said.words
    same = run_konsil("audit", "compare", evidence.log, evidence.log, "--json")
    assert read_json(same)["agrees"]


def test_a_coordinator_that_was_rolled_back_and_went_on_is_found_against_what_a_site_saw(
    evidence: Evidence, tmp_path: Path
) -> None:
    """Its operator puts an older state back, and it goes on otherwise, with its own key: alone, that log holds."""
    heads = [one for one in records_of(evidence.log) if one.type == exports.HEAD]
    back, seen = exports.size_of(heads[2].data), exports.size_of(heads[-1].data)
    place = next(at for at in mine(evidence) if at > back)
    path, kept = tmp_path / "rolled-back", tmp_path / "kept.head"
    write_export(path, write_anew(change_cases(list(evidence.entries), place), TrustKit.key_of("coordinator")))
    kept.write_bytes(heads[-1].data)
    assert run_konsil("audit", "verify", path).holds
    assert run_standalone(path).holds
    for words in told_by_both(path, "--head", kept):
        assert "forked" in words
        assert back < numbers_in(words)[0] <= seen
    said = run_konsil("audit", "compare", evidence.log, path)
    assert said.status == 1
    assert f"entry {evidence.entries[place].index} of exp-1" in said.words, "the first one behind the older state"


def test_one_entry_is_proven_without_the_others_and_a_changed_proof_is_not(evidence: Evidence, tmp_path: Path) -> None:
    proof = tmp_path / "entry.proof"
    operator = ("--operator", evidence.kit.operator.public.hex())
    for index in (1, 7, 34):
        assert run_konsil("audit", "prove", evidence.log, str(index), "--out", proof).holds
        said = run_konsil("audit", "verify-proof", proof, *operator)
        assert said.holds, said
        assert f"entry {index} of exp-1" in said.words
        assert "witnessed by site-a, site-b, site-c" in said.words
        assert run_standalone(proof, *operator).holds
    whole = proof.read_text()
    for old in ('"path": [\n  "', '"entry": "', '"head": "', '"register": "'):
        place = whole.index(old) + len(old) + 20
        proof.write_text(whole[:place] + ("0" if whole[place] != "0" else "1") + whole[place + 1 :])
        statuses = (
            run_konsil("audit", "verify-proof", proof, *operator).status,
            run_standalone(proof, *operator).status,
        )
        assert 0 not in statuses, old
    assert run_konsil("audit", "prove", evidence.log, "38", "--out", proof).status == 2


def test_what_led_to_a_model_is_listed_from_its_log(evidence: Evidence) -> None:
    found = read_json(run_konsil("audit", "replay", "exp-1", evidence.log, "--json"))
    digest = found["rounds"]["2"]["model_digest"]
    step = read_json(run_konsil("audit", "lineage", digest[:16], evidence.log, "--json"))["lineage"][0]
    assert (step["experiment"], step["rounds"], step["researcher"]) == ("exp-1", 2, "dr-a")
    assert sorted(step["made_in"]) == ["1", "2"]
    assert {site: one["cases"]["train"] for site, one in step["sites"].items()} == step["made_in"]["1"]["contributors"]
    assert "round 2: " in run_konsil("audit", "lineage", digest, evidence.log).words
    assert run_konsil("audit", "lineage", "0" * 64, evidence.log).status == 2


def test_an_export_of_the_first_form_still_reads_and_both_verifiers_say_what_it_lacks(
    evidence: Evidence, tmp_path: Path
) -> None:
    path = tmp_path / "old.konsil"
    chain.write_export(path, [one for one in evidence.entries if one.experiment == "exp-1"])
    said = run_konsil("audit", "verify", path)
    assert said.holds
    assert "no signed heads" in said.words
    assert "complete to 0, witnessed by nobody" in run_standalone(path).words
    path.write_bytes(path.read_bytes()[:-30])
    told_by_both(path)


def test_the_standalone_verifier_is_one_short_file_that_konsil_prints(tmp_path: Path) -> None:
    said = run_konsil("audit", "verifier")
    lines = said.words.splitlines()
    assert len(lines) <= 400
    imported = {line.split()[1].partition(".")[0] for line in lines if line.startswith(("import ", "from "))}
    assert imported - {"cryptography"} <= sys.stdlib_module_names


def test_a_register_that_came_in_the_middle_counts_from_there(evidence: Evidence, tmp_path: Path) -> None:
    """An entry of type "register"; from there on its keys are asked."""
    later = replace_keys(evidence.kit.register, evidence.kit.register.keys, 1.0)
    body = codec.pack({"note": sign_register(later, evidence.kit.operator)})
    place = mine(evidence)[3]
    entry = replace(evidence.entries[0], type="register", body=body, time=evidence.entries[place].time)
    entries = [*evidence.entries[:place], entry, *evidence.entries[place:]]
    path = tmp_path / "later"
    write_export(path, write_anew(entries, TrustKit.key_of("coordinator")))
    verdict = verify_export(path, evidence.kit.operator.public)
    assert verdict.register is not None
    assert verdict.register.serial == 2
    assert run_standalone(path, "--operator", evidence.kit.operator.public.hex()).holds
    entries[place] = replace(entry, body=codec.pack({"note": sign_register(later, TrustKit.key_of("thief"))}))
    write_export(path, write_anew(entries, TrustKit.key_of("coordinator")))
    for words in told_by_both(path, "--operator", evidence.kit.operator.public.hex()):
        assert numbers_in(words) == [place + 1]


def with_terms(evidence: Evidence, terms: list[int]) -> list[Entry]:
    """The journal with a start of the coordinator under each of these terms, before entries of the experiment."""
    entries = list(evidence.entries)
    for place, term in reversed(list(zip(mine(evidence)[2:], terms, strict=False))):
        body = codec.pack({"term": term, "logic": 1})
        entries.insert(place, replace(entries[0], type=TERM, body=body, time=entries[place].time))
    return write_anew(entries, TrustKit.key_of("coordinator"))


def test_a_term_that_does_not_follow_is_named_and_one_that_goes_back_breaks_the_log(
    evidence: Evidence, tmp_path: Path
) -> None:
    path = tmp_path / "terms"
    made = with_terms(evidence, [11, 12, 1012])
    write_export(path, made)
    number = [one.number for one in made if one.type == TERM][-1]
    ours, theirs = run_konsil("audit", "verify", path, "--json"), run_standalone(path, "--json")
    assert read_json(ours)["term_jumps"][-1] == {"entry": number, "before": 12, "term": 1012}
    assert read_json(theirs)["term_jumps"] == read_json(ours)["term_jumps"]
    assert (
        f"journal number {number}: the coordinator's term went from 12 to 1012"
        in run_konsil("audit", "verify", path).words
    )
    made = with_terms(evidence, [11, 12, 12])
    write_export(path, made)
    for words in told_by_both(path):
        assert "term 12 begins after term 12" in words
        assert numbers_in(words) == [[one.number for one in made if one.type == TERM][-1]]


def mine_of_type(evidence: Evidence, type_: str) -> list[Entry]:
    return [one for place in mine(evidence) if (one := evidence.entries[place]).type == type_]


def views_of(path: Path) -> list[dict[str, Any]]:
    """What both verifiers say that sites saw, and the log lacks; such a log is not altered."""
    ours, theirs = run_konsil("audit", "verify", path, "--json"), run_standalone(path, "--json")
    assert (ours.status, theirs.status) == (0, 0), (ours, theirs)
    found: list[dict[str, Any]] = read_json(ours)["views"]
    assert read_json(theirs)["views"] == found
    return found


def test_a_site_that_was_shown_another_opening_or_model_than_the_log_has_is_named(
    evidence: Evidence, tmp_path: Path
) -> None:
    """A coordinator that shows one site another model has to keep one of the two openings out of its log, or name one
    model for both: it writes its journal as it likes, and the sites' signed words contradict it."""
    assert views_of(evidence.log) == []
    path = tmp_path / "split"

    def write_split(change: dict[str, Any]) -> list[Entry]:
        def split(one: Entry) -> Entry:
            body = codec.unpack(one.body, max_bytes=chain.MAX_ENTRY)
            hides = (one.type, one.experiment, body.get("round")) == (OPENING, "exp-1", 2)
            return replace(one, body=codec.pack({**body, **change})) if hides else one

        made = write_anew(evidence.entries, TrustKit.key_of("coordinator"), split)
        write_export(path, made)
        return made

    made = write_split({"sha256": "0" * 64})
    found = views_of(path)
    assert {(one["site"], one["round"], one["what"]) for one in found} == {(one, 2, "opening") for one in SITES}
    said = [one.number for one in made if one.experiment == "exp-1" and one.type == "step" and b"answers" in one.body]
    assert {one["entry"] for one in found} <= set(said)
    first, told = found[0], "answers an opening of round 2 that this log does not hold"
    words = f"journal number {first['entry']}: {first['site']} {told}"
    assert words in run_konsil("audit", "verify", path).words
    openings = [codec.unpack(one.body) for one in mine_of_type(evidence, OPENING)]
    (models,) = (one["models"] for one in openings if one["round"] == 2 and one["models"])
    assert [*models] == [""]
    write_split({"models": {**models, "site-b": "f" * 64}})
    assert [(one["site"], one["round"], one["what"]) for one in views_of(path)] == [("site-b", 2, "model")]
    assert "site-b began round 2 with another model than this log names" in run_konsil("audit", "verify", path).words


def test_a_site_that_no_longer_witnesses_is_named_with_the_last_head_that_it_did(
    evidence: Evidence, tmp_path: Path
) -> None:
    listed = records_of(evidence.log)
    sizes = [exports.size_of(one.data) for one in listed if one.type == exports.HEAD]

    def without(least: int) -> Path:
        made = []
        for one in listed:
            if one.type == exports.HEAD and exports.size_of(one.data) > least:
                note = read_note(one.data)
                kept = tuple(mark for mark in note.signatures if mark.name != "site-c")
                one = replace(one, data=replace(note, signatures=kept).encode())
            made.append(one)
        return rewrite(tmp_path / "behind", made)

    for last, words in ((sizes[1], f"site-c has not witnessed since the head of {sizes[1]} entries"), (0, "any head")):
        path = without(last)
        ours, theirs = run_konsil("audit", "verify", path, "--json"), run_standalone(path, "--json")
        assert read_json(ours)["behind"] == read_json(theirs)["behind"] == {"site-c": last}
        assert words in run_konsil("audit", "verify", path).words
    assert read_json(run_konsil("audit", "verify", evidence.log, "--json"))["behind"] == {}


def test_the_command_writes_the_export_out_of_the_journal(evidence: Evidence, tmp_path: Path) -> None:
    path = tmp_path / "exported"
    said = run_konsil("audit", "export", "exp-1", "--journal", evidence.folder / "coordinator", "--out", path)
    assert said.holds, said
    assert path.read_bytes() == evidence.log.read_bytes()


def test_the_records_of_an_export_lie_in_the_journals_order(evidence: Evidence) -> None:
    found = gather_evidence(evidence.entries, "exp-1")
    records = list(list_records(found, ORIGIN))
    assert records[0].type == exports.LOG
    assert records[1].type == exports.BESIDE
    assert f"konsil/{CONSORTIUM}" == ORIGIN


def test_a_site_hands_out_the_newest_head_that_it_saw(evidence: Evidence, tmp_path: Path) -> None:
    config, kept = tmp_path / "site.toml", tmp_path / "site-a.head"
    state = evidence.folder / "site-a"
    config.write_text(f'schema = 1\n[site]\nname = "site-a"\nconsortium = "{CONSORTIUM}"\nstate = "{state}"\n')
    said = read_json(run_konsil("site", "heads", "--config", config, "--out", kept, "--json"))
    assert not said["forked"]
    assert said["heads"][-1]["size"] == exports.size_of(kept.read_bytes())
    assert sorted(said["openings"]) == ["exp-1", "exp-2"]
    assert run_konsil("site", "heads", "--config", config, "--proof", tmp_path / "none").status == 2
    size = said["heads"][-1]["size"]
    newest = max(exports.size_of(one.data) for one in records_of(evidence.log) if one.type == exports.HEAD)
    assert size == newest
    assert run_konsil("audit", "verify", evidence.log, "--head", kept).holds
