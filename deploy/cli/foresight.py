"""What is known beforehand of an experiment that configures itself (`konsil experiment check --plan`), and of what its
secure rounds bear."""

from __future__ import annotations

from coordinator.core.planning.planner import DEFAULT_MIB, is_ct
from messages.experiment import Experiment
from messages.ground.units import count_noun
from messages.secure.rules import RoundBounds, bound_round


def foresee_masks(experiment: Experiment) -> RoundBounds | None:
    """What a secure round bears where all its sites announce keys; None: its rounds are not secure."""
    if experiment.privacy.secure_aggregation != "masks":
        return None
    return bound_round(len(experiment.sites), experiment.privacy.threshold, experiment.least_sites)


def describe_masks(bounds: RoundBounds) -> list[str]:
    """The same in lines."""
    lost = (
        f"{count_noun(bounds.losses, 'site')} of {bounds.sites} may be lost once shares are dealt"
        if bounds.losses
        else f"no loss is borne once shares are dealt: all {bounds.sites} sites have to stay, or the round is void"
    )
    if bounds.colluding:
        pooled = f"{count_noun(bounds.colluding, 'site')} and the coordinator may pool what they know, and learn"
        return [f"{lost}; {bounds.threshold} have to reveal", f"{pooled} no single update"]
    alone = "the coordinator alone learns no single update; with all that one site knows it may"
    return [f"{lost}; {bounds.threshold} have to reveal", alone]


def foresee_plan(experiment: Experiment) -> list[str]:
    """How it will come to its configuration, in lines."""
    if not experiment.measures_first:
        return ["the file says all of it: nothing is configured from the sites' data"]
    task, wished = experiment.task, experiment.net.parameters.get("memory_gib")
    ct = [name for name in task.channels if is_ct(name)]
    others = [name for name in task.channels if not is_ct(name)]
    least = f"{wished:g} GiB (net.memory_gib)" if wished else f"{DEFAULT_MIB // 1024} GiB where none does"
    lines = [
        f"1. {len(experiment.sites)} sites are asked for statistics of their training cases: spacings, shapes before"
        f" and after cropping, intensities of {', '.join(task.channels)}, volumes of {', '.join(task.concepts)};"
        " what is below a site's floor is merged or withheld",
    ]
    if not experiment.plan.trains:
        return [*lines, "2. they are pooled and shown, with the configuration that would follow; nothing is trained"]
    scores = "z-scores, over what is not 0 where cropping takes much away"
    lines += [
        "2. spacing: the median of each axis; of one that is more than 3 times coarser, the 10th percentile",
        *([f"   {', '.join(ct)}: clipped to percentiles 0.5 and 99.5, one mean and deviation for all"] if ct else []),
        *([f"   {', '.join(others)}: {scores}"] if others else []),
        "   net: the deepest DynUNet, with the largest patch and a batch of 2 or more, for the least memory that a"
        f" site declares, or {least}",
        f"3. {experiment.rounds.count} rounds by {experiment.plan.kind} with {experiment.plan.strategy.words}",
    ]
    return lines
