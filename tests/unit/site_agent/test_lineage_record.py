"""The site's own record of which case went into which round, and what it has committed to."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from messages.ground.errors import RequestError, WorkFailed
from site_agent.disk.lineage import (
    DATA,
    FILE,
    POLICY,
    Lineage,
    UsedIn,
    Went,
    commit_to,
    plain_name,
    read_lineage,
)

RULES = {"default": "deny", "approval": "hand"}
CASES = (
    UsedIn("case-1", "patient-1", "train", "1" * 64),
    UsedIn("case-2", "patient-1", "train", "2" * 64),
    UsedIn("case-3", "patient-2", "test", "3" * 64),
)


@pytest.fixture
def record(tmp_path: Path) -> Lineage:
    return Lineage(tmp_path)


def joined(record: Lineage, experiment: str = "e", cases: tuple[UsedIn, ...] = CASES) -> dict[str, str]:
    return record.note_joining(experiment, RULES, cases, "f" * 64, 1e9)


def test_a_case_names_every_round_and_model_that_it_went_into(record: Lineage) -> None:
    joined(record)
    for number in (1, 2):
        record.note_round("e", number, 1e9)
    record.note_model("e", 1, "a" * 64, used=True)
    assert record.trace_case(["case-1"]) == [Went("e", 1, "train", "a" * 64, True), Went("e", 2, "train", "", None)]
    assert [one.split for one in record.trace_case(["case-3"])] == ["test", "test"]
    assert record.trace_case(["case-4"]) == []


def test_a_case_whose_update_went_into_a_later_round_names_that_too(record: Lineage) -> None:
    joined(record)
    record.note_round("e", 1, 1e9)
    record.note_model("e", 1, "a" * 64, used=False)
    record.note_model("e", 3, "b" * 64, used=True, began=1)
    assert record.trace_case(["case-1"]) == [
        Went("e", 1, "train", "a" * 64, False),
        Went("e", 3, "train", "b" * 64, True),
    ]


def test_a_patient_stands_for_all_cases_of_theirs(record: Lineage) -> None:
    joined(record)
    record.note_round("e", 1, 1e9)
    assert record.trace_case(["patient-1"]) == record.trace_case(["case-2"])


def test_what_begins_with_a_model_of_a_case_holds_it_too(record: Lineage) -> None:
    joined(record)
    record.note_round("e", 2, 1e9)
    for number in (1, 2, 3):
        record.note_model("e", number, f"{number}" * 64, used=number == 2)
    record.note_model("heir", 1, "9" * 64, used=False)
    begins = {
        "earlier": f"sha256:{'1' * 64}",
        "heir": f"sha256:{'3' * 64}",
        "by-name": "e",
        "of-the-heir": f"sha256:{'9' * 64}",
        "other": "f",
    }
    assert record.trace_heirs(record.trace_case(["case-1"]), begins) == ["by-name", "heir", "of-the-heir"]
    assert record.trace_heirs(record.trace_case(["case-3"]), begins) == []


def test_a_case_that_is_gone_from_the_data_is_in_no_later_round(record: Lineage) -> None:
    joined(record)
    record.note_round("e", 1, 1e9)
    record.note_state("e", CASES[1:])
    record.note_round("e", 2, 1e9)
    assert [one.round for one in record.trace_case(["case-1"])] == [1]
    assert [one.round for one in record.trace_case(["case-2"])] == [1, 2]


def test_where_a_trainer_names_no_cases_no_round_is_linked_to_earlier_ones(record: Lineage) -> None:
    joined(record)
    record.note_state("e", ())
    record.note_round("e", 1, 1e9)
    assert record.trace_case(["case-1"]) == []


def test_neither_name_nor_patient_lies_in_the_file(record: Lineage, tmp_path: Path) -> None:
    joined(record)
    record.note_round("e", 1, 1e9)
    content = (tmp_path / FILE).read_bytes()
    assert b"case-1" not in content
    assert b"patient-1" not in content
    assert (tmp_path / FILE).stat().st_mode & 0o077 == 0


def list_bytes(folder: Path) -> bytes:
    return b"".join(one.read_bytes() for one in sorted(folder.iterdir()) if one.name.startswith(FILE))


def test_of_what_was_erased_nothing_is_left_in_the_record_or_in_its_log(record: Lineage, tmp_path: Path) -> None:
    joined(record)
    (policy,) = (one for one in record.list_commitments("e") if one.kind == POLICY)
    assert policy.key is not None
    (mark,) = sqlite3.connect(tmp_path / FILE).execute("SELECT mark FROM members WHERE split = 'test'").fetchone()
    assert mark in list_bytes(tmp_path)
    assert policy.key in list_bytes(tmp_path)
    record.forget_case(["case-3"])
    assert mark not in list_bytes(tmp_path)
    record.destroy_keys()
    assert policy.key not in list_bytes(tmp_path)


def test_an_erasure_that_a_reader_holds_up_is_no_erasure(
    record: Lineage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("site_agent.disk.lineage.WAITS", 0.0)
    joined(record)
    reader = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM keys").fetchone()
    with pytest.raises(WorkFailed, match=r"still in its log.*erase once more"):
        record.destroy_keys()
    reader.execute("COMMIT")
    assert record.destroy_keys() == 0, "its keys were gone"


def test_one_data_state_is_kept_once_whatever_the_rounds(record: Lineage, tmp_path: Path) -> None:
    many = tuple(UsedIn(f"case-{number}", "p", "train", f"{number:064x}") for number in range(1000))
    joined(record, cases=many)
    for number in range(1, 101):
        record.note_round("e", number, 1e9)
    assert (tmp_path / FILE).stat().st_size < 300_000


def test_a_policy_is_committed_to_under_a_key_of_its_own(record: Lineage) -> None:
    told = joined(record)
    policy, data = sorted(record.list_commitments("e"), key=lambda one: one.kind, reverse=True)
    assert told == {POLICY: policy.digest, DATA: data.digest}
    assert policy.key is not None
    assert data.key is not None
    assert commit_to(policy.key, POLICY, policy.content) == policy.digest
    assert commit_to(data.key, DATA, data.content) == data.digest
    assert json.loads(policy.content) == RULES
    other = joined(record, "f")
    assert other[POLICY] != told[POLICY], "nobody sees that two experiments met one policy"
    assert other[DATA] == told[DATA], "the same data can be told to be the same"


def test_what_is_said_again_is_the_same_commitment(record: Lineage) -> None:
    assert joined(record) == joined(record)
    assert len(record.list_commitments()) == 2


def test_other_data_are_another_commitment(record: Lineage) -> None:
    assert joined(record)[DATA] != joined(record, "f", CASES[1:])[DATA]
    moved = (UsedIn("case-1", "patient-1", "test", "1" * 64), *CASES[1:])
    assert joined(record, "g", moved)[DATA] != joined(record)[DATA]


def test_a_case_that_is_forgotten_is_linked_with_nothing(record: Lineage) -> None:
    joined(record)
    record.note_round("e", 1, 1e9)
    assert record.forget_case(["patient-1"]) == 2
    assert record.trace_case(["case-1"]) == []
    assert len(record.trace_case(["case-3"])) == 1


def test_a_case_that_is_forgotten_and_trained_on_again_is_linked_again(record: Lineage) -> None:
    joined(record)
    record.note_round("e", 1, 1e9)
    record.forget_case(["case-1"])
    record.note_round("e", 2, 1e9)
    assert [one.round for one in record.trace_case(["case-2"])] == [1, 2], "the others' links go on"
    told = joined(record, "f")
    record.note_round("f", 1, 1e9)
    assert record.trace_case(["case-1"]) == [Went("f", 1, "train", "", None)]
    assert joined(record)[DATA] == told[DATA]


def test_no_digest_of_a_case_that_is_forgotten_is_kept(record: Lineage, tmp_path: Path) -> None:
    joined(record)
    record.note_round("e", 1, 1e9)
    record.note_state("e", CASES[1:])
    joined(record, "left-before-its-first-round")
    record.note_state("left-before-its-first-round", CASES[1:])
    joined(record, "other", CASES[1:])
    record.forget_case(["case-1"])
    shown = {one.experiment for one in record.list_commitments() if one.kind == DATA and one.key is not None}
    assert shown == {"other"}
    record.close()
    assert CASES[0].digest.encode() not in (tmp_path / FILE).read_bytes()


def test_data_that_no_round_had_are_forgotten_too(record: Lineage) -> None:
    joined(record)
    record.note_state("e", CASES[1:])
    record.forget_case(["case-1"])
    assert {one.content for one in record.list_commitments() if one.kind == DATA} == {""}


def test_destroyed_keys_leave_noise(record: Lineage, tmp_path: Path) -> None:
    told = joined(record)
    record.note_round("e", 1, 1e9)
    keys = [one.key for one in record.list_commitments()]
    assert record.destroy_keys() == 3
    assert record.trace_case(["case-1"]) == []
    assert [one.key for one in record.list_commitments()] == [None, None]
    record.close()
    content = (tmp_path / FILE).read_bytes()
    assert not any(key is not None and key in content for key in keys)
    again = joined(record)
    assert again[DATA] != told[DATA]
    assert again[POLICY] != told[POLICY]


def test_what_is_old_is_pruned(record: Lineage, tmp_path: Path) -> None:
    joined(record)
    record.note_round("e", 1, 1e9)
    record.note_round("e", 2, 2e9)
    record.prune_old(1.5e9)
    assert [one.round for one in record.trace_case(["case-1"])] == [2]
    assert record.list_commitments() == []
    record.prune_old(3e9)
    assert record.trace_case(["case-2"]) == []
    with sqlite3.connect(tmp_path / FILE) as db:
        assert db.execute("SELECT count(*) FROM members").fetchone() == (0,)


def test_names_that_are_no_utf8_are_names(record: Lineage) -> None:
    name = b"case-\xff".decode("utf-8", "surrogateescape")
    joined(record, cases=(UsedIn(plain_name(name), "p", "train", "1" * 64),))
    record.note_round("e", 1, 1e9)
    assert len(record.trace_case([name])) == 1


def test_a_record_that_is_missing_or_damaged_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no agent has noted"):
        read_lineage(tmp_path)
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(WorkFailed, match="cannot be used"):
        read_lineage(tmp_path).trace_case(["case-1"])
