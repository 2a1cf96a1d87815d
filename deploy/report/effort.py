"""The report's time and bytes by phase, and every setting of the experiment file."""

from __future__ import annotations

from deploy.report.html import NOTHING, format_duration, format_megabytes, make_table
from deploy.story.figures import flatten_settings
from deploy.story.story import ExperimentStory


def phases_table(story: ExperimentStory) -> str:
    """Where the time went and what travelled; "" before the first round.

    A round lasts as long as its slowest site trains; what is left of it is transfers, waiting and averaging. Times of
    training are the sites' clocks, all others the coordinator's.
    """
    rounds = [one for one in story.round_list if one.started is not None]
    if not rounds or story.started is None:
        return ""
    closed = [one for one in rounds if one.seconds is not None]
    whole = sum(one.seconds or 0.0 for one in closed)
    trained = sum(max((update.seconds for update in one.updates.values()), default=0.0) for one in closed)
    travelled = [format_megabytes(story.bytes_down), format_megabytes(story.bytes_up)]
    rows = [
        ["enrolment", format_duration((rounds[0].started or 0.0) - story.started), NOTHING, NOTHING],
        ["rounds", format_duration(whole), *travelled],
        ["of these, the slowest site's training", format_duration(min(trained, whole)), NOTHING, NOTHING],
        ["transfers, waiting, averaging", format_duration(max(0.0, whole - trained)), NOTHING, NOTHING],
    ]
    evaluation = story.evaluation
    if evaluation is not None and evaluation.started is not None:
        took = None if story.ended is None else story.ended - evaluation.started
        sent = evaluation.model_bytes * len(evaluation.sites)
        rows.append(["evaluation", format_duration(took), format_megabytes(sent) if sent else NOTHING, NOTHING])
    rows.append(["all", format_duration(story.seconds), NOTHING, NOTHING])
    return make_table("Time and bytes by phase", ["", "took", "to sites", "from sites"], rows, strong_rows=1)


def sites_table(story: ExperimentStory) -> str:
    """What each site did in all rounds: its training and what it sent; "" where none has delivered."""
    rows = []
    for site in sorted(story.sites):
        updates = [one.updates[site] for one in story.round_list if site in one.updates]
        if updates:
            steps = sum(update.steps for update in updates)
            sent = format_megabytes(sum(update.bytes for update in updates))
            rows.append([site, str(len(updates)), str(steps), format_duration(sum(u.seconds for u in updates)), sent])
    head = ["site", "updates", "optimiser steps", "trained", "sent"]
    return make_table("Each site's work, all rounds", head, rows) if rows else ""


def settings_table(story: ExperimentStory) -> str:
    """Every key of the experiment file with its value, defaults too; "" where the file is not known."""
    if story.experiment is None:
        return ""
    rows = [list(pair) for pair in sorted(flatten_settings(story.experiment.filled()).items())]
    return make_table("The experiment file, with its defaults", ["key", "value"], rows, words=(0, 1))
