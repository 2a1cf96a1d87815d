"""site.toml and experiment files: told in one line that says where, or read."""

from __future__ import annotations

import random
import tomllib
from collections import Counter
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from deploy.demo.experiments import glioma_demo
from deploy.demo.toml import write_toml
from messages.experiment import read_experiment
from messages.ground.errors import RequestError
from site_agent.config import read_config
from tests.fuzz.harness import Kind, Lost
from tests.fuzz.text_damage import damage_text, damage_values

SITE = """schema = 1
[site]
name = "site-a"
consortium = "glioma"
state = "state"
[broker]
host = "broker.example.org"
port = 5671
password = "secret"
[limits]
threads = 2
disk = "32GiB"
hours = "18:00-07:00"
[datasets.glioma]
source = "brats"
path = "data"
labels = { 1 = "NCR", 2 = "ED", 3 = "ET" }
names = { label = ["tumor_mask"] }
withdrawn = "withdrawn.txt"
[policy]
approval = "hand"
[[policy.allow]]
researchers = ["dr-a"]
datasets = ["glioma"]
"""


def damage(rng: random.Random) -> bytes:
    """Which file, a byte, and its damaged text."""
    which = rng.randrange(2)
    if rng.random() < 0.6:
        return bytes([which]) + write_toml(damage_values(rng, tomllib.loads(_texts()[which]))).encode()
    return bytes([which]) + damage_text(rng, _texts()[which])


def attempt(folder: Path, inputs: Sequence[bytes]) -> Counter[str]:
    """Read each as the command does."""
    told: Counter[str] = Counter()
    for number, one in enumerate(inputs):
        file = folder / f"{number}.toml"
        file.write_bytes(one[1:])
        try:
            if one[0] == 0:
                read_config(file)
            else:
                read_experiment(file)
            told["read"] += 1
        except RequestError as error:
            told["refused"] += 1
            if str(file) not in error.where:
                raise Lost("which file it is") from None
    return told


@cache
def _texts() -> tuple[str, str]:
    return SITE, write_toml(glioma_demo(2, 1, ["site-a", "site-b"]))


KIND = Kind("toml", damage, attempt, batch=100, memory=256 * 2**20)
