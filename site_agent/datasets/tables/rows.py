"""A table's lines → cases: which files, whose, and what the table says of them. Opens the table and no image."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import StringIO
from pathlib import Path, PurePosixPath

from messages.ground.errors import DataError
from messages.ground.written.identifiers import normalise_identifier
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
        fault: why nobody can say what the line means. cells: of such a line, all that may name a patient.
        files: each file that it names, as the table writes it; None as for images.
    """

    key: str
    line: int
    images: tuple[Path | None, ...]
    mask: Path | None
    patient: str
    words: tuple[str, ...]
    numbers: tuple[str, ...] = ()
    fault: str = ""
    cells: tuple[str, ...] = ()
    files: tuple[tuple[str, Path | None], ...] = field(default=(), compare=False)


@dataclass(frozen=True)
class TableRead:
    """What a table says: the lines that count, in its order, and what else is worth a line to the operator."""

    rows: tuple[TableRow, ...]
    remarks: tuple[str, ...] = ()


def read_table(folder: Path, columns: TableColumns) -> TableRead:
    """The lines of a table that count (`only`).

    A line with more or fewer cells than the head, and lines that contradict each other on one image, have a `fault`.

    Raises:
        DataError: it cannot be read, lacks a column, or has one twice.
    """
    where = folder / columns.file
    lines = read_lines(where)
    head = [normalise_identifier(cell) for cell in lines[0][1]] if lines else []
    while head and not head[-1]:
        head.pop()
    named = [normalise_identifier(name) for name in columns.columns]
    if twice := next((name for name in named if head.count(name) > 1), None):
        raise DataError(
            f"there are {head.count(twice)} columns {twice!r}",
            where=str(where),
            advice="Give each column a name of its own",
        )
    if lacking := [name for name in named if name not in head]:
        known = ", ".join(head[:20]) or "nothing"
        raise DataError(
            f"there is no column {lacking[0]!r}",
            where=str(where),
            advice=f"The table has {known}: name its columns under table in site.toml",
        )
    rows = []
    values: defaultdict[str, set[str]] = defaultdict(set)
    for line, cells in lines[1:]:
        if len(cells) != len(head) and any(cell.strip() for cell in cells[len(head) :] or cells[-1:]):
            fault = f"line {line} has {len(cells)} cells, and the head has {len(head)}"
            rows.append(TableRow(f"line {line}", line, (), None, "", (), fault=fault, cells=_list_cells(cells)))
            continue
        said = {name: cells[at].strip() for at, name in enumerate(head) if at < len(cells)}
        counts = True
        for name, wanted in columns.only.items():
            value = normalise_identifier(said.get(normalise_identifier(name), ""))
            values[name].add(value)
            counts = counts and value in map(normalise_identifier, wanted)
        if counts:
            rows.append(_read_row(folder, columns, line, said))
    lacking_patient = sum(columns.patient is not None and not row.patient and not row.fault for row in rows)
    merged = tuple(_merge_rows(rows))
    return TableRead(
        merged,
        (
            *_remark_on_values(columns, values),
            *_remark_on_repeated(rows, merged),
            *([_say_unnamed(lacking_patient)] if lacking_patient else ()),
        ),
    )


def _list_cells(cells: Sequence[str]) -> tuple[str, ...]:
    """What may name a patient in a line that nobody understands: each cell, and all of them as one text."""
    found = dict.fromkeys(cell.strip() for cell in (*cells, ",".join(cells)))
    return tuple(cell for cell in found if cell)


def _merge_rows(rows: Sequence[TableRow]) -> Iterator[TableRow]:
    """One row for each image: a line that stands there again counts once; several that differ are a fault."""
    groups: defaultdict[str, list[TableRow]] = defaultdict(list)
    for row in rows:
        groups[row.key].append(row)
    for first, *others in groups.values():
        differ = [other for other in others if replace(other, line=first.line) != first]
        if not differ:
            yield first
            continue
        lines = ", ".join(str(row.line) for row in (first, *others))
        cells = tuple(dict.fromkeys(row.patient for row in (first, *others) if row.patient))
        fault = f"lines {lines} name one image, and say different things of it"
        yield TableRow(first.key, first.line, (), None, first.patient, (), fault=fault, cells=cells)


