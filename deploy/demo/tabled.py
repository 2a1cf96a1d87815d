"""A folder with a table beside images, dealt out among sites in whole patients: each gets its lines and links."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.demo.partition import FoundCases
from messages.experiment import Experiment
from messages.ground.errors import DataError
from messages.ground.settings import parse_settings
from messages.ground.written.documents import read_toml
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.layouts import list_entries
from site_agent.datasets.tables.config import TableColumns
from site_agent.datasets.tables.rows import TableRow, read_lines, read_table

TABLE = TableColumns.model_fields["file"].default


@dataclass(frozen=True)
class TableSet:
    """One folder.

    Attributes:
        config: as a site's operator would describe it. lines: of the table, the head first.
        patients: patient → numbers of lines, and rows.
    """

    config: DatasetConfig
    table: TableColumns
    lines: Sequence[tuple[int, list[str]]]
    patients: Mapping[str, Sequence[TableRow]]

    @property
    def path(self) -> Path:
        """The folder."""
        return self.config.path

    @property
    def channels(self) -> tuple[str, ...]:
        """The images of a case."""
        return self.config.channels or ()

    @property
    def labels(self) -> Mapping[int, str]:
        """What the masks' integers mean."""
        return self.config.labels

    @property
    def found(self) -> FoundCases:
        """Patients as what is dealt out: each is complete."""
        folders = ("imagesTr", "labelsTr")
        return FoundCases(
            self.path, {name: [(folder, Path(name)) for folder in folders] for name in sorted(self.patients)}
        )

    def read_column(self, column: str) -> dict[str, str]:
        """Patient → what the first of its lines says, "" included.

        Raises:
            DataError: there is no such column.
        """
        head = [cell.strip() for cell in self.lines[0][1]]
        if column not in head:
            known = ", ".join(head)
            raise DataError(
                f"there is no column {column!r}",
                where=str(self.path / self.table.file),
                advice=f"The table has {known}",
            )
        at, cells = head.index(column), dict(self.lines)
        first = {name: cells[rows[0].line] for name, rows in self.patients.items()}
        return {name: row[at].strip() if at < len(row) else "" for name, row in first.items()}

    def read_labels(self) -> dict[str, int]:
        """Patient → a number for the label that most of its lines say."""
        words = {
            name: Counter(";".join(row.words) for row in rows).most_common(1)[0][0]
            for name, rows in self.patients.items()
        }
        places = {word: place for place, word in enumerate(sorted(set(words.values())))}
        return {name: places[word] for name, word in words.items()}

    def deal_out(self, names: Sequence[str], target: Path) -> None:
        """Make a site's folder: a table of its patients' lines, and links to their files.

        Raises:
            DataError: the folder holds something.
        """
        if target.exists() and any(target.iterdir()):
            raise DataError("is not empty", where=str(target), advice="Name a new folder, or remove this one")
        target.mkdir(parents=True, exist_ok=True)
        rows = [row for name in names for row in self.patients[name]]
        kept = {row.line for row in rows}
        with (target / self.table.file).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerows(cells for line, cells in self.lines if line == self.lines[0][0] or line in kept)
        for row in rows:
            for path in (*row.images, row.mask):
                link = None if path is None else target / path.relative_to(self.path)
                if path is not None and link is not None and path.exists() and not link.is_symlink():
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(path.resolve())

    def describe_source(self, folder: Path) -> dict[str, Any]:
        """[datasets.NAME] of a site that holds its share in `folder`."""
        plain = self.config.model_dump(mode="json", exclude_unset=True)
        return {**plain, "path": folder, "labels": {str(value): name for value, name in self.config.labels.items()}}


def has_table(path: Path, described: Path | None) -> bool:
    """Whether a folder is laid out by a table."""
    return described is not None or ((path / TABLE).is_file() and not (path / "imagesTr").is_dir())


def read_table_set(path: Path, experiment: Experiment, described: Path | None) -> TableSet:
    """A folder's table.

    Args:
        described: a file with the keys of [datasets.NAME]; None: columns called image, patient, label and mask.

    Raises:
        DataError, ConfigError: no table, none of these columns, or a description that is none.
    """
    list_entries(path)
    if described is not None:
        content = {"source": "table", **read_toml(described), "path": str(path)}
        config = parse_settings(content, DatasetConfig, str(described))
    else:
        config = _guess_columns(path, experiment)
    if config.table is None:
        raise DataError("describes no table", where=str(described), advice='source = "table", and a section [table]')
    patients: dict[str, list[TableRow]] = {}
    for row in read_table(path, config.table).rows:
        patients.setdefault(row.patient or config.patient_of(row.key), []).append(row)
    return TableSet(config, config.table, read_lines(path / config.table.file), patients)


def _guess_columns(path: Path, experiment: Experiment) -> DatasetConfig:
    lines = read_lines(path / TABLE)
    head = {cell.strip() for cell in lines[0][1]} if lines else set()
    by_value = experiment.task.truth == "table"
    table: dict[str, Any] = {"patient": "patient"} if "patient" in head else {}
    table |= {"label": "label"} if by_value else {"mask": "mask"}
    content: dict[str, Any] = {"source": "table", "path": str(path), "table": table}
    content["channels"] = list(experiment.task.channels)
    if not by_value:
        content["labels"] = {str(n): concept for n, concept in enumerate(experiment.task.concepts, start=1)}
    return parse_settings(content, DatasetConfig, str(path / TABLE))
