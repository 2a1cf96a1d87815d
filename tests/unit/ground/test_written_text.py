"""Text that people write: a byte order mark is taken, any other encoding is named with its line, lists say one name."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from brokers import PATIENCE
from hypothesis import given
from hypothesis import strategies as st

from messages.experiment import parse_experiment
from messages.ground.errors import ConfigError, DataError
from messages.ground.settings import read_secret, read_settings
from messages.ground.written.documents import parse_json, read_json, read_toml
from messages.ground.written.entries import ListEntry, parse_entries, read_entries
from messages.ground.written.identifiers import normalise_identifier
from messages.ground.written.likeness import liken_identifier
from messages.ground.written.text import cut_comment, decode_text, read_text, split_lines

MARK = b"\xef\xbb\xbf"


@pytest.mark.parametrize("start", [b"", MARK, MARK + MARK])
def test_a_byte_order_mark_is_as_if_it_were_not_there(start: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(start + b"a = 1\r\n")
    (tmp_path / "a.json").write_bytes(start + b'{"a": 1}')
    (tmp_path / "list").write_bytes(start + b"P1\r\nP2\r\n")
    (tmp_path / "secret").write_bytes(start + "pä ss\r\n".encode())
    assert read_toml(tmp_path / "a.toml") == read_json(tmp_path / "a.json") == {"a": 1}
    assert read_entries(tmp_path / "list") == (ListEntry(1, "P1"), ListEntry(2, "P2"))
    assert read_secret(f"file:{tmp_path / 'secret'}", "broker.password") == "pä ss"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("P1\nP2\n".encode("utf-16"), "w: is UTF-16LE, not UTF-8. Save it as UTF-8"),
        ("P1\n".encode("utf-16-be"), "w: is UTF-16BE without a mark"),
        ("P1\n".encode("utf-16-le"), "w: is UTF-16LE without a mark"),
        (b"\xfe\xff" + "P1\n".encode("utf-16-be"), "w: is UTF-16BE, not UTF-8"),
        ("P1\n".encode("utf-32"), "w: is UTF-32LE, not UTF-8"),
        ("P1\nP2\nMüller\n".encode("latin-1"), "w, line 3: is not UTF-8: byte 0xFC, which is 'ü' in Windows-1252"),
        ("P1\nMüller\n".encode("mac-roman"), "w, line 2: is not UTF-8: byte 0x9F"),
        ("P1\nMü".encode()[:-1], "w, line 2: ends inside a letter"),
        (b"P1\nP2\0\nP3\n", "w, line 2: holds a byte 0"),
        (b"PK\x03\x04 and so on", "w: is an Excel workbook or another zip file"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1", "w: is an Office document"),
        (b"{\\rtf1 P1}", "w: is a document in RTF"),
    ],
)
def test_another_encoding_is_named_with_the_line_and_what_to_do(content: bytes, said: str) -> None:
    with pytest.raises(DataError) as caught:
        decode_text(content, "w", refuse=DataError)
    assert str(caught.value).startswith(said)
    assert caught.value.advice


@pytest.mark.parametrize("kind", ["folder", "pipe", "missing", "a NUL in its name", "device"])
def test_what_is_no_regular_file_is_told_and_never_waited_for(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "w"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    path = {"a NUL in its name": tmp_path / "a\0b", "device": Path("/dev/zero")}.get(kind, path)
    with pytest.raises(ConfigError, match=r"is a folder|is a pipe|is a device|cannot be read"):
        read_text(path)


def test_lines_end_as_any_system_ends_them_and_comments_begin_after_a_space_alone() -> None:
    assert split_lines("a\r\nb\rc\nd\u2028e") == ["a", "b", "c", "d", "e"]
    assert [cut_comment(line).strip() for line in ("# x", " # x", "a # x", "a\u00a0# x", "a#x")] == [
        "",
        "",
        "a",
        "a",
        "a#x",
    ]


def test_toml_says_which_letter_no_keyboard_gives() -> None:
    for text, said in (
        ("a = 1\nb = “x”\n", "Line 2 has a typographic quote"),
        ('a = 1\npath = "C:\\data"\n', "Line 2 has a backslash"),
        ("a\u00a0= 1\n", "Line 1 has an invisible letter (U+00A0, no-break space)"),
        ("a = 1\n\u200bb = 2\n", "Line 2 has an invisible letter (U+200B, zero width space)"),
    ):
        with pytest.raises(ConfigError) as caught:
            parse_experiment(text, "e.toml")
        assert said in str(caught.value)


def test_backslashes_that_are_written_twice_are_not_told_as_the_mistake() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_experiment('path = "C:\\\\data\n', "e.toml")
    assert "backslash" not in str(caught.value)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}", "{", '{"a": 1,}'])
def test_json_that_cannot_be_read_is_a_line(content: str) -> None:
    with pytest.raises(DataError, match=r"d\.json: cannot be read as JSON"):
        parse_json(content, "d.json", refuse=DataError)


@pytest.mark.parametrize("content", ["a = " + "[" * 100_000, "a = " + "9" * 5000])
def test_toml_that_is_too_deep_or_too_long_is_a_line(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(content)
    with pytest.raises(ConfigError, match="is not valid TOML"):
        read_toml(tmp_path / "a.toml")


def test_a_secret_of_several_lines_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("one\ntwo\n")
    with pytest.raises(ConfigError, match=r"the secret in .*s has several lines"):
        read_secret(f"file:{tmp_path / 's'}", "broker.password")


SAME = [
    ("M\u00fcller", "Mu\u0308ller"),
    ("P1", "P1\0\0"),
    ("P1", " P1\u00a0"),
    ("A 1", "A  1"),
    ("A 1", "A\u30001"),
    ("P1", "\uff30\uff11"),
    ("P-1", "P\u20111"),
    ("P-1", "P\u22121"),
    ("P1", "P\u200b1"),
    ("P1", "\u200eP1"),
    ("P1", "P\u00ad1"),
    ("P1", "\ufeffP1"),
    ("Jos\u00e9", "Jos\udce9"),
]


@pytest.mark.parametrize(("one", "other"), SAME)
def test_what_no_eye_tells_apart_is_one_identifier(one: str, other: str) -> None:
    assert normalise_identifier(one) == normalise_identifier(other) == unicodedata.normalize("NFC", one)


@pytest.mark.parametrize(
    ("one", "other"),
    [("P1", "p1"), ("12", "0012"), ("P 1", "P_1"), ("P-1", "P1"), ("\u0420\u0410-1", "PA-1"), ("Müller", "Muller")],
)
def test_what_people_and_spreadsheets_change_has_one_likeness(one: str, other: str) -> None:
    assert liken_identifier(one) == liken_identifier(other)
    assert normalise_identifier(one) != normalise_identifier(other)


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("P1  # by letter", "P1"),
        ("P1#2", "P1#2"),
        ('"P1";;', "P1"),
        ('"A,1"', "A,1"),
        ('"a ""b"""', 'a "b"'),
        ('="0012"', "0012"),
        ("'P1'", "P1"),
        ("\u201eP1\u201c", "P1"),
        ("P1;", "P1"),
        ("P1\t", "P1"),
        ("O'Brien", "O'Brien"),
    ],
)
def test_an_entry_is_read_as_people_and_spreadsheets_write_it(line: str, name: str) -> None:
    assert [one.name for one in parse_entries(line, "w")] == [name]


