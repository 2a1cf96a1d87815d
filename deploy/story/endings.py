"""Why an experiment did not come to its end: the reason, the sites that it came from, and what to do."""

from __future__ import annotations

from deploy.story.story import ExperimentStory
from messages.reasons import Reason, advise_on


def explain_end(story: ExperimentStory) -> list[str]:
    """A line for the reason and one for each site that had a part in it; empty where it did not fail, or still runs."""
    if story.phase not in ("failed", "aborted", "refused") or story.reason is None:
        return []
    lines = [f"{story.phase}: {story.reason}. {advise_on(Reason(story.reason), by_coordinator=True)}"]
    return [*lines, *list_blamed(story)] if story.phase == "failed" else lines


def list_blamed(story: ExperimentStory) -> list[str]:
    """A line for each site that declined, gave up, or said nothing, where that was what the experiment waited for."""
    current = story.evaluation if story.evaluation is not None else story.current_round
    told: dict[str, str] = {}
    if current is None:
        where, answered = "at recruiting", set(story.joined)
        awaited = tuple(story.sites)
    else:
        where = "in the evaluation" if current is story.evaluation else f"in round {current.number}"
        answered = set(story.evaluations if current is story.evaluation else current.updates)
        awaited = current.sites if current.state == "open" else ()
        told = {site: _explain_reason(reason) for site, reason in current.failures.items()}
    for name, site in story.sites.items():
        if site.state == "declined" and site.reason is not None:
            told.setdefault(name, f"declined, {_explain_reason(site.reason)}")
    told |= {site: "no answer" for site in awaited if site not in answered and site not in told}
    return [f"{site} {where}: {words}" for site, words in sorted(told.items())]


def _explain_reason(reason: Reason) -> str:
    return f"{reason}. {advise_on(Reason(reason))}"
