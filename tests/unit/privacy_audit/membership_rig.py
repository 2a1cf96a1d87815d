"""A site of phantoms, an experiment and a model of it: for tests of `konsil site privacy test`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from deploy.demo.experiments import glioma_demo
from deploy.demo.phantoms import phantom
from messages.experiment import Experiment
from messages.tensors.layout import write_into
from nets.build import build_for
from nets.model_file import save_model
from nets.weights import arrays_of, manifest

LABELS = {str(integer): concept for integer, concept in phantom.site_labels(0).items()}


def experiment(rounds: int = 1, **training: Any) -> Experiment:
    """Half of the patients train, nearly half test."""
    plain = glioma_demo(rounds, 1, ["site-a"])
    plain["net"] |= {"channels": [4, 8], "strides": [2]}
    plain["training"] |= {"patch": [16, 16, 16], "patches_per_case": 1, **training}
    if "local_steps" in training:
        del plain["training"]["local_epochs"]
    plain["data"] |= {"split": {"train": 0.5, "validation": 0.05, "test": 0.45}}
    return Experiment.model_validate(plain)


def write_site(folder: Path, cases: int) -> Path:
    """Phantoms and site.toml, whose path is given back."""
    phantom.write_site(folder / "data", site_index=0, cases=cases, seed=3, shape=(18, 18, 18), spacing_mm=(9, 9, 9))
    (folder / "state").mkdir()
    (folder / "state" / "secret").write_bytes(bytes(32))
    config = folder / "site.toml"
    config.write_text(
        f"""schema = 1
[site]
name = "site-a"
consortium = "c"
state = "{folder / "state"}"
[broker]
host = "localhost"
password = "x"
[limits]
threads = 1
[datasets.glioma]
source = "brats"
path = "{folder / "data"}"
labels = {{ {", ".join(f'{number} = "{concept}"' for number, concept in LABELS.items())} }}
patient_id = {json.dumps(phantom.PATIENT_ID)}
"""
    )
    return config


def write_model(folder: Path, chosen: Experiment, net: Any = None) -> Path:
    """The net as a model file; None: as it is initially."""
    net = build_for(chosen) if net is None else net
    described, arrays = manifest(net), arrays_of(net)
    path = folder / "model.safetensors"
    buffer = memoryview(bytearray(described.nbytes))
    write_into(arrays, described, buffer)
    save_model(path, chosen, described, buffer, round_number=1)
    return path
