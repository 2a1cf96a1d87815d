"""An experiment file keeps its digest, whatever keys later versions add.

`tests/audit/data/experiments-0.1.json` holds generated files with the digest, and the SHA-256 of the wire bytes, that
the code of 0.1 (commit 03d2e43) gave them. It is never made anew.
"""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT
from pydantic import BaseModel, Field

from messages import codec, experiment, forms
from messages.experiment import Experiment
from messages.ground.settings import Settings
from messages.sections import Plan, Training
from nets.registry import NETS

OLD: list[dict[str, Any]] = json.loads(
    (ROOT / "tests" / "audit" / "data" / "experiments-0.1.json").read_text(encoding="utf-8")
)
FILE: dict[str, Any] = {
    "schema": 1,
    "id": "exp-1",
    "sites": ["site-a", "site-b"],
    "task": {"kind": "segmentation", "channels": ["T1"], "regions": {"WT": ["ED"], "TC": ["ET"]}},
    "data": {"dataset": "glioma"},
    "net": {"name": "UNet"},
    "rounds": {"count": 2, "grace": "50s"},
}


class Memory(Settings):
    """A section that is newer than 0.1; what stands in it needs no form of its own."""

    rate: float = 0.5


class LaterPlan(Plan):
    """A section of 0.1 with a newer key."""

    memory: Memory = Field(Memory(), json_schema_extra={"form": 1})
    kind: Literal["aggregation", "cyclic"] = "aggregation"


class LaterTraining(Training):
    """A section of 0.1 with two newer keys, of two forms."""

    proximal: float = Field(0.0, json_schema_extra={"form": 1})
    private: bool = Field(False, json_schema_extra={"form": 2})


class Later(Experiment):
    """The experiment file of a version to come."""

    label: str = Field("none", json_schema_extra={"form": 1})
    plan: LaterPlan = LaterPlan()
    training: LaterTraining = LaterTraining()


NEWER = (
    ({"label": "none"}, 1),
    ({"plan": {"memory": {}}}, 1),
    ({"plan": {"memory": {"rate": 0.25}}}, 1),
    ({"training": {"proximal": 0.1}}, 1),
    ({"training": {"private": True, "proximal": 0.1}}, 2),
)


@pytest.mark.parametrize("model", [Experiment, Later])
def test_files_of_the_first_release_keep_their_digest_and_their_bytes(model: type[Experiment]) -> None:
    for old in OLD:
        read = model.model_validate(old["file"])
        assert (read.form, read.digest()) == (0, old["digest"])
        assert sha256(codec.pack(read.as_plain())).hexdigest() == old["plain_sha256"]


@given(old=st.sampled_from(OLD), keep=st.randoms(use_true_random=False))
def test_a_default_may_be_said_or_left_out_in_a_file_of_the_first_release(old: dict[str, Any], keep: Any) -> None:
    def some(plain: dict[str, Any], form: Any) -> dict[str, Any]:
        said: dict[str, Any] = {}
        for key, value in plain.items():
            default = form.get(key, forms.AS_SAID)
            if isinstance(value, dict) and isinstance(default, dict):
                said[key] = some(value, default)
            elif (
                default is forms.AS_SAID or forms.fill_defaults({}, {key: default})[key] != value or keep.random() < 0.5
            ):
                said[key] = value
        return said

    whole = Later.model_validate(old["file"]).as_plain()
    assert Later.model_validate(some(whole, forms.FORM_0)).digest() == old["digest"]


def test_each_key_of_today_is_one_of_the_first_release_with_its_default_or_names_its_form() -> None:
    def defaults(model: type[BaseModel], form: Any, where: str) -> None:
        known = {field.alias or name: field for name, field in model.model_fields.items()}
        assert set(form) <= set(known), f"{where}: a key of 0.1 is gone"
        assert [key for key in known if key in form] == list(form), f"{where}: the order is on the wire"
        for key, field in known.items():
            place = f"{where}{key}"
            extra = field.json_schema_extra
            came_with = extra.get("form") if isinstance(extra, dict) else None
            if key not in form:
                assert isinstance(came_with, int), f"{place}: a key that is newer than 0.1 names its form"
                assert came_with > 0, place
                assert not field.is_required(), f"{place}: files of 0.1 do not say it"
                continue
            assert came_with is None, f"{place}: a key of 0.1 has form 0"
            if isinstance(form[key], dict):
                assert isinstance(field.annotation, type), place
                kinds = getattr(field.annotation, "kinds", {})  # 0.1 knew one kind of task
                defaults(kinds.get("segmentation", field.annotation), form[key], f"{place}.")
            elif form[key] is forms.AS_SAID:
                assert field.is_required(), f"{place}: 0.1 had no default"
            else:
                # A choice between tables has a table as its default, which is written as a word.
                default = field.default.model_dump() if isinstance(field.default, BaseModel) else field.default
                assert default == form[key], f"{place}: within a form no default changes"
                assert type(default) is type(form[key]), place

    defaults(Experiment, forms.FORM_0, "")


