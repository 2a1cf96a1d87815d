"""What a site's operator says of a table beside images: `[datasets.NAME.table]` of site.toml."""

from __future__ import annotations

from pathlib import PurePath
from typing import Annotated, Self

from pydantic import Field, model_validator

from messages.ground.settings import Settings
from messages.ground.strictness import at_most
from messages.tasks.base import Concept

MOST_WORDS = 10_000
Column = Annotated[str, Field(min_length=1, max_length=200)]


class TableColumns(Settings):
    """A CSV file with a line for each case; its first line names the columns.

    Attributes:
        file: its name in the data set's folder.
        images: the columns with the images' paths, one a channel, in the order of the data set's `channels`.
        numbers: instead of images, the columns with a number each, in the same order: for a trainer of the site's own.
        patient: the column with the patient; None: what `patient_id` finds in the image's name.
        label: the column with what a case is; None: a mask alone says so.
        classes: the site's words → classes of experiments; empty: the words are the classes. Several words of a case
            are divided by ";" or "|".
        mask: the column with the label map's path, for segmentation; `labels` then says what its integers mean.
        only: column → values; other lines are no case of this data set.
    """

    file: str = "labels.csv"
    images: Annotated[tuple[Column, ...], at_most(16)] = Field(("image",), min_length=1)
    numbers: Annotated[tuple[Column, ...], at_most(16)] = Field((), exclude_if=lambda value: not value)
    patient: Column | None = None
    label: Column | None = None
    classes: Annotated[dict[str, Concept], at_most(MOST_WORDS)] = Field(default_factory=dict)
    mask: Column | None = None
    only: Annotated[dict[Column, tuple[str, ...]], at_most(64)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if PurePath(self.file).name != self.file or self.file in ("", ".", ".."):
            raise ValueError(f"file: {self.file!r} is no name of a file in the data set's folder")
        if self.numbers and (self.images != ("image",) or self.mask is not None):
            raise ValueError("numbers: such a table has neither images nor masks")
        if self.label is None and self.mask is None:
            raise ValueError("say which column holds the label, or the mask")
        if self.classes and self.label is None:
            raise ValueError("classes: say which column holds the label")
        return self

    @property
    def pictures(self) -> tuple[str, ...]:
        """The columns with images' paths; none where a case is numbers."""
        return () if self.numbers else self.images

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns that it names, each once."""
        named = (*self.pictures, *self.numbers, self.patient, self.label, self.mask, *self.only)
        return tuple(dict.fromkeys(one for one in named if one is not None))
