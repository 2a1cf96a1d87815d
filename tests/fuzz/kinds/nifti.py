"""NIfTI files, image or label, each in a case of its own among two whole ones; and each as a label beside DICOM."""

from __future__ import annotations

import gzip
import random
import struct
import warnings
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from messages.sections import Preprocessing
from site_agent.data.guard import look_at
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.source import load_case, survey_cases
from site_agent.dicom.base import ObjectRefused, Volume
from site_agent.dicom.config import Labels
from site_agent.dicom.labels.nifti import read_nifti_label
from tests.fuzz.harness import Kind, Lost

SHAPE = (9, 8, 7)
AFFINE = np.diag([-1.5, -1.25, 3.0, 1.0])
LABELS = {1: "NCR", 2: "ED"}
WHOLE = ("whole-1", "whole-2")
ROLES = ("t1c", "seg")
ENDINGS = (".nii.gz", ".nii")
TYPES = (np.uint8, np.int16, np.int32, np.float32, np.float64)
FIELDS = (
    (0, "i"), (40, "h"), (42, "h"), (44, "h"), (46, "h"), (48, "h"), (50, "h"), (68, "h"), (70, "h"), (72, "h"),
    (76, "f"), (80, "f"), (84, "f"), (88, "f"), (108, "f"), (112, "f"), (116, "f"), (123, "B"), (252, "h"), (254, "h"),
    (256, "f"), (260, "f"), (264, "f"), (268, "f"), (280, "f"), (284, "f"), (292, "f"), (300, "f"), (320, "f"),
    (344, "I"),
)  # fmt: skip
"""Fields of a NIfTI-1 header that decide something: dim, type, pixdim, offset, scale, units, codes, affines, magic."""
NUMBERS = (0, 1, -1, 2, 7, 8, 0.5, 255, 32767, -32768, 2**31 - 1, 1e-30, 1e30, 3.4e38, float("nan"), float("inf"))


def damage(rng: random.Random) -> bytes:
    """Role and ending of the file, a byte each, and its damaged content."""
    role, ending = rng.randrange(len(ROLES)), rng.randrange(len(ENDINGS))
    content = bytearray(_template(role, rng.randrange(len(TYPES)), rng.randrange(4)))
    for _ in range(rng.randint(1, 3)):
        content = _damage_content(rng, content)
    packed = gzip.compress(bytes(content), 1, mtime=0) if ENDINGS[ending] == ".nii.gz" else bytes(content)
    if rng.random() < 0.3:
        packed = _damage_stream(rng, packed)
    return bytes([role, ending]) + packed


def attempt(folder: Path, inputs: Sequence[bytes]) -> Counter[str]:
    """Survey them as cases of one data set, and read what is usable."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a library's warning would be a line that names no file
        data = folder / "data"
        for name in (*WHOLE, *(f"case-{number}" for number in range(len(inputs)))):
            (data / name).mkdir(parents=True)
            for role in range(len(ROLES)):
                (data / name / f"{name}-{ROLES[role]}.nii").write_bytes(_template(role, 1, 0))
        told: Counter[str] = Counter()
        for number, one in enumerate(inputs):
            name = f"case-{number}"
            (data / name / f"{name}-{ROLES[one[0]]}.nii").unlink()
            path = data / name / f"{name}-{ROLES[one[0]]}{ENDINGS[one[1]]}"
            path.write_bytes(one[2:])
            told.update(_read_beside(path))
        config = DatasetConfig(source="brats", path=data, labels=LABELS)
        look_at(config)
        wanted = Preprocessing(spacing_mm=(1.0, 1.0, 1.0))
        found = survey_cases(config, ["T1c"], ["NCR"], cache=folder / "survey.sqlite", preprocessing=wanted)
        if lost := set(WHOLE) - {case.key for case in found.cases}:
            raise Lost(f"{len(lost)} of {len(WHOLE)} whole cases")
        for case in found.cases:
            image = load_case(case, config).image
            if not np.isfinite(image).all() or image.max() == image.min():
                raise Lost("what is used is no image")
        for one in found.details:
            if not one.text.isprintable() or len(one.text) > 400:
                raise Lost("the line that tells of it cannot be shown")
            told["caught last"] += "cannot be processed" in one.text
        told.update({str(reason): count for reason, count in found.left_out.items()})
        told["used"] = len(found.cases) - len(WHOLE)
        return +told


def _read_beside(path: Path) -> Counter[str]:
    try:
        read_nifti_label(path, _reference(), _rules())
    except ObjectRefused:
        return Counter()
    return Counter({"label beside": 1})


def _damage_content(rng: random.Random, content: bytearray) -> bytearray:
    how = rng.randrange(7)
    if how <= 2 and len(content) >= 348:
        at, form = rng.choice(FIELDS)
        _put_number(content, at, form, rng.choice(NUMBERS))
    elif how == 3 and content:
        content[rng.randrange(min(len(content), 352))] = rng.randrange(256)
    elif how == 4 and content:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif how == 5:
        del content[rng.randrange(len(content) + 1) :]
    else:
        at = rng.randrange(len(content) + 1)
        content[at:at] = rng.randbytes(rng.randint(1, 40))
    return content


def _put_number(content: bytearray, at: int, form: str, number: float) -> None:
    if form == "f":
        struct.pack_into("<f", content, at, number)
        return
    size = struct.calcsize(form)
    whole = int(number) if abs(number) < 2**40 else 2**31 - 1  # NaN, too: it compares as false
    content[at : at + size] = (whole & (2 ** (8 * size) - 1)).to_bytes(size, "little")


def _damage_stream(rng: random.Random, packed: bytes) -> bytes:
    how, at = rng.randrange(5), rng.randrange(len(packed) + 1)
    if how == 0:
        return packed[:at]
    if how == 1 and at < len(packed):
        return packed[:at] + bytes([packed[at] ^ (1 << rng.randrange(8))]) + packed[at + 1 :]
    if how == 2:
        return packed + rng.randbytes(rng.randint(1, 20))
    if how == 3:
        return packed + packed
    return gzip.compress(packed, 1, mtime=0)


@cache
def _template(role: int, dtype: int, form: int) -> bytes:
    """A whole file: form is sform alone, both, NIfTI-2, big endian."""
    places = np.indices(SHAPE).sum(axis=0)
    voxels = (places * 31 % 400 + 100 if ROLES[role] == "t1c" else places % 3).astype(TYPES[dtype])
    if form == 2:
        return bytes(nib.Nifti2Image(voxels, AFFINE, dtype=TYPES[dtype]).to_bytes())
    header = nib.Nifti1Header(endianness=">" if form == 3 else "<")
    image = nib.Nifti1Image(voxels, AFFINE, header, dtype=TYPES[dtype])
    if form == 0:
        image.set_qform(None, code=0)
    return bytes(image.to_bytes())


@cache
def _reference() -> Any:
    places = np.indices(SHAPE).sum(axis=0).astype(np.float32)
    return Volume(places, AFFINE, "1.2", "1.3", tuple((str(k), 1) for k in range(SHAPE[2])))


@cache
def _rules() -> Labels:
    return Labels(source="nifti", folder=Path("labels"), values=LABELS)


KIND = Kind("nifti", damage, attempt, memory=256 * 2**20)
