"""The sections of an experiment file, a strict model each; `messages.experiment` has the whole file."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from messages.ground.naming import EXPERIMENT_PATTERN, WHOLE_EXPERIMENT
from messages.ground.settings import Name, Seconds, Settings
from messages.strategies import FEDAVG, AnyStrategy
from messages.tasks.losses import LossTable
from messages.tasks.optimisers import Optimizer, Schedule
from messages.tasks.registry import AnyLoss, MetricWords, SelectionWord
from messages.tensors.codecs import CodecName

Fraction = Annotated[float, Field(ge=0, le=1)]
_FORM_4: dict[str, Any] = {"json_schema_extra": {"form": 4}, "exclude_if": lambda value: value is None}
"""Of a key that came with form 4: where a file says nothing of it, no reader is told of it either."""
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


AUTO = "auto"
"""The name of the net that follows from the federation's data (`messages.statistics`)."""


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
    def came_with(self) -> int:
        """The form of files with such a section, beside that of its keys: nets that configure themselves came with form
        4, and such a file is what it says, without defaults."""
        return 4 if self.name == AUTO else 0

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


class Intensities(Settings):
    """Intensities of one channel that mean the same everywhere (CT): clipped to a range, then brought to mean 0 and
    deviation 1 by numbers that hold for all cases (Isensee et al. 2021)."""

    channel: int = Field(ge=1, le=64)
    """Its place in `task.channels`, from 1."""
    low: float
    high: float
    mean: float
    deviation: float = Field(gt=0)

    @model_validator(mode="after")
    def _range_ascends(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"low = {self.low:g} is not below high = {self.high:g}")
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
    intensities: tuple[Intensities, ...] = Field(
        (), max_length=64, json_schema_extra={"form": 4}, exclude_if=lambda value: not value
    )
    """Channels that are normalised by numbers of their own, instead of by `normalise`."""

    @field_validator("intensities")
    @classmethod
    def _each_channel_once(cls, value: tuple[Intensities, ...]) -> tuple[Intensities, ...]:
        if len({one.channel for one in value}) < len(value):
            raise ValueError("a channel is named twice")
        return value

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
    precision: Literal["float32", "amp", "bfloat16"] = "float32"
    """ "amp": float16 where that is safe, with a scaled loss, on a GPU only; "bfloat16": also on a CPU."""
    clip_norm: float | None = Field(None, gt=0)
    trainer: Name | None = Field(None, json_schema_extra={"form": 3}, exclude_if=lambda value: value is None)
    """A program that the operators of the sites registered under this name, instead of Konsil's own trainer."""
    accumulate: int | None = Field(None, ge=1, le=64, **_FORM_4)
    """Batches whose gradients make one optimiser step, None: one; the last step of an epoch may have fewer."""
    foreground_by: Literal["patch", "batch"] | None = Field(None, **_FORM_4)
    """How `foreground_share` is kept: by chance for each patch (None too), or for certain in each batch (rounded, as
    nnU-Net does it), where a foreground concept that the case has is drawn first."""
    ema: float | None = Field(None, gt=0, lt=1, **_FORM_4)
    """What travels is an exponential mean of the weights over a round's steps: with each step so much of it stays."""

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

    @model_validator(mode="after")
    def _own_trainer_does_it(self) -> Self:
        asked = {
            "accumulate": self.batches_per_step > 1,
            "ema": self.ema is not None,
            "foreground_by": self.foreground_by == "batch",
        }
        said = [key for key, one in asked.items() if one]
        if self.trainer is not None and said:
            raise ValueError(f"{said[0]} goes with Konsil's own trainer, not with a program of the sites")
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

    @property
    def batches_per_step(self) -> int:
        """Batches whose gradients make one optimiser step."""
        return self.accumulate or 1

    def count_steps(self, cases: int) -> int:
        """Optimiser steps of a round over so many cases; an epoch's last step may have fewer patches."""
        if self.local_steps is not None:
            return self.local_steps
        return (self.epochs or 1) * -(-cases * self.patches_per_case // (self.batch * self.batches_per_step))


class Evaluation(Settings):
    every: int = Field(1, ge=1, le=WHOLE)
    """The received global model is scored on the validation cases every so many rounds."""
    overlap: float = Field(0.5, ge=0, lt=1)
    metrics: MetricWords = ("dice",)
    select_by: SelectionWord = "validation.dice.mean"
    mirror: bool | None = Field(None, **_FORM_4)
    """Whether a net is asked of each mirror image too, and its logits averaged."""


class Rounds(Settings):
    count: int = Field(ge=0, le=100_000)
    """0 where nothing is trained."""
    enrol_within: Seconds = 86400.0
    train_within: Seconds = 21600.0
    grace: Seconds | None = None
    """After quorum is met; default: the larger of 60 s and half the time it took."""
    at_deadline: Literal["extend", "fail"] = "extend"
    extensions: int = Field(2, ge=0, le=100)
    patience: int | None = Field(None, ge=1, le=100_000, **_FORM_4)
    """Training ends once so many scored models in a row are no better than the best one before them."""


PlanKind = Literal["aggregation", "sequential", "alone", "ensemble", "evaluation", "asynchronous", "statistics"]
StalenessRule = Literal["sqrt", "linear", "none"]


class Plan(Settings):
    """Who trains when: all sites in each round, one after the other, each for itself, each at its pace, or nobody."""

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
    buffer: int | None = Field(
        None, ge=1, le=MOST_SITES, json_schema_extra={"form": 4}, exclude_if=lambda value: value is None
    )
    """How many updates an asynchronous plan makes the next model of."""
    staleness: StalenessRule = Field("sqrt", json_schema_extra={"form": 4}, exclude_if=lambda value: value == "sqrt")
    """How an update counts that began t models ago: 1 / sqrt(1 + t), 1 / (1 + t), or in full."""
    max_staleness: int = Field(10, ge=0, le=1000, json_schema_extra={"form": 4}, exclude_if=lambda value: value == 10)
    """How many models ago an update may have begun that is still used."""

    @model_validator(mode="after")
    def _keys_of_this_kind(self) -> Self:
        if self.kind == "asynchronous" and self.buffer is None:
            raise ValueError('kind = "asynchronous" needs buffer: how many updates make the next model')
        if self.kind != "asynchronous" and (self.buffer, self.staleness, self.max_staleness) != (None, "sqrt", 10):
            raise ValueError('buffer, staleness and max_staleness go with kind = "asynchronous"')
        if self.kind != "ensemble" and self.combine != "mean":
            raise ValueError('combine goes with kind = "ensemble"')
        if self.kind != "sequential" and self.order != "listed":
            raise ValueError('order goes with kind = "sequential"')
        weighs = self.kind in ("aggregation", "asynchronous")
        if not weighs and (self.weight_by, self.weight_cap) != ("cases_used", 1.0):
            raise ValueError('weight_by and weight_cap go with kind = "aggregation" or "asynchronous"')
        if self.kind != "aggregation" and self.strategy != FEDAVG:
            raise ValueError(f'strategy = "{self.strategy.name}" goes with kind = "aggregation"')
        return self

    @property
    def shares_model(self) -> bool:
        """Whether all sites train and score the same model; else each has its own."""
        return self.kind not in ("alone", "ensemble")

    @property
    def trains(self) -> bool:
        """Whether any site trains; else a model that there is, is scored, or nothing but statistics are told."""
        return self.kind not in ("evaluation", "statistics")

    @property
    def uses_training(self) -> bool:
        """Whether training cases are what it is about: they are trained on, or told of."""
        return self.kind != "evaluation"

    @property
    def words(self) -> str:
        """For a person, in one line: the kind, and what an asynchronous one goes by."""
        if self.buffer is None:
            return self.kind
        how = {"sqrt": "1 / sqrt(1 + t)", "linear": "1 / (1 + t)", "none": "in full"}[self.staleness]
        return f"{self.kind} (a model of {self.buffer} updates; t models old count {how}, to {self.max_staleness})"

    @property
    def keeps_work(self) -> bool:
        """Whether a site's work goes on when the round ends that it began in, and goes into a later one."""
        return self.kind == "asynchronous"

    @property
    def came_with(self) -> int:
        """The form of files with such a section, beside that of its keys: statistics came with form 4."""
        return 4 if self.kind == "statistics" else 0


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


CardWords = Annotated[str, Field(max_length=4000)]


class CardFacts(Settings):
    """`[card]` of the experiment file, or a file `card.toml`. Every key may be left out; then it reads "not stated"."""

    developer: CardWords = ""
    contact: CardWords = ""
    license: CardWords = ""
    stage: CardWords = ""
    regulatory: CardWords = ""
    intended_use: CardWords = ""
    intended_users: CardWords = ""
    how_to_use: CardWords = ""
    population: CardWords = ""
    out_of_scope: CardWords = ""
    risks: CardWords = ""
    biases: CardWords = ""
    risk_level: CardWords = ""
    data_source: CardWords = ""
    bias_mitigation: CardWords = ""
    maintenance: CardWords = ""
    funding: CardWords = ""
    consulted: CardWords = ""
    resources: CardWords = ""
