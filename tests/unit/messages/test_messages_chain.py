"""The event log's chain and its export: any change is found and named."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from messages import chain, codec
from messages.chain import ZERO, Entry
from messages.ground.errors import ConfigError, LogBroken, MalformedMessage


def log(experiments: str) -> list[Entry]:
    """A journal with one entry for each letter, the letter being the experiment's id."""
    entries: list[Entry] = []
    for number, name in enumerate(experiments, 1):
        own = [entry for entry in entries if entry.experiment == name]
        entries.append(
            Entry(
                number,
                len(own) + 1,
                name,
                1000 + number,  # a whole second: an int, which has to decode as well
                "event",
                codec.pack({"n": number}),
                own[-1].hash if own else ZERO,
                entries[-1].hash if entries else ZERO,
            ).with_hash()
        )
    return entries


def verified(entries: list[Entry], *, whole_journal: bool = True) -> list[Entry]:
    return list(chain.verify(entries, whole_journal=whole_journal))


@given(st.text(alphabet="abc", max_size=12))
def test_a_log_as_written_verifies_whole_and_by_experiment(experiments: str) -> None:
    entries = log(experiments)
    assert verified(entries) == entries
    own = [entry for entry in entries if entry.experiment == "a"]
    assert verified(own, whole_journal=False) == own
    assert [chain.decode_entry(entry.encode()) for entry in entries] == entries


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda e: [e[0], *e[2:]], "journal number 3"),  # removed
        (lambda e: e[1:], "journal number 2"),  # the first removed
        (lambda e: [e[0], e[2], e[1], *e[3:]], "journal number 3"),  # swapped
        (lambda e: [e[0], e[1], e[1], *e[2:]], "journal number 2"),  # twice
        (lambda e: [e[0], replace(e[1], body=b"\x01"), *e[2:]], "journal number 2"),
        (lambda e: [e[0], replace(e[1], body=b"\x01").with_hash(), *e[2:]], "journal number 3"),  # rehashed
        (lambda e: [e[0], replace(e[1], time=5.0), *e[2:]], "journal number 2"),
    ],
)
@pytest.mark.parametrize("whole_journal", [True, False])
def test_a_changed_log_is_found_and_the_entry_named(change: object, named: str, whole_journal: bool) -> None:
    with pytest.raises(LogBroken, match=named):
        verified(change(log("aaaa")), whole_journal=whole_journal)


def test_an_experiment_taken_out_whole_is_found_in_the_journal() -> None:
    rest = [entry for entry in log("abab") if entry.experiment == "a"]
    assert verified(rest, whole_journal=False) == rest
    with pytest.raises(LogBroken, match="journal number 3"):
        verified(rest)


@given(st.binary(max_size=150))
def test_random_bytes_are_an_entry_or_malformed(data: bytes) -> None:
    try:
        entry = chain.decode_entry(data)
    except MalformedMessage:
        return
    assert entry.encode() == data


def test_other_bytes_of_the_same_content_are_no_entry() -> None:
    data = log("a")[0].encode()
    assert data[:2] == b"\x9a\x01"
    with pytest.raises(MalformedMessage):
        chain.decode_entry(b"\x9a\xcc\x01" + data[2:])  # version 1 in two bytes


def test_an_export_comes_back_equal(tmp_path: Path) -> None:
    entries = log("abcab")
    assert chain.write_export(tmp_path / "log", entries) == 5
    assert list(chain.read_export(tmp_path / "log")) == entries
    assert chain.write_export(tmp_path / "log", []) == 0
    assert list(chain.read_export(tmp_path / "log")) == []
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_flipped_bit_anywhere_in_an_export_is_found_and_its_place_named(tmp_path: Path) -> None:
    path = tmp_path / "log"
    chain.write_export(path, log("aba"))
    good = path.read_bytes()
    choose = random.Random(1)
    for position in range(len(good)):
        changed = bytearray(good)
        changed[position] ^= 1 << choose.randrange(8)
        path.write_bytes(changed)
        with pytest.raises((LogBroken, ConfigError)) as caught:
            verified(list(chain.read_export(path)))
        inside = position >= len(chain.MAGIC)
        assert isinstance(caught.value, LogBroken) == inside
        assert ("entry" if inside else "log") in caught.value.where


def test_an_export_cut_off_anywhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "log"
    chain.write_export(path, log("aba"))
    good = path.read_bytes()
    for length in range(len(good)):
        path.write_bytes(good[:length])
        with pytest.raises((LogBroken, ConfigError)):
            list(chain.read_export(path))
    path.write_bytes(good + b"\x00")
    with pytest.raises(LogBroken, match="after entry 3"):
        list(chain.read_export(path))


def test_last_entries_taken_out_of_an_export_are_found(tmp_path: Path) -> None:
    entries = log("aba")
    whole, short = tmp_path / "whole", tmp_path / "short"
    chain.write_export(whole, entries)
    chain.write_export(short, entries[:2])
    last = len(entries[2].encode()) + 4
    closing = whole.read_bytes()[short.read_bytes().index(bytes(4) + b"\x94") + last :]
    short.write_bytes(short.read_bytes()[: -len(closing)] + closing)
    with pytest.raises(LogBroken, match="after entry 2"):
        list(chain.read_export(short))


def test_a_failed_export_leaves_the_old_file_and_nothing_half_written(tmp_path: Path) -> None:
    path = tmp_path / "log"
    chain.write_export(path, log("a"))
    before = path.read_bytes()
    broken = log("aa")[1:]
    with pytest.raises(LogBroken):
        chain.write_export(path, chain.verify(broken))
    assert path.read_bytes() == before
    assert [item.name for item in tmp_path.iterdir()] == ["log"]


def test_a_file_that_is_missing_or_no_log_or_not_writable_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "missing", tmp_path / "text"):
        with pytest.raises(ConfigError, match=path.name):
            list(chain.read_export(path))
    with pytest.raises(ConfigError, match="cannot be written"):
        chain.write_export(tmp_path / "no-folder" / "log", [])
