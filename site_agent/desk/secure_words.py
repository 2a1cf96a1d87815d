"""What an experiment's secure rounds mean for this site, in words for its operator. Pure."""

from __future__ import annotations

from messages.experiment import Experiment
from messages.secure.rules import bound_round
from site_agent.core.jobs import Job, experiment_of
from site_agent.core.permissions import Floors
from site_agent.core.policy import can_hide


def say_secure(floors: Floors, experiment: Experiment) -> str | None:
    """What secure rounds hide, and from whom; None where the experiment has none.

    Told for the least favourable number of sites that the floors let in.
    """
    if experiment.privacy.secure_aggregation != "masks":
        return None
    if not can_hide(floors, experiment):
        return "masks, and policy.floors lets this site into no such sum"
    least, rule = experiment.least_sites, experiment.privacy.threshold
    bounds = [bound_round(count, rule, least) for count in range(least, len(experiment.sites) + 1)]
    let_in = [one for one in bounds if one.possible and one.colluding >= floors.secure_colluding] or bounds
    helpers = min(one.colluding for one in let_in) + 1
    pinned = "" if floors.peers is None else f"; {len(floors.peers)} pinned peers count, all others as helpers"
    who = "another site helps it" if helpers == 1 else f"{helpers} other sites help it"
    least_sum = min(one.least for one in let_in)
    return (
        f"masks: the coordinator sees sums over {least_sum} sites or more, and of this site's own update, loss and "
        f"scores nothing unless {who}{pinned}"
    )


def say_secure_job(floors: Floors, job: Job) -> str | None:
    """The same of a job; what an older agent accepted and this one could not read has none."""
    asks = (job.file.get("privacy") or {}).get("secure_aggregation")
    return say_secure(floors, experiment_of(job)) if asks else None
