"""Lists of names (the withdrawn, a query's patients): refused as a whole, or nobody before the damage is lost."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from messages.ground.errors import RequestError
from messages.ground.written.entries import read_entries
from tests.fuzz.harness import Kind, Lost
from tests.fuzz.text_damage import damage_text

FIRST = "PATIENT-0001"
TEXT = "0002  # since May\nMüller Erika\n# by the ethics board\n\nBraTS-GLI-00003-000\n 4711 \nP#5\n"


def damage(rng: random.Random) -> bytes:
    """A list whose first line is whole."""
    return damage_text(rng, TEXT)


def attempt(folder: Path, inputs: Sequence[bytes]) -> Counter[str]:
    """Read each as a list."""
    told: Counter[str] = Counter()
    for number, one in enumerate(inputs):
        file = folder / f"{number}.txt"
        file.write_bytes(f"{FIRST}\n".encode() + one)
        try:
            names = {entry.name for entry in read_entries(file)}
        except RequestError as error:
            if not error.where.startswith(str(file)):
                raise Lost("the line does not name the list") from None
            told["refused"] += 1
            continue
        told["read"] += 1
        if FIRST not in names:
            raise Lost("somebody who is on the list")
    return told


KIND = Kind("lists", damage, attempt, batch=200, memory=128 * 2**20)
