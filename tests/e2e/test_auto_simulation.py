"""A federation that configures itself, with real training on tiny phantoms, through the simulator."""

from __future__ import annotations

from pathlib import Path

import pytest
from simulated import simulate

from deploy.demo import experiments
from deploy.demo.data import PhantomShape
from deploy.simulate.crew import PROGRAM
from deploy.simulate.sources import DataWish
from messages.experiment import Experiment
from messages.ground import settings
from messages.log.exports import read_entries
from nets.model_file import read_metadata

pytestmark = [pytest.mark.torch, pytest.mark.slow]


def test_a_federation_configures_itself_trains_and_yields_a_model_of_the_net_it_chose(tmp_path: Path) -> None:
    plain = experiments.glioma_demo(rounds=1, seed=7, sites=["site-a", "site-b"])
    plain["net"] = {"name": "auto", "memory_gib": 0.02}
    for section, keys in {"training": ("patch", "batch"), "preprocessing": ("spacing_mm", "normalise")}.items():
        plain[section] = {key: value for key, value in plain.get(section, {}).items() if key not in keys}
    plain["training"] |= {"local_steps": 1}
    plain["training"].pop("local_epochs", None)
    experiment = settings.parse_settings(plain, Experiment, "auto")
    images = DataWish(cases=5, size=PhantomShape((24, 24, 16), (6.0, 8.0, 8.0)))
    results, _said, story = simulate(tmp_path / "out", experiment, data=images, trainer=PROGRAM)
    made = results[0].plain
    assert made["state"] == "complete", made["reason"]
    configured = made["configuration"]
    assert configured["spacing_mm"] == pytest.approx([6.0, 8.0, 8.0], rel=0.003)
    told = made["statistics"]
    assert told["statistics"]["cases"] == sum(told["contributors"].values()) >= 6
    model = read_metadata(Path(made["model"]))
    assert model["net"]["name"] == "DynUNet"
    assert model["patch"] == configured["patch"]
    assert model["preprocessing"]["spacing_mm"] == configured["spacing_mm"]
    assert story is not None
    assert "Statistics of the training cases" in Path(made["report"]).read_text()
    assert len(list(read_entries(Path(made["log"])))) > 10
