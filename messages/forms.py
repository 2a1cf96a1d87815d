"""Canonical forms of an experiment file: what its digest is taken over, whatever later versions add to the model.

A digest that covers defaults changes with every new key, and then old journals disagree and sites of another version
refuse. So a form is frozen once a version was released with it:

- Form 0 is that of Konsil 0.1: every key of 0.1 with a value, and 0.1's default (`FORM_0`) where the file says nothing.
  A file that says only keys of 0.1 has this form for ever. Nothing of a later version is in it.
- Form N (1 and up) is what the file says, and nothing else; the number N is digested with it. A key that is newer than
  0.1 names the form that it came with: `Field(default, json_schema_extra={"form": N})`. The newest key that a file
  says makes its form. A newer kind of a section (another task) names its form in an attribute, `came_with`. So does a
  section whose key took a value that must not have form 0.

The content alone decides on the form, so no record and no message needs a place for the number, and a running
experiment keeps its form. Within a form no default ever changes. Another default needs a key that says so, and with it
a form of its own (cf. protocol buffers: a field's default is part of its contract).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import date
from hashlib import sha256
from types import MappingProxyType
from typing import Annotated, Any, Final, TypeVar, get_args

from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from messages import codec

AS_SAID: Final = object()
"""In `FORM_0`: 0.1 has no default for it, and it stands in the form as it was said."""

FORM_0: Mapping[str, Any] = MappingProxyType(
    {
        "schema": AS_SAID,
        "id": AS_SAID,
        "purpose": "",
        "approval": "",
        "expires": None,
        "seed": 0,
        "sites": AS_SAID,
        "keep_updates": "all",
        "task": {"kind": AS_SAID, "channels": AS_SAID, "activation": "sigmoid", "regions": AS_SAID},
        "data": {
            "dataset": AS_SAID,
            "split": {"train": 0.7, "validation": 0.1, "test": 0.2},
            "least_cases": 1,
            "least_used_share": 0.0,
        },
        "net": AS_SAID,
        "preprocessing": {
            "orientation": "RAS",
            "spacing_mm": None,
            "crop": "foreground",
            "normalise": "zscore-nonzero",
        },
        "augmentation": {"flip": 0.0, "scale_intensity": 0.0, "shift_intensity": 0.0, "noise": 0.0},
        "training": {
            "local_epochs": None,
            "local_steps": None,
            "patch": (64, 64, 64),
            "patches_per_case": 1,
            "foreground_share": 0.33,
            "batch": 2,
            "loss": "dice+bce",
            "optimizer": {"name": "Adam", "lr": 1e-3, "weight_decay": 0.0, "momentum": 0.9, "reset": True},
            "schedule": {"name": "constant", "over": "rounds", "power": 0.9, "warmup_rounds": 0},
            "precision": "float32",
            "clip_norm": None,
        },
        "evaluation": {"every": 1, "overlap": 0.5, "metrics": ("dice",), "select_by": "validation.dice.mean"},
        "rounds": {
            "count": AS_SAID,
            "enrol_within": 86400.0,
            "train_within": 21600.0,
            "grace": None,
            "at_deadline": "extend",
            "extensions": 2,
        },
        "plan": {"kind": "aggregation", "strategy": "FedAvg", "weight_by": "cases_used", "weight_cap": 1.0},
        "quorum": {"least_sites": "all", "least_case_share": 0.0},
        "privacy": {"secure_aggregation": False},
        "wire": {"codec": "float32"},
    }
)
"""0.1's keys, in 0.1's order, with 0.1's defaults. Frozen: a change here changes the digest of every old file."""

Model = TypeVar("Model", bound=BaseModel)


def form_of(model: BaseModel) -> int:
    """The form of a file (or a section): the highest that a key it says came with; 0 where all are 0.1's."""
    fields = type(model).model_fields
    said = [(fields[name], getattr(model, name)) for name in model.model_fields_set if name in fields]
    own = int(getattr(model, "came_with", 0))
    return max((own, *(max(_came_with(field.json_schema_extra), _form_in(value)) for field, value in said)))


