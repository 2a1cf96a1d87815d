"""Keys of `[training]`, `[augmentation]`, `[evaluation]` and `[rounds]` that came with form 4."""

from __future__ import annotations

from typing import Any

import pytest

from messages import codec
from messages.experiment import Experiment, parse_experiment
from messages.ground.errors import ConfigError
from messages.tasks.optimisers import Schedule

FILE = """
schema = 1
id = "exp-1"
sites = ["site-a", "site-b"]
[task]
kind = "segmentation"
channels = ["T1"]
regions = { WT = ["ED"] }
[data]
dataset = "glioma"
[net]
name = "UNet"
[rounds]
count = 20
"""
NEW = (
    "[training]\naccumulate = 1",
    '[training]\nforeground_by = "batch"',
    "[evaluation]\nmirror = false",
    "patience = 3",
    "[training]\nema = 0.9",
    '[augmentation]\npreset = "nnunet"',
    "[augmentation]\ngamma = { chance = 0, between = [1, 1] }",
    '[training.optimizer]\nname = "SGD"\nnesterov = true',
    "[training.optimizer]\nbeta1 = 0.9\nbeta2 = 0.999\nepsilon = 1e-8",
    '[training.schedule]\nname = "step"\nevery_rounds = 5',
)
REFUSED = (
    ("[training]\naccumulate = 0", "training.accumulate = 0: input should be greater than or equal to 1"),
    ("[training]\nema = 1.0", "training.ema = 1.0: input should be less than 1"),
    ('[training]\nema = 0.9\n[plan]\nstrategy = "SCAFFOLD"', "training.ema: SCAFFOLD reckons"),
    ('[training]\nema = 0.9\n[plan]\nstrategy = "FedNova"', "training.ema: FedNova reckons"),
    ('patience = 3\n[plan]\nkind = "alone"', 'rounds.patience goes with kind = "aggregation"'),
    ("[augmentation]\ngamma = { chance = 0.3, between = [1.5, 0.7] }", "the smaller number comes first"),
    ("[augmentation]\nscaling = { chance = 0.3, between = [0, 2] }", "scaling.between lies within 0.25 and 4"),
    ("[augmentation]\nrotation = 30", "give a table"),
    ('[augmentation]\npreset = "nnUnet"', "did you mean 'nnunet'?"),
    ("[training.optimizer]\nnesterov = true", 'nesterov does not go with name = "Adam"'),
    ('[training.optimizer]\nname = "SGD"\nbeta1 = 0.5', 'beta1 does not go with name = "SGD"'),
    ('[training.optimizer]\nname = "SGD"\nmomentum = 0.0\nnesterov = true', "nesterov = true needs a momentum"),
    ('[training.schedule]\nname = "step"', "either every_rounds or at_rounds"),
    ('[training.schedule]\nname = "step"\nat_rounds = [5, 5]', "each larger than the one before it"),
    ('[training.schedule]\nname = "poly"\ngamma = 0.5', 'gamma goes with name = "step"'),
    ('[training.schedule]\nname = "exponential"', "needs gamma"),
    ("[training.schedule]\nevery_rounds = 3", 'go with name = "step"'),
)


@pytest.mark.parametrize("said", NEW)
def test_a_file_that_says_a_new_key_has_form_4_and_is_read_again_as_the_same(said: str) -> None:
    found = parse_experiment(FILE + said)
    assert found.form == 4
    again = Experiment.model_validate(codec.unpack(codec.pack(found.as_plain())))
    assert (again, again.form, again.digest()) == (found, 4, found.digest())
    assert found.digest() != parse_experiment(FILE).digest()
    copied = Experiment.model_validate(found.filled())  # a trainer's copy says every key
    assert (copied.training, copied.augmentation) == (found.training, found.augmentation)


@pytest.mark.parametrize(("said", "words"), REFUSED)
def test_what_does_not_go_together_is_refused_in_one_line(said: str, words: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_experiment(FILE + said)
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_says_no_new_key_stays_as_it_was_for_trainers_of_an_earlier_version_too() -> None:
    assert parse_experiment(FILE).form == 0
    flat = parse_experiment(FILE + "[training]\npatch = [64, 64]\n")
    told = flat.filled()
    new = {"accumulate", "foreground_by", "ema", "mirror", "patience", "preset", "gamma", "nesterov", "every_rounds"}
    sections = (told, told["training"], told["training"]["optimizer"], told["training"]["schedule"])
    for section in (*sections, told["augmentation"], told["evaluation"], told["rounds"]):
        assert not new & section.keys()


def test_a_schedule_falls_where_it_is_told_to() -> None:
    def factors(**said: Any) -> list[float]:
        return [round(Schedule(**said).factor(number, 6), 6) for number in range(1, 7)]

    assert factors(name="step", every_rounds=2) == [1, 1, 0.1, 0.1, 0.01, 0.01]
    assert factors(name="step", at_rounds=(2, 6), gamma=0.5) == [1, 0.5, 0.5, 0.5, 0.5, 0.25]
    assert factors(name="exponential", gamma=0.5)[:3] == [1, 0.5, 0.25]
    assert factors(name="step", every_rounds=2, warmup_rounds=1)[:3] == [0.5, 1, 0.1]
