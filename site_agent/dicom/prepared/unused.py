"""Which settings of a data set from DICOM had no effect: overrides that fit no series, identifiers that found no study.

What fitted is kept in the data set's index, since a study that is done is not looked at again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

from messages.ground.written.entries import ListEntry, read_entries
from messages.ground.written.identifiers import normalise_identifier
from site_agent.dicom.base import Looked, Object, StudyFound
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.prepared import store
from site_agent.dicom.prepared.index import Index
from site_agent.dicom.roles.facts import find_override

_OVERRIDES, _UNNAMED, _STRANGERS = "overrides", "unnamed", "strangers"
_NOTES = {"patients": "query", "accessions": "query-accessions"}
"""By the list's key under `query`: the name of what the index notes of it."""
SHOWN = 20


class Effects:
    """What of the settings has had an effect, through one preparation.

    Args:
        index: of the data set; what earlier preparations noted under the same overrides counts.
    """

    def __init__(self, config: DicomDataset, index: Index) -> None:
        self._config, self._index = config, index
        self._rules = _digest_overrides(config)
        noted = json.loads(index.noted_value(_OVERRIDES) or "{}")
        self._fitted = set(noted.get("fitted", ())) if noted.get("rules") == self._rules else set()
        self._seen: set[str] = set()

    def see_found(self, found: Sequence[StudyFound], looked: Looked) -> None:
        """Note which entries of the query's lists the source has, how many studies name no patient, and how many files
        are no DICOM."""
        self._index.note_value(_UNNAMED, str(sum(not one.patient for one in found)))
        self._index.note_value(_STRANGERS, str(looked.not_dicom))
        there = {
            "patients": {normalise_identifier(one.patient.partition("^^^")[0]) for one in found},
            "accessions": {normalise_identifier(one.accession) for one in found},
        }
        for name, path in _lists_of(self._config).items():
            entries = [] if path is None else read_entries(path)
            lost = [entry.line for entry in entries if not _means_one_of(entry, there[name])]
            note = "" if path is None else json.dumps({"entries": len(entries), "lost": lost})
            self._index.note_value(_NOTES[name], note)

    def see_object(self, obj: Object, series: str) -> None:
        """Note which override fits an object's series; once a series."""
        if self._config.overrides and series not in self._seen:
            self._seen.add(series)
            place = find_override(obj, self._config.overrides)
            if place is not None:
                self._fitted.add(place)

    def write_note(self) -> None:
        """Keep what fitted."""
        self._index.note_value(_OVERRIDES, json.dumps({"rules": self._rules, "fitted": sorted(self._fitted)}))


def _lists_of(config: DicomDataset) -> dict[str, Path | None]:
    return {"patients": config.query.patients, "accessions": config.query.accessions}


def _means_one_of(entry: ListEntry, there: set[str]) -> bool:
    return entry.name in there or entry.number in there


def _digest_overrides(config: DicomDataset) -> str:
    plain = [override.model_dump(mode="json") for override in config.overrides]
    return sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def remark_on_settings(state: Path, name: str, config: DicomDataset) -> Iterator[str]:
    """What had no effect in all that was prepared so far, a line each; names no patient."""
    path = store.folder_of(state, name) / "index.sqlite"
    if not path.exists():
        return
    index = Index(path)
    try:
        overrides = json.loads(index.noted_value(_OVERRIDES) or "{}")
        queries = {key: json.loads(index.noted_value(_NOTES[key]) or "{}") for key in _NOTES}
        unnamed = int(index.noted_value(_UNNAMED) or 0)
        strangers = int(index.noted_value(_STRANGERS) or 0)
    finally:
        index.close()
    if strangers:
        yield f"{strangers} {'file is' if strangers == 1 else 'files are'} no DICOM, and passed over"
    if unnamed and config.withdrawn is not None:
        studies = "study has" if unnamed == 1 else "studies have"
        yield f"{unnamed} {studies} no Patient ID: the list of the withdrawn can name such a study by its UID alone"
    if overrides.get("rules") == _digest_overrides(config):
        for place, override in enumerate(config.overrides):
            if place not in overrides["fitted"]:
                asked = override.model_dump(exclude_none=True, exclude={"role"})
                words = ", ".join(f"{key} = {value!r}" for key, value in asked.items())
                yield f"override {place + 1} ({words}) fits no series, or one before it does"
    for key, query in queries.items():
        if lines := query.get("lost"):
            shown = ", ".join(map(str, lines[:SHOWN])) + (" …" if len(lines) > SHOWN else "")
            yield (
                f"query.{key}: {len(lines)} of {query['entries']} entries found no study"
                f" ({'line' if len(lines) == 1 else 'lines'} {shown})"
            )