def _came_with(extra: Any) -> int:
    form = extra.get("form", 0) if isinstance(extra, dict) else 0
    return form if isinstance(form, int) else 0


_LEAVES = frozenset({str, int, float, bool, type(None)})
"""What holds no key: a file may name 1,000 sites."""


def _form_in(value: Any) -> int:
    if isinstance(value, BaseModel):
        return form_of(value)
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return max((_form_in(part) for part in parts if type(part) not in _LEAVES), default=0)


def plain_of(model: BaseModel) -> dict[str, Any]:
    """A whole file in its form, as plain types."""
    said: dict[str, Any] = model.model_dump(mode="json", by_alias=True, exclude_unset=True)
    return said if form_of(model) else fill_defaults(said)


def fill_defaults(said: Mapping[str, Any], form: Mapping[str, Any] = FORM_0) -> dict[str, Any]:
    """Form 0 of what a file says: its keys of 0.1, the frozen default for each that it does not say."""
    filled: dict[str, Any] = {}
    for key, default in form.items():
        if default is AS_SAID:
            filled |= {key: said[key]} if key in said else {}
        elif isinstance(default, Mapping):
            filled[key] = fill_defaults(said.get(key, {}), default)
        else:
            filled[key] = said.get(key, list(default) if isinstance(default, tuple) else default)
    return filled


def digest_of(form: int, plain: Mapping[str, Any], targets: Sequence[str] | None = None) -> str:
    """SHA-256 (hex) of a file in its form; the order of what the task scores counts, that of keys does not.

    Args:
        targets: names of what the task scores, in its order; None: the regions, since 0.1 knew segmentation alone.
    """
    order = list(plain["task"].get("regions") or ()) if targets is None else list(targets)
    content = [form, dict(plain), order] if form else [dict(plain), order]
    return sha256(codec.canonical(content)).hexdigest()


def rebuild_model(model: type[Model], plain: Mapping[str, Any]) -> Model:
    """A model of what a record says, although the model of today would refuse it: nothing is checked.

    Keys that the model does not know are left out; what the record does not say has the model's default.
    """
    model = getattr(model, "kinds", {}).get(plain.get("kind"), model)  # a section that comes in several kinds
    known = {field.alias or name: (name, field) for name, field in model.model_fields.items()}
    values = {name: _part(field, plain[key]) for key, (name, field) in known.items() if key in plain}
    if model.model_config.get("extra") == "allow":
        values |= {key: value for key, value in plain.items() if key not in known}
    return model.model_construct(_fields_set=set(values), **values)


def _part(field: FieldInfo, value: Any) -> Any:
    """A key's value. Of a choice between tables only validation knows which one a value means."""
    tables = [one for one in _types_in(field.annotation) if isinstance(one, type) and issubclass(one, BaseModel)]
    if len(tables) > 1:
        with suppress(ValidationError):
            annotation: Any = Annotated[field.annotation, field]
            return TypeAdapter(annotation).validate_python(value)
    return _rebuild_value(field.annotation, value)


def _rebuild_value(annotation: Any, value: Any) -> Any:
    """A value as validation would have left it: sections as models, lists as tuples, days as days."""
    types = set(_types_in(annotation))
    section = next((one for one in types if isinstance(one, type) and issubclass(one, BaseModel)), None)
    if isinstance(value, dict):
        if section is not None:
            return rebuild_model(section, value)
        return {key: _rebuild_value(None, item) for key, item in value.items()}
    if isinstance(value, list):
        return tuple(_rebuild_value(annotation, item) for item in value)
    if isinstance(value, str) and date in types:
        return date.fromisoformat(value)
    return value


def _types_in(annotation: Any) -> list[Any]:
    parts = get_args(annotation)
    return [annotation] if not parts else [one for part in parts for one in _types_in(part)]
