"""Commented configuration files, filled in: a party's, and an experiment's. Pure, but for reading its own templates.

A string of TOML is a string of JSON as far as names, hosts and references go (TOML 1.0, basic strings).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources

from messages.ground.errors import RequestError

TASKS = ("segmentation", "classification", "regression")


@dataclass(frozen=True, slots=True)
class Template:
    """A commented file: where it lies, how it is called, and what it asks for.

    `questions`: key → what a person is asked; a key is "section.key", or "key" above the first section.
    """

    package: str
    name: str
    questions: Mapping[str, str]


_BROKER = {
    "broker.host": "the broker's host",
    "broker.port": "the broker's port",
    "broker.ca": "file of the authority that signed the broker's certificate (none: empty)",
}
TEMPLATES: Mapping[str, Template] = {
    "researcher": Template(
        "deploy.init", "profile.toml", {"name": "your login", "consortium": "the consortium's name", **_BROKER}
    ),
    "site": Template(
        "deploy.systemd",
        "site.toml",
        {"site.name": "this hospital's name in the consortium", "site.consortium": "the consortium's name", **_BROKER},
    ),
    "coordinator": Template(
        "deploy.systemd",
        "coordinator.toml",
        {
            "coordinator.consortium": "the consortium's name",
            "coordinator.sites": "admitted sites, separated by commas",
            "coordinator.researchers": "who may start experiments, separated by commas",
            "broker.host": _BROKER["broker.host"],
            "broker.port": _BROKER["broker.port"],
        },
    ),
}
"""Role → its file. The broker's vhost is named after the consortium."""


def fill_template(role: str, answers: Mapping[str, str]) -> str:
    """A party's file with what was answered; comments stay, and so does what was not answered.

    Raises:
        RequestError: a port that is no number.
    """
    template = TEMPLATES[role]
    text = _read_template(template.package, template.name)
    consortium = next((value for key, value in answers.items() if key.endswith("consortium")), "")
    for key, answer in {**answers, "broker.vhost": consortium}.items():
        if answer:
            text = _set_key(text, key, _write_value(key, answer))
    return text


def write_experiment(task: str, identity: str, sites: Sequence[str]) -> str:
    """A commented experiment file of a task, for these sites."""
    text = _read_template("deploy.init", f"{task}.toml")
    least = max(1, len(sites) - 1)
    listed = f"{json.dumps(list(sites))}"
    return text.replace('"ID"', json.dumps(identity)).replace("SITES", listed).replace("LEAST", str(least))


def _read_template(package: str, name: str) -> str:
    return resources.files(package).joinpath(name).read_text(encoding="utf-8")


def _write_value(key: str, answer: str) -> str:
    if key == "broker.port":
        if not answer.isdecimal():
            raise RequestError(f"{answer!r} is no port", advice="Write a number, such as 5671")
        return answer
    if key in ("coordinator.sites", "coordinator.researchers"):
        return json.dumps([one.strip() for one in answer.split(",") if one.strip()])
    return json.dumps(answer, ensure_ascii=False)


def _set_key(text: str, key: str, value: str) -> str:
    """Set a key in its section; one that is a comment there becomes a key. A remark behind it stays."""
    section, _, name = key.rpartition(".")
    parts = re.split(r"(?m)^(?=\[)", text)
    for number, part in enumerate(parts):
        found = re.match(r"\[([\w.]+)\]", part)
        if (found.group(1) if found else "") != section:
            continue
        changed = re.sub(
            rf"(?m)^(?:# )?({name}\s*=\s*)(\"[^\"]*\"|\[[^\]]*\]|\S+)", lambda one: one.group(1) + value, part, count=1
        )
        parts[number] = changed if changed != part or value in part else part.rstrip() + f"\n{name} = {value}\n\n"
        return "".join(parts)
    return text
