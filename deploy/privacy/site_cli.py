"""`konsil site privacy test`: whether a model tells which patients of this site it was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from deploy.console import JsonOption
from deploy.site.options import DEFAULT, ConfigOption

if TYPE_CHECKING:
    from messages.experiment import Experiment
    from site_agent.config import SiteConfig

LEAST_SHADOWS = 4
MOST_SHADOWS = 1000
FALSE_ALARMS = 0.01


def probe_membership(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="A model file of `experiment model` or of a demo.")],
    dataset: Annotated[str, typer.Option("--dataset", metavar="NAME", help="A data set of site.toml.")],
    experiment: Annotated[
        Path | None,
        typer.Option("--experiment", help="The experiment file, where this site's agent does not know it any more."),
    ] = None,
    shadows: Annotated[
        int,
        typer.Option("--shadows", metavar="K", help="Attack with K shadow models too (LiRA): K trainings."),
    ] = 0,
    own: Annotated[
        Path | None,
        typer.Option("--own", help="What this site kept of its own (FedBN, Ditto): the newest file of its cache."),
    ] = None,
    config: ConfigOption = DEFAULT,
    as_json: JsonOption = False,
) -> None:
    """Test whether a model tells who it was trained on: the training split's patients against the test split's.

    Whoever has the model and a patient's images can look how well the model does on them. Nothing leaves this machine.

    --shadows K is a stronger test: it trains K models on random halves of these patients, and sees how each patient
    changes a model (Carlini et al. 2022). From 16 on it is the online attack, below the offline one. A test that was
    ended goes on where it was.

    Example: konsil site privacy test model.safetensors --dataset glioma
    """
    from deploy import console
    from deploy.privacy.apart import run_apart
    from messages.ground.errors import RequestError
    from nets.model_file import read_metadata
    from site_agent.config import read_config

    if shadows and not LEAST_SHADOWS <= shadows <= MOST_SHADOWS:
        what = f"{shadows} shadow models: {LEAST_SHADOWS} to {MOST_SHADOWS} can be trained"
        raise RequestError(what, where="--shadows", advice="16 or more make the stronger test")
    if own is not None and not own.is_file():
        raise RequestError("there is no such file", where=f"--own {own}")
    about = read_metadata(model)
    site = read_config(config)
    if dataset not in site.datasets:
        advice = f"It has {', '.join(site.datasets)}" if site.datasets else f"Add [datasets.{dataset}]"
        raise RequestError(f"data set {dataset!r} is not described", where=str(config), advice=advice)
    trained = _find_experiment(site, experiment, model, about, dataset)
    with console.show_working("reading the model") as tell:
        found = run_apart(
            "deploy.privacy.membership",
            _make_request(site, trained, model, dataset, own, shadows, about),
            tell,
            list(site.limits.gpus),
        )
    if as_json:
        console.emit_json(
            {"model_digest": about["model_digest"], "experiment": trained.id, "dataset": dataset, **found}
        )
        return
    for line in describe_test(found):
        console.say_line(line)


def describe_test(found: dict[str, Any]) -> list[str]:
    """What was found, in words for somebody who answers for the patients' data."""
    first = found["loss"]
    lines = [
        f"{first['members']} patients that the model was trained on, {first['others']} that it never saw.",
        "By the model's loss alone:",
        *_describe_figures(first),
    ]
    if "lira" in found:
        told = found["lira"]
        lines += [f"With {told['shadows']} shadow models (LiRA, {told['variant']}):", *_describe_figures(told)]
    strongest = found.get("lira", first)
    low, high = strongest["auc_interval"]
    if low > 0.5:
        lines.append("The model tells who it was trained on: better than guessing, beyond chance.")
    elif high - low > 0.3:
        lines.append("So few patients decide nothing: the interval is too wide.")
    else:
        lines.append("No better than guessing, as far as this test sees. A stronger attack may see more.")
    return lines


def _describe_figures(told: dict[str, Any]) -> list[str]:
    (low, high), (least, most) = told["auc_interval"], told["found_interval"]
    others = told["others"]
    allowed = "one false alarm in 100" if others >= 100 else f"no false alarm among the {others}"
    guessing = (int(FALSE_ALARMS * others) + 1) / (others + 1)
    return [
        f"  Of two patients, one of each kind, the right one is picked in {told['auc']:.0%} of all cases"
        f" (95 %: {low:.0%} to {high:.0%}). Guessing: 50%. AUC {told['auc']:.3f}.",
        f"  With {allowed}, {told['found']:.1%} of those trained on are found"
        f" (95 %: {least:.1%} to {most:.1%}). Guessing: {guessing:.1%}.",
    ]


def _find_experiment(
    site: SiteConfig, named: Path | None, model: Path, about: dict[str, Any], dataset: str
) -> Experiment:
    """What the model was trained by: the file says how cases are split and prepared.

    Raises:
        RequestError: it is not known, or another one.
    """
    from messages.experiment import read_experiment
    from messages.ground.errors import RequestError
    from site_agent.core.jobs import experiment_of
    from site_agent.disk.known_jobs import read_jobs

    if named is None:
        known = [job for job in read_jobs(site.site.state) if job.experiment == about.get("experiment")]
        if not known:
            what = f"this site does not know experiment {about.get('experiment')!r}, which made the model"
            raise RequestError(what, where=str(model), advice="Name its file with --experiment")
        found = experiment_of(known[0])
    else:
        found = read_experiment(named)
    said = found.net.name, found.net.parameters
    made = {**about["net"]}
    if (made.pop("name"), made) != said:
        raise RequestError(
            f"the model's net is {about['net']['name']}, the experiment's is {found.net.name} with other parameters"
            if about["net"]["name"] == found.net.name
            else f"the model's net is {about['net']['name']}, the experiment's is {found.net.name}",
            where=str(model),
            advice="Name the experiment file that made it with --experiment",
        )
    if about.get("experiment_digest") != found.digest():
        what = f"the model was made by another version of experiment {found.id!r}"
        raise RequestError(what, where=str(model if named is None else named), advice="Name the file that made it")
    if found.data.dataset != dataset:
        what = f"the model was trained on data set {found.data.dataset!r}"
        raise RequestError(what, where=f"--dataset {dataset}", advice=f"Say --dataset {found.data.dataset}")
    return found


def _make_request(
    site: SiteConfig,
    trained: Experiment,
    model: Path,
    dataset: str,
    own: Path | None,
    shadows: int,
    about: dict[str, Any],
) -> dict[str, Any]:
    from site_agent.disk.secret import secret_of

    state, limits = site.site.state.absolute(), site.limits
    folder = state / "privacy-test" / f"{trained.id}-{about['model_digest'][:16]}"
    prepare = {
        "experiment": trained.filled(),
        "dataset": site.datasets[dataset].model_dump(mode="json"),
        "site": site.site.name,
        "secret": secret_of(state).hex(),
        "threads": limits.threads,
        "gpus": list(limits.gpus),
        "ram_bytes": limits.ram,
        "disk_bytes": limits.disk,
        "cache": str(folder / "cases"),
        "state": str(state),
    }
    return {
        "prepare": prepare,
        "model": str(model.absolute()),
        "own": None if own is None else str(own.absolute()),
        "shadows": shadows,
        "folder": str(folder),
    }
