"""The experiment file: what a researcher publishes, as a strict model. Data only, never code.

One section a class. Everything that a site or the coordinator decides from an experiment is decided from this
model; its digest is over its canonical form (`messages.forms`), so that comments and key order do not matter.

A key that is not in `forms.FORM_0` is declared with the form that it came with:
`Field(default, json_schema_extra={"form": 1})`. A new value of a key that there is needs none.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from messages import forms
from messages.ground import settings
from messages.ground.naming import EXPERIMENT_PATTERN, NO_EXPERIMENT, WHOLE_EXPERIMENT
from messages.ground.settings import Name, Seconds, Settings
from messages.ground.strictness import at_most
from messages.ground.written.documents import parse_toml
from messages.names import COORDINATOR
from messages.strategies import FEDAVG, AnyStrategy
from messages.tasks.losses import LossTable
from messages.tasks.registry import AnyLoss, AnyTask, MetricWords, SelectionWord, with_defaults
from messages.tensors.codecs import CodecName

Fraction = Annotated[float, Field(ge=0, le=1)]
WHOLE = 2**31 - 1
"""Largest whole number that a person has a reason to write; every wire and database can hold it."""
MOST_SITES = 1000
MOST_ALONE = 16
"""Sites that may each have a model of their own: each site scores all of them."""
OWN_LABEL = "own-"
OWN_TRAINER = "konsil"
"""What the trainer that comes with Konsil is called where trainers are named."""
DIGEST_MARK = "sha256:"
"""What stands before a model's digest, where an experiment's id may stand too."""
ORIGIN = re.compile(f"{DIGEST_MARK}[0-9a-f]{{64}}|{EXPERIMENT_PATTERN}")


class Split(Settings):
    """Shares of the patients."""

    train: Fraction = 0.7
    validation: Fraction = 0.1
    test: Fraction = 0.2

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if abs(self.train + self.validation + self.test - 1) > 1e-6:
            raise ValueError("train, validation and test add up to 1")
        return self


class Data(Settings):
    """Which data set each site brings, by the name under which its operator described it."""

    dataset: Name
    split: Split = Split()
    least_cases: int = Field(1, ge=1, le=WHOLE)
    least_used_share: Fraction = 0.0


def _can_travel(value: object) -> bool:
    if isinstance(value, list | tuple):
        return all(_can_travel(item) for item in value)
    if isinstance(value, dict):
        return all(_can_travel(item) for item in value.values())
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | str) or (isinstance(value, int) and abs(value) <= WHOLE)


class Net(Settings):
    """A net by name; its parameters are checked by `nets.registry`."""

    model_config = Settings.model_config | {"extra": "allow"}
    name: str
    origin: str | None = Field(None, alias="from", json_schema_extra={"form": 2})
    """The model that the experiment begins with: "sha256:" and its digest, or the id of an experiment that is over.
    None: it is drawn from the seed."""

    @field_validator("origin")
    @classmethod
    def _digest_or_experiment(cls, value: str | None) -> str | None:
        if value is not None and ORIGIN.fullmatch(value) is None:
            raise ValueError('give "sha256:" and the 64 digits of a model\'s digest, or the id of an experiment')
        return value

    @property
    def parameters(self) -> dict[str, Any]:
        """Everything but the name."""
        return dict(self.model_extra or {})

    @model_validator(mode="after")
    def _parameters_travel(self) -> Self:
        for key, value in self.parameters.items():
            if not _can_travel(value):
                raise ValueError(f"{key} = {value!r}: give numbers, text, true or false, or lists or tables of them")
        return self


class Preprocessing(Settings):
    """How native images become the net's input."""

    orientation: str | None = Field("RAS", pattern=r"^[RL][AP][SI]$")
    spacing_mm: tuple[float, float, float] | None = None
    crop: Literal["foreground", "none"] = "foreground"
    normalise: Literal["zscore-nonzero", "zscore", "none"] = "zscore-nonzero"
    size: tuple[int, ...] | None = Field(
        None, min_length=2, max_length=3, json_schema_extra={"form": 2}, exclude_if=lambda value: value is None
    )
    """The net's grid over a whole image, whatever the image's own."""
    fit: Literal["resize", "pad"] = Field(
        "resize", json_schema_extra={"form": 2}, exclude_if=lambda value: value == "resize"
    )
    """How an image comes to that size: resampled, or cut and padded about its middle."""

    @field_validator("size")
    @classmethod
    def _check_edges(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if value is not None and (min(value) < 8 or max(value) > 4096):
            raise ValueError("a size is 8 to 4096 voxels along each axis")
        return value

    @model_validator(mode="after")
    def _fit_needs_a_size(self) -> Self:
        if "fit" in self.model_fields_set and self.size is None:
            raise ValueError("fit goes with a size")
        return self

    @field_validator("spacing_mm")
    @classmethod
    def _check_positive(cls, value: tuple[float, float, float] | None) -> tuple[float, float, float] | None:
        if value is not None and min(value) <= 0:
            raise ValueError("spacings are millimetres above 0")
        return value


class Augmentation(Settings):
    """Probabilities and strengths; 0 switches one off."""

    flip: Fraction = 0.0
    """Chance of mirroring, for each axis."""
    scale_intensity: float = Field(0.0, ge=0, lt=1)
    shift_intensity: float = Field(0.0, ge=0, lt=1)
    noise: float = Field(0.0, ge=0, lt=1)


class Optimizer(Settings):
    name: Literal["Adam", "AdamW", "SGD"] = "Adam"
    lr: float = Field(1e-3, gt=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    """SGD only."""
    reset: bool = True
    """Fresh moments each round (the thesis's choice); false keeps them at the site."""


class Schedule(Settings):
    """Learning rate over the rounds."""

    name: Literal["constant", "poly", "cosine"] = "constant"
    over: Literal["rounds"] = "rounds"
    power: float = Field(0.9, gt=0)
    warmup_rounds: int = Field(0, ge=0, le=WHOLE)

    def factor(self, round_number: int, rounds: int) -> float:
        """What the learning rate is multiplied by in a round (first is 1) of so many."""
        done = (round_number - 1) / max(rounds, 1)
        warm = min(1.0, round_number / (self.warmup_rounds + 1))
        if self.name == "poly":
            return float(warm * (1 - done) ** self.power)
        if self.name == "cosine":
            return warm * 0.5 * (1 + math.cos(math.pi * done))
        return warm


class Training(Settings):
    """A site's work in one round: so many local epochs, or so many optimiser steps."""

    local_epochs: int | None = Field(None, ge=1, le=WHOLE)
    local_steps: int | None = Field(None, ge=1, le=WHOLE)
    patch: tuple[int, ...] = Field((64, 64, 64), min_length=2, max_length=3)
    """Edges in voxels: three numbers for nets in 3D, two for nets in 2D."""
    patches_per_case: int = Field(1, ge=1, le=64)
    """Patches drawn from each case in an epoch."""
    foreground_share: Fraction = 0.33
    batch: int = Field(2, ge=1, le=256)
    loss: AnyLoss = "dice+bce"
    """A word, or a table of a word and arguments."""
    optimizer: Optimizer = Optimizer()
    schedule: Schedule = Schedule()
    precision: Literal["float32", "amp"] = "float32"
    clip_norm: float | None = Field(None, gt=0)
    trainer: Name | None = Field(None, json_schema_extra={"form": 3}, exclude_if=lambda value: value is None)
    """A program that the operators of the sites registered under this name, instead of Konsil's own trainer."""

    @field_validator("trainer")
    @classmethod
    def _trainer_is_another(cls, value: str | None) -> str | None:
        if value == OWN_TRAINER:
            raise ValueError("leave it out: without it Konsil's own trainer is meant")
        return value

    @field_validator("patch")
    @classmethod
    def _patch_positive(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if min(value) < 8 or max(value) > 4096:
            raise ValueError("a patch is 8 to 4096 voxels along each axis")
        return value

    @model_validator(mode="after")
    def _epochs_or_steps(self) -> Self:
        if self.local_epochs is not None and self.local_steps is not None:
            raise ValueError("give local_epochs or local_steps, not both")
        return self

    @property
    def dims(self) -> int:
        """Spatial dimensions of the net: 2 or 3."""
        return len(self.patch)

    @property
    def came_with(self) -> int:
        """The form of files with such a section, beside that of its keys: two dimensions came with form 2."""
        return 2 if self.dims == 2 else 0

    @property
    def loss_table(self) -> LossTable:
        """The loss and its arguments, also where the file says a word."""
        return self.loss if isinstance(self.loss, LossTable) else LossTable(name=self.loss)

    @property
    def epochs(self) -> int | None:
        """Local epochs a round; None where steps are given."""
        return None if self.local_steps is not None else (self.local_epochs or 1)

    def count_steps(self, cases: int) -> int:
        """Optimiser steps of a round over so many cases; an epoch's last batch may be smaller."""
        if self.local_steps is not None:
            return self.local_steps
        return (self.epochs or 1) * -(-cases * self.patches_per_case // self.batch)


class Evaluation(Settings):
    every: int = Field(1, ge=1, le=WHOLE)
    """The received global model is scored on the validation cases every so many rounds."""
    overlap: float = Field(0.5, ge=0, lt=1)
    metrics: MetricWords = ("dice",)
    select_by: SelectionWord = "validation.dice.mean"


class Rounds(Settings):
    count: int = Field(ge=0, le=100_000)
    """0 where nothing is trained."""
    enrol_within: Seconds = 86400.0
    train_within: Seconds = 21600.0
    grace: Seconds | None = None
    """After quorum is met; default: the larger of 60 s and half the time it took."""
    at_deadline: Literal["extend", "fail"] = "extend"
    extensions: int = Field(2, ge=0, le=100)


PlanKind = Literal["aggregation", "sequential", "alone", "ensemble", "evaluation"]


class Plan(Settings):
    """Who trains when: all sites in each round, one after the other, each for itself, or nobody."""

    kind: PlanKind = "aggregation"
    strategy: AnyStrategy = FEDAVG
    """How updates make the next model: a name, or a table with a name and parameters."""
    weight_by: Literal["cases_used", "equal"] = "cases_used"
    weight_cap: float = Field(1.0, gt=0, le=1)
    """No site weighs more than this share (the rest is scaled up in proportion, as far as it goes)."""
    order: Literal["listed", "seeded", "size"] = Field("listed", json_schema_extra={"form": 1})
    """In which order a sequential plan visits the sites: as the file names them, by the seed, or the largest last."""
    combine: Literal["mean", "majority", "validation"] = Field("mean", json_schema_extra={"form": 2})
    """How the models of an ensemble make one prediction: mean of the probabilities, majority of the votes, or mean of
    the probabilities weighted by each model's validation score over all sites."""

    @model_validator(mode="after")
    def _keys_of_this_kind(self) -> Self:
        if self.kind != "ensemble" and self.combine != "mean":
            raise ValueError('combine goes with kind = "ensemble"')
        if self.kind != "sequential" and self.order != "listed":
            raise ValueError('order goes with kind = "sequential"')
        if self.kind != "aggregation" and (self.weight_by, self.weight_cap) != ("cases_used", 1.0):
            raise ValueError('weight_by and weight_cap go with kind = "aggregation"')
        if self.kind != "aggregation" and self.strategy != FEDAVG:
            raise ValueError(f'strategy = "{self.strategy.name}" goes with kind = "aggregation"')
        return self

    @property
    def shares_model(self) -> bool:
        """Whether all sites train and score the same model; else each has its own."""
        return self.kind not in ("alone", "ensemble")

    @property
    def trains(self) -> bool:
        """Whether any site trains; else a model that there is, is scored."""
        return self.kind != "evaluation"


class Quorum(Settings):
    """What must have arrived before a round may close."""

    least_sites: int | Literal["all"] = "all"
    least_case_share: Fraction = 0.0

    @field_validator("least_sites", mode="before")
    @classmethod
    def _number_or_all(cls, value: object) -> object:
        if value != "all" and (type(value) is not int or value < 1):
            raise ValueError('give a number of sites from 1, or "all"')
        return value


class Privacy(Settings):
    """Can only tighten a site's floors."""

    secure_aggregation: Literal[False] = False


class Wire(Settings):
    """How tensors travel; the coordinator's own model is float32 under each."""

    codec: CodecName = "float32"
    """ "float32": as they are, bit by bit. "bfloat16": global models and updates in half the bytes.
    "bfloat16-difference": updates as the difference from the global model that the site received, which keeps more of
    a small change than rounding the weights does. "exact" is what older files call "float32"."""


class Supersedes(Settings):
    """The model that this experiment makes anew, and why: written by `konsil experiment rerun`."""

    experiment: str = Field(pattern=WHOLE_EXPERIMENT)
    rounds: int = Field(ge=1, le=WHOLE)
    """Rounds that made the model."""
    model: str = Field(pattern=f"^{DIGEST_MARK}[0-9a-f]{{64}}$")
    after: int = Field(0, ge=0, le=WHOLE)
    """Rounds of it that stand: the model that they made is where this experiment begins (`net.from`)."""
    reason: str = Field("withdrawn", pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")
    """A reason code."""

    @property
    def words(self) -> str:
        """For a person, in one line."""
        stand = f", of which {self.after} stand" if self.after else ""
        digest = self.model.removeprefix(DIGEST_MARK)[:12]
        return f"model {digest}, which {self.experiment} made in {self.rounds} rounds{stand}: {self.reason}"

    @model_validator(mode="after")
    def _some_rounds_fall(self) -> Self:
        if self.after >= self.rounds:
            raise ValueError(f"after = {self.after}: of {self.rounds} rounds fewer stand")
        return self


class Experiment(Settings):
    """The whole file."""

    schema_version: Literal[1] = Field(alias="schema")
    id: str = Field(pattern=WHOLE_EXPERIMENT)
    purpose: str = Field("", max_length=500)
    approval: str = Field("", max_length=200)
    expires: date | None = None
    seed: int = Field(0, ge=0, lt=2**63)
    sites: Annotated[tuple[Name, ...], at_most(MOST_SITES)] = Field(min_length=1)
    keep_updates: Literal["all", "none"] | int = "all"
    """How many rounds' updates the coordinator keeps for replay (its operator may cap it)."""
    task: AnyTask
    data: Data
    net: Net
    preprocessing: Preprocessing = Preprocessing()
    augmentation: Augmentation = Augmentation()
    training: Training = Training()
    evaluation: Evaluation = Evaluation()
    rounds: Rounds
    plan: Plan = Plan()
    quorum: Quorum = Quorum()
    privacy: Privacy = Privacy()
    wire: Wire = Wire()
    supersedes: Supersedes | None = Field(None, json_schema_extra={"form": 3}, exclude_if=lambda value: value is None)

    @model_validator(mode="before")
    @classmethod
    def _task_has_defaults_of_its_own(cls, content: Any) -> Any:
        return with_defaults(content)

    @field_validator("schema_version", mode="before")
    @classmethod
    def _schema_is_a_number(cls, value: object) -> object:
        if type(value) is not int:
            raise ValueError("write schema = 1")
        return value

    @field_validator("expires", mode="before")
    @classmethod
    def _expires_is_a_day(cls, value: object) -> object:
        if value is None or type(value) is date:
            return value
        try:
            return date.fromisoformat(value if isinstance(value, str) else "")
        except ValueError:
            raise ValueError("write a day as 2027-12-31") from None

    @field_validator("keep_updates", mode="before")
    @classmethod
    def _number_all_or_none(cls, value: object) -> object:
        if value not in ("all", "none") and (type(value) is not int or not 0 <= value <= 100_000):
            raise ValueError('give a number of rounds from 0 to 100000, "all" or "none"')
        return value

    @field_validator("id")
    @classmethod
    def _id_is_free(cls, value: str) -> str:
        if value == NO_EXPERIMENT:
            raise ValueError("this word is reserved: choose another id")
        return value

    @field_validator("sites")
    @classmethod
    def _sites_are_sites(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        twice = sorted(site for site, times in Counter(value).items() if times > 1)
        if twice:
            raise ValueError(f"a site is named twice: {', '.join(twice)}")
        if COORDINATOR in value:
            raise ValueError(f"{COORDINATOR!r} is no site's name: it is reserved")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if isinstance(self.quorum.least_sites, int) and self.quorum.least_sites > len(self.sites):
            raise ValueError(f"quorum.least_sites = {self.quorum.least_sites}: only {len(self.sites)} sites are named")
        if (wrong := _find_untrained(self)) is not None:
            raise ValueError(wrong)
        if not self.plan.shares_model and len(self.sites) > MOST_ALONE:
            raise ValueError(
                f'plan.kind = "{self.plan.kind}" takes at most {MOST_ALONE} sites: each scores every site\'s model'
            )
        if self.plan.combine == "majority" and self.task.reading == "plain":
            raise ValueError(f'plan.combine = "majority": what a {self.task.kind} answers are numbers, not votes')
        strategy = self.plan.strategy
        if self.least_sites < strategy.least_updates:
            raise ValueError(
                f"plan.strategy: {strategy.words} needs {strategy.least_updates} updates in each round, and "
                f"[quorum] with least_sites lets a round close with {self.least_sites}"
            )
        if self.rounds_before and (wrong := _find_memory(self)) is not None:
            raise ValueError(f"supersedes.after = {self.rounds_before}: {wrong}")
        if self.net.origin is not None and strategy.alters_tensors:
            raise ValueError(
                f"net.from: with {strategy.name} other tensors travel than a model has, so it begins with a drawn one"
            )
        scored = self.evaluation
        loss = self.training.loss_table
        why = self.task.find_misfit(loss=loss, metrics=scored.metrics, select_by=scored.select_by)
        if why is not None:
            raise ValueError(why)
        if self.training.trainer is not None:
            self._trainer_can_do_it()
        else:
            self._size_fits_the_task()
        return self

    def _trainer_can_do_it(self) -> None:
        """What a site's own trainer is asked for: to train a model, and to predict what a table says."""
        plan = self.plan
        if self.task.truth != "table":
            raise ValueError(f"training.trainer: {self.task.kind} is scored voxel by voxel, which no such trainer does")
        if plan.strategy.in_training or plan.strategy.alters_tensors:
            raise ValueError(f"training.trainer: {plan.strategy.name} changes the training, which no such trainer does")
        if plan.kind == "ensemble":
            raise ValueError('training.trainer: plan.kind = "ensemble" combines nets, which no such trainer does')

    def _size_fits_the_task(self) -> None:
        size, patch = self.preprocessing.size, self.training.patch
        if self.task.truth == "table" and size is None:
            raise ValueError(
                f"preprocessing.size: {self.task.kind} sees whole images: say to which size they are brought"
            )
        if self.task.truth == "table" and size != patch:
            raise ValueError(f"training.patch: {self.task.kind} sees whole images: leave it out, or repeat the size")
        if self.task.truth == "map" and self.preprocessing.fit == "pad":
            raise ValueError(f"preprocessing.fit: {self.task.kind} cuts and pads to training.patch by itself")
        if size is not None and len(size) != len(patch):
            raise ValueError(f"preprocessing.size has {len(size)} numbers, and training.patch {len(patch)}")

    @property
    def least_sites(self) -> int:
        """Quorum's number of sites."""
        return len(self.sites) if self.quorum.least_sites == "all" else self.quorum.least_sites

    @property
    def rounds_before(self) -> int:
        """Rounds of the experiment that it supersedes which stand: round r here takes the place of round r + so many
        there, with its seeds and its learning rate."""
        return 0 if self.supersedes is None else self.supersedes.after

    def number_of(self, site: str) -> int:
        """Which of the file's sites a site is, from 1."""
        return self.sites.index(site) + 1

    def label_of(self, site: str) -> str:
        """What names a site's own model among those that are scored, where each site has its own."""
        return f"{OWN_LABEL}{self.number_of(site)}"

    def site_of(self, label: str) -> str | None:
        """Whose own model a label names; None where it names none."""
        number = label.removeprefix(OWN_LABEL)
        ours = label.startswith(OWN_LABEL) and number.isascii() and number.isdecimal()
        return self.sites[int(number) - 1] if ours and 1 <= int(number) <= len(self.sites) else None

    @property
    def form(self) -> int:
        """The number of the file's canonical form."""
        return forms.form_of(self)

    def as_plain(self) -> dict[str, Any]:
        """The canonical form as plain types, for wire and journal; `Experiment.model_validate` reads it back equal."""
        return forms.plain_of(self)

    def filled(self) -> dict[str, Any]:
        """As plain types for a reader without defaults of its own: `as_plain` where that says every key of 0.1 (form
        0), else every key of today."""
        return self.model_dump(mode="json", by_alias=True) if self.form else self.as_plain()

    def digest(self) -> str:
        """SHA-256 (hex) of the canonical form: comments and key order do not matter.

        The order of the task's targets does: it is the order of the net's output channels.
        """
        return forms.digest_of(self.form, self.as_plain(), self.task.targets)


def _find_memory(experiment: Experiment) -> str | None:
    """Why an experiment cannot go on from the model alone that earlier rounds made, in words; None where it can."""
    plan = experiment.plan
    if plan.kind != "aggregation":
        return f'plan.kind = "{plan.kind}" does not go on from a model in mid-way: begin anew, with after = 0'
    if plan.strategy.remembers:
        return f"{plan.strategy.name} remembers more of earlier rounds than their model: begin anew, with after = 0"
    if not experiment.training.optimizer.reset:
        return "training.optimizer.reset = false remembers more than the model: begin anew, with after = 0"
    if experiment.net.origin is None or not experiment.net.origin.startswith(DIGEST_MARK):
        return f'it needs net.from = "{DIGEST_MARK}…": the model that these rounds made'
    return None


def _find_untrained(experiment: Experiment) -> str | None:
    """Why what the file says of training does not go with its plan, in words."""
    plan, count, train = experiment.plan, experiment.rounds.count, experiment.data.split.train
    if plan.trains:
        if count == 0:
            return 'rounds.count = 0 goes with plan.kind = "evaluation"'
        return None if train > 0 else 'data.split.train = 0 goes with plan.kind = "evaluation"'
    if count:
        return f'rounds.count = {count}: plan.kind = "evaluation" trains nothing, write count = 0'
    if experiment.net.origin is None:
        return 'plan.kind = "evaluation" needs net.from: the model that is scored'
    return None


def read_recorded(plain: dict[str, Any]) -> Experiment:
    """An experiment that was accepted once, also where the model of today would refuse it."""
    try:
        return Experiment.model_validate(plain)
    except ValidationError:
        return forms.rebuild_model(Experiment, plain)


def read_experiment(path: Path) -> Experiment:
    """Read an experiment file (TOML); ConfigError lists every mistake."""
    return settings.read_settings(path, Experiment)


def parse_experiment(text: str, where: str = "experiment") -> Experiment:
    """Parse TOML text; ConfigError lists every mistake."""
    return settings.parse_settings(parse_toml(text, where), Experiment, where)
