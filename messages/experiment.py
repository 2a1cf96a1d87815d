"""The experiment file: what a researcher publishes, as a strict model. Data only, never code.

Its sections are in `messages.sections`. Whatever a site or the coordinator decides from an experiment, it decides from
this model. The digest is over the canonical form (`messages.forms`), so that comments and key order do not matter.

A key that is not in `forms.FORM_0` is declared with the form that it came with:
`Field(default, json_schema_extra={"form": 1})`. A new value of a key that there is needs none.
"""

from __future__ import annotations

from collections import Counter
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from messages import forms
from messages.ground import settings
from messages.ground.naming import NO_EXPERIMENT, WHOLE_EXPERIMENT
from messages.ground.settings import Name, Settings
from messages.ground.strictness import at_most
from messages.ground.written.documents import parse_toml
from messages.names import COORDINATOR
from messages.sections import (
    AUTO,
    DIGEST_MARK,
    MOST_ALONE,
    MOST_SITES,
    OWN_LABEL,
    CardFacts,
    Data,
    Evaluation,
    Net,
    Plan,
    Preprocessing,
    Quorum,
    Rounds,
    Supersedes,
    Training,
    Wire,
)
from messages.secure.section import Privacy, find_unprivate
from messages.tasks.augmentation import Augmentation
from messages.tasks.registry import AnyTask, with_defaults


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
    card: CardFacts | None = Field(None, json_schema_extra={"form": 5}, exclude_if=lambda value: value is None)

    @model_validator(mode="before")
    @classmethod
    def _task_has_defaults_of_its_own(cls, content: Any) -> Any:
        return with_defaults(_with_auto_net(content))

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
        if (wrong := _find_untrained(self) or _find_unfit_for_auto(self)) is not None:
            raise ValueError(wrong)
        beyond = [one.channel for one in self.preprocessing.intensities if one.channel > len(self.task.channels)]
        if beyond:
            raise ValueError(f"preprocessing.intensities: channel {beyond[0]} of {len(self.task.channels)}")
        if not self.plan.shares_model and len(self.sites) > MOST_ALONE:
            raise ValueError(
                f'plan.kind = "{self.plan.kind}" takes at most {MOST_ALONE} sites: each scores every site\'s model'
            )
        if (wrong := find_unprivate(self)) is not None:
            raise ValueError(wrong)
        if (wrong := _find_unbuffered(self)) is not None:
            raise ValueError(wrong)
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
        if (wrong := _find_misplaced(self)) is not None:
            raise ValueError(wrong)
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
        if self.evaluation.mirror:
            raise ValueError("evaluation.mirror goes with Konsil's own trainer, not with a program of the sites")
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
        if self.task.truth == "table" and self.training.foreground_by == "batch":
            raise ValueError(f"training.foreground_by: {self.task.kind} sees whole images, and draws no patches")
        if self.task.truth == "map" and self.preprocessing.fit == "pad":
            raise ValueError(f"preprocessing.fit: {self.task.kind} cuts and pads to training.patch by itself")
        if size is not None and len(size) != len(patch):
            raise ValueError(f"preprocessing.size has {len(size)} numbers, and training.patch {len(patch)}")

    @property
    def measures_first(self) -> bool:
        """Whether it begins with statistics of the sites' training cases."""
        return self.net.name == AUTO

    @property
    def least_sites(self) -> int:
        """Quorum's number of sites."""
        return len(self.sites) if self.quorum.least_sites == "all" else self.quorum.least_sites

    @property
    def rounds_before(self) -> int:
        """Rounds of the experiment that it supersedes which stand: round r here takes the place of round r + so many
        there, with its seeds and its learning rate."""
        return 0 if self.supersedes is None else self.supersedes.after

    def count_steps(self, cases: int) -> int:
        """Optimiser steps of a round at a site with so many training cases."""
        dp = self.privacy.dp
        return self.training.count_steps(cases) if dp is None or dp.by_site else dp.count_steps(self.training)

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
    if experiment.rounds.patience is not None:
        return "rounds.patience reckons with the scores of earlier rounds: begin anew, with after = 0"
    if experiment.net.origin is None or not experiment.net.origin.startswith(DIGEST_MARK):
        return f'it needs net.from = "{DIGEST_MARK}…": the model that these rounds made'
    return None


