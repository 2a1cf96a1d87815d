"""How the cases of one folder are dealt out to simulated sites."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from deploy.demo.partition import FoundCases, share_evenly
from deploy.demo.tabled import TableSet
from messages.ground.errors import DataError, RequestError
from messages.ground.written.text import read_text

TABLE = "cases.csv"
"""Beside the images, where --table names no other."""
HINT = "Use even, sizes as 10,20,30, column:NAME, sizes:ALPHA or labels:ALPHA"


@dataclass(frozen=True, slots=True)
class DealRule:
    """One way to deal cases out.

    Attributes:
        sizes: cases for each site (kind "sizes").
        column: of the table (kind "column").
        alpha: the Dirichlet's concentration; the smaller, the more the sites differ (kinds "drawn-sizes", "labels").
    """

    kind: Literal["even", "sizes", "column", "drawn-sizes", "labels"] = "even"
    sizes: tuple[int, ...] = ()
    column: str = ""
    alpha: float = 0.0


def parse_split(text: str) -> DealRule:
    """The words of --split; raises RequestError."""
    word, colon, rest = text.strip().partition(":")
    if text.strip() == "even":
        return DealRule()
    if colon and word == "column" and rest.strip():
        return DealRule("column", column=rest.strip())
    if colon and word in ("sizes", "labels"):
        try:
            alpha = float(rest)
        except ValueError:
            alpha = 0.0
        if 0.001 <= alpha <= 1e6:
            return DealRule("drawn-sizes" if word == "sizes" else "labels", alpha=alpha)
        raise RequestError(f"--split {text!r} is not understood", advice="ALPHA is a number from 0.001")
    sizes = [part.strip() for part in text.split(",")]
    if all(part.isdigit() and 0 < int(part) < 10**9 for part in sizes):
        return DealRule("sizes", sizes=tuple(int(part) for part in sizes))
    raise RequestError(f"--split {text!r} is not understood", advice=HINT)


def share_cases(rule: DealRule, found: FoundCases, sites: int, *, seed: int, table: Path | None) -> list[list[str]]:
    """The names of each site's cases, by seed.

    Raises:
        DataError: there are fewer cases than sites, or than the sizes ask for.
        RequestError: as many sizes as sites are to be given; the table or its column does not exist.
    """
    return _share_named(
        rule,
        found,
        sites,
        seed=seed,
        values=lambda column: _read_column(found, column, table or found.source / TABLE),
        labels=lambda order: {name: _main_label(found, name) for name in order},
    )


def share_patients(rule: DealRule, given: TableSet, sites: int, *, seed: int) -> list[list[str]]:
    """The same for whole patients of a table, whose own columns are dealt by; raises as `share_cases`."""
    labels = given.read_labels()
    return _share_named(
        rule,
        given.found,
        sites,
        seed=seed,
        values=given.read_column,
        labels=lambda order: {name: labels[name] for name in order},
    )


def _share_named(
    rule: DealRule,
    found: FoundCases,
    sites: int,
    *,
    seed: int,
    values: Callable[[str], Mapping[str, str]],
    labels: Callable[[Sequence[str]], Mapping[str, int]],
) -> list[list[str]]:
    """Args: `values`: a column's value of each name. `labels`: a number for the main label of each name, in order."""
    if len(found.files) < sites:
        raise DataError(
            f"{len(found.files)} cases cannot be dealt out to {sites} sites",
            where=str(found.source),
            advice="Ask for fewer sites with --sites",
        )
    if rule.kind == "even":
        return share_evenly(found, sites, seed=seed)
    rng = np.random.default_rng(seed)
    if rule.kind == "column":
        return deal_groups(values(rule.column), sites, rule.column)
    order = [[*found.files][index] for index in rng.permutation(len(found.files))]
    order.sort(key=found.is_untidy)
    if rule.kind == "labels":
        return deal_by_label(labels(order), sites, rule.alpha, rng)
    sizes = rule.sizes
    if rule.kind == "drawn-sizes":
        sizes = tuple(apportion(rng.dirichlet([rule.alpha] * sites), len(order), least=1))
    if len(sizes) != sites:
        raise RequestError(f"--split gives {len(sizes)} sizes for {sites} sites", advice="Give one for each site")
    if sum(sizes) > len(order):
        raise DataError(
            f"--split asks for {sum(sizes)} cases, and there are {len(order)}",
            where=str(found.source),
            advice="Give smaller sizes",
        )
    ends = np.cumsum(sizes)
    return [order[end - size : end] for size, end in zip(sizes, ends, strict=True)]


