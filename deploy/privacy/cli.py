"""`konsil privacy`: whether the noise holds what the file claims, and what an update shows without it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from deploy.console import JsonOption

app = typer.Typer(no_args_is_help=True)

LEAST_CANARIES, MOST_CANARIES = 100, 100_000
AUDIT_DELTA = 1e-5
EDGES = {2: 32, 3: 16}
"""Pixels of an attacked image's edge, by its dimensions."""
USUAL_SITES, USUAL_NOISE = 8, 1.0


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
    if experiment.privacy.dp.is_shared:
        what = 'asks for noise = "shared", of which one site\'s step has a part only: an audit takes noise = "own"'
        raise RequestError(what, where=str(file), advice='Audit a copy of it with noise = "own"')
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


@app.command()
def attack(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="An experiment file: its sites, its noise.", show_default=False),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option("--data", help="Images to attack: NIfTI, PNG or JPEG, or folders of them. Default: phantoms."),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The page.")] = Path("attack.html"),
    dims: Annotated[int, typer.Option("--dims", min=2, max=3, help="Slices (2) or volumes (3).")] = 2,
    sites: Annotated[
        int | None, typer.Option("--sites", metavar="N", help="So many add up. Default: the file's, else 8.")
    ] = None,
    noise: Annotated[
        float | None, typer.Option("--noise", metavar="S", help="Noise multiplier. Default: the file's, else 1.")
    ] = None,
    local_steps: Annotated[int, typer.Option("--local-steps", metavar="N", help="Of a site's training.")] = 1,
    iterations: Annotated[int, typer.Option("--iterations", metavar="N", help="Of the attack.")] = 600,
    seed: Annotated[int, typer.Option("--seed", help="Of net, phantoms and noise.")] = 1,
    as_json: JsonOption = False,
) -> None:
    """Show what an update tells of a patient: an image is made of it again, and a page has the pictures.

    The same update is attacked as it is, under masks, in the sum of all sites', and with noise (gradient inversion,
    Geiping et al. 2020). The net is small: the worst case. With your own images the page shows patients.

    Example: konsil privacy attack experiment.toml --out attack.html
    """
    from deploy import console
    from deploy.privacy.apart import run_apart
    from deploy.privacy.attack_page import WORDS, render_attack_page, sum_up
    from deploy.report.page import write_page
    from messages.ground.errors import RequestError

    request = _ask_attack(file, sites, noise) | {
        "data": [str(one.absolute()) for one in data or ()],
        "dims": dims,
        "edge": EDGES[dims],
        "local_steps": local_steps,
        "iterations": iterations,
        "seed": seed,
        "threads": 1,
    }
    for name, least, most in (("sites", 2, 64), ("local_steps", 1, 100), ("iterations", 1, 100_000)):
        if not least <= request[name] <= most:
            where = f"--{name.replace('_', '-')}"
            raise RequestError(f"{request[name]} cannot be: {least} to {most} can", where=where)
    if not 0 < request["noise_multiplier"] <= 1000:
        raise RequestError(f"{request['noise_multiplier']:g} cannot be: above 0, at most 1000", where="--noise")
    with console.show_working("loading the net") as tell:
        found = run_apart("deploy.privacy.inversion", request, tell, [])
    write_page(out, render_attack_page(found, request))
    figures = {name: {"psnr": one["psnr"], "ssim": one["ssim"]} for name, one in found["attacks"].items()}
    if as_json:
        console.emit_json({"page": str(out), "sites": found["sites"], "weights": found["weights"], "attacks": figures})
        return
    rows = [[WORDS[name][0], f"{one['psnr']:.1f}", f"{one['ssim']:.2f}"] for name, one in figures.items()]
    console.print_table(["what the attacker has", "PSNR, dB", "SSIM"], rows)
    console.say_line(sum_up(found))
    console.say_line(f"page: {out}")
    if data:
        console.note_line("The page shows patients: keep it at the site")


def _ask_attack(file: Path | None, sites: int | None, noise: float | None) -> dict[str, Any]:
    """Sites and noise: as they are named, else the file's, else what is usual."""
    from messages.experiment import read_experiment

    experiment = None if file is None else read_experiment(file)
    dp = None if experiment is None else experiment.privacy.dp
    if sites is None:
        sites = USUAL_SITES if experiment is None else min(64, max(2, len(experiment.sites)))
    if noise is None:
        noise = USUAL_NOISE if dp is None else dp.noise_multiplier
    return {"sites": sites, "noise_multiplier": noise}