def _find_unbuffered(experiment: Experiment) -> str | None:
    """Why an asynchronous plan cannot be carried out as the file says, in words."""
    plan, least = experiment.plan, experiment.least_sites
    if plan.buffer is None:
        return None
    if plan.buffer > least:
        return (
            f"plan.buffer = {plan.buffer}: with quorum.least_sites only {least} sites may have joined, and a site is "
            "in the buffer once"
        )
    if experiment.evaluation.select_by != "last":
        return (
            'evaluation.select_by: under plan.kind = "asynchronous" other sites score each model, so none can be '
            'chosen by its scores: write select_by = "last"'
        )
    return None


def _find_misplaced(experiment: Experiment) -> str | None:
    """Why a mean of weights or an early end does not go with plan, strategy and data, in words."""
    plan, patience = experiment.plan, experiment.rounds.patience
    strategy = plan.strategy
    if experiment.training.ema is not None and (strategy.in_training or strategy.counts_steps):
        return f"training.ema: {strategy.name} reckons with the weights that the last step left, not with their mean"
    if patience is not None and plan.kind != "aggregation":
        return 'rounds.patience goes with kind = "aggregation": elsewhere no two rounds are scored by the same sites'
    if patience is not None and experiment.data.split.validation == 0:
        return "rounds.patience needs validation cases: data.split has none"
    return None


def _find_untrained(experiment: Experiment) -> str | None:
    """Why what the file says of training does not go with its plan, in words."""
    plan, count, train = experiment.plan, experiment.rounds.count, experiment.data.split.train
    if plan.kind == "statistics":
        if count:
            return f'rounds.count = {count}: plan.kind = "statistics" trains nothing, write count = 0'
        return None if train > 0 else "data.split.train = 0: statistics are told of training cases"
    if plan.trains:
        if count == 0:
            return 'rounds.count = 0 goes with plan.kind = "evaluation"'
        return None if train > 0 else 'data.split.train = 0 goes with plan.kind = "evaluation"'
    if count:
        return f'rounds.count = {count}: plan.kind = "evaluation" trains nothing, write count = 0'
    if experiment.net.origin is None:
        return 'plan.kind = "evaluation" needs net.from: the model that is scored'
    return None


def _with_auto_net(content: Any) -> Any:
    """Statistics alone need no word of a net."""
    plan = content.get("plan") if isinstance(content, dict) else None
    alone = isinstance(plan, dict) and plan.get("kind") == "statistics"
    return {**content, "net": {"name": AUTO}} if alone and "net" not in content else content


_DECIDED_BY_AUTO = {
    "preprocessing": ("spacing_mm", "normalise", "size", "fit", "intensities"),
    "training": ("patch", "batch"),
}
"""Section → keys that follow from the sites' data, too."""


def _find_unfit_for_auto(experiment: Experiment) -> str | None:
    """Why what the file says does not go with a net that follows from the sites' data, in words."""
    if not experiment.measures_first:
        alone = experiment.plan.kind == "statistics"
        return 'plan.kind = "statistics" goes with net.name = "auto", or without [net]' if alone else None
    if experiment.task.truth != "map":
        return f'net.name = "auto" follows from label maps: {experiment.task.kind} has none, so name a net'
    if experiment.plan.kind == "evaluation":
        return 'net.name = "auto": plan.kind = "evaluation" scores a model that there is, so name its net'
    if experiment.net.origin is not None:
        return 'net.name = "auto": a model that there is (net.from) has a net already, so name that'
    if experiment.training.trainer is not None:
        return 'net.name = "auto" is for Konsil\'s own trainer: leave training.trainer out, or name a net'
    strategy = experiment.plan.strategy
    if strategy.withholds:
        return f'net.name = "auto" makes a net without batch norms, and {strategy.name} does nothing else: name a net'
    for section, keys in _DECIDED_BY_AUTO.items():
        said = getattr(experiment, section).model_fields_set
        for key in keys:
            if key in said:
                return f'{section}.{key}: net.name = "auto" decides it, so leave it out'
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
