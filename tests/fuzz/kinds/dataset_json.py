"""dataset.json of data sets in Decathlon's and nnU-Net's layouts: told in one line, or read."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import nibabel as nib
import numpy as np

from deploy.demo.data import read_real
from messages.ground.errors import RequestError
from site_agent.datasets.config import DatasetConfig
from site_agent.datasets.source import survey_cases
from tests.fuzz.harness import Kind, Lost
from tests.fuzz.text_damage import damage_text, damage_values

TEXTS = tuple(
    json.dumps(one, indent=1)
    for one in (
        {"modality": {"0": "T1"}, "labels": {"0": "background", "1": "NCR", "2": "ED"}, "numTraining": 1},
        {"channel_names": {"0": "T1"}, "labels": {"background": 0, "NCR": 1, "ED": 2}, "file_ending": ".nii.gz"},
        {"channel_names": {"0": "T1"}, "labels": {"background": 0, "all": [1, 2], "ED": 2, "ignore": 3}},
    )
)


def damage(rng: random.Random) -> bytes:
    """Which layout, a byte, and the damaged text."""
    which = rng.randrange(len(TEXTS))
    if rng.random() < 0.6:
        return bytes([which]) + json.dumps(damage_values(rng, json.loads(TEXTS[which]))).encode()
    return bytes([which]) + damage_text(rng, TEXTS[which])


def attempt(folder: Path, inputs: Sequence[bytes]) -> Counter[str]:
    """Survey one case with each, as a site does, and as the demo does."""
    told: Counter[str] = Counter()
    for number, one in enumerate(inputs):
        data = folder / str(number)
        for place, name, content in (("imagesTr", "a" if one[0] == 0 else "a_0000", 0), ("labelsTr", "a", 1)):
            (data / place).mkdir(parents=True)
            (data / place / f"{name}.nii").write_bytes(_files()[content])
        (data / "dataset.json").write_bytes(one[1:])
        try:
            found = survey_cases(DatasetConfig(source="decathlon", path=data), ["T1"], [])
            told["used" if found.cases else str(found.details[0].reason)] += 1
        except RequestError as error:
            told["refused"] += 1
            if not error.advice:
                raise Lost("what to do about it") from None
        try:
            read_real(data)
        except RequestError:
            told["refused by the demo"] += 1
    return told


@cache
def _files() -> tuple[bytes, bytes]:
    places = np.indices((4, 4, 4)).sum(axis=0)
    images = (nib.Nifti1Image((one).astype(np.uint8), np.eye(4)) for one in (places * 9, places % 3))
    first, second = (bytes(image.to_bytes()) for image in images)
    return first, second


KIND = Kind("json", damage, attempt, batch=100, memory=256 * 2**20)