def _remark_on_values(columns: TableColumns, values: dict[str, set[str]]) -> Iterator[str]:
    for name, wanted in columns.only.items():
        if lacking := [one for one in wanted if normalise_identifier(one) not in values[name]]:
            shown = ", ".join(map(repr, lacking[:5])) + (" …" if len(lacking) > 5 else "")
            yield f"no line of the table has {shown} in {name} (table.only)"


def _remark_on_repeated(rows: Sequence[TableRow], merged: Sequence[TableRow]) -> Iterator[str]:
    counts = Counter(row.key for row in rows)
    if again := [row for row in merged if counts[row.key] > 1 and not row.fault]:
        shown = ", ".join(str(row.line) for row in again[:5]) + (" …" if len(again) > 5 else "")
        yield (
            f"{len(again)} {'image stands' if len(again) == 1 else 'images stand'} in the table more than once, with"
            f" the same words (first in line {shown}): each counts once"
        )


def _say_unnamed(count: int) -> str:
    return (
        f"{count} {'line names' if count == 1 else 'lines name'} no patient: each counts as a patient of its own, and"
        " no list of the withdrawn reaches it but by the image's name"
    )


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
    mapped = map_classes(columns)
    if mapped and (strange := [word for word in words if word not in mapped]):
        what = f"the table says {strange[0]!r:.60}, which site.toml does not map"
        raise CaseError(Reason.UNKNOWN_LABEL_VALUE, what, where=where, advice=_MAP)
    try:
        return encode([mapped.get(word, word) for word in words])
    except ValueError as error:
        raise CaseError(Reason.UNKNOWN_LABEL_VALUE, f"the table says {error}", where=where, advice=_MAP) from None


def map_classes(columns: TableColumns) -> dict[str, str]:
    """The site's words, in their normal form → classes of experiments."""
    return {normalise_identifier(word): name for word, name in columns.classes.items()}


_MAP = "Map the site's words to the experiment's classes under table.classes in site.toml"


def read_lines(where: Path) -> list[tuple[int, list[str]]]:
    """Lines with their numbers; empty ones left out. A table that divides by ";" or tabs (Excel's) is read, too, and
    one that says by what it divides ("sep=;" in its first line)."""
    text = read_text(where, refuse=DataError)
    first = text.split("\n", 1)[0]
    says = re.fullmatch(r'"?sep=([,;\t|])"?\s*', first, re.IGNORECASE)
    divider = says[1] if says else max(",;\t", key=first.count)
    reader = csv.reader(StringIO(text, newline=""), delimiter=divider)
    try:
        lines = [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"is no table: {error} in line {reader.line_num}", where=str(where)) from None
    return lines[1:] if says else lines


def _read_row(folder: Path, columns: TableColumns, line: int, said: dict[str, str]) -> TableRow:
    def cell(name: str | None) -> str:
        return "" if name is None else said.get(normalise_identifier(name), "")

    pictures = [cell(name) for name in columns.pictures]
    first = _name_within(folder, pictures[0]) or pictures[0] if pictures else ""
    words = (normalise_identifier(part) for part in _DIVIDERS.split(cell(columns.label)))
    return TableRow(
        key=_strip_ending(first) or f"line {line}",
        line=line,
        images=tuple(_place_file(folder, said) for said in pictures),
        mask=_place_file(folder, cell(columns.mask)),
        patient=cell(columns.patient),
        words=tuple(word for word in words if word),
        numbers=tuple(cell(name) for name in columns.numbers),
        files=tuple((said, _place_file(folder, said)) for said in (*pictures, cell(columns.mask)) if said),
    )


def _place_file(folder: Path, said: str) -> Path | None:
    """A cell's file; None where it is empty or leads out of the folder: a table is data, and opens nothing else."""
    named = _name_within(folder, said)
    return folder / named if named else None


def _name_within(folder: Path, said: str) -> str:
    """A cell's path from the data set's folder on, which a whole path may begin with; "" where it leads elsewhere."""
    named = PurePosixPath(said.replace("\\", "/"))
    if named.is_absolute() and named.is_relative_to(folder):
        named = named.relative_to(folder)
    leaves = named.is_absolute() or ".." in named.parts or ":" in (named.parts or ("",))[0]
    return "" if not said or leaves else str(named)


def _strip_ending(path: str) -> str:
    """A file's path without its ending, in one way of writing it."""
    plain = str(PurePosixPath(path.replace("\\", "/"))) if path else ""
    return re.sub(r"(\.nii(\.gz)?|\.[A-Za-z]{3,4})$", "", plain)
