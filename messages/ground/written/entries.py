"""A list that people keep, one identifier a line: what each line says, or why it cannot be understood. Pure but for
`read_entries`.

A line is one identifier, with a comment behind a "#" if they like. It may be as a spreadsheet writes it: in quotes, as
="0012", with empty columns behind. Whatever else may hide a name is refused with its line, since a name that is not
understood is nobody's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from messages.ground.errors import ConfigError, RequestError
from messages.ground.written.identifiers import ISSUER, is_mojibake, normalise_identifier
from messages.ground.written.text import cut_comment, read_text, split_lines

EXACTLY = "exactly:"
"""Before an identifier: this one is meant, and none that looks like it."""
_QUOTES = {'"': '"', "'": "'", "\u201c": "\u201d", "\u201e": "\u201c\u201d", "\u00ab": "\u00bb", "\u2018": "\u2019"}
_QUOTED = re.compile(r'=?"((?:[^"]|"")*)"(.*)', re.DOTALL)
_COLUMNS = re.compile(r"[,;\t|]")
_REPEATED = re.compile(r"\^\^\^.*~")
"""Several identifiers, as a field of HL7 has them: ID^^^ISSUER~ID^^^ISSUER."""
_SHORTENED = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]+)?[eE]\+[0-9]+")
_SPREADSHEET_ERRORS = ("VALUE!", "REF!", "NAME?", "N/A", "NUM!", "DIV/0!", "NULL!")


@dataclass(frozen=True, slots=True)
class ListEntry:
    """One identifier of a list.

    Attributes:
        line: from 1. name: in its normal form. exact: no other name is meant, however alike.
    """

    line: int
    name: str
    exact: bool = False

    @property
    def number(self) -> str:
        """The Patient ID without its issuer."""
        return self.name.partition(ISSUER)[0]


def read_entries(path: Path, *, refuse: type[RequestError] = ConfigError) -> tuple[ListEntry, ...]:
    """The entries of a list, in the order of its lines.

    Raises:
        RequestError (`refuse`): the file cannot be read as text, or a line cannot be understood; the line is named,
            what stands in it is not.
    """
    return tuple(parse_entries(read_text(path, refuse=refuse), str(path), refuse=refuse))


def parse_entries(text: str, where: str, *, refuse: type[RequestError] = ConfigError) -> Iterator[ListEntry]:
    """Yield each line's entry; raises as `read_entries`."""
    for number, line in enumerate(split_lines(text), start=1):
        entry = _read_line(number, line, f"{where}, line {number}", refuse)
        if entry is not None:
            yield entry


def list_comments(text: str) -> Iterator[ListEntry]:
    """Yield each line that has a comment, whole: where a name holds a "#", it may be that name."""
    for number, line in enumerate(split_lines(text), start=1):
        if cut_comment(line) != line and (name := normalise_identifier(line)):
            yield ListEntry(number, name)


def _read_line(number: int, line: str, where: str, refuse: type[RequestError]) -> ListEntry | None:
    if any(line.lstrip(" \ufeff").startswith(f"#{word}") for word in _SPREADSHEET_ERRORS):
        raise refuse("is an error of a spreadsheet", where=where, advice="Write the identifier itself")
    raw = line.strip().strip("\ufeff")
    exact = raw.lower().startswith(EXACTLY)
    raw = raw[len(EXACTLY) :].strip() if exact else raw
    quoted = _QUOTED.fullmatch(raw)
    if quoted is not None:
        raw, rest = quoted[1].replace('""', '"'), cut_comment(f" {quoted[2]}")
        if rest.strip(" \t,;|"):
            raise _refuse_columns(where, refuse)
    else:
        raw = raw if exact and raw.startswith("#") else cut_comment(raw)
        raw = _strip_quotes(raw.strip().rstrip(",;|\t ").strip(), where, refuse)
    if _SHORTENED.fullmatch(raw):
        raise refuse(
            "is a number that a spreadsheet has shortened",
            where=where,
            advice="Format the column as text, enter the whole number again, and save once more",
        )
    if (quoted is None and _COLUMNS.search(raw)) or _REPEATED.search(raw):
        raise _refuse_columns(where, refuse)
    name = normalise_identifier(raw)
    if name:
        _require_sense(name, raw, where, refuse)
        return ListEntry(number, name, exact)
    if exact:
        raise refuse(f'names nobody behind "{EXACTLY}"', where=where, advice="Write the identifier, or drop the line")
    return None


def _require_sense(name: str, raw: str, where: str, refuse: type[RequestError]) -> None:
    if "\ufffd" in name:
        raise refuse("has a letter that was lost", where=where, advice="Write the identifier again, in UTF-8")
    if is_mojibake(raw):
        raise refuse(
            "is UTF-8 that was read as Windows-1252 and saved again",
            where=where,
            advice="Write the identifier again, in UTF-8",
        )


def _strip_quotes(raw: str, where: str, refuse: type[RequestError]) -> str:
    """Without a pair of quotes around it; `refuse` where one opens and does not close, or the other way round."""
    closing = _QUOTES.get(raw[:1])
    if closing is not None and len(raw) > 1 and raw[-1] in closing:
        return raw[1:-1]
    if closing is not None or raw.endswith('"'):
        raise refuse("has a quote that stands alone", where=where, advice="One identifier a line, without quotes")
    return raw


def _refuse_columns(where: str, refuse: type[RequestError]) -> RequestError:
    return refuse(
        "has several columns",
        where=where,
        advice='Keep the column with the identifiers alone; an identifier with a comma goes into quotes: "A,1"',
    )
