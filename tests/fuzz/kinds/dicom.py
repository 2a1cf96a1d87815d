"""DICOM objects in a folder, each in a study of its own, among two whole studies."""

from __future__ import annotations

import logging
import random
import struct
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from messages.ground import logs
from site_agent.dicom import reading
from site_agent.dicom.base import Accounting
from site_agent.dicom.config import FolderSource
from site_agent.dicom.hush import silence_libraries
from site_agent.dicom.prepared import accounts
from site_agent.dicom.preparing import build
from site_agent.dicom.preparing.cleaning import Rules, WrittenObject, clean_objects
from tests.fuzz import dicom_damage, dicom_studies
from tests.fuzz.harness import Kind, Lost

SECRET = bytes(range(32))
PLACEHOLDER = "2.25.4711.100000"
"""The study in every template; another number of as many digits is put in its place."""
LABELS = ("seg", "rtstruct")
WHOLE = (999998, 999999)
_HEADER = struct.Struct(">4sBBBI")


def damage(rng: random.Random) -> bytes:
    """Which file of which study it is, and its damaged content."""
    encoding, label = rng.randrange(len(dicom_studies.ENCODINGS)), rng.randrange(2)
    number = rng.randrange(100001, 999000)
    files = _study(number, encoding, label)
    place = len(files) - 1 if rng.random() < 0.5 else rng.randrange(len(files))
    content = dicom_damage.damage_file(rng, files[place])
    return _HEADER.pack(b"FUZZ", encoding, label, place, number) + content


def attempt(folder: Path, inputs: Sequence[bytes]) -> Counter[str]:
    """Prepare them in this process."""
    return _attempt(folder, inputs, 1)


def attempt_alone(folder: Path, inputs: Sequence[bytes]) -> Counter[str]:
    """Prepare them in processes, as a site does."""
    return _attempt(folder, inputs, 2)


def _attempt(folder: Path, inputs: Sequence[bytes], processes: int) -> Counter[str]:
    logs.configure_log("fuzz", logging.CRITICAL)
    silence_libraries()
    told: Counter[str] = Counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for label, kind in enumerate(LABELS):
            chosen = [one for one in inputs if _HEADER.unpack_from(one)[2] == label]
            if not chosen:
                continue
            place = folder / kind
            for number in WHOLE:
                _write(place / str(number), _study(number, 0, label))
            for one in chosen:
                _, encoding, _, at, number = _HEADER.unpack_from(one)
                files = list(_study(number, encoding, label))
                files[at] = one[_HEADER.size :]
                _write(place / str(number), files)
                told.update(_try_other_ways(one[_HEADER.size :], encoding, kind))
            told.update(_prepare(place, kind, processes))
    return told


def _prepare(place: Path, kind: str, processes: int) -> Counter[str]:
    config = _config(place, kind)
    state = place.parent / f"state-{kind}"
    accounting: list[Accounting] = []
    dataset = build.prepare_dataset(
        "g", config, state, SECRET, lambda *_: None, processes=processes, done=accounting.append
    )
    cases = {one.name.partition(".")[0] for one in dataset.path.iterdir()}
    if missing := _whole_cases(kind) - cases:
        raise Lost(f"{len(missing)} of {len(WHOLE)} whole studies")
    found = accounting[0]
    told = Counter({str(reason): count for reason, count in found.left_out.items()})
    told["used"] = found.used - len(WHOLE)
    texts = [one.text for one in accounts.read_verdicts(state, "g").values() if one.text.startswith("cannot be proc")]
    told["caught last"] = len(texts)
    return +told


def _try_other_ways(content: bytes, encoding: int, kind: str) -> Counter[str]:
    """What C-GET, C-MOVE and DICOMweb hand over: the data set with its syntax, and the file as bytes."""
    syntax = dicom_studies.ENCODINGS[encoding][1]
    for given in ((content, None), (content[400:], syntax)):
        try:
            obj = reading.read_object(*given)
        except reading.Unreadable:
            continue
        [clean] = clean_objects(_door(kind), [obj])
        if isinstance(clean, WrittenObject):
            reading.read_object(clean.content)
    return Counter()


@cache
def _door(kind: str) -> Any:
    return Rules(SECRET, _config(Path("unused"), kind).labels, ()).make_door()


@cache
def _whole_cases(kind: str) -> frozenset[str]:
    """Names of the whole studies' cases."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        for number in WHOLE:
            _write(Path(folder) / "in" / str(number), _study(number, 0, LABELS.index(kind)))
        config = _config(Path(folder) / "in", kind)
        dataset = build.prepare_dataset("g", config, Path(folder) / "state", SECRET, lambda *_: None, processes=1)
        found = frozenset(one.name.partition(".")[0] for one in dataset.path.iterdir())
    assert len(found) == len(WHOLE)
    return found


def _config(folder: Path, kind: str) -> FolderSource:
    rule = {"codes": [":".join(dicom_studies.CODE)]} if kind == "seg" else {"names": [dicom_studies.NAME]}
    labels = {"source": kind, "concepts": {"tumour": rule}}
    return FolderSource.model_validate({"source": "dicom", "path": str(folder), "channels": ["T1"], "labels": labels})


def _study(number: int, encoding: int, label: int) -> tuple[bytes, ...]:
    """A whole study's files."""
    made = []
    for layout in _layouts(encoding, label):
        names = (PLACEHOLDER.encode(), PLACEHOLDER.replace("100000", str(number)).encode())
        patient = (b"P100000", f"P{number}".encode())
        body = layout.body.replace(*names).replace(*patient)
        made.append(layout.join(body, layout.head.replace(*names)))
    return tuple(made)


@cache
def _layouts(encoding: int, label: int) -> tuple[dicom_damage.Layout, ...]:
    files = dicom_studies.study_files(PLACEHOLDER, encoding, LABELS[label])
    return tuple(dicom_damage.split_file(content) for content in files)


def _write(folder: Path, files: Sequence[bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, content in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(content)


KIND = Kind("dicom", damage, attempt, alone=attempt_alone)
