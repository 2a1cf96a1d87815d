"""`konsil experiment check` of a file with `[privacy]`: what it spends, and mistakes in one line."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.spending import foresee_privacy
from messages.experiment import Experiment, read_experiment
from messages.ground.errors import ConfigError
from messages.secure import section
from site_agent.privacy.accountant import find_epsilon

EXPERIMENT = """
schema = 1
id = "try"
sites = ["site-a", "site-b", "site-c"]
[task]
kind = "segmentation"
channels = ["T1"]
regions = { WT = ["ET"] }
[data]
dataset = "glioma"
[net]
name = "UNet"
[rounds]
count = 20
[privacy.dp]
sample_rate = 0.1
noise_multiplier = 1.2
clip_norm = 1.0
delta = 0.01
"""


def experiment(**dp: Any) -> Experiment:
    text = EXPERIMENT + "".join(f"{key} = {value}\n" for key, value in dp.items())
    return Experiment.model_validate(tomllib.loads(text))


def test_epsilon_is_told_for_sites_of_three_sizes_with_the_delta_that_holds_there() -> None:
    found = foresee_privacy(experiment())
    assert found is not None
    assert found.steps == 200
    assert {size: delta for size, (_epsilon, delta) in found.sizes.items()} == pytest.approx(
        {30: 0.01, 100: 100**-1.1, 300: 300**-1.1}
    )
    epsilons = [epsilon for epsilon, _delta in found.sizes.values()]
    assert epsilons == sorted(epsilons)
    assert epsilons[0] == find_epsilon(1.2, 0.1, 200, 0.01)
    line, more = found.describe()
    assert f"epsilon {epsilons[0]:.2f} (delta 1.0e-02) at 30, {epsilons[1]:.2f}" in line
    assert "not covered" in more
    assert found.as_plain()["patients"]["30"] == {"epsilon": epsilons[0], "delta": 0.01}


def test_the_round_that_passes_the_files_own_epsilon_is_told_and_nothing_starts() -> None:
    with pytest.raises(ConfigError) as refused:
        foresee_privacy(experiment(epsilon_max=2.0))
    words = str(refused.value)
    number = int(re.search(r"round (\d+) of 20 would pass the 2 of epsilon_max", words)[1])  # type: ignore[index]
    assert find_epsilon(1.2, 0.1, 10 * number, 0.01) > 2.0 >= find_epsilon(1.2, 0.1, 10 * (number - 1), 0.01)
    assert "\n" not in words


def test_without_differential_privacy_nothing_is_asked() -> None:
    plain = experiment().as_plain()
    assert foresee_privacy(Experiment.model_validate({**plain, "privacy": {}})) is None


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("sample_rate = 0.1", "sample_rate = 0.0", "privacy.dp.sample_rate = 0.0"),
        ("sample_rate = 0.1", "sample_rate = 1.5", "privacy.dp.sample_rate = 1.5"),
        ("noise_multiplier = 1.2", "noise_multiplier = 0", "privacy.dp.noise_multiplier = 0"),
        ("noise_multiplier = 1.2", "noise_multiplier = -1.0", "privacy.dp.noise_multiplier = -1.0"),
        ("clip_norm = 1.0", "clip_norm = 0.0", "privacy.dp.clip_norm = 0.0"),
        ("[privacy.dp]", "[training]\nclip_norm = 1.0\n[privacy.dp]", "training.clip_norm: under [privacy.dp]"),
        (
            "[privacy.dp]",
            '[quorum]\nleast_sites = 2\n[privacy]\nsecure_aggregation = "masks"\n[privacy.dp]',
            "a sum of fewer than 3 updates hides none of them",
        ),
    ],
)
def test_each_mistake_of_the_section_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, words: str
) -> None:
    monkeypatch.setattr(section, "CARRIED_OUT", frozenset({"dp", "masks"}))
    path = tmp_path / "experiment.toml"
    path.write_text(EXPERIMENT.replace(old, new))
    with pytest.raises(ConfigError) as refused:
        read_experiment(path)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)
