"""`python -m deploy.baseline`: the same net trained on pooled data, or by each site alone (evaluation rule 6).

For demo and benchmarks only: in the field nobody can pool. A baseline has the federated run's initial weights,
preprocessing, splits, test cases, learning-rate schedule and optimiser resets, and makes as many epochs over its
cases as the federation makes in rounds × local epochs. The code is the training process's own.

`--sites FILE` is JSON: site → {"dataset": AnyDataset, "secret": hex, "cache": folder, "state": folder}. Progress comes
as JSON lines on standard output, the result as one JSON file that `read_result` reads.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deploy.report.baselines import Baseline, Gain, Point
from messages.experiment import Experiment, read_experiment
from messages.ground.durable import replace_file
from messages.ground.errors import ConfigError, KonsilError, RequestError
from messages.ground.written.documents import read_json
from messages.scores import SplitScores
from messages.secure.section import Privacy

if TYPE_CHECKING:
    from site_agent.training.session import TrainingSession

Rows = Sequence[Mapping[str, float | None]]
"""The main metric by target, one mapping a test case."""

Tell = Callable[[dict[str, Any]], None]
KINDS = ("pooled", "alone")
RESAMPLES = 2000


def paired_bootstrap(
    federated: Mapping[str, Rows], baseline: Mapping[str, Rows], *, seed: int = 0, resamples: int = RESAMPLES
) -> Gain:
    """Federated minus baseline mean test score with its 95 % percentile interval (rule 7).

    Cases are drawn with replacement within each site, the same ones for both models (Efron and Tibshirani 1993);
    the statistic is the mean over cases for each target, then the mean over targets (rule 4).

    Raises:
        RequestError: sites or numbers of cases differ, so nothing can be paired.
    """
    if federated.keys() != baseline.keys() or any(len(federated[s]) != len(baseline[s]) for s in federated):
        raise RequestError("the two models were not scored on the same test cases", where="paired bootstrap")
    sites = [site for site in sorted(federated) if federated[site]]
    if not sites:
        raise RequestError("there is no test case to pair", where="paired bootstrap")
    targets = sorted({target for site in sites for row in federated[site] for target in row})
    ours, theirs = (
        [np.array([[_number_or_nan(row.get(target)) for target in targets] for row in rows[site]]) for site in sites]
        for rows in (federated, baseline)
    )
    rng = np.random.default_rng(seed)
    drawn = np.empty(resamples)
    for index in range(resamples):
        picks = [rng.integers(len(rows), size=len(rows)) for rows in ours]
        drawn[index] = _mean_by_region([r[p] for r, p in zip(ours, picks, strict=True)]) - _mean_by_region(
            [r[p] for r, p in zip(theirs, picks, strict=True)]
        )
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return Gain(
        _mean_by_region(ours) - _mean_by_region(theirs), float(low), float(high), sum(len(rows) for rows in ours)
    )


def mean_rows(several: Sequence[Mapping[str, Rows]]) -> dict[str, list[dict[str, float | None]]]:
    """Case by case the mean over several models' scores ("the mean single-site model"); None where all are None."""
    first = several[0]
    return {
        site: [
            {target: _mean_of([one[site][index].get(target) for one in several]) for target in row}
            for index, row in enumerate(rows)
        ]
        for site, rows in first.items()
    }


def train_baseline(
    name: str, sessions: Mapping[str, TrainingSession], members: Sequence[str], tell: Tell | None = None
) -> Baseline:
    """Train on the cases of `members` together, and score on every site's test cases.

    Args:
        sessions: each site's prepared data; all of one experiment.
    """
    from nets.build import build_for
    from site_agent.training.engine import train_round
    from site_agent.training.optimise import KeptState

    began = time.monotonic()
    first = next(iter(sessions.values()))
    experiment = _lengthen_rounds(first.experiment, len(members))
    net = build_for(experiment).to(first.device)
    cases = [case for site in members for case in sessions[site].splits["train"]]
    label = "pooled" if len(members) > 1 else members[0]
    kept = None
    if not experiment.training.optimizer.reset:
        kept = KeptState(first.cache_folder / f"baseline-{label}" / experiment.digest())
        kept.clear_rounds()

    def score(split: Any) -> dict[str, SplitScores]:
        return {
            site: session.learner.evaluate(net, session.splits[split], split=split, device=first.device).scores()
            for site, session in sessions.items()
            if session.splits[split]  # a site without a case of a split says nothing of it: so it is in a federation
        }

    curve: list[Point] = []
    steps, epochs = 0, 0.0
    for number in range(1, experiment.rounds.count + 1):
        result = train_round(
            net,
            cases,
            experiment,
            first.learner,
            round_number=number,
            site=label,
            device=first.device,
            kept=kept,
        )
        steps += result.steps
        epochs += result.epochs
        if number % experiment.evaluation.every == 0 or number == experiment.rounds.count:
            reader = experiment.task.reader
            reached = reader.headline_score(reader.pool_reports(score("validation").values()))
            if reached is not None:
                curve.append(Point(epoch=epochs, steps=steps, score=reached))
        if tell is not None:
            spent = time.monotonic() - began
            tell(
                {
                    "baseline": name,
                    "round": number,
                    "rounds": experiment.rounds.count,
                    "loss": result.loss,
                    "score": curve[-1].score if curve else None,
                    "eta_seconds": spent / number * (experiment.rounds.count - number),
                }
            )
    tested = score("test")
    return Baseline(name=name, sites=tested, curve=tuple(curve), seconds=time.monotonic() - began)


