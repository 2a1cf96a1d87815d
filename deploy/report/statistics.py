"""The report's section on statistics of the training cases, and on what followed from them."""

from __future__ import annotations

from deploy.report.html import NOTHING, make_definitions, make_table
from deploy.story.story import ExperimentStory
from messages.statistics.fingerprint import ByAxis, DataFingerprint
from messages.statistics.histograms import Histogram, size_of_bin, value_of_bin

PERCENTS = (10, 50, 90)
AXES = ("x", "y", "z")


def statistics_section(story: ExperimentStory) -> str:
    """What all sites told together, and the configuration; empty where nothing was asked."""
    found = None if story.statistics is None else story.statistics.pooled
    if found is None:
        return ""
    told, made = found.statistics, found.configuration
    facts = [
        ("Told by", ", ".join(f"{site} ({cases})" for site, cases in sorted(found.contributors.items()))),
        ("Left out", ", ".join(f"{site} ({reason})" for site, reason in sorted(found.left_out.items()))),
        ("Training cases", str(told.cases)),
        ("Configuration", NOTHING if made is None else made.words),
    ]
    head = ["of the cases", *(f"{percent} %" for percent in PERCENTS)]
    table = make_table("Percentiles over all that was told, to half a bin", head, _list_rows(told))
    volumes = [[name, str(one.cases), f"{one.mm3 / 1000:.1f}"] for name, one in sorted(told.classes.items())]
    classes = make_table("Classes", ["class", "cases", "volume in all (ml)"], volumes) if volumes else ""
    return make_definitions([(name, text) for name, text in facts if text]) + table + classes


def _list_rows(told: DataFingerprint) -> list[list[str]]:
    def by_axis(what: str, axes: ByAxis) -> list[list[str]]:
        return [[f"{what} {axis}", *_read_sizes(one)] for axis, one in zip(AXES, axes, strict=True)]

    rows = [*by_axis("spacing (mm)", told.spacing), *by_axis("voxels", told.shape)]
    rows += [*by_axis("voxels once cropped", told.cropped), ["share that cropping leaves", *_read_sizes(told.kept)]]
    for name, one in sorted(told.intensities.items()):
        rows.append(
            [f"{name} inside any class", *(f"{one.find_percentile(each, value_of_bin):.4g}" for each in PERCENTS)]
        )
    return rows


def _read_sizes(one: Histogram) -> list[str]:
    if not one.total:
        return ["withheld"] * len(PERCENTS)
    return [f"{one.find_percentile(percent, size_of_bin):.4g}" for percent in PERCENTS]
