"""`konsil coordinator …`: run the service, and look after its journal."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy import console
from deploy.notify.cli import notify_coordinator
from messages.ground.units import count_noun, human_bytes

if TYPE_CHECKING:
    from coordinator.record.archive import Show, Summary

app = typer.Typer(no_args_is_help=True)

Config = Annotated[Path, typer.Option("--config", help="coordinator.toml")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.callback()
def _group() -> None:
    """The coordinator service."""


@app.command()
def run(config: Config) -> None:
    """Run the coordinator of a consortium until SIGTERM.

    Example: konsil coordinator run --config /etc/konsil/coordinator.toml
    """
    from coordinator import service

    raise typer.Exit(service.run_service(config))


@app.command()
def status(config: Config, as_json: Json = False) -> None:
    """Tell from the journal how things stand, also while the coordinator runs or where it does not start.

    Says whether every entry holds, where each experiment is, and what was set aside.
    Exit status 1: the journal is broken.

    Example: konsil coordinator status --config /etc/konsil/coordinator.toml
    """
    from coordinator.record import overview

    seen = overview.look_at_journal(_state_folder(config))
    if as_json:
        console.emit_json(seen.as_plain())
    else:
        for line in seen.tell_lines():
            console.say_line(line)
    raise typer.Exit(0 if not seen.problem else 1)


@app.command()
def backup(config: Config, out: Annotated[Path, typer.Argument(help="A new folder.")], as_json: Json = False) -> None:
    """Copy journal and models while the coordinator runs, and read the copy again.

    An interrupted backup goes on where it was, by the same command.

    Example: konsil coordinator backup --config /etc/konsil/coordinator.toml /backup/konsil-2026-11-23
    """
    from coordinator.record import archive

    _tell_summary(archive.backup(_state_folder(config), out, _show_progress()), "backup", out, as_json)


@app.command()
def restore(
    config: Config, saved: Annotated[Path, typer.Argument(help="A backup's folder.")], as_json: Json = False
) -> None:
    """Make a backup the coordinator's state; its state folder must not have a journal.

    The coordinator goes on under a term of its own, and hears again what came after the backup.

    Example: konsil coordinator restore --config /etc/konsil/coordinator.toml /backup/konsil-2026-11-23
    """
    from coordinator.record import archive

    state = _state_folder(config)
    restored = archive.restore(saved, state, _show_progress())
    _note_witnesses(config)
    _tell_summary(restored, "restored", state, as_json)


@app.command()
def cut(
    config: Config,
    after: Annotated[int, typer.Option("--after", min=1, help="Number of the last entry to keep.")],
    even_good: Annotated[bool, typer.Option("--even-good", help="Cut off entries that hold, too.")] = False,
    as_json: Json = False,
) -> None:
    """Go on from a broken journal's last good entry; the broken one is kept beside it.

    Example: konsil coordinator cut --config /etc/konsil/coordinator.toml --after 4711
    """
    from coordinator.record import salvage

    kept = salvage.cut_after(_state_folder(config), after, even_good=even_good)
    if as_json:
        console.emit_json({"entries": after, "broken": str(kept)})
    else:
        console.say_line(f"The journal now ends with entry {after}; the broken one is kept in {kept}")
    _note_witnesses(config)


def _note_witnesses(config: Path) -> None:
    """Say what sites will make of a journal that holds less than they have seen."""
    from coordinator import config as configs

    if configs.read_config(config).trust is not None:
        console.note_line(
            "Sites that have seen more of the log will take it for forged. Before you start the coordinator: "
            f"konsil coordinator declare-fork --config {config} --operator-key FILE"
        )


@app.command()
def declare_fork(
    config: Config,
    operator_key: Annotated[Path, typer.Option("--operator-key", help="The operator's private key, a PEM file.")],
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", help="The key's passphrase, the file's first line.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Declare that the log goes on from this journal as it is, since it was restored or cut: signed by the operator.

    Sites that have seen more of the log than the journal holds take it for forged otherwise, and take no further part.
    They accept the operator's word, and tell it for ever. Stop the coordinator first.

    Example: konsil coordinator declare-fork --config coordinator.toml --operator-key operator.key
    """
    from coordinator import config as configs
    from coordinator.record import forking
    from messages.ground.errors import RequestError
    from messages.trust.keys import read_key

    identity = configs.read_config(config).coordinator
    try:
        said = None if passphrase_file is None else passphrase_file.read_bytes().split(b"\n", 1)[0]
    except OSError as error:
        raise RequestError(f"cannot be read ({error.strerror})", where=str(passphrase_file)) from None
    fork = forking.declare_fork(identity.state, identity.consortium, read_key(operator_key, said))
    if as_json:
        console.emit_json({"term": fork.term, "size": fork.size, "root": fork.root.hex()})
    else:
        console.say_line(f"from term {fork.term} on the log goes on from its first {fork.size} entries")


@app.command()
def put_model(
    config: Config,
    model: Annotated[Path, typer.Argument(help="A safetensors file.")],
    experiment: Annotated[
        Path | None,
        typer.Option("--experiment", help="For weights that are not Konsil's own: a file with their net and task."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Put in a model that experiments may begin with; prints the digest that they name it by.

    Example: konsil coordinator put-model --config /etc/konsil/coordinator.toml model.safetensors
    """
    from coordinator import config as configs
    from coordinator.work.given_models import FOLDER, GivenModels

    settings = configs.read_config(config)
    models = GivenModels(settings.coordinator.state / FOLDER)
    if experiment is None:
        digest = models.put_model(model)
    else:
        from coordinator.work.building import build_manifest
        from messages.experiment import read_experiment

        described = read_experiment(experiment)
        digest = models.put_weights(model, described, build_manifest(described, settings.limits))
    if as_json:
        console.emit_json({"digest": digest, "file": str(models.path_of(digest))})
    else:
        console.say_line(f'from = "sha256:{digest}"')


def _state_folder(config: Path) -> Path:
    from coordinator import config as configs

    return configs.read_config(config).coordinator.state


def _show_progress() -> Show:
    """Shows progress on standard error, a line for each part and now and then one between."""
    at: dict[str, float] = {}

    def show(what: str, done: int, of: int) -> None:
        now = time.monotonic()
        if done == of or now - at.get(what, 0.0) > 2.0:
            at[what] = now
            console.note_line(f"{what}: {done} of {of}")

    return show


def _tell_summary(summary: Summary, what: str, where: Path, as_json: bool) -> None:
    content: dict[str, Any] = {
        "entries": summary.entries,
        "experiments": summary.experiments,
        "blobs": summary.blobs,
        "bytes": summary.bytes,
        "missing": list(summary.missing),
    }
    if as_json:
        console.emit_json({what: str(where)} | content)
    else:
        console.say_line(
            f"{where}: {count_noun(summary.entries, 'entry')}, {summary.blobs} models and updates of"
            f" {count_noun(summary.experiments, 'experiment')} ({human_bytes(summary.bytes)}),"
            " read again and as they were written"
        )
        for name in summary.missing:
            console.say_line(f"missing already where it came from: {name}")
    raise typer.Exit(1 if summary.missing else 0)


app.command("notify")(notify_coordinator)
