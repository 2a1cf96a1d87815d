"""A table's lines → cases: which files, whose, and what the table says of them. Opens the table and no image."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import StringIO
from pathlib import Path, PurePosixPath

from messages.ground.errors import DataError
from messages.ground.written.text import read_text
from messages.reasons import Reason
from site_agent.datasets.barrier import CaseError
from site_agent.datasets.tables.config import TableColumns

_DIVIDERS = re.compile(r"[;|]")
EncodeValue = Callable[[Sequence[str]], tuple[float, ...]]
"""`Task.encode_value`."""


@dataclass(frozen=True)
class TableRow:
    """One line.

    Attributes:
        key: the case's name: the first image's path, without its ending, or else its line. line: in the file, from 1.
        numbers: as they are written; none where a case has images.
        images: one a channel; None where the cell is empty, or names a file outside of the data set's folder.
        patient: "" where no column says it. words: of the label, as the site writes them.
    """

    key: str
    line: int
    images: tuple[Path | None, ...]
    mask: Path | None
    patient: str
    words: tuple[str, ...]
    numbers: tuple[str, ...] = ()


def read_rows(folder: Path, columns: TableColumns) -> list[TableRow]:
    """The lines of a table that count (`only`), in its order.

    Raises:
        DataError: it cannot be read, lacks a column, or names an image twice.
    """
    where = folder / columns.file
    lines = read_lines(where)
    head = [cell.strip() for cell in lines[0][1]] if lines else []
    if lacking := [name for name in columns.columns if name not in head]:
        known = ", ".join(head[:20]) or "nothing"
        raise DataError(
            f"there is no column {lacking[0]!r}",
            where=str(where),
            advice=f"The table has {known}: name its columns under table in site.toml",
        )
    rows = []
    for line, cells in lines[1:]:
        said = {name: cells[at].strip() for at, name in enumerate(head) if at < len(cells)}
        if all(said.get(name, "") in values for name, values in columns.only.items()):
            rows.append(_read_row(folder, columns, line, said))
    counted = Counter(row.key for row in rows)
    if twice := next((row for row in rows if counted[row.key] > 1), None):
        raise DataError(
            f"line {twice.line} names an image that another line names too",
            where=str(where),
            advice="A case has one line",
        )
    return rows


def encode_row(
    words: Sequence[str], columns: TableColumns | None, encode: EncodeValue, where: str
) -> tuple[float, ...]:
    """What the table says of a case, as numbers that the net is trained towards.

    Raises:
        CaseError: NO_LABEL: nothing. UNKNOWN_LABEL_VALUE: a word that site.toml does not map, or that is none of the
            experiment's.
    """
    if columns is None or not words:
        raise CaseError(Reason.NO_LABEL, "no table says what it is", where=where)
    mapped = columns.classes
    if mapped and (strange := [word for word in words if word not in mapped]):
        what = f"the table says {strange[0]!r:.60}, which site.toml does not map"
        raise CaseError(Reason.UNKNOWN_LABEL_VALUE, what, where=where, advice=_MAP)
    try:
        return encode([mapped.get(word, word) for word in words])
    except ValueError as error:
        raise CaseError(Reason.UNKNOWN_LABEL_VALUE, f"the table says {error}", where=where, advice=_MAP) from None


_MAP = "Map the site's words to the experiment's classes under table.classes in site.toml"


def read_lines(where: Path) -> list[tuple[int, list[str]]]:
    """Lines with their numbers; empty ones left out. A table that divides by ";" or tabs (Excel's) is read, too."""
    text = read_text(where, refuse=DataError)
    divider = max(",;\t", key=text.split("\n", 1)[0].count)
    reader = csv.reader(StringIO(text, newline=""), delimiter=divider)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"is no table: {error} in line {reader.line_num}", where=str(where)) from None


def _read_row(folder: Path, columns: TableColumns, line: int, said: dict[str, str]) -> TableRow:
    images = tuple(_place_file(folder, said.get(name, "")) for name in columns.pictures)
    first = said.get(columns.pictures[0], "") if columns.pictures else ""
    label = said.get(columns.label, "") if columns.label is not None else ""
    return TableRow(
        key=_strip_ending(first) or f"line {line}",
        line=line,
        images=images,
        mask=None if columns.mask is None else _place_file(folder, said.get(columns.mask, "")),
        patient="" if columns.patient is None else said.get(columns.patient, ""),
        words=tuple(word for part in _DIVIDERS.split(label) if (word := part.strip())),
        numbers=tuple(said.get(name, "") for name in columns.numbers),
    )


def _place_file(folder: Path, said: str) -> Path | None:
    """A cell's file; None where it is empty or leads out of the folder: a table is data, and opens nothing else."""
    named = PurePosixPath(said.replace("\\", "/"))
    if not said or named.is_absolute() or ".." in named.parts or ":" in (named.parts or ("",))[0]:
        return None
    return folder / named


def _strip_ending(path: str) -> str:
    return re.sub(r"(\.nii(\.gz)?|\.[A-Za-z]{3,4})$", "", path.replace("\\", "/"))