@pytest.mark.parametrize("line", ["", "   ", "# nobody", "\ufeff", ";;", "\u200b", '""', "\x1a"])
def test_a_line_that_says_nothing_is_no_entry(line: str) -> None:
    assert [*parse_entries(line, "w")] == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("P1;Muster;1970", "has several columns"),
        ("P1\tMuster", "has several columns"),
        ('"P1","Muster"', "has several columns"),
        ("1.2E+10", "is a number that a spreadsheet has shortened"),
        ("1,23457E+12", "is a number that a spreadsheet has shortened"),
        ("#NAME?", "is an error of a spreadsheet"),
        ("M\u00c3\u00bcller", "is UTF-8 that was read as Windows-1252"),
        ("M\ufffdller", "has a letter that was lost"),
        ('"P1', "has a quote that stands alone"),
        ("'0012", "has a quote that stands alone"),
        ("exactly:", "names nobody"),
    ],
)
def test_a_line_that_cannot_be_understood_is_refused_by_its_number(line: str, said: str) -> None:
    with pytest.raises(ConfigError, match="w, line 3: ") as caught:
        list(parse_entries(f"P1\n\n{line}\n", "w"))
    assert said in str(caught.value)


def test_a_file_of_settings_with_a_byte_order_mark_is_read_by_every_service(tmp_path: Path) -> None:
    from coordinator.config import CoordinatorConfig
    from messages.experiment import Experiment

    text = '[coordinator]\nconsortium = "c"\nstate = "s"\nsites = ["a"]\nresearchers = ["r"]\n'
    (tmp_path / "c.toml").write_bytes(MARK + text.encode())
    assert read_settings(tmp_path / "c.toml", CoordinatorConfig).coordinator.consortium == "c"
    (tmp_path / "e.toml").write_bytes(MARK + b"schema = 1\nthat = 1\n")
    with pytest.raises(ConfigError, match="key 'that' is unknown"):
        read_settings(tmp_path / "e.toml", Experiment)


def test_a_settings_file_may_come_from_a_pipe(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from messages.ground.written.documents import read_toml;"
    done = subprocess.run(
        [sys.executable, "-c", f"{program} print(read_toml(Path('/dev/stdin')))"],
        input="a = 1\n", capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert done.stdout == "{'a': 1}\n"


@given(st.binary(max_size=200) | st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_whatever_bytes_a_file_has_it_is_read_or_refused_in_a_line(content: bytes) -> None:
    for read in (
        lambda text: list(parse_entries(text, "f")),
        lambda text: parse_json(text, "f"),
        lambda text: parse_experiment(text, "f"),
    ):
        with contextlib.suppress(ConfigError):
            read(decode_text(content, "f"))


@given(st.text(max_size=40))
def test_a_normal_form_is_its_own_normal_form_and_likeness(text: str) -> None:
    normal = normalise_identifier(text)
    assert normalise_identifier(normal) == normal
    assert liken_identifier(normal) == liken_identifier(text)
    assert normalise_identifier(f" {text}\0") == normal
