"""`konsil init …`: the commented configuration file of a party, after a few questions or from options."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from deploy.console import JsonOption, emit_json, note_line, say_line
from deploy.init.filling import TASKS, TEMPLATES, fill_template, write_experiment
from messages.experiment import parse_experiment
from messages.ground.durable import replace_file
from messages.ground.errors import RequestError
from messages.ground.settings import Settings, parse_settings

app = typer.Typer(no_args_is_help=True)

OPTIONAL = ("broker.ca", "broker.port", "coordinator.sites", "coordinator.researchers")
NEXT = {
    "researcher": "Then write the password beside it (mode 600), and: konsil experiment list --profile {file}",
    "site": "Then describe data sets and policy in it, and: konsil site preflight --config {file}",
    "coordinator": "Then: konsil coordinator run --config {file}",
}

OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Where it is written; default: its name, here.")
]
NameOption = Annotated[str | None, typer.Option("--name", help="Your name, or your hospital's, in the consortium.")]
ConsortiumOption = Annotated[str | None, typer.Option("--consortium", help="The consortium's name.")]
HostOption = Annotated[str | None, typer.Option("--host", help="The broker's host.")]
PortOption = Annotated[str | None, typer.Option("--port", help="The broker's port; with TLS it is 5671 as a rule.")]
AuthorityOption = Annotated[str | None, typer.Option("--ca", metavar="FILE", help="Authority of its certificate.")]


@app.callback()
def _group() -> None:
    """Write a party's configuration file, with a comment at each key. For consortia with keys: konsil provision."""


@app.command()
def researcher(
    name: NameOption = None,
    consortium: ConsortiumOption = None,
    host: HostOption = None,
    port: PortOption = None,
    ca: AuthorityOption = None,
    out: OutOption = None,
    json_: JsonOption = False,
) -> None:
    """Write profile.toml: who you are, and where the broker is.

    Example: konsil init researcher --out ~/.config/konsil/profile.toml
    """
    given = {"name": name, "consortium": consortium, "broker.host": host, "broker.port": port, "broker.ca": ca}
    _write_file("researcher", given, out, json_)


@app.command()
def site(
    name: NameOption = None,
    consortium: ConsortiumOption = None,
    host: HostOption = None,
    port: PortOption = None,
    ca: AuthorityOption = None,
    out: OutOption = None,
    json_: JsonOption = False,
) -> None:
    """Write site.toml: what this hospital lends, and on which terms. Its policy lets nobody in until you change it.

    Example: konsil init site --name site-a --consortium glioma --host broker.example.org
    """
    broker = {"broker.host": host, "broker.port": port, "broker.ca": ca}
    given = {"site.name": name, "site.consortium": consortium, **broker}
    _write_file("site", given, out, json_)


@app.command()
def coordinator(
    consortium: ConsortiumOption = None,
    sites: Annotated[str | None, typer.Option("--sites", help="Admitted sites, separated by commas.")] = None,
    researchers: Annotated[str | None, typer.Option("--researchers", help="Who may start experiments.")] = None,
    host: HostOption = None,
    port: PortOption = None,
    out: OutOption = None,
    json_: JsonOption = False,
) -> None:
    """Write coordinator.toml: whom the coordinator admits, and where its broker is."""
    given = {
        "coordinator.consortium": consortium,
        "coordinator.sites": sites,
        "coordinator.researchers": researchers,
        "broker.host": host,
        "broker.port": port,
    }
    _write_file("coordinator", given, out, json_)


def new(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Where it is written, such as glioma.toml.")],
    task: Annotated[str, typer.Option("--from", help="What is learned: " + ", ".join(TASKS) + ".")] = TASKS[0],
    sites: Annotated[str, typer.Option("--sites", help="Invited sites, separated by commas.")] = "site-a,site-b,site-c",
    identity: Annotated[str | None, typer.Option("--id", help="The experiment's id; default: the file's name.")] = None,
) -> None:
    """Write a commented experiment file to begin with.

    Example: konsil experiment new glioma.toml --from segmentation --sites site-a,site-b,site-c
    """
    if task not in TASKS:
        raise RequestError(f"there is no task {task!r}", advice="Choose one of: " + ", ".join(TASKS))
    _refuse_existing(file)
    text = write_experiment(task, identity or file.stem, [one.strip() for one in sites.split(",") if one.strip()])
    parse_experiment(text, str(file))
    replace_file(file, text.encode())
    say_line(f"{file}: written")
    note_line(f"Then: konsil experiment check {file}")


def _refuse_existing(file: Path) -> None:
    if file.exists():
        raise RequestError("there is a file already", where=str(file), advice="Edit it, or write another one")
    if not file.parent.is_dir():
        raise RequestError("there is no such folder", where=str(file.parent), advice="Make it first")


def _write_file(role: str, given: Mapping[str, str | None], out: Path | None, json_: bool) -> None:
    """Ask for what was not given, where somebody can answer; check what comes of it, and write it."""
    target = out or Path(TEMPLATES[role].name)
    _refuse_existing(target)
    answers = {key: _answer(TEMPLATES[role].questions[key], key, value) for key, value in given.items()}
    missing = [
        question for key, question in TEMPLATES[role].questions.items() if not answers[key] and key not in OPTIONAL
    ]
    text = fill_template(role, answers)
    if not missing:
        parse_settings(tomllib.loads(text), _model_of(role), str(target))
    replace_file(target, text.encode())
    target.chmod(0o600)
    if json_:
        emit_json({"file": str(target), "missing": missing})
        return
    say_line(f"{target}: written")
    for one in missing:
        note_line(f"to fill in: {one}")
    note_line(NEXT[role].format(file=target))


def _model_of(role: str) -> type[Settings]:
    if role == "site":
        from site_agent.config import SiteConfig

        return SiteConfig
    if role == "coordinator":
        from coordinator.config import CoordinatorConfig

        return CoordinatorConfig
    from deploy.session.profile import Profile

    return Profile


def _answer(question: str, key: str, given: str | None) -> str:
    if given is not None or not sys.stdin.isatty():
        return (given or "").strip()
    default = "5671" if key == "broker.port" else ""
    return str(
        typer.prompt(question[0].upper() + question[1:], default=default, show_default=bool(default), err=True)
    ).strip()