def run_baselines(
    experiment: Experiment, sites: Mapping[str, Any], kinds: Sequence[str], threads: int, tell: Tell
) -> list[Baseline]:
    """All baselines asked for, one after the other.

    Raises:
        ConfigError: an unknown kind, or a site without what is needed. DataError: as the training process raises it.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise ConfigError(
            f"baseline {unknown[0]!r} does not exist", where="--baselines", advice=f"Known: {', '.join(KINDS)}"
        )
    from site_agent.training.protocol import Prepare
    from site_agent.training.session import TrainingSession

    sessions: dict[str, TrainingSession] = {}
    for site in experiment.sites:
        if site not in sites:
            raise ConfigError(f"nothing is said of site {site!r}", where="--sites")
        own = sites[site]
        request = Prepare(
            experiment=experiment.as_plain(),
            dataset=own["dataset"],
            site=site,
            secret=bytes.fromhex(own["secret"]),
            threads=threads,
            gpus=own.get("gpus", []),
            cache=str(own["cache"]),
            state=str(own.get("state", "")),
        )
        sessions[site] = TrainingSession(request, lambda progress: None)
    results = []
    if "pooled" in kinds:
        results.append(train_baseline("pooled", sessions, list(sessions), tell))
    if "alone" in kinds:
        results += [train_baseline(f"alone: {site}", sessions, [site], tell) for site in sessions]
    return results


def write_result(path: Path, baselines: Sequence[Baseline]) -> None:
    """As JSON, whole or not at all."""
    plain = [
        {
            "name": one.name,
            "sites": {site: scores.model_dump(mode="json") for site, scores in one.sites.items()},
            "curve": [asdict(point) for point in one.curve],
            "seconds": one.seconds,
        }
        for one in baselines
    ]
    replace_file(path, json.dumps({"baselines": plain}, indent=1).encode())


def read_result(path: Path) -> list[Baseline]:
    """What `write_result` wrote."""
    return [
        Baseline(
            name=one["name"],
            sites={site: SplitScores.model_validate(scores) for site, scores in one["sites"].items()},
            curve=tuple(Point(**point) for point in one["curve"]),
            seconds=one["seconds"],
        )
        for one in json.loads(path.read_text(encoding="utf-8"))["baselines"]
    ]


def with_gain(baseline: Baseline, federated: Mapping[str, SplitScores]) -> Baseline:
    """The baseline with the federated model's paired gain; as it was where a site did not share its cases' scores."""
    if any(scores.rows is None for scores in federated.values()):
        return baseline
    ours = {site: scores.rows or [] for site, scores in federated.items()}
    theirs = {site: scores.rows or [] for site, scores in baseline.sites.items()}
    return replace(baseline, gain=paired_bootstrap(ours, theirs))


def _lengthen_rounds(experiment: Experiment, members: int) -> Experiment:
    """With `local_steps` a round's work is steps a site: the union gets as many for each. Nothing leaves, so that it is
    trained without noise."""
    experiment = experiment.model_copy(update={"privacy": Privacy()})
    steps = experiment.training.local_steps
    if steps is None:
        return experiment
    training = experiment.training.model_copy(update={"local_steps": steps * members})
    return experiment.model_copy(update={"training": training})


def _number_or_nan(score: float | None) -> float:
    return float("nan") if score is None else score


def _mean_of(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None


def _mean_by_region(by_site: Sequence[NDArray[np.float64]]) -> float:
    """Cases × targets of each site → mean over cases, then over targets; a target without any case is left out."""
    rows = np.concatenate(by_site)
    known = ~np.isnan(rows)
    counts = known.sum(axis=0)
    sums = np.where(known, rows, 0.0).sum(axis=0)
    return float(np.mean(sums[counts > 0] / counts[counts > 0])) if counts.any() else float("nan")


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(prog="deploy.baseline", description="Train what a federation is held against.")
    parser.add_argument("--experiment", type=Path, required=True, help="experiment file (TOML)")
    parser.add_argument("--sites", type=Path, required=True, help="JSON: site → dataset, secret (hex), cache")
    parser.add_argument("--baselines", default="pooled", help="pooled, alone or both, with a comma between")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, required=True, help="file for the result (JSON)")
    options = parser.parse_args(arguments)
    try:
        sites = read_json(options.sites)
        kinds = [kind.strip() for kind in options.baselines.split(",") if kind.strip()]
        found = run_baselines(read_experiment(options.experiment), sites, kinds, options.threads, _print)
        write_result(options.out, found)
    except KonsilError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return error.exit_status
    except (OSError, ValueError, KeyError) as error:
        print(f"{options.sites}: {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201
        return 2
    return 0


def _print(line: dict[str, Any]) -> None:
    print(json.dumps(line), flush=True)  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(main())