def apportion(shares: ArrayLike, total: int, *, least: int = 0) -> list[int]:
    """Whole numbers that add up to `total`, nearest to the shares (largest remainders), none below `least`."""
    weights = np.asarray(shares, dtype=float)
    free = total - least * len(weights)
    exact = weights / weights.sum() * free if weights.sum() > 0 else np.full(len(weights), free / len(weights))
    counts = np.floor(exact).astype(int)
    for index in np.argsort(counts - exact, kind="stable")[: free - counts.sum()]:
        counts[index] += 1
    return [int(count) + least for count in counts]


def deal_by_label(labels: Mapping[str, int], sites: int, alpha: float, rng: np.random.Generator) -> list[list[str]]:
    """Each label's cases by shares drawn from a Dirichlet (Hsu et al. 2019, arXiv 1909.06335); nobody stays empty."""
    dealt: list[list[str]] = [[] for _ in range(sites)]
    for label in sorted(set(labels.values())):
        names = [name for name, main in labels.items() if main == label]
        begin = 0
        for site, count in enumerate(apportion(rng.dirichlet([alpha] * sites), len(names))):
            dealt[site] += names[begin : begin + count]
            begin += count
    for share in dealt:
        if not share:
            share.append(max(dealt, key=len).pop())
    return dealt


def deal_groups(values: Mapping[str, str], sites: int, column: str) -> list[list[str]]:
    """All cases of one value to one site: the largest groups first, each to who has fewest so far.

    Raises:
        RequestError: there are fewer values than sites.
    """
    groups: dict[str, list[str]] = {}
    for name in sorted(values):
        groups.setdefault(values[name], []).append(name)
    if len(groups) < sites:
        raise RequestError(
            f"column {column!r} has {len(groups)} values for {sites} sites",
            advice="Ask for fewer sites with --sites",
        )
    dealt: list[list[str]] = [[] for _ in range(sites)]
    for value in sorted(groups, key=lambda one: (-len(groups[one]), one)):
        min(dealt, key=len).extend(groups[value])
    return dealt


def _read_column(found: FoundCases, column: str, table: Path) -> dict[str, str]:
    """Case → value; the case's name stands in the first column."""
    if not table.is_file():
        raise RequestError("there is no such table", where=str(table), advice="Name it with --table FILE")
    rows = [row for row in csv.reader(read_text(table).splitlines()) if row]
    head = [cell.strip() for cell in rows[0]] if rows else []
    if column not in head[1:]:
        known = ", ".join(head[1:]) or "no column but the first"
        raise RequestError(f"there is no column {column!r}", where=str(table), advice=f"The table has {known}")
    at = head.index(column, 1)
    values = {row[0].strip(): row[at].strip() for row in rows[1:] if len(row) > at}
    lacking = [name for name in found.files if not values.get(name)]
    if lacking:
        raise RequestError(
            f"{len(lacking)} cases have no {column}, {lacking[0]} for one",
            where=str(table),
            advice="The first column holds the cases' names, as their files are called",
        )
    return {name: values[name] for name in found.files}


def _main_label(found: FoundCases, name: str) -> int:
    """The label that has most voxels in a case; 0 where it has none."""
    from site_agent.datasets.barrier import CaseError
    from site_agent.datasets.nifti import read_nifti

    for folder, file in found.files[name]:
        if folder == "labelsTr":
            try:
                voxels = read_nifti(file).read_voxels()
            except CaseError:
                return 0  # the site that gets it counts it
            values, counts = np.unique(voxels[np.isfinite(voxels) & (voxels > 0)], return_counts=True)
            return int(values[counts.argmax()]) if len(values) else 0
    return 0
