"""What a study is made of at its source, for the operator's eyes: series, files, why each is used.

Nothing of it is kept: names of files and true UIDs are read from the source when they are asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from messages.ground.errors import KonsilError
from site_agent.datasets.opening import show_name
from site_agent.dicom.base import LeftOut, StudyFound, StudySource
from site_agent.dicom.config import DicomDataset
from site_agent.dicom.door.pseudonyms import Pseudonyms
from site_agent.dicom.roles.facts import Facts


@dataclass(frozen=True, slots=True)
class Origin:
    """A study at its source. Identifies a patient: never logged, never written.

    Attributes:
        lines: what it is made of, and what was decided on each series.
        files: of a folder, by series.
    """

    lines: tuple[str, ...]
    files: tuple[str, ...] = ()


def trace_study(config: DicomDataset, state: Path, secret: bytes, study: str) -> Origin:
    """Find a study by its pseudonym where it came from; what stands against that, in words, where it cannot be found.

    Raises:
        Nothing of a source: that it does not answer is one of the lines.
    """
    from site_agent.dicom.sources import open_source

    names = Pseudonyms(secret)
    try:
        source = open_source(config, state)
        try:
            found = next((one for one in source.find_studies() if names.pseudonym_of_case(one.uid) == study), None)
            if found is None:
                return Origin(("the source does not have it any more",))
            return _describe_study(config, source, found)
        finally:
            source.close()
    except KonsilError as error:
        return Origin((f"the source cannot be asked ({error.what})",))


def _describe_study(config: DicomDataset, source: StudySource, found: StudyFound) -> Origin:
    from site_agent.dicom.roles.assignment import assign_roles
    from site_agent.dicom.sources.folder import FolderReader

    lines, files = [f"study {found.uid}"], []
    facts: dict[str, Facts] = {}
    said: dict[str, str] = {}
    listed: dict[str, list[str]] = {}
    for series in found.series:
        listed[series.uid] = source.list_series_files(series) if isinstance(source, FolderReader) else []
        if config.source == "dicom" and listed[series.uid]:
            told = _take_facts(config, config.path / listed[series.uid][0])
            if told is not None:
                facts[series.uid], said[series.uid] = told
    decided = assign_roles(facts)
    for series in found.series:
        what = decided.get(series.uid)
        count = len(listed[series.uid]) or series.instances
        line = f"series {series.uid}: {series.modality}, {'?' if count is None else count} objects"
        if said.get(series.uid):
            line += f", {show_name(said[series.uid])}"
        if isinstance(what, LeftOut):
            line += f": left out, {what.text} ({what.reason})"
        elif what is not None:
            line += f": {what}" + ("" if what in config.channels else ", which is no channel of this data set")
        lines.append(line)
        files += listed[series.uid]
    return Origin(tuple(lines), tuple(files))


def _take_facts(config: DicomDataset, path: Path) -> tuple[Facts, str] | None:
    """What the rules know of a series by one of its files, and its description; None where it cannot be read."""
    from site_agent.dicom import reading
    from site_agent.dicom.roles.assignment import take_facts

    try:
        obj = reading.read_file(path)
        return take_facts(obj, config.overrides), str(obj.get("SeriesDescription") or "")
    except Exception:  # noqa: BLE001 - `Unreadable`, or whatever pydicom makes of a malformed value
        return None