def test_the_parameters_of_nets_that_a_file_leaves_out_stay_what_they_were() -> None:
    frozen: dict[str, dict[str, Any]] = {
        "UNet": {
            "channels": (16, 32, 64, 128, 256),
            "strides": (2, 2, 2, 2),
            "num_res_units": 2,
            "kernel_size": 3,
            "norm": "instance",
            "act": "PRELU",
            "dropout": 0.0,
        },
        "SegResNet": {"init_filters": 8, "blocks_down": (1, 2, 2, 4), "blocks_up": (1, 1, 1), "dropout": 0.0},
        "Rehearsal": {"tensors": 20, "kilobytes": 1000},
    }
    for name, parameters in frozen.items():
        spec = NETS[name]()  # type: ignore[call-arg]
        assert {key: getattr(spec, key) for key in parameters} == parameters


@pytest.mark.parametrize(("said", "form"), NEWER)
def test_a_file_with_a_newer_key_has_the_form_of_that_key_and_says_only_what_was_said(
    said: dict[str, Any], form: int
) -> None:
    content = FILE | said
    read = Later.model_validate(content)
    assert read.form == form
    assert read.as_plain() == FILE | {"rounds": {"count": 2, "grace": 50.0}} | said
    assert read.digest() != Later.model_validate(FILE).digest()
    assert Later.model_validate(dict(reversed(content.items()))).digest() == read.digest()
    again = Later.model_validate(codec.unpack(codec.pack(read.as_plain())))
    assert (again, again.form, again.as_plain(), again.digest()) == (read, form, read.as_plain(), read.digest())
    assert read.filled()["rounds"]["extensions"] == 2


def test_every_file_with_newer_keys_has_a_digest_of_its_own() -> None:
    moved = FILE | {"label": "none", "task": FILE["task"] | {"regions": {"TC": ["ET"], "WT": ["ED"]}}}
    said = [FILE, moved, *(FILE | one for one, _form in NEWER)]
    assert len({Later.model_validate(one).digest() for one in said}) == len(said)
    plain = Later.model_validate(FILE | {"label": "none"}).as_plain()
    assert forms.digest_of(1, plain) != forms.digest_of(2, plain)


def test_another_key_with_a_default_changes_no_digest_of_a_later_form() -> None:
    class Latest(Later):
        novelty: int = Field(7, json_schema_extra={"form": 2})

    for said, form in NEWER:
        read = Latest.model_validate(FILE | said)
        assert (read.form, read.digest()) == (form, Later.model_validate(FILE | said).digest())


def test_a_copy_with_another_value_has_the_form_of_what_it_says() -> None:
    read = Later.model_validate(FILE)
    assert read.model_copy(update={"seed": 3}).form == 0
    assert read.model_copy(update={"label": "mine"}).form == 1
    assert read.model_copy(update={"seed": 3}).digest() == Later.model_validate(FILE | {"seed": 3}).digest()


def test_a_patch_of_two_edges_has_form_2_and_one_of_three_stays_as_it_was() -> None:
    flat = Experiment.model_validate(FILE | {"training": {"patch": [64, 64]}})
    assert (flat.form, flat.as_plain()["training"]) == (2, {"patch": [64, 64]})
    assert forms.rebuild_model(Experiment, flat.as_plain()).digest() == flat.digest()
    solid = Experiment.model_validate(FILE | {"training": {"patch": [64, 64, 64]}})
    assert (solid.form, solid.digest()) == (0, Experiment.model_validate(FILE).digest())


def test_a_recorded_file_that_today_s_model_refuses_is_read_as_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rounds(experiment.Rounds):
        count: int = Field(ge=1, le=1)

    class Narrower(Experiment):
        rounds: Rounds

    full = next(old for old in OLD if old["file"]["rounds"]["count"] == 500 and "2027" in str(old["file"]))
    before = Experiment.model_validate(full["file"])
    monkeypatch.setattr(experiment, "Experiment", Narrower)
    with pytest.raises(ValueError, match=r"rounds\.count"):
        Narrower.model_validate(before.as_plain())
    read = experiment.read_recorded(before.as_plain() | {"gone": 1})
    assert type(read) is Narrower
    assert type(read.rounds) is Rounds
    for name in Experiment.model_fields:
        if name != "rounds":
            assert getattr(read, name) == getattr(before, name), name
    assert read.rounds.model_dump() == before.rounds.model_dump()
    assert read.least_sites == before.least_sites


@pytest.mark.parametrize("said", ["FedAvg", "FedAdam", {"name": "FedAdam", "lr": 0.5}])
def test_a_recorded_file_that_is_not_checked_has_the_strategy_that_it_names(said: Any) -> None:
    before = Experiment.model_validate(FILE | {"plan": {"strategy": said}})
    again = forms.rebuild_model(Experiment, before.as_plain())
    assert (again.plan.strategy, again.digest()) == (before.plan.strategy, before.digest())
