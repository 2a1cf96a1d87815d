"""One page over seeds and strategies: means, paired intervals, curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from deploy.baseline import paired_bootstrap
from deploy.report.baselines import Gain
from deploy.report.curves import Line, draw_chart
from deploy.report.html import NOTHING, format_duration, format_number, make_table
from deploy.report.page import frame_page
from deploy.simulate.results import RunResult
from messages.ground.durable import replace_file


@dataclass(frozen=True, slots=True)
class StrategySummary:
    """A strategy's runs.

    Attributes:
        means: seed → mean test score of its model.
        gain: over the first strategy, case by case on the seeds that both finished; None for the first one, and where
            cases cannot be paired.
    """

    name: str
    means: Mapping[int, float]
    gain: Gain | None

    @property
    def mean(self) -> float | None:
        """Over the seeds."""
        return sum(self.means.values()) / len(self.means) if self.means else None


def summarise_runs(results: Sequence[RunResult]) -> list[StrategySummary]:
    """Each strategy, in the order in which they first come."""
    by_name: dict[str, list[RunResult]] = {}
    for one in results:
        by_name.setdefault(one.strategy, []).append(one)
    first = next(iter(by_name.values()), [])
    return [
        StrategySummary(
            name,
            {one.seed: one.mean for one in runs if one.mean is not None},
            None if runs is first else pair_runs(runs, first),
        )
        for name, runs in by_name.items()
    ]


def pair_runs(ours: Sequence[RunResult], theirs: Sequence[RunResult]) -> Gain | None:
    """The paired gain over all seeds that both have: a seed's runs have the same cases in the same splits."""
    mine, other = _rows_by_seed(ours), _rows_by_seed(theirs)
    shared = [key for key in mine if key in other and len(mine[key]) == len(other[key]) and mine[key]]
    if not shared:
        return None
    return paired_bootstrap({key: mine[key] for key in shared}, {key: other[key] for key in shared})


def _rows_by_seed(runs: Sequence[RunResult]) -> dict[str, list[Mapping[str, float | None]]]:
    return {f"{one.seed}/{site}": rows for one in runs for site, rows in one.rows.items()}


def write_comparison(path: Path, experiment: str, results: Sequence[RunResult]) -> None:
    """The page, whole or not at all."""
    replace_file(path, render_comparison(experiment, results).encode())


def render_comparison(experiment: str, results: Sequence[RunResult]) -> str:
    """The page as text."""
    title = f"Konsil: {experiment}, simulated"
    seeds = sorted({one.seed for one in results})
    metric = _title_of(results)
    summaries = summarise_runs(results)
    lead = "; ".join(f"{one.name}: mean test {metric} {format_number(one.mean)}" for one in summaries)
    lead += f" ({len(seeds)} seed{'' if len(seeds) == 1 else 's'})."
    return frame_page(
        title,
        lead,
        [
            ("Strategies", _strategies_section(summaries, seeds, metric)),
            ("Curves", _curves_section(results, metric)),
            ("Runs", _runs_section(results)),
        ],
    )


def comparison_as_plain(results: Sequence[RunResult]) -> list[dict[str, Any]]:
    """For --json."""
    return [
        {
            "strategy": one.name,
            "mean": one.mean,
            "seeds": {str(seed): mean for seed, mean in one.means.items()},
            "gain": None
            if one.gain is None
            else {"mean": one.gain.mean, "low": one.gain.low, "high": one.gain.high, "n": one.gain.n},
        }
        for one in summarise_runs(results)
    ]


def comparison_table(results: Sequence[RunResult]) -> tuple[list[str], list[list[str]]]:
    """For a terminal: a row a run."""
    head = ["seed", "strategy", f"test {_title_of(results)}", "worst site", "model", "took"]
    return head, [
        [
            str(one.seed),
            one.strategy,
            format_number(one.mean, 4) if one.is_complete else f"{one.plain['state']} ({one.plain['reason']})",
            str(one.scores["worst_site"] or NOTHING),
            (one.plain["model_digest"] or NOTHING)[:12],
            format_duration(one.plain["seconds"]),
        ]
        for one in results
    ]


def _title_of(results: Sequence[RunResult]) -> str:
    return str(results[0].plain["title"]) if results else "score"


def _strategies_section(summaries: Sequence[StrategySummary], seeds: Sequence[int], metric: str) -> str:
    head = [
        "strategy",
        f"mean test {metric}",
        "lowest seed",
        "highest seed",
        "gain over the first (95 % interval)",
        "n",
    ]
    rows = []
    for one in summaries:
        values = [one.means[seed] for seed in seeds if seed in one.means]
        gain = one.gain
        told = NOTHING if gain is None else f"{gain.mean:+.4f} ({gain.low:+.4f} to {gain.high:+.4f})"
        low, high = (min(values), max(values)) if values else (None, None)
        means = [format_number(value, 4) for value in (one.mean, low, high)]
        rows.append([one.name, *means, told, NOTHING if gain is None else str(gain.n)])
    note = (
        '<p class="note">Gains are paired case by case within each seed, whose runs split the same cases in the same '
        "way; the interval is a percentile bootstrap over test cases (rule of evaluation 7). It holds for these data "
        "and seeds.</p>"
    )
    return make_table("By strategy", head, rows) + (note if len(summaries) > 1 else "")


def _curves_section(results: Sequence[RunResult], metric: str) -> str:
    means: list[Line] = []
    single: list[Line] = []
    for name in dict.fromkeys(one.strategy for one in results):
        runs = [one for one in results if one.strategy == name and one.curve]
        by_round: dict[int, list[float]] = {}
        for one in runs:
            for rounds, score in one.curve:
                by_round.setdefault(rounds, []).append(score)
            label = f"seed {one.seed}, {name}"
            single.append(Line(label, [r for r, _ in one.curve], [score for _, score in one.curve]))
        whole = sorted(rounds for rounds, scores in by_round.items() if len(scores) == len(runs))
        if whole:
            means.append(Line(name, whole, [sum(by_round[r]) / len(runs) for r in whole], heavy=True))
    charts = [(f"Validation {metric} by round, mean over seeds", means), (f"Validation {metric}, each run", single)]
    figures = "".join(
        f"<figure><figcaption>{escape(name)}</figcaption>{svg}</figure>"
        for name, lines in charts
        if (svg := draw_chart(name, "rounds trained", metric, lines, most=None))
    )
    return f'<div class="charts">{figures}</div>' if figures else ""


def _runs_section(results: Sequence[RunResult]) -> str:
    head, rows = comparison_table(results)
    return make_table("Each run", head, rows, words={1, 2, 3, 4})
