"""`konsil coordinator run`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The coordinator service."""


@app.command()
def run(
    config: Annotated[Path, typer.Option("--config", help="coordinator.toml")],
) -> None:
    """Run the coordinator of a consortium until SIGTERM.

    Example: konsil coordinator run --config /etc/konsil/coordinator.toml
    """
    from coordinator import service

    raise typer.Exit(service.run(config))
