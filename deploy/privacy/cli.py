"""`konsil privacy`: whether the noise holds what the file claims, and what an update shows without it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.console import JsonOption

app = typer.Typer(no_args_is_help=True)

LEAST_CANARIES, MOST_CANARIES = 100, 100_000
AUDIT_DELTA = 1e-5


@app.callback()
def _group() -> None:
    """Privacy put to the test."""


@app.command()
def audit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The experiment file, with [privacy.dp].")],
    canaries: Annotated[
        int, typer.Option("--canaries", metavar="N", help="So many; with fewer the bound says less.")
    ] = 2000,
    rounds: Annotated[
        int | None, typer.Option("--rounds", metavar="N", help="Only the first N rounds. Default: all of the file's.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Put the private training step to the test: does it keep what the file claims? Exit status 1 where it does not.

    Canaries are invented patients whose gradients are known. Half of them are trained on, by the very code that trains
    at a site, with the file's clip, noise, draws and steps. From what is released it is guessed which: so many right
    guesses refute every epsilon below a bound (Steinke et al. 2023; 95 %). It has to lie below the claim. Noise, a
    patient's greatest weight and the draws are held against the claim as well (99.9 %).

    Example: konsil privacy audit experiment.toml
    """
    from deploy import console
    from deploy.privacy.apart import run_apart
    from messages.experiment import read_experiment
    from messages.ground.errors import RequestError

    experiment = read_experiment(file)
    if experiment.privacy.dp is None:
        what = "has no [privacy.dp]: nothing is claimed that an audit could hold it against"
        raise RequestError(what, where=str(file), advice="Write noise_multiplier, clip_norm and sample_rate there")
    if not LEAST_CANARIES <= canaries <= MOST_CANARIES:
        raise RequestError(f"{canaries} canaries: {LEAST_CANARIES} to {MOST_CANARIES} can be", where="--canaries")
    asked = experiment.rounds.count if rounds is None else rounds
    if not 1 <= asked <= experiment.rounds.count:
        raise RequestError(f"{asked} rounds of {experiment.rounds.count} cannot be audited", where="--rounds")
    request = {
        "experiment": experiment.as_plain(),
        "canaries": canaries,
        "rounds": asked,
        "delta": AUDIT_DELTA,
        "threads": 1,
    }
    with console.show_working("starting the trainer") as tell:
        found = run_apart("deploy.privacy.step_audit", request, tell, [])
    if as_json:
        console.emit_json(found)
    else:
        for line in describe_audit(found):
            console.say_line(line)
    raise typer.Exit(0 if found["ok"] else 1)


def describe_audit(found: dict[str, Any]) -> list[str]:
    """What was found, in words."""
    holds = found["epsilon_lower"] <= found["epsilon_claimed"]
    lines = [
        f"{found['canaries']} canaries in {found['steps']} steps of {found['rounds']} rounds.",
        f"{_mark(holds)} epsilon: at least {found['epsilon_lower']:.2f} (95 %), claimed {found['epsilon_claimed']:.2f},"
        f" delta {found['delta']:g}: {found['right']} of {found['guesses']} guesses were right",
    ]
    words = {
        "noise": "noise as claimed",
        "sensitivity": "no patient weighs more than the clip",
        "sampling": "patients are drawn as claimed",
    }
    for name, text in words.items():
        lines.append(f"{_mark(found[f'{name}_ok'])} {text}")
        lines += [
            f"    {one['name']}: {one['measured']:.4g}, claimed {one['claimed']:.4g} (p = {one['p_value']:.1e})"
            for one in found["tests"][name]
            if not one["ok"]
        ]
    lines.append("The claim holds, as far as this audit sees." if found["ok"] else "The claim does NOT hold.")
    return lines


def _mark(ok: bool) -> str:
    return "✓" if ok else "✗"
