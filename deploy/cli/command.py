"""The `konsil` command: finds the sub-command's module, and turns every failure into one line and an exit status.

0 done, 1 the work failed, 2 the request was wrong, 3 something needed is not reachable, 130 interrupted.
Only the module of the sub-command asked for is imported, so that `konsil --help` is quick.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer

from deploy import console
from deploy.cli.defects import blame_machine, record_defect
from deploy.extras import need_for_command
from messages.ground import starting
from messages.ground.errors import KonsilError, RequestError

SERVICES = (["site", "run"], ["coordinator", "run"])
EXIT_INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class CommandPart:
    """One sub-command: `app` in `module`, which may be a typer app or a function.

    Attributes:
        more: commands of it that rooms above `module` bring: name, module, function.
    """

    module: str
    help: str
    more: tuple[tuple[str, str, str], ...] = ()


PARTS: dict[str, CommandPart] = {
    "demo": CommandPart(
        "deploy.demo.cli", "A consortium on this machine: three hospitals train one model, and a report."
    ),
    "simulate": CommandPart(
        "deploy.simulate.cli", "Run an experiment file in one process, without a broker: studies, faults."
    ),
    "doctor": CommandPart("deploy.doctor.cli", "Find what is wrong with a site, a coordinator or a connection."),
    "init": CommandPart("deploy.init.cli", "Write a party's configuration file, with a comment at each key."),
    "experiment": CommandPart(
        "deploy.cli.experiment", "Check, start, watch and end experiments; their reports and models."
    ),
    "page": CommandPart("deploy.page.cli", "What happens, live in a browser: experiments; sites, alarms, journal."),
    "predict": CommandPart("deploy.predict.cli", "Use a trained model: masks, probabilities or numbers of images."),
    "privacy": CommandPart("deploy.privacy.cli", "Privacy put to the test: the noise that a file claims, an update."),
    "audit": CommandPart("deploy.cli.audit", "Replay, verify and export the event log."),
    "site": CommandPart(
        "deploy.site.cli",
        "The site agent: what would stop it, what it trains on, run it, see what it does, pause it.",
        more=(("page", "deploy.page.cli", "site_page"),),
    ),
    "coordinator": CommandPart("deploy.cli.coordinator", "The coordinator service, and its journal's safety."),
    "provision": CommandPart(
        "deploy.provision.cli", "Keys, certificates and the register: who is let into a consortium, and how."
    ),
    "broker": CommandPart("deploy.broker.cli", "A private RabbitMQ node for trying, and definitions for a real one."),
}

EPILOG = (
    "Exit status: 0 done, 1 the work failed, 2 the request was wrong, 3 something needed is not reachable, "
    "130 interrupted."
)


def main() -> None:
    """Entry point of `konsil`."""
    starting.settle_process()
    if [word for word in sys.argv[1:] if not word.startswith("-")][:2] in SERVICES:
        starting.end_on_sigterm()
    status = run_command(sys.argv[1:])
    sys.stdout.flush()
    failure = starting.output_failure()
    if failure is not None and not starting.reader_went():
        console.note_line(f"konsil: the result could not be written to standard output ({failure.strerror})")
        status = status or 1
    sys.exit(status)


def run_command(arguments: Sequence[str]) -> int:
    """Run one command; returns the exit status, and never lets an exception out."""
    as_json = "--json" in arguments
    console.EMITTED.clear()
    try:
        need_for_command(arguments)
        build_parser(arguments)(args=list(arguments), prog_name="konsil")
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
        if as_json and status == RequestError.exit_status and not console.EMITTED.is_set():
            # The parser itself refused the arguments, and has said on standard error which.
            told = "the arguments are wrong: standard error says which"
            console.emit_json(console.error_object(RequestError(told, advice="See --help")))
        return status
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except Exception as error:  # noqa: BLE001 - the outermost place: a person gets a line, the log the traceback
        ours = error if isinstance(error, KonsilError) else blame_machine(error)
        if ours is not None:
            if as_json:
                console.emit_json(console.error_object(ours))
            console.note_line(console.one_line(ours))
            return ours.exit_status
        log = record_defect(arguments)
        told = "no folder takes its traceback, which follows" if log is None else f"see {log}"
        what = f"unexpected {type(error).__name__}; this is a defect: {told}"
        if as_json:
            console.emit_json({"error": {"what": what, "kind": "Defect", "exit_status": 1}})
        console.note_line(f"konsil: {what}")
        if log is None:
            console.note_line(traceback.format_exc())
        return 1
    return 0


def build_parser(arguments: Sequence[str]) -> typer.Typer:
    """The command's parser: the part that `arguments` names in full, of the others only their help."""
    asked = next((word for word in arguments or typed_words() if not word.startswith("-")), None)
    app = typer.Typer(
        name="konsil",
        help="Federated learning on medical images that never leave their hospitals.",
        epilog=EPILOG,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback(invoke_without_command=True)(_show_root)
    for name, part in PARTS.items():
        if name == asked:
            found = importlib.import_module(part.module).app
            if isinstance(found, typer.Typer):
                for command, module, function in part.more:
                    found.command(command)(getattr(importlib.import_module(module), function))
                app.add_typer(found, name=name, help=part.help)
            else:
                app.command(name)(found)
        else:
            app.command(name, help=part.help)(_not_loaded)
    return app


def typed_words() -> list[str]:
    """Where a shell asks how a line goes on: the words after `konsil` so far, as typer's scripts hand them over."""
    if "_KONSIL_COMPLETE" not in os.environ:
        return []
    line = os.environ.get("_TYPER_COMPLETE_ARGS") or os.environ.get("COMP_WORDS", "")
    return line.split()[1:]


def _show_root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed_version

        console.say_line(f"konsil {installed_version('konsil')}")
        raise typer.Exit


def _not_loaded() -> None:
    """Stands in the list of commands for a part that this call does not need."""
    raise AssertionError("the part that was asked for is always loaded")
