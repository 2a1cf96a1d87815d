"""What dataset.json says of a data set: Decathlon's dialect and both of nnU-Net's.

| dialect | modalities | labels | files |
|---|---|---|---|
| Decathlon, nnU-Net 1 | `modality`: number → name | integer → name | |
| nnU-Net 2 | `channel_names`: number → name | name → integer or integers | `file_ending` |

Decathlon: Simpson et al. 2019, arXiv 1902.09063. nnU-Net: its documentation/dataset_format.md.

Where nnU-Net's labels are regions (lists of integers that overlap), an integer that only regions hold has no name of
its own: it is called label-N, so that nobody takes the part for the whole. `ignore` marks what nobody annotated: it is
no concept, and a case that holds it is left out.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from messages.ground.errors import DataError
from messages.ground.written.documents import read_json

FILE = "dataset.json"
MOST_LABEL = 65535
_CONCEPT = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")
_MEND = "Mend it, or move it away and name labels and channels in site.toml"


@dataclass(frozen=True)
class DescribedLabels:
    """What the integers of a label map mean.

    Attributes:
        concepts: integers above 0 → concepts. names: the same, as they are written, where they have one.
        regions: names → their integers, where one name has several.
        ignored: the integer of what nobody annotated.
    """

    concepts: Mapping[int, str] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    regions: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ignored: int | None = None


@dataclass(frozen=True)
class Description:
    """A dataset.json as it was read; empty where there is none. Each part is understood when it is asked for."""

    file: Path
    content: Mapping[str, Any]

    @property
    def is_raw(self) -> bool:
        """Whether it is nnU-Net 2's, whose layout has a file for each channel."""
        return "channel_names" in self.content or "file_ending" in self.content

    def require_nifti(self) -> None:
        """Raise DataError where it says that the files are of another format."""
        ending = self.content.get("file_ending", ".nii.gz")
        if str(ending).lower() not in (".nii", ".nii.gz"):
            raise DataError(
                f'says that files end with "{str(ending)[:20]}"',
                where=str(self.file),
                advice="Only NIfTI is read: convert the files to .nii.gz, and change file_ending",
            )

    def read_channels(self) -> tuple[str, ...]:
        """Names of the modalities in their order; none where it is silent.

        Raises:
            DataError: they are not numbered from 0 on, or two have one name.
        """
        named = self.content.get("channel_names", self.content.get("modality"))
        if named is None or named == {}:
            return ()
        if isinstance(named, list):
            named = {str(place): name for place, name in enumerate(named)}
        if not isinstance(named, dict) or not all(_read_whole(key) is not None for key in named):
            raise self._refuse("does not number the modalities")
        order = sorted(named, key=lambda key: _read_whole(key) or 0)
        written = [str(named[key]).strip() for key in order]
        names = tuple(one if _CONCEPT.fullmatch(one) else _clean_name(one) for one in written)
        if [_read_whole(key) for key in order] != list(range(len(order))):
            raise self._refuse("does not number the modalities from 0 on")
        if len(set(names)) != len(names):
            advice = 'Name each in site.toml, in this order: channels = ["T1", "T2"]'
            raise DataError("gives two modalities one name", where=str(self.file), advice=advice)
        return names

    def read_labels(self) -> DescribedLabels:
        """What the integers mean; nothing where it is silent.

        Raises:
            DataError: "labels" maps neither integers to names nor names to integers, or contradicts itself.
        """
        named = self.content.get("labels")
        if named is None:
            return DescribedLabels()
        if not isinstance(named, dict):
            raise self._refuse('"labels" does not map integers to names')
        if all(_read_whole(key) is not None and isinstance(name, str) for key, name in named.items()):
            parts: list[tuple[str, tuple[int, ...]]] = [(name, (_read_whole(key) or 0,)) for key, name in named.items()]
        else:
            parts = [(str(name), self._read_integers(value)) for name, value in named.items()]
        ignored = next((values[0] for name, values in parts if name.strip().lower() == "ignore"), None)
        parts = [part for part in parts if part[0].strip().lower() != "ignore"]
        single = [(values[0], name) for name, values in parts if len(values) == 1 and values[0]]
        regions = {name: values for name, values in parts if len(values) > 1}
        twice = [value for value, count in Counter(value for value, _ in single).items() if count > 1]
        if twice:
            raise self._refuse(f'"labels" gives the integer {twice[0]} two names')
        wrong = [value for value in (*dict(single), *chain.from_iterable(regions.values())) if value > MOST_LABEL]
        if wrong:
            raise self._refuse(f'"labels" names the integer {wrong[0]}: at most {MOST_LABEL}')
        return DescribedLabels(_name_concepts(single, regions), dict(single), regions, ignored)

    def _read_integers(self, value: Any) -> tuple[int, ...]:
        """A label's integer, or a region's."""
        values = [_read_whole(one) for one in (value if isinstance(value, list) else [value])]
        whole = tuple(one for one in values if one is not None)
        if not whole or len(whole) != len(values):
            raise self._refuse('"labels" does not map integers to names, nor names to integers')
        return whole

    def _refuse(self, what: str) -> DataError:
        return DataError(what, where=str(self.file), advice=_MEND)


def read_description(folder: Path) -> Description:
    """A folder's dataset.json.

    Raises:
        DataError: it is there and cannot be read as a JSON object.
    """
    file = folder / FILE
    if not os.path.lexists(file):
        return Description(file, {})
    content = read_json(file, refuse=DataError, advice="Mend it, or move it away")
    if not isinstance(content, dict):
        raise DataError("is not a JSON object", where=str(file), advice="Mend it, or move it away")
    return Description(file, content)


def _name_concepts(single: list[tuple[int, str]], regions: Mapping[str, tuple[int, ...]]) -> dict[int, str]:
    """Integers → concepts: their names in the letters of a concept, label-N where they have none, or share it."""
    cleaned = {value: _clean_name(name) for value, name in single}
    meant = {name: {other for _, other in single if _clean_name(other) == name} for name in cleaned.values()}
    concepts = {
        value: name if re.match(r"[A-Za-z]", name) and len(meant[name]) == 1 else f"label-{value}"
        for value, name in cleaned.items()
    }
    for value in chain.from_iterable(regions.values()):
        if value:
            concepts.setdefault(value, f"label-{value}")
    return dict(sorted(concepts.items()))


def _clean_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "_", name.strip())[:32]


def _read_whole(value: Any) -> int | None:
    """A whole number that is not negative, as JSON's number or in digits."""
    if type(value) is int and value >= 0:
        return value
    if isinstance(value, str) and len(value) < 12 and value.strip().isascii() and value.strip().isdecimal():
        return int(value)
    return None
