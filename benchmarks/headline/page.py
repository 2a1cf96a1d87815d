"""Tables and plots of a headline, between the page's marks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.headline.arms import BAR, Arm
from benchmarks.headline.reading import Found, Ratio, compare_arms, read_run
from benchmarks.headline.running import Shelf
from deploy.report.curves import Line, draw_chart

BAR_RATIO, BAR_LOW = 0.99, 0.98
ByArm = Mapping[Arm, Mapping[int, Found]]


def write_page(shelf: Shelf, page: Path) -> None:
    """Write the study's section anew."""
    begin, end = f"<!-- begin {shelf.study.name} -->", f"<!-- end {shelf.study.name} -->"
    before, found, rest = page.read_text().partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{page}: has no place for {shelf.study.name}: {begin} and {end}")
    lines = [line for split in shelf.study.splits for line in _describe_split(shelf, split, page.parent)]
    page.write_text("\n".join([before + begin, "", *lines, end + after]))


def _describe_split(shelf: Shelf, split: str, folder: Path) -> list[str]:
    asked = [run for run in shelf.study.runs if run.split == split]
    done: dict[Arm, dict[int, Found]] = {}
    for run in asked:
        if shelf.is_done(run):
            done.setdefault(run.arm, {})[run.seed] = read_run(shelf, run)
    lines = [f"#### {shelf.study.name}, {split}: {sum(map(len, done.values()))} of {len(asked)} runs", ""]
    if not done:
        return [*lines, "None is finished.", ""]
    pooled = next((runs for arm, runs in done.items() if arm.name == "pooled"), {})
    lines += _list_arms(done, pooled, shelf.study.rounds)
    lines += _judge_bar(done, pooled, len({run.seed for run in asked}))
    lines += _list_sites(done, shelf.study.sites)
    for arm, runs in done.items():
        lines += _lay_matrix(arm, runs)
    return lines + _draw_curves(done, f"headline-{shelf.study.name}-{split}.svg", shelf, folder)


def _list_arms(done: ByArm, pooled: Mapping[int, Found], rounds: int) -> list[str]:
    title = next(iter(next(iter(done.values())).values())).reader.title
    lines = [f"| | seeds | test {title} | by seed | ratio to pooled (95 % interval) | seconds a round |"]
    lines.append("|---|---|---|---|---|---|")
    for arm, runs in done.items():
        means = [runs[seed].mean for seed in sorted(runs)]
        ratio = None if arm.name == "pooled" else compare_arms(runs, pooled)
        seconds = np.mean([one.seconds for one in runs.values()]) / rounds
        cells = [arm.title, ", ".join(map(str, sorted(runs))), f"{np.mean(means):.4f}"]
        cells += [", ".join(f"{mean:.4f}" for mean in means), _say_ratio(ratio), f"{seconds:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return [*lines, ""]


def _say_ratio(ratio: Ratio | None) -> str:
    if ratio is None:
        return "-"
    told = f"{ratio.value:.4f} ({ratio.low:.4f} to {ratio.high:.4f})"
    return told if ratio.paired else f"{told}, unpaired"


def _judge_bar(done: ByArm, pooled: Mapping[int, Found], seeds: int) -> list[str]:
    lines = []
    for arm, runs in done.items():
        ratio = compare_arms(runs, pooled) if arm.name in BAR else None
        if ratio is None:
            continue
        met = ratio.value >= BAR_RATIO and ratio.low >= BAR_LOW
        where = f"{'above' if met else 'below'} the bar's two numbers on this split"
        open_ = "" if ratio.seeds == seeds else f"; it is open, after {ratio.seeds} of {seeds} seeds"
        lines.append(f"- {arm.title}: {where}{open_}.")
    return [*lines, ""] if lines else []


def _list_sites(done: ByArm, sites: Sequence[str]) -> list[str]:
    lines = [f"| mean over seeds | {' | '.join(sites)} |", "|---" * (len(sites) + 1) + "|"]
    for arm, runs in done.items():
        cells = [_say_mean([one.mean_at(site) for one in runs.values()]) for site in sites]
        lines.append(f"| {arm.title} | {' | '.join(cells)} |")
    return [*lines, ""]


def _say_mean(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    return f"{np.mean(known):.4f}" if known else "-"


def _lay_matrix(arm: Arm, runs: Mapping[int, Found]) -> list[str]:
    """Each site's own model (rows) on each site's test cases, mean over seeds."""
    found = [one.matrix for one in runs.values() if one.matrix is not None]
    if not found:
        return []
    head = [*found[0].sites, "overall"]
    lines = [f"Each site's own model (rows) on each site's test cases, out of {arm.title}:", ""]
    lines += [f"| model of | {' | '.join(head)} |", "|---" * (len(head) + 1) + "|"]
    for model in found[0].cells:
        rows = [one.row_of(model) for one in found]
        cells = [
            _say_mean([math.nan if cell is None else cell for cell in column]) for column in zip(*rows, strict=True)
        ]
        lines.append(f"| {model} | {' | '.join(cells)} |")
    return [*lines, ""]


def _draw_curves(done: ByArm, name: str, shelf: Shelf, folder: Path) -> list[str]:
    """Mean over the seeds at each round that all of them scored."""
    lines = []
    for arm, runs in done.items():
        by_round: dict[float, list[float]] = {}
        for one in runs.values():
            for at, score in one.curve:
                by_round.setdefault(at, []).append(score)
        whole = sorted(at for at, scores in by_round.items() if len(scores) == len(runs))
        lines.append(Line(arm.title, whole, [float(np.mean(by_round[at])) for at in whole]))
    title = next(iter(next(iter(done.values())).values())).reader.title
    svg = draw_chart(f"Validation {title}, {shelf.study.name}", "rounds", title, lines, most=1.0)
    if not svg:
        return []
    (folder / name).write_text(svg + "\n")
    return [f"![Validation {title} by round]({name})", ""]
