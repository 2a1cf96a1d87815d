"""What a site's operator says of a data set: the section `[datasets.NAME]` of site.toml."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from messages.ground.settings import Settings
from messages.tasks.base import Concept
from site_agent.core.budget import DataBudget
from site_agent.datasets.tables.config import TableColumns

MOST_CONCEPTS = 255
"""A label map has a byte for each voxel."""


class DatasetConfig(Settings):
    """One data set.

    Attributes:
        source: layout on disk; `brats`: a folder a case, a file a modality; `decathlon`: imagesTr and labelsTr;
            `table`: a CSV file with a line a case, beside NIfTI, PNG or JPEG files.
        path: the data set's folder.
        labels: this data set's integers → concepts, such as {1: "NCR", 2: "ED", 3: "ET"}. Integers that are
            not named here are refused, 0 is background. Empty with `decathlon`: from dataset.json.
        channels: names of the images' modalities in order; decathlon: where dataset.json is missing or names them
            otherwise than the experiments do; table: one for each of its columns of images.
        patient_id: regular expression with one group that finds the patient in a case's name, so that all
            time points of a patient stay in one split. Default: by the layout's own naming.
        names: how files are named where the built-in endings do not fit: "label", a channel, or "ignore" → endings,
            such as {"label": ["tumor_mask"]}. They take the place of the built-in ones of that role (`filenames`).
        table: what the columns of the table are; `table` only.
        withdrawn: file with one patient or case a line that must not be used; "#" starts a comment.
        privacy: what may be learned of each patient, over all experiments.
    """

    source: Literal["brats", "decathlon", "table"]
    path: Path
    labels: dict[int, Concept] = Field(default_factory=dict)
    channels: tuple[str, ...] | None = None
    names: dict[str, tuple[str, ...]] = Field(default_factory=dict, exclude_if=lambda value: not value)
    patient_id: str | None = None
    table: TableColumns | None = Field(None, exclude_if=lambda value: value is None)
    withdrawn: Path | None = None
    privacy: DataBudget | None = Field(None, exclude_if=lambda value: value is None)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        wrong = [value for value in self.labels if not 1 <= value <= 65535]
        if wrong:
            raise ValueError(f"labels: {wrong[0]} is not allowed; integers from 1 to 65535 (0 is background)")
        self._check_table()
        if self.source == "brats" and not self.labels:
            raise ValueError('labels: name what each integer means, for example { 1 = "NCR", 2 = "ED", 3 = "ET" }')
        if len(set(self.labels.values())) > MOST_CONCEPTS:
            raise ValueError(f"labels: at most {MOST_CONCEPTS} concepts")
        self._check_names()
        if self.channels is not None and (not self.channels or len(set(self.channels)) != len(self.channels)):
            raise ValueError("channels: name each modality once")
        if self.patient_id is not None:
            try:
                pattern = re.compile(self.patient_id)
            except re.error as error:
                raise ValueError(f"patient_id is not a regular expression ({error})") from None
            if pattern.groups != 1:
                raise ValueError(f"patient_id has {pattern.groups} groups; exactly one finds the patient")
        return self

    def _check_table(self) -> None:
        if (self.source == "table") != (self.table is not None):
            raise ValueError('table: source = "table" has a section with its columns, and no other source has one')
        if self.table is None:
            return
        if self.channels is None or len(self.channels) != len(self.table.pictures or self.table.numbers):
            raise ValueError("channels: name a modality for each of table.images, or a quantity for table.numbers")
        if bool(self.labels) != (self.table.mask is not None):
            raise ValueError('labels: with table.mask they say what its integers mean, such as { 1 = "lesion" }')
        if self.names:
            raise ValueError('names: source = "table" has none')

    def _check_names(self) -> None:
        endings = [ending.lower() for several in self.names.values() for ending in several]
        for role in self.names:
            meant = role.lower() in ("label", "ignore") and not role.islower()
            if meant or re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,31}", role) is None:
                raise ValueError(f'names: {role!r} is neither "label", "ignore" nor a modality')
        if not all(self.names.values()) or not all(endings):
            raise ValueError("names: say at least one ending for each role")
        twice = next((ending for ending in endings if endings.count(ending) > 1), None)
        if twice is not None:
            raise ValueError(f"names: {twice!r} is given twice")
        unfit = next((ending for ending in endings if "/" in ending or ending.endswith((".nii", ".gz"))), None)
        if unfit is not None:
            raise ValueError(f'names: {unfit!r} is no ending of a name without ".nii.gz"')
        if self.source == "decathlon" and (strange := set(self.names) - {"label"}):
            raise ValueError(f'names: {sorted(strange)[0]!r} does not fit "decathlon"; only "label" does')

    def patient_of(self, case: str) -> str:
        """The patient in a case's name; the whole name where the expression finds none."""
        if self.patient_id is not None:
            found = re.search(self.patient_id, case)
            return found.group(1) or case if found else case
        if self.source == "brats":
            # BraTS-GLI-00001-000: a last "-NNN" is the time point
            found = re.fullmatch(r"(BraTS-.+)-\d{3}", case)
            return found.group(1) if found else case
        return case
